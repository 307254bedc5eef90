//! What is followed while the jail runs: the clock, and on direct the host's names, resolvers and addresses.

use std::os::fd::AsFd;

use super::Warden;
use super::clock::Jumps;
use super::host::Changes;
use crate::control::messages::WardenToFront;
use crate::control::worker::FromWarden;

impl Warden {
    /// The machine may have slept: what was known of the world outside is looked at again.
    pub(super) fn clock_jumped(&mut self) {
        if !self.jumps.as_ref().is_some_and(Jumps::take) {
            return;
        }
        if let Some(dialler) = &mut self.dialler {
            dialler.look_again();
        }
        for worker in self.workers.iter().flatten() {
            let _ = worker.send(&FromWarden::Woken);
        }
        if self.changes.is_some() {
            self.read_host();
        }
    }

    pub(super) fn host_changed(&mut self) {
        if self.changes.as_mut().is_some_and(Changes::take) {
            self.read_host();
        }
    }

    /// Reads what a direct network must know of the host again, and tells the workers.
    fn read_host(&mut self) {
        if let Err(e) = self.chosen.read_host() {
            let text = format!("the host's addresses have changed and can not be read ({e}); the old ones stay closed");
            let _ = self.front.send(&WardenToFront::Say(text));
        }
        let (table, host) = (self.chosen.table(), self.chosen.host());
        for worker in self.workers.iter().flatten() {
            let _ = worker.send(&FromWarden::Table(table.clone()));
            // One for each: they would read from one place in it.
            if let Ok(hosts) = self.chosen.hosts_file() {
                let _ = worker.send_with(&FromWarden::Host(host.clone()), &[hosts.as_fd()]);
            }
        }
    }
}

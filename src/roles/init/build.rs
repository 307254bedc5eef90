//! Stages two to five: from fresh namespaces to a jail that only lacks its command.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::{Ends, Plan};
use crate::control::messages::{FrontToInit, InitToFront, InitToWarden, Note, Refusal, WardenToInit};
use crate::jail::payload::ignore;
use crate::jail::{landlock, letterbox, mounts, namespaces, network};
use crate::roles::title;
use crate::tun;

fn stage(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Refusal {
    move |e| Refusal(format!("can not build the jail: {what}: {e}"))
}

/// What turned out while it was built.
#[derive(Debug)]
pub struct Built {
    /// Signals of the jail stay in it, by Landlock.
    pub scoped: bool,
    /// Signals for the command, which came before it.
    pub signals: Vec<i32>,
}

/// Builds it, then waits for the warden.
pub fn build(plan: &Plan, ends: &Ends) -> Result<Built, Refusal> {
    let _ = prctl::set_name(c"nj-init");
    title::hide();
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| stage("tie it to its supervisor")(&e))?;
    for signal in [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGHUP,
        Signal::SIGTERM,
        Signal::SIGTTOU,
        Signal::SIGTTIN,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        ignore(signal);
    }
    let signals = map_ids(plan, ends)?;
    prctl::set_dumpable(false).map_err(|e| stage("close init to others")(&e))?;
    tell_front(ends, &InitToFront::Closed)?;

    let device = tun::Source::Path(Path::new("/dev/net/tun"));
    let queues = tun::open(device, &plan.link.name, plan.queues.into()).map_err(|e| Refusal(e.to_string()))?;
    network::configure(&plan.link).map_err(|e| stage("configure its network")(&e))?;
    // A host with a read-only /proc/sys keeps its own values; none of them guards the promise.
    let _ = network::tune(plan.setting.identity.gid);
    plan.shares.apply();
    let descriptors: Vec<BorrowedFd<'_>> = queues.iter().map(AsFd::as_fd).collect();
    ends.warden.send_with(&InitToWarden::Queues, &descriptors).map_err(|e| stage("hand the device out")(&e))?;
    drop(queues);

    for &number in [0, 1, 2].iter().chain(&plan.setting.kept) {
        mounts::reopen::read_only(number).map_err(|e| Refusal(e.to_string()))?;
    }
    plan.view.identity.set_uts().map_err(|e| Refusal(e.to_string()))?;
    let notes = mounts::build(&plan.view).map_err(|e| Refusal(e.to_string()))?;
    if plan.filter.allow_datagrams {
        let [log, notify] = letterbox::bind().map_err(|e| stage("make its own /dev/log")(&e))?;
        let letters = [log.as_fd(), notify.as_fd()];
        ends.warden.send_with(&InitToWarden::Letterbox, &letters).map_err(|e| stage("hand its /dev/log out")(&e))?;
    }
    let important = |note: &mounts::Note| {
        use mounts::Note::{NoSocket, PrivateWorkingFolder, ReadOnlyWorkingFolder};
        matches!(note, PrivateWorkingFolder { .. } | ReadOnlyWorkingFolder { .. } | NoSocket { .. })
    };
    let mut notes: Vec<Note> =
        notes.iter().map(|note| Note { text: note.to_string(), important: important(note) }).collect();
    let scoped = landlock::scope().is_ok_and(|applied| applied);
    if !scoped {
        let text = "this kernel has no Landlock scopes (Linux 6.12), so kill(0) is refused in the jail: the caller is in the \
                    same process group";
        notes.push(Note { text: text.into(), important: false });
    }
    if !notes.is_empty() {
        tell_front(ends, &InitToFront::Notes(notes))?;
    }
    match ends.warden.receive() {
        Ok((WardenToInit::Ready, _)) => Ok(Built { scoped, signals }),
        Ok((WardenToInit::Failed(refusal), _)) => Err(refusal),
        Ok(_) | Err(_) => {
            Err(Refusal("the jail's warden died while the jail was being built; nothing was started".into()))
        }
    }
}

fn map_ids(plan: &Plan, ends: &Ends) -> Result<Vec<i32>, Refusal> {
    if !plan.setting.identity.full_range {
        return namespaces::map_self_only("self", plan.setting.identity.uid, plan.setting.identity.gid)
            .map(|()| Vec::new())
            .map_err(|e| stage("map its user")(&e));
    }
    tell_front(ends, &InitToFront::MapMe)?;
    let mut signals = Vec::new();
    loop {
        match ends.front.receive() {
            Ok((FrontToInit::Mapped, _)) => return Ok(signals),
            Ok((FrontToInit::Signal(number), _)) => signals.push(number),
            Err(_) => return Err(Refusal("front died while the jail was being built".into())),
        }
    }
}

fn tell_front(ends: &Ends, message: &InitToFront) -> Result<(), Refusal> {
    ends.front.send(message).map_err(|e| stage("reach front")(&e))
}

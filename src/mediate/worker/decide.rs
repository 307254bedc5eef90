//! From a notification to its outcome: what a `connect` may reach, and what a `listen` tells.
//!
//! All that is looked at is the mediator's own: a duplicate of the socket, a copy of the address, a descriptor of the object that
//! a path leads to. What is executed is executed on these.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::super::address::Address;
use super::super::attempt::{Attempt, Progress};
use super::super::bound::{self, inspect};
use super::super::handover::Up;
use super::super::lookup::{self, Effort};
use super::super::messages::FromMediator;
use super::super::notify::{self, Answer, Notification};
use super::super::target;
use super::{Call, LOOKUP_QUEUE, Outcome, SAID, Wait, Worker};
use crate::jail::seccomp::assembler::{NATIVE_ARCH, X32_BIT};

impl Worker {
    pub(super) fn decide(&mut self, notification: &Notification, call: &mut Call) -> Outcome {
        let foreign = notification.arch != NATIVE_ARCH || notification.number as u32 >= X32_BIT;
        if foreign {
            self.say_once(0, FromMediator::ForeignArchitecture { pid: notification.tid });
            return Errno::ENOSYS.into();
        }
        let outcome = match i64::from(notification.number) {
            libc::SYS_connect => self.connect(notification, call),
            libc::SYS_listen => {
                self.listen(notification, call);
                return Outcome::Answer(Answer::Continue);
            }
            _ => Err(Errno::ENOSYS),
        };
        outcome.unwrap_or_else(Outcome::from)
    }

    /// Notes the inode to which a socket of the jail is bound. It permits and refuses nothing: whatever the caller's
    /// memory or descriptors are by the time that the kernel goes on, what was noted was bound inside.
    fn listen(&mut self, notification: &Notification, call: &Call) {
        let Ok(socket) = self.descriptors.copy(notification.tid, notification.arguments[0] as i32) else { return };
        if target::network_of(socket.as_fd()) != Ok(call.network) {
            return;
        }
        let Ok(inode) = bound::inode_of(socket.as_fd()) else { return };
        let Ok(copy) = inode.try_clone() else { return };
        match self.state.bound.hold(call.network, inode) {
            Ok(true) => {
                let _ = self.supervisor.send_with(&Up::Bound { network: call.network }, &[copy.as_fd()]);
            }
            Ok(false) => self.say_once(1, FromMediator::TooManyBound),
            Err(_) => {}
        }
    }

    fn connect(&mut self, notification: &Notification, call: &mut Call) -> Result<Outcome, Errno> {
        let [number, address, length, ..] = notification.arguments;
        let socket = match self.descriptors.copy(notification.tid, number as i32) {
            Err(Errno::EPERM | Errno::EACCES) => return self.unreadable(call),
            Err(Errno::EMFILE | Errno::ENFILE) => return Err(Errno::ENOBUFS),
            other => other?,
        };
        let bytes = match target::read_memory(notification.tid, address, length as u32 as usize) {
            Err(Errno::EPERM | Errno::EACCES) => return self.unreadable(call),
            other => other?,
        };
        let listener = self.state.listeners.iter().find(|l| l.number == call.listener);
        if !listener.is_some_and(|l| notify::alive(l.fd.as_fd(), call.id)) {
            return Ok(Outcome::Gone);
        }
        let family = target::socket_option(socket.as_fd(), libc::SO_DOMAIN)?;
        if target::network_of(socket.as_fd())? != call.network {
            return Err(Errno::EACCES);
        }
        let attempt = match (family, Address::read(&bytes)) {
            (libc::AF_INET | libc::AF_INET6, _) => Attempt::with_address(socket, bytes, false)?,
            (libc::AF_UNIX, Address::Path(path)) => return self.by_path(call, socket, path),
            (libc::AF_UNIX, _) => Attempt::with_address(socket, bytes, true)?,
            // Connected to the kernel is what a netlink socket is from the start. See the module's theory.
            (libc::AF_NETLINK, Address::Other(family)) if i32::from(family) == libc::AF_UNSPEC => {
                return Ok(Outcome::Answer(Answer::Zero));
            }
            (libc::AF_NETLINK, Address::Netlink { .. }) if bytes.len() < size_of::<libc::sockaddr_nl>() => {
                return Err(Errno::EINVAL);
            }
            (libc::AF_NETLINK, Address::Netlink { port: 0, groups: 0 }) => return Ok(Outcome::Answer(Answer::Zero)),
            (libc::AF_NETLINK, Address::Netlink { .. }) => return Err(Errno::EPERM),
            (libc::AF_NETLINK, _) => return Err(Errno::EINVAL),
            _ => return Err(Errno::EACCES),
        };
        Ok(self.execute(call, attempt))
    }

    fn unreadable(&mut self, call: &Call) -> Result<Outcome, Errno> {
        self.say_once(2, FromMediator::Unreadable { pid: call.tid });
        Err(Errno::EACCES)
    }

    fn execute(&mut self, call: &mut Call, attempt: Attempt) -> Outcome {
        let progress = attempt.step();
        if !call.killable {
            call.key = attempt.key();
        }
        match progress {
            Progress::Done(Err(Errno::EISCONN)) if call.key != (0, 0) => {
                // The caller began the same connect before, and a signal has taken its answer.
                let lost = self.undelivered.remove(&(call.tid, call.key.0, call.key.1));
                Outcome::Answer(lost.unwrap_or(Answer::Error(libc::EISCONN)))
            }
            Progress::Done(Ok(())) => Outcome::Answer(Answer::Zero),
            Progress::Done(Err(errno)) => errno.into(),
            Progress::WhenWritable | Progress::Later => Outcome::Wait(Wait::Connect { attempt, tries: 0 }),
        }
    }

    fn by_path(&mut self, call: &mut Call, socket: OwnedFd, path: &[u8]) -> Result<Outcome, Errno> {
        let walk = lookup::prepare(call.tid, path, &mut self.descriptors)?;
        match walk.resolve(Effort::Cached) {
            Err(Errno::EAGAIN) => {}
            found => return self.reach(call, socket, path, found?),
        }
        if self.queue.len() >= LOOKUP_QUEUE {
            return Err(Errno::ENOBUFS);
        }
        self.queue.push_back((*call, walk));
        self.look_up()?;
        Ok(Outcome::Wait(Wait::LookUp { socket, path: path.to_vec() }))
    }

    /// Connects to an object that was looked up, if it is one that the jail may reach.
    pub(super) fn reach(
        &mut self,
        call: &mut Call,
        socket: OwnedFd,
        path: &[u8],
        object: OwnedFd,
    ) -> Result<Outcome, Errno> {
        let inode = inspect(object.as_fd())?;
        let named = self.state.allowed.find(inode.identity, path);
        let datagram = || target::socket_option(socket.as_fd(), libc::SO_TYPE) == Ok(libc::SOCK_DGRAM);
        // What is no socket can be left to the kernel: it refuses, by rights or by type, and the object can not become one.
        let permitted = !inode.is_socket
            || self.state.bound.contains(call.network, inode.identity)
            || named.is_some()
            || (self.state.allow_datagrams && datagram());
        if permitted {
            let attempt = Attempt::with_object(socket, named.flatten().unwrap_or(object))?;
            return Ok(self.execute(call, attempt));
        }
        if bound::on_overlay(object.as_fd()) {
            // What lies below an overlay is dead to everybody; programs know this errno, and start a server of their own.
            return Err(Errno::ECONNREFUSED);
        }
        if self.said.len() < SAID && self.said.insert(path.to_vec()) {
            self.say(FromMediator::Refused { pid: call.tid, path: path.to_vec() });
        }
        Err(Errno::EACCES)
    }
}

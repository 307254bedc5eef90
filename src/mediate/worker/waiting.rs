//! Calls that wait: look-ups in threads, and the tick that sees deadlines, full backlogs, signals and deaths.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use super::super::attempt::Progress;
use super::super::lookup::Effort;
use super::super::notify::{self, Answer, ERESTARTSYS};
use super::super::target;
use super::{LOOKS, LOOKUPS, Outcome, Pending, RETRY, TICK, Wait, Worker};

impl Worker {
    /// Starts a thread for the next look-up, while there may be one more.
    pub(super) fn look_up(&mut self) -> Result<(), Errno> {
        while self.busy < LOOKUPS {
            let Some((call, walk)) = self.queue.pop_front() else { break };
            let (sender, woken) = (self.lookups.0.clone(), Arc::clone(&self.lookups.2));
            let thread = std::thread::Builder::new().stack_size(128 * 1024).spawn(move || {
                // The loop outlives the thread, or the process ends with both.
                let _ = sender.send((call.slot, call.id, walk.resolve(Effort::Full)));
                let _ = woken.write(1);
            });
            thread.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EAGAIN)))?;
            self.busy += 1;
        }
        Ok(())
    }

    pub(super) fn looked_up(&mut self) {
        let _ = self.lookups.2.read(); // EAGAIN: its results have been taken with an earlier one's.
        while let Ok((slot, id, found)) = self.lookups.1.try_recv() {
            self.busy -= 1;
            let waits = self.slots[slot].as_ref().is_some_and(|p| p.call.id == id);
            let Some(pending) = self.slots[slot].take_if(|_| waits) else { continue };
            self.waiting -= 1;
            let (mut call, Wait::LookUp { socket, path }) = (pending.call, pending.wait) else { continue };
            let outcome = found.and_then(|object| self.reach(&mut call, socket, &path, object));
            self.settle(call, outcome.unwrap_or_else(Outcome::from));
        }
        let _ = self.look_up(); // Without a thread the next tick's deadline ends it.
    }

    /// A socket has become writable, or its time for another try has come.
    pub(super) fn proceed(&mut self, slot: usize) {
        let Some(Pending { call, wait: Wait::Connect { attempt, tries }, .. }) = &mut self.slots[slot] else { return };
        *tries += 1;
        let (call, progress) = (*call, attempt.step());
        if let Progress::Done(result) = progress {
            self.finish(&call, result.map_or_else(|errno| Answer::Error(errno as i32), |()| Answer::Zero));
        }
    }

    /// Deadlines, full backlogs, signals, and callers that have gone.
    pub(super) fn tick(&mut self) -> Result<(), Errno> {
        let now = Instant::now();
        let mut again = TICK;
        let mut looks = LOOKS;
        let first = self.looked_at;
        let slots = self.slots.len();
        for step in 0..slots {
            let slot = (first + step) % slots;
            let Some(pending) = &self.slots[slot] else { continue };
            let call = pending.call;
            if pending.deadline.is_some_and(|deadline| deadline <= now) {
                let answer = match &pending.wait {
                    Wait::Connect { attempt, .. } => attempt.timed_out(),
                    Wait::LookUp { .. } => Errno::ETIMEDOUT,
                };
                self.finish(&call, Answer::Error(answer as i32));
                continue;
            }
            if let Some(deadline) = pending.deadline {
                again = again.min(deadline - now);
            }
            let (backlog, retry_soon, unpolled) = match &pending.wait {
                Wait::Connect { attempt, tries } => (attempt.is_unix(), *tries < 10, !pending.polled),
                Wait::LookUp { .. } => (false, false, false),
            };
            if looks > 0 {
                looks -= 1;
                self.looked_at = slot + 1;
                if self.look_at(slot) {
                    continue;
                }
            }
            if backlog || unpolled {
                self.proceed(slot);
                if backlog && retry_soon {
                    again = again.min(RETRY);
                }
            }
        }
        if self.busy >= LOOKUPS && !self.slots.iter().flatten().any(|p| matches!(p.wait, Wait::LookUp { .. })) {
            // All threads are lost to look-ups whose time is over: the next worker has new ones.
            return Err(Errno::ETIMEDOUT);
        }
        self.next_tick = Instant::now() + again;
        Ok(())
    }

    /// Whether a waiting call has ended by a signal or by its caller's death.
    fn look_at(&mut self, slot: usize) -> bool {
        let Some(pending) = &self.slots[slot] else { return true };
        let call = pending.call;
        let listener = self.state.listeners.iter().find(|l| l.number == call.listener);
        if !listener.is_some_and(|l| notify::alive(l.fd.as_fd(), call.id)) {
            self.release(&call);
            return true;
        }
        if !target::interrupted(call.tid) {
            return false;
        }
        let timed = matches!(pending.wait, Wait::Connect { .. }) && pending.deadline.is_some();
        let errno = if timed { libc::EINTR } else { ERESTARTSYS };
        if self.answer(&call, Answer::Error(errno)) {
            self.release(&call);
        } else {
            self.finish(&call, Answer::Error(errno));
        }
        true
    }
}

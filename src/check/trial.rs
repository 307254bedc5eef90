//! Finding out by trying, in a forked child, so that this process stays what it is.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Gid, Pid, Uid, fork, getegid, geteuid, pipe2};

use crate::jail::namespaces::{self, Side};

/// What stopped a trial: the step, as a person would say it, and the kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub step: String,
    /// The errno.
    pub errno: Errno,
}

/// What a trial gives.
pub type Outcome = Result<(), Failure>;

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.errno.desc())
    }
}

/// Names the step of a failed call.
pub fn step<E: Into<io::Error>>(step: &str) -> impl FnOnce(E) -> Failure {
    let step = step.to_owned();
    move |e| {
        let error: io::Error = e.into();
        Failure { step, errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)) }
    }
}

/// The same for a call whose result is -1 and errno.
pub fn check(what: &str, result: libc::c_long) -> Result<libc::c_long, Failure> {
    Errno::result(result).map_err(step(what))
}

/// Runs `attempt` in a forked child.
pub fn in_child(attempt: impl FnOnce() -> Outcome) -> Outcome {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(step("make a pipe"))?;
    // SAFETY: the program is single-threaded when it probes; the child only makes calls and leaves by _exit.
    match unsafe { fork() }.map_err(step("fork"))? {
        ForkResult::Child => {
            drop(read);
            report(write.into(), attempt())
        }
        ForkResult::Parent { child } => {
            drop(write);
            hear(read.into(), child)
        }
    }
}

/// Runs `attempt` as pid 1 of all the namespaces that a jail has, with the caller's user mapped onto itself.
pub fn in_jail_namespaces(attempt: impl FnOnce() -> Outcome) -> Outcome {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(step("make a pipe"))?;
    let caller = Caller::new();
    // SAFETY: as above.
    match unsafe { namespaces::clone_into_new() }.map_err(step(MAKE))? {
        Side::Child => {
            drop(read);
            report(write.into(), caller.map_self().and_then(|()| attempt()))
        }
        Side::Parent(child) => {
            drop(write);
            hear(read.into(), child.pid)
        }
    }
}

/// Who the caller is: in a user namespace without a map yet, everybody is nobody.
#[derive(Clone, Copy, Debug)]
pub struct Caller(Uid, Gid);

impl Caller {
    /// This process's ids.
    pub fn new() -> Self {
        Self(geteuid(), getegid())
    }

    /// Maps them onto themselves in the user namespace that this process has just made.
    pub fn map_self(self) -> Outcome {
        namespaces::map_self_only("self", self.0, self.1).map_err(step(MAP))
    }
}

/// The steps at which a trial stops that never came to what it is about.
const MAP: &str = "map the user";
const MAKE: &str = "make the namespaces";

impl Failure {
    /// Whether the reason is another row's.
    pub fn is_earlier(&self) -> bool {
        self.step == MAP || self.step == MAKE
    }
}

fn report(mut pipe: File, outcome: Outcome) -> ! {
    if let Err(failure) = outcome {
        let _ = pipe.write_all(format!("{} {}", failure.errno as i32, failure.step).as_bytes());
    } else {
        let _ = pipe.write_all(b"ok");
    }
    // SAFETY: _exit touches no memory; the parent's destructors must not run in this copy.
    unsafe { libc::_exit(0) }
}

fn hear(mut pipe: File, child: Pid) -> Outcome {
    let mut text = String::new();
    let read = pipe.read_to_string(&mut text);
    let _ = waitpid(child, None);
    read.map_err(step("hear the trial's result"))?;
    if text == "ok" {
        return Ok(());
    }
    let (errno, what) = text.split_once(' ').unwrap_or(("", "the trial died"));
    Err(Failure { step: what.to_owned(), errno: Errno::from_raw(errno.parse().unwrap_or(libc::EIO)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_reports_success_failure_and_death() {
        assert_eq!(in_child(|| Ok(())), Ok(()));
        let refused = Failure { step: "open the door".into(), errno: Errno::EPERM };
        assert_eq!(in_child(|| Err(refused.clone())), Err(refused));
        let died = in_child(|| {
            // SAFETY: raising a fatal signal in a child of our own.
            unsafe { libc::raise(libc::SIGKILL) };
            Ok(())
        });
        assert_eq!(died.map_err(|f| f.step), Err("the trial died".to_owned()));
    }
}

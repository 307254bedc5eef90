//! Stages six to nine: one command, from a fork of init to `exec`.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::prctl;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use super::{Ends, Plan};
use crate::control::messages::{InitToWarden, WindowSize};
use crate::jail::payload::{self, Command, StageError, Streams};
use crate::jail::{namespaces, seccomp};
use crate::mediate;
use crate::roles::fork::exit;

/// The largest description of a command that a client may send, bytes; Linux takes 2 MiB of arguments by default.
const LARGEST_COMMAND: u64 = 8 << 20;

/// Forks one command; its pid, and the pipe that tells whether `exec` happened.
pub fn fork_command(
    plan: &Plan,
    ends: &Ends,
    command: &Command,
    streams: &Streams<'_>,
) -> Result<(Pid, OwnedFd), StageError> {
    let failed = |errno: Errno| StageError::new("start the command", errno);
    let (errors, report) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (ask, asked) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (answer, answered) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
    let (ours, mediators) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).map_err(failed)?;
    if ends.warden.send_with(&InitToWarden::Command, &[mediators.as_fd()]).is_err() {
        return Err(StageError::new("reach the mediator", Errno::ENOTCONN));
    }
    drop(mediators);
    // SAFETY: init has one thread.
    match unsafe { fork() }.map_err(failed)? {
        ForkResult::Child => {
            drop((errors, ask, answered));
            let _ = prctl::set_pdeathsig(None);
            let mapped = || {
                // The number by which this /proc knows it: with --proc host-masked that is not the jail's own.
                let own = std::fs::read_link("/proc/self")?;
                let mut asked = File::from(asked);
                asked.write_all(own.as_os_str().as_bytes())?;
                drop(asked);
                File::from(answer).read_exact(&mut [0])
            };
            let error =
                payload::become_command(command, &plan.setting, streams, mapped, || confine(plan.filter, &ours));
            let bytes = postcard::to_stdvec(&error).unwrap_or_else(|_| vec![0xff]);
            let _ = File::from(report).write_all(&bytes);
            exit(1)
        }
        ForkResult::Parent { child } => {
            drop((report, asked, answer, ours));
            if plan.setting.identity.full_range {
                map_command(ask, answered);
            }
            Ok((child, errors))
        }
    }
}

/// The last stage before `exec`: the filter, and its listener in the mediator's hands.
fn confine(options: seccomp::Options, mediator: &OwnedFd) -> Result<(), StageError> {
    // Also where connects are not mediated: the mediator says what a 32-bit program ran into.
    let installed = seccomp::install(&seccomp::payload::policy(options), seccomp::install::Scope::Thread, true)
        .map_err(|_| StageError::new("install the system call filter", Errno::EACCES))?;
    mediate::hand_over(mediator.as_fd(), installed)
        .map_err(|errno| StageError::new("hand its connects to the mediator", errno))?;
    Ok(())
}

/// Root: writes the full range of ids for a command that has just made its own user namespace. A command that fails before
/// it gets there closes its end, and says why through its other pipe.
fn map_command(ask: OwnedFd, answered: OwnedFd) {
    let mut number = String::new();
    let told = File::from(ask).take(16).read_to_string(&mut number).is_ok();
    if told && number.parse::<u32>().is_ok() && namespaces::map_everyone(&number).is_ok() {
        let _ = File::from(answered).write_all(b"m");
    }
}

/// Reads a command from a client's memory file, from its beginning and only so far.
pub fn read_command(memory: OwnedFd) -> Result<Command, String> {
    let mut file = File::from(memory);
    file.rewind().map_err(|e| format!("the command can not be read: {e}"))?;
    let mut bytes = Vec::new();
    file.take(LARGEST_COMMAND).read_to_end(&mut bytes).map_err(|e| format!("the command can not be read: {e}"))?;
    let command: Command =
        postcard::from_bytes(&bytes).map_err(|e| format!("the command can not be understood: {e}"))?;
    if command.argv.is_empty() { Err("a command is needed".into()) } else { Ok(command) }
}

/// A pty of the jail's own devpts, so that its name resolves inside, as large as the client's from the beginning.
pub fn open_terminal(size: WindowSize) -> Result<(OwnedFd, OwnedFd), Errno> {
    let outer = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    let path = PathBuf::from(ptsname_r(&outer)?);
    let inner = open(&path, OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    Errno::result(unsafe { libc::ioctl(inner.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    // SAFETY: the number was just taken from its owner, which no longer has it.
    let outer = unsafe { OwnedFd::from_raw_fd(outer.into_raw_fd()) };
    Ok((outer, inner))
}

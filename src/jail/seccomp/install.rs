//! Gives a filter to the kernel: seccomp(2), `SECCOMP_SET_MODE_FILTER`.
//!
//! A filter that notifies gets a listener. `WAIT_KILLABLE_RECV` (Linux 5.19) keeps a call that the mediator has begun to
//! execute from being interrupted under its hands; older kernels do without, and [`Installed::killable`] says which.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use libc::{c_ulong, sock_fprog};

use super::assembler::{AssembleError, Policy};

/// Whom a filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// This thread and what it starts from now on; what a single-threaded process wants.
    Thread,
    /// All threads of this process, at once (`TSYNC`).
    Process,
}

/// A filter that is in force.
#[derive(Debug)]
pub struct Installed {
    /// The descriptor on which notifications arrive, where one was asked for.
    pub listener: Option<OwnedFd>,
    /// The kernel knows `WAIT_KILLABLE_RECV`: only a fatal signal interrupts a call that is being answered.
    pub killable: bool,
}

/// Why a filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The table is wrong.
    #[error(transparent)]
    Table(#[from] AssembleError),
    /// prctl(PR_SET_NO_NEW_PRIVS).
    #[error("no_new_privs could not be set: {0}")]
    NoNewPrivs(io::Error),
    /// seccomp(2).
    #[error(
        "the kernel took no seccomp filter: {0} (it needs CONFIG_SECCOMP_FILTER, and EBUSY means that an outer filter \
         already has a listener: run outside that sandbox)"
    )]
    Refused(io::Error),
}

/// Sets no_new_privs, for this thread and what it starts: without it only CAP_SYS_ADMIN may install a filter.
pub fn no_new_privs() -> Result<(), InstallError> {
    nix::sys::prctl::set_no_new_privs().map_err(|e| InstallError::NoNewPrivs(e.into()))
}

/// Sets no_new_privs and installs `policy`; with `listener` a descriptor for its notifications comes back.
pub fn install(policy: &Policy, scope: Scope, listener: bool) -> Result<Installed, InstallError> {
    Filter::of(policy)?.install(scope, listener)
}

/// A policy in the kernel's words, ready to be installed.
#[derive(Debug)]
pub struct Filter(Vec<libc::sock_filter>);

impl Filter {
    /// Assembles it.
    pub fn of(policy: &Policy) -> Result<Self, InstallError> {
        Ok(Self(policy.assemble()?))
    }

    /// Sets no_new_privs and installs it; with `listener` a descriptor for its notifications comes back.
    pub fn install(&self, scope: Scope, listener: bool) -> Result<Installed, InstallError> {
        install_program(&self.0, scope, listener)
    }
}

fn install_program(program: &[libc::sock_filter], scope: Scope, listener: bool) -> Result<Installed, InstallError> {
    no_new_privs()?;
    // The kernel only reads it.
    let program = sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let mut flags = match scope {
        Scope::Thread => 0,
        Scope::Process => libc::SECCOMP_FILTER_FLAG_TSYNC,
    };
    if !listener {
        set_filter(flags, &program)?;
        return Ok(Installed { listener: None, killable: false });
    }
    flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    if scope == Scope::Process {
        // Both flags want the return value, unless failures of TSYNC are an errno.
        flags |= libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH;
    }
    let (fd, killable) = match set_filter(flags | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &program) {
        Err(InstallError::Refused(e)) if e.raw_os_error() == Some(libc::EINVAL) => {
            (set_filter(flags, &program)?, false)
        }
        other => (other?, true),
    };
    // SAFETY: the kernel has just made this descriptor (close-on-exec) for this call; nobody else knows its number.
    Ok(Installed { listener: Some(unsafe { OwnedFd::from_raw_fd(fd) }), killable })
}

fn set_filter(flags: c_ulong, program: &sock_fprog) -> Result<i32, InstallError> {
    // SAFETY: the program is a live sock_fprog whose length and pointer belong together; the kernel copies it.
    let got = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, program) };
    match got {
        0.. if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 => Ok(got as i32),
        0 => Ok(0),
        // TSYNC without ESRCH names the thread that could not follow.
        thread if thread > 0 => {
            Err(InstallError::Refused(io::Error::other(format!("thread {thread} has a filter of its own"))))
        }
        _ => Err(InstallError::Refused(io::Error::last_os_error())),
    }
}

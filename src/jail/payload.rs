//! Stages six to nine, for each command: from a fork of init to `exec`.
//!
//! The child begins with everything that init holds and ends with nothing: a user namespace (U2) below init's, which locks
//! the mounts and takes the network namespace out of its reach; empty capability sets; `no_new_privs`; a seccomp filter.
//! Whatever fails is reported through a pipe that `exec` closes, with the stage's name.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{AccessFlags, Gid, Uid, access, chdir, dup2_stderr, dup2_stdin, dup2_stdout, execve, setsid};
use serde::{Deserialize, Serialize};

use super::signals::set_of;
use super::{core_dumps, counters, namespaces};

/// What to run and what it inherits from whoever asked for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// The program and its arguments; never empty.
    pub argv: Vec<CString>,
    /// `NAME=value`, already without what the jail must not see.
    pub environment: Vec<CString>,
    /// Where it starts; a folder that the jail does not have is an error.
    pub directory: PathBuf,
    /// The caller's process attributes.
    pub attributes: Attributes,
}

/// Process attributes that a child inherits from whoever starts it (`fork(2)`, `execve(2)`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attributes {
    /// `umask(2)`.
    pub umask: u32,
    /// Soft and hard `getrlimit(2)` values by resource number.
    pub limits: Vec<(i32, u64, u64)>,
    /// Signals that the caller ignores, as a bit mask (bit n-1 is signal n): `nohup(1)` ignores SIGHUP.
    pub ignored: u64,
    /// Signals that the caller blocks, as a bit mask.
    pub blocked: u64,
}

/// Where the three standard streams of a command come from.
#[derive(Debug)]
pub enum Streams<'a> {
    /// Whatever init itself has as 0, 1 and 2.
    Inherited,
    /// These three.
    Given([BorrowedFd<'a>; 3]),
    /// One terminal, in a session of its own that it controls.
    Terminal(BorrowedFd<'a>),
}

/// Who the command is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The user, the same number inside and outside.
    pub uid: Uid,
    /// The group, the same number inside and outside.
    pub gid: Gid,
    /// Whether init has the full range of ids to hand on (started by root).
    pub full_range: bool,
}

/// What is the same for every command of a jail.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Who it is.
    pub identity: Identity,
    /// Descriptors that keep their numbers (`--keep-fd`).
    pub kept: Vec<RawFd>,
    /// The highest hard limit of open descriptors that it may have.
    pub most_descriptors: u64,
}

/// What stopped a command on its way.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{stage}: {}{}", Errno::from_raw(*.errno).desc(), counters::remedy(*.errno))]
pub struct StageError {
    /// The stage, as a person would say it.
    pub stage: String,
    /// The kernel's answer.
    pub errno: i32,
    /// Whether it was `exec` itself, so that the exit status is 126 or 127 and not 125.
    pub exec: bool,
}

impl StageError {
    /// A stage before `exec` that failed.
    pub fn new(stage: impl Into<String>, errno: Errno) -> Self {
        Self { stage: stage.into(), errno: errno as i32, exec: false }
    }
}

fn at(stage: &'static str) -> impl Fn(Errno) -> StageError {
    move |errno| StageError::new(stage, errno)
}

fn io_at(stage: &'static str) -> impl Fn(io::Error) -> StageError {
    move |e| StageError::new(stage, Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
}

impl Attributes {
    /// Reads the caller's own; `ignored` must be recorded before anything changes a disposition.
    pub fn of_caller(ignored: u64, blocked: u64) -> Self {
        let mask = umask(Mode::empty());
        umask(mask);
        let limits = RESOURCES
            .iter()
            .filter_map(|&resource| {
                let (soft, hard) = nix::sys::resource::getrlimit(resource).ok()?;
                Some((resource as i32, soft, hard))
            })
            .collect();
        Self { umask: mask.bits(), limits, ignored, blocked }
    }

    /// Makes them the calling process's own, but for the limit of descriptors.
    fn apply(&self) -> Result<(), StageError> {
        umask(Mode::from_bits_truncate(self.umask));
        for resource in RESOURCES.into_iter().filter(|resource| *resource != Resource::RLIMIT_NOFILE) {
            if let Some((soft, hard)) = self.limit(resource) {
                // A limit that init may no longer raise stays as it is: lower than the caller's is safe.
                let _ = setrlimit(resource, soft, hard);
            }
        }
        if let Some(limit) = core_dumps::limit() {
            core_dumps::apply(limit).map_err(io_at("keep core dumps in the jail"))?;
        }
        for number in 1..=64 {
            let disposition = if self.ignored & (1 << (number - 1)) == 0 { libc::SIG_DFL } else { libc::SIG_IGN };
            set_disposition(number, disposition);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&set_of(self.blocked)), None).map_err(at("restore the signal mask"))
    }

    /// The limit of descriptors, which ends the process's power to hand some over while others are flooding.
    fn limit_descriptors(&self, most: u64) {
        if let Some((soft, hard)) = self.limit(Resource::RLIMIT_NOFILE) {
            let hard = hard.min(most);
            let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard);
        }
    }

    fn limit(&self, resource: Resource) -> Option<(u64, u64)> {
        let found = self.limits.iter().find(|(number, ..)| *number == resource as i32);
        found.map(|&(_, soft, hard)| (soft, hard))
    }
}

/// The limits that a child inherits.
const RESOURCES: [Resource; 15] = [
    Resource::RLIMIT_AS,
    Resource::RLIMIT_CORE,
    Resource::RLIMIT_CPU,
    Resource::RLIMIT_DATA,
    Resource::RLIMIT_FSIZE,
    Resource::RLIMIT_LOCKS,
    Resource::RLIMIT_MEMLOCK,
    Resource::RLIMIT_MSGQUEUE,
    Resource::RLIMIT_NICE,
    Resource::RLIMIT_NOFILE,
    Resource::RLIMIT_NPROC,
    Resource::RLIMIT_RSS,
    Resource::RLIMIT_RTPRIO,
    Resource::RLIMIT_RTTIME,
    Resource::RLIMIT_STACK,
];

/// Sets one disposition by number; real-time signals have no name in nix, and SIGKILL and SIGSTOP are refused, as they should be.
fn set_disposition(number: i32, disposition: libc::sighandler_t) {
    // SAFETY: both dispositions are values that need no handler function.
    unsafe {
        libc::signal(number, disposition);
    }
}

/// Which signals the calling process ignores, as a bit mask.
pub fn ignored_signals() -> u64 {
    let mut mask = 0;
    for number in 1..=64 {
        // SAFETY: a null new action only reads the present one, into a zeroed structure of the right type.
        let ignored = unsafe {
            let mut present: libc::sigaction = std::mem::zeroed();
            libc::sigaction(number, std::ptr::null(), &raw mut present) == 0 && present.sa_sigaction == libc::SIG_IGN
        };
        if ignored {
            mask |= 1 << (number - 1);
        }
    }
    mask
}

/// Ignores one signal in a role.
pub fn ignore(signal: Signal) {
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring installs no handler function.
    let _ = unsafe { sigaction(signal, &action) };
}

/// Turns a fresh fork of init into the command; returns only if that failed.
///
/// `mapped` is called once the second user namespace exists and must return when its id maps are written (a process of
/// init's own has to write the full range). `confine` runs last before the descriptors are closed: Landlock and seccomp.
pub fn become_command(
    command: &Command,
    setting: &Setting,
    streams: &Streams<'_>,
    mapped: impl FnOnce() -> io::Result<()>,
    confine: impl FnOnce() -> Result<(), StageError>,
) -> StageError {
    let attempt = || -> Result<StageError, StageError> {
        take_streams(streams)?;
        // A process that is not dumpable can not write its own id map; nobody in a jail can trace it meanwhile, for it is
        // a child of U1 and they are not.
        prctl::set_dumpable(true).map_err(at("become dumpable"))?;
        // The caller's own limit comes back with its other attributes, further down.
        counters::share_processes().map_err(at("share the number of processes"))?;
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(at("make the second user namespace"))?;
        if setting.identity.full_range {
            mapped().map_err(io_at("have the ids mapped"))?;
        } else {
            namespaces::map_self_only("self", setting.identity.uid, setting.identity.gid)
                .map_err(io_at("map the ids"))?;
        }
        chdir(&command.directory).map_err(|errno| {
            StageError::new(format!("enter the working folder {}", command.directory.display()), errno)
        })?;
        new_session_keyring()?;
        command.attributes.apply()?;
        drop_capabilities()?;
        prctl::set_no_new_privs().map_err(at("set no_new_privs"))?;
        confine()?;
        command.attributes.limit_descriptors(setting.most_descriptors);
        close_all_but(&setting.kept)?;
        Ok(run_program(command))
    };
    match attempt() {
        Ok(error) | Err(error) => error,
    }
}

fn take_streams(streams: &Streams<'_>) -> Result<(), StageError> {
    let stage = at("take the standard streams");
    match streams {
        Streams::Inherited => Ok(()),
        Streams::Given([input, output, error]) => {
            dup2_stdin(input).map_err(&stage)?;
            dup2_stdout(output).map_err(&stage)?;
            dup2_stderr(error).map_err(&stage)
        }
        Streams::Terminal(terminal) => {
            setsid().map_err(at("begin a session"))?;
            // SAFETY: TIOCSCTTY takes an integer argument; 0 steals nobody's terminal.
            Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })
                .map_err(at("take the terminal"))?;
            dup2_stdin(terminal).map_err(&stage)?;
            dup2_stdout(terminal).map_err(&stage)?;
            dup2_stderr(terminal).map_err(&stage)
        }
    }
}

/// The caller's session keyring is shared with every process of the login; the command gets an empty one (`keyrings(7)`).
fn new_session_keyring() -> Result<(), StageError> {
    // SAFETY: keyctl takes integers and a null pointer here.
    let joined =
        unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>()) };
    match Errno::result(joined) {
        Ok(_) => Ok(()),
        // A kernel without keyrings has nothing to share.
        Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(StageError::new("begin a session keyring", errno)),
    }
}

/// Empties the bounding, ambient, inheritable, effective and permitted sets, and makes uid 0 mean nothing.
fn drop_capabilities() -> Result<(), StageError> {
    use caps::CapSet;
    // Every number that the kernel knows, not only those that a library has a name for.
    for number in 0..64 {
        // SAFETY: PR_CAPBSET_DROP takes an integer.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        match Errno::result(dropped) {
            Ok(_) => {}
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(StageError::new("empty the bounding set", errno)),
        }
    }
    let securebits = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP | SECBIT_NO_SETUID_FIXUP_LOCKED;
    // SAFETY: PR_SET_SECUREBITS takes an integer.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, securebits, 0, 0, 0) })
        .map_err(at("lock the secure bits"))?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(|_| StageError::new("empty the capability sets", Errno::EPERM))?;
    }
    Ok(())
}

// include/uapi/linux/securebits.h; libc has no names for them.
const SECBIT_NOROOT: libc::c_ulong = 1 << 0;
const SECBIT_NOROOT_LOCKED: libc::c_ulong = 1 << 1;
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
const SECBIT_NO_SETUID_FIXUP_LOCKED: libc::c_ulong = 1 << 3;

/// Marks every descriptor above 2 close-on-exec but for `kept`, which keep their numbers.
///
/// Marked and not closed at once, so that the pipe for errors lives until `exec` (CLOSE_RANGE_CLOEXEC, Linux 5.11).
fn close_all_but(kept: &[RawFd]) -> Result<(), StageError> {
    let mut kept: Vec<u32> = kept.iter().filter_map(|&fd| u32::try_from(fd).ok()).filter(|&fd| fd > 2).collect();
    kept.sort_unstable();
    kept.dedup();
    let mut first = 3;
    for fd in kept.iter().copied().chain([u32::MAX]) {
        let last = if fd == u32::MAX { u32::MAX } else { fd - 1 };
        if first <= last {
            // SAFETY: close_range with CLOSE_RANGE_CLOEXEC closes nothing, it only sets a flag on descriptors.
            let marked = unsafe { libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) };
            Errno::result(marked).map_err(at("close the descriptors"))?;
        }
        first = fd.saturating_add(1);
    }
    for fd in kept {
        // SAFETY: F_SETFD takes an integer; a number that is not open is an error, not undefined.
        Errno::result(unsafe { libc::fcntl(fd as RawFd, libc::F_SETFD, 0) }).map_err(at("keep a descriptor"))?;
    }
    Ok(())
}

/// `execve(2)` with the look-up that `execvp(3)` does, in the command's own PATH. Returns what failed.
fn run_program(command: &Command) -> StageError {
    let Some(program) = command.argv.first() else {
        return StageError { stage: "run nothing".into(), errno: libc::EINVAL, exec: true };
    };
    let failed =
        |errno: Errno| StageError { stage: program.to_string_lossy().into_owned(), errno: errno as i32, exec: true };
    if program.as_bytes().is_empty() {
        return failed(Errno::ENOENT);
    }
    if program.as_bytes().contains(&b'/') {
        return failed(execute(program, command));
    }
    // A file that may not be executed is remembered, as a shell does: 126 only where nothing further on is found.
    let mut worst = Errno::ENOENT;
    for folder in search_path(&command.environment).split(|&b| b == b':') {
        let folder = if folder.is_empty() { b"." } else { folder };
        let path = [folder, b"/", program.as_bytes()].concat();
        let Ok(path) = CString::new(path) else { continue };
        match execute(&path, command) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // A folder that may not be searched holds nothing; a file that may not be executed is worth telling.
            Errno::EACCES if access(path.as_c_str(), AccessFlags::F_OK).is_ok() => worst = Errno::EACCES,
            Errno::EACCES => {}
            other => return failed(other),
        }
    }
    failed(worst)
}

/// `execve(2)`; a text without an interpreter line is run by the shell, as POSIX has it for `execvp`.
fn execute(path: &CStr, command: &Command) -> Errno {
    let Err(errno) = execve(path, &command.argv, &command.environment);
    if errno != Errno::ENOEXEC {
        return errno;
    }
    let mut argv = vec![c"/bin/sh".to_owned(), path.to_owned()];
    argv.extend(command.argv.iter().skip(1).cloned());
    let Err(errno) = execve(c"/bin/sh", &argv, &command.environment);
    errno
}

fn search_path(environment: &[CString]) -> &[u8] {
    environment
        .iter()
        .find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(b"/usr/local/bin:/usr/bin:/bin")
}

/// Finds the file that `program` names for someone in `directory` with this environment, for checks made before a jail exists.
pub fn find_program(program: &CStr, directory: &Path, environment: &[CString]) -> Option<PathBuf> {
    let path = Path::new(std::ffi::OsStr::from_bytes(program.to_bytes()));
    if program.to_bytes().contains(&b'/') {
        return Some(directory.join(path));
    }
    search_path(environment)
        .split(|&b| b == b':')
        .map(|folder| directory.join(std::ffi::OsStr::from_bytes(folder)).join(path))
        .find(|file| access(file, AccessFlags::X_OK).is_ok())
}

/// Reads what the other end of the error pipe said: `None` means that `exec` closed it.
pub fn read_stage_error(pipe: OwnedFd) -> io::Result<Option<StageError>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::from(pipe).take(4096).read_to_end(&mut bytes)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    postcard::from_bytes(&bytes).map(Some).map_err(io::Error::other)
}

//! `--user NAME`: from root to an ordinary user, before anything else is done.

use std::ffi::CString;

use nix::sys::prctl;
use nix::unistd::{Uid, User, initgroups, setgid, setuid};

/// Variables that say who somebody is, and those that name folders of who they were.
const FOLDERS: [&str; 5] = ["XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"];

/// Becomes `name` for good; the error is the whole message.
pub fn become_user(name: &str) -> Result<(), String> {
    if !Uid::effective().is_root() {
        return Err(format!("--user {name}: only root can become somebody else; run netjail as {name} instead"));
    }
    let user = User::from_name(name)
        .map_err(|e| format!("--user {name}: the user can not be looked up: {e}"))?
        .ok_or_else(|| format!("--user {name}: there is no such user on this machine (getent passwd lists them)"))?;
    let failed = |e: nix::Error| format!("--user {name}: can not become that user: {e}");
    let c_name = CString::new(name).map_err(|_| format!("--user {name}: not a name"))?;
    initgroups(&c_name, user.gid).map_err(failed)?;
    setgid(user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)?;
    // The kernel makes a process undumpable that changes its user; a fork of such a one could not write its id map.
    prctl::set_dumpable(true).map_err(failed)?;
    let set = [
        ("HOME", user.dir.into_os_string()),
        ("SHELL", user.shell.into_os_string()),
        ("USER", name.into()),
        ("LOGNAME", name.into()),
    ];
    for (variable, value) in set {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var(variable, value) };
    }
    for variable in FOLDERS {
        // SAFETY: as above.
        unsafe { std::env::remove_var(variable) };
    }
    Ok(())
}

//! The table: everything of kernel, settings and devices that a jail needs or uses.
//!
//! *Required*: without it no jail is built; where a flag is given, that flag of `run` builds one all the same, at the
//! cost that the row says. *Layer*: a protection or a speed on top of others that stand without it; its lack is a note.
//!
//! A probe tries the thing itself wherever that can be done without leaving a trace. Rows depend on each other (no /dev/net/tun
//! is also no TUN device), and each row names its own remedy: repair from the top.

use serde::Serialize;

use super::finding::{Finding, State};
use super::{kernel, machine, namespaces};

/// How much a jail depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "need", content = "accept")]
pub enum Need {
    /// No jail without it.
    Required,
    /// No jail without it, but with this flag of `run`.
    Acceptable(&'static str),
    /// One layer or one speed less.
    Layer,
}

impl Need {
    /// Whether `run` refuses without it.
    pub fn is_required(self) -> bool {
        self != Need::Layer
    }
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its name, for people and scripts.
    pub name: &'static str,
    /// How much a jail depends on it.
    pub need: Need,
    /// What its lack costs.
    pub cost: &'static str,
    attempt: fn() -> Finding,
}

/// One row with its result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The probe's name.
    pub name: &'static str,
    /// What was found.
    pub state: State,
    /// Whether a jail requires it.
    pub required: bool,
    /// The flag of `run` that accepts its absence, where there is one.
    pub accept: Option<&'static str>,
    /// The finding in words.
    pub found: String,
    /// What its lack costs.
    pub cost: &'static str,
    /// The exact command, file or flag that repairs it.
    pub remedy: Option<String>,
}

impl Row {
    /// Whether no jail can be built because of this.
    pub fn is_fatal(&self) -> bool {
        self.required && self.state == State::Missing
    }
}

impl Probe {
    /// Tries it. The caller must be single-threaded: some probes fork.
    pub fn run(&self) -> Row {
        let Finding { state, found, remedy } = (self.attempt)();
        let accept = match self.need {
            Need::Acceptable(flag) => Some(flag),
            Need::Required | Need::Layer => None,
        };
        let required = self.need.is_required();
        Row { name: self.name, state, required, accept, found, cost: self.cost, remedy }
    }
}

const fn required(name: &'static str, attempt: fn() -> Finding, cost: &'static str) -> Probe {
    Probe { name, need: Need::Required, cost, attempt }
}

const fn acceptable(name: &'static str, flag: &'static str, attempt: fn() -> Finding, cost: &'static str) -> Probe {
    Probe { name, need: Need::Acceptable(flag), cost, attempt }
}

const fn layer(name: &'static str, attempt: fn() -> Finding, cost: &'static str) -> Probe {
    Probe { name, need: Need::Layer, cost, attempt }
}

const NO_JAIL: &str = "no jail can be built";
const NO_MEDIATION: &str = "unix sockets by path can not be held inside: programs outside can be asked to act";

/// The table.
pub const PROBES: &[Probe] = &[
    required("kernel-version", machine::kernel_version, NO_JAIL),
    required("unprivileged-userns-clone", machine::userns_clone, NO_JAIL),
    required("max-user-namespaces", machine::max_userns, NO_JAIL),
    required("apparmor-userns", namespaces::apparmor, NO_JAIL),
    required("user-namespace", namespaces::user, NO_JAIL),
    required("network-namespace", namespaces::network, NO_JAIL),
    required("mount-namespace", namespaces::mounts, NO_JAIL),
    required("pid-namespace", namespaces::pid, "processes outside could be seen"),
    required("uts-namespace", namespaces::uts, "the host's name could be read"),
    required("ipc-namespace", namespaces::ipc, "shared memory and queues would cross"),
    required("cgroup-namespace", namespaces::cgroup, "the host's cgroup names could be read"),
    required(
        "nested-user-namespace",
        namespaces::nested,
        "mounts and the network namespace could be changed from inside",
    ),
    required("tun-device", machine::tun_device, NO_JAIL),
    required("tun-works", namespaces::tun_works, NO_JAIL),
    required("mount-api", namespaces::mount_api, "the jail's file system can not be built"),
    acceptable("fresh-proc", "--proc host-masked", namespaces::fresh_proc, "the jail sees the outer processes"),
    layer("fresh-sysfs", namespaces::fresh_sysfs, "/sys is empty inside"),
    layer("overlay", namespaces::overlay, "/etc and /tmp inside are plain copies or empty, not views of the host's"),
    required("no-new-privs", kernel::no_new_privs, "set-user-id programs would gain privileges"),
    required("clone3", kernel::clone3, NO_JAIL),
    required("close-range", kernel::close_range, "descriptors could be inherited"),
    required("seccomp", kernel::seccomp, "kernel-global facilities (vsock, io_uring, keyrings) stay open"),
    required("seccomp-notify", kernel::seccomp_notify, NO_MEDIATION),
    required("pidfd-getfd", kernel::pidfd_getfd, NO_MEDIATION),
    required("process-vm", kernel::process_vm, NO_MEDIATION),
    required("yama", machine::yama, NO_MEDIATION),
    required("openat2", kernel::openat2, NO_MEDIATION),
    layer("seccomp-wait-killable", kernel::wait_killable, "a connect that a signal interrupts may be seen twice"),
    layer("pidfd-thread", kernel::pidfd_thread, "a thread with a descriptor table of its own can not connect"),
    layer("sock-diag", kernel::sock_diag, "the owner of a unix socket is found more slowly"),
    layer("landlock", kernel::landlock, "one layer less"),
    layer(
        "landlock-scopes",
        kernel::landlock_scopes,
        "kill(0) in a jail reaches whatever outside shares the caller's process group; abstract sockets are held by one layer less",
    ),
    layer("keyrings", kernel::keyrings, "no session keyring of its own; the filter alone guards keys"),
    layer("tiocsti", machine::tiocsti, "one layer less before typing into the caller's terminal"),
    layer("core-pattern", machine::core_pattern, "no core dumps of what runs in a jail"),
    layer("tun-uso", kernel::uso, "UDP in bulk is slower"),
    layer("ipv6", machine::ipv6, "jails have IPv4 alone"),
    required("open-files", machine::open_files, "few flows at a time"),
    required("run-folder", machine::run_folder, "ps, exec and stop would not find the jail"),
    required("state-folder", machine::state_folder, "trust and keys have no place"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_used_once_and_every_cost_is_said() {
        for (i, probe) in PROBES.iter().enumerate() {
            assert!(!probe.cost.is_empty());
            assert!(!PROBES[..i].iter().any(|p| p.name == probe.name), "{}", probe.name);
        }
    }

    #[test]
    fn whatever_is_not_there_comes_with_a_remedy() {
        for probe in PROBES {
            let row = probe.run();
            assert!(row.state == State::Ok || row.remedy.is_some(), "{row:?}");
            assert!(!row.found.is_empty(), "{row:?}");
        }
    }
}

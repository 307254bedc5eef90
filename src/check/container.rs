//! Whether this process runs in a container, and the flags with which that container would let a jail be built.

use std::env;
use std::fs;
use std::path::Path;

/// Which program made the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Maker {
    Docker,
    Podman,
    Kubernetes,
    Nspawn,
    Unknown,
}

fn maker() -> Option<Maker> {
    if env::var_os("KUBERNETES_SERVICE_HOST").is_some()
        || Path::new("/var/run/secrets/kubernetes.io/serviceaccount").exists()
    {
        return Some(Maker::Kubernetes);
    }
    if Path::new("/run/.containerenv").exists() {
        return Some(Maker::Podman);
    }
    if Path::new("/.dockerenv").exists() {
        return Some(Maker::Docker);
    }
    // systemd's own note of what it found itself in (the container interface of systemd).
    let noted = fs::read_to_string("/run/systemd/container").ok();
    match env::var("container").ok().or(noted).as_deref().map(str::trim) {
        Some("systemd-nspawn") => Some(Maker::Nspawn),
        Some("docker") => Some(Maker::Docker),
        Some("podman") => Some(Maker::Podman),
        Some("") | None => None,
        Some(_) => Some(Maker::Unknown),
    }
}

const DOCKER: &str = "docker run --device /dev/net/tun --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined";
const PODMAN: &str = "podman run --device /dev/net/tun --security-opt seccomp=unconfined --security-opt unmask=ALL";
const KUBERNETES: &str = "in the pod: hostUsers: false, securityContext {procMount: Unmasked, seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined}}, and /dev/net/tun from a device plugin or a hostPath volume of type CharDevice";
const NSPAWN: &str = "systemd-nspawn --bind=/dev/net/tun, with SYSTEMD_SECCOMP=0 and SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes in its environment";

/// The exact flags, where this is a container.
pub fn advice() -> Option<String> {
    let text = match maker()? {
        Maker::Docker => format!("this is a docker container; start it with: {DOCKER}"),
        Maker::Podman => format!("this is a podman container; start it with: {PODMAN}"),
        Maker::Kubernetes => format!("this is a Kubernetes pod; {KUBERNETES}"),
        Maker::Nspawn => format!("this is an nspawn container; start it with: {NSPAWN}"),
        Maker::Unknown => format!("this is a container; docker: {DOCKER}; podman: {PODMAN}; Kubernetes: {KUBERNETES}"),
    };
    Some(text)
}

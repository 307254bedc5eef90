//! The environment of the command: the caller's, without what leads to a process outside or names the host.
//!
//! A pure function of two lists. What is dropped is reported by name, never by value.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Variables that lead to a socket of the host, or to a proxy that only works there.
const SOCKETS: [&str; 45] = [
    "ALACRITTY_SOCKET",
    "AT_SPI_BUS_ADDRESS",
    "BUILDKIT_HOST",
    "CONTAINERD_ADDRESS",
    "CONTAINER_HOST",
    "DISPLAY",
    "DOCKER_HOST",
    "EMACS_SOCKET_NAME",
    "FZF_PORT",
    "GNOME_KEYRING_CONTROL",
    "GPG_AGENT_INFO",
    "HYPRLAND_INSTANCE_SIGNATURE",
    "I3SOCK",
    "ICEAUTHORITY",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "KITTY_LISTEN_ON",
    "MANAGERPID",
    "MEMORY_PRESSURE_WATCH",
    "MPD_HOST",
    "NIRI_SOCKET",
    "NOTIFY_SOCKET",
    "NVIM",
    "NVIM_LISTEN_ADDRESS",
    "PIPEWIRE_REMOTE",
    "PIPEWIRE_RUNTIME_DIR",
    "PULSE_SERVER",
    "SESSION_MANAGER",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "STY",
    "SWAYSOCK",
    "SYSTEMD_EXEC_PID",
    "TMUX",
    "TMUX_PANE",
    "VSCODE_GIT_IPC_HANDLE",
    "VSCODE_IPC_HOOK_CLI",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "WAYLAND_DISPLAY",
    "WAYLAND_SOCKET",
    "WEZTERM_UNIX_SOCKET",
    "WINDOWID",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// Variables that name the host or its network.
const NAMES: [&str; 9] = [
    "HOSTNAME",
    "REMOTEHOST",
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_ORIGINAL_COMMAND",
    "SSH_TTY",
    "XDG_SESSION_ID",
    "COMPUTERNAME",
    "SSH_USER_AUTH",
];

/// Families of variables, by how the name begins.
const PREFIXES: [&str; 15] = [
    "DBUS_",
    "KUBERNETES_",
    "LISTEN_",
    "NETJAIL_",
    "WSL_",
    "WSLENV",
    "XDG_SESSION_COOKIE",
    "ALL_PROXY",
    "FTP_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "RSYNC_PROXY",
    "SOCKS_PROXY",
    "SOCKS5_PROXY",
];

/// How the caller changes the rule.
#[derive(Clone, Debug, Default)]
pub struct Choices {
    /// `--env K=V`, in order: set whatever the rule says.
    pub set: Vec<(OsString, OsString)>,
    /// `--env-clear`: start from nothing but `set`.
    pub clear: bool,
    /// Variables that an overlay reads a secret from.
    pub secrets: Vec<String>,
    /// The host's own name, so that variables that shells and WSL set to it (HOST, NAME) can be told from others of that name.
    pub host_name: String,
}

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// What the command gets, by name; a name that occurred twice keeps its last value.
    pub variables: BTreeMap<OsString, OsString>,
    /// The names that were dropped, sorted. Empty with `--env-clear`, which says so itself.
    pub dropped: Vec<OsString>,
}

impl Environment {
    /// `NAME=value`, each with its zero byte.
    pub fn as_execve_wants(self) -> Vec<CString> {
        let join = |(name, value): (OsString, OsString)| [name.into_vec(), value.into_vec()].join(&b'=');
        self.variables.into_iter().filter_map(|variable| CString::new(join(variable)).ok()).collect()
    }
}

/// What variables such as HOST may be set to.
pub fn host_name() -> String {
    nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Makes the command's environment from the caller's.
pub fn build(caller: impl IntoIterator<Item = (OsString, OsString)>, choices: &Choices) -> Environment {
    let mut result = Environment::default();
    for (name, value) in caller {
        if choices.clear {
            break;
        }
        let secret = choices.secrets.iter().any(|s| name == OsStr::new(s));
        if secret || leads_outside(&name, &value, &choices.host_name) {
            result.variables.remove(&name);
            result.dropped.push(name);
        } else {
            result.variables.insert(name, value);
        }
    }
    for (name, value) in &choices.set {
        result.variables.insert(name.clone(), value.clone());
    }
    result.dropped.sort();
    result.dropped.dedup();
    result
}

/// Whether a variable leads to a process outside or names the host.
fn leads_outside(name: &OsStr, value: &OsStr, host_name: &str) -> bool {
    // A name that is no text can't be one of those, and no program looks for it either.
    let Some(name) = name.to_str() else { return false };
    if matches!(name, "HOST" | "NAME") && value == host_name || SOCKETS.contains(&name) || NAMES.contains(&name) {
        return true;
    }
    let upper = name.to_ascii_uppercase();
    if PREFIXES.iter().any(|p| upper.starts_with(p)) {
        return true;
    }
    // docker links and Kubernetes services: REDIS_PORT=tcp://10.0.0.1:6379, REDIS_PORT_6379_TCP_ADDR, REDIS_SERVICE_HOST.
    let linked =
        upper.contains("_PORT_") && ["_ADDR", "_PORT", "_PROTO", "_TCP", "_UDP"].iter().any(|e| upper.ends_with(e));
    let is_address = value.to_str().is_some_and(|v| v.parse::<IpAddr>().is_ok());
    let service = upper.ends_with("_SERVICE_HOST") && is_address;
    let link = upper.ends_with("_PORT")
        && (value.as_bytes().starts_with(b"tcp://") || value.as_bytes().starts_with(b"udp://"));
    linked || service || link
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect()
    }

    fn names(environment: &Environment) -> Vec<&str> {
        environment.variables.keys().map(|k| k.to_str().unwrap()).collect()
    }

    #[test]
    fn ordinary_variables_stay_as_they_are() {
        let caller = list(&[
            ("HOME", "/home/a"),
            ("PATH", "/bin"),
            ("LANG", "C"),
            ("TERM", "xterm"),
            ("USER", "a"),
            ("PORT", "80"),
            ("DB_PORT", "5432"),
            ("EDITOR", "vi"),
            ("XDG_CONFIG_HOME", "/x"),
            ("SSL_CERT_FILE", "/c"),
            ("HOSTTYPE", "x86_64"),
        ]);
        let made = build(caller.clone(), &Choices::default());
        assert_eq!(made.variables.into_iter().collect::<Vec<_>>(), {
            let mut sorted = caller;
            sorted.sort();
            sorted
        });
        assert!(made.dropped.is_empty());
    }

    #[test]
    fn sockets_names_of_the_host_and_proxies_are_dropped() {
        for name in [
            "DBUS_SESSION_BUS_ADDRESS",
            "SSH_AUTH_SOCK",
            "XDG_RUNTIME_DIR",
            "TMUX",
            "GPG_AGENT_INFO",
            "DOCKER_HOST",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "LISTEN_PID",
            "http_proxy",
            "HTTPS_PROXY",
            "all_proxy",
            "No_Proxy",
            "SSH_CONNECTION",
            "SSH_CLIENT",
            "SSH_TTY",
            "SESSION_MANAGER",
            "DISPLAY",
            "HOSTNAME",
            "KUBERNETES_SERVICE_HOST",
            "REDIS_PORT_6379_TCP_ADDR",
            "WSL_INTEROP",
            "WSLENV",
            "JOURNAL_STREAM",
            "INVOCATION_ID",
            "NETJAIL_LOG",
            "WAYLAND_DISPLAY",
        ] {
            let made = build(list(&[(name, "x"), ("A", "b")]), &Choices::default());
            assert_eq!(names(&made), ["A"], "{name}");
            assert_eq!(made.dropped, [name]);
        }
        let made = build(list(&[("REDIS_PORT", "tcp://172.17.0.5:6379")]), &Choices::default());
        assert_eq!(made.dropped, ["REDIS_PORT"]);
        let caller = list(&[("WEB_SERVICE_HOST", "10.96.0.1"), ("NAME", "myhost"), ("HOST", "other")]);
        let made = build(caller, &Choices { host_name: "myhost".into(), ..Choices::default() });
        assert_eq!(made.dropped, ["NAME", "WEB_SERVICE_HOST"]);
    }

    #[test]
    fn a_secrets_variable_is_dropped() {
        let choices = Choices { secrets: vec!["TOR_PASS".into()], ..Choices::default() };
        let made = build(list(&[("TOR_PASS", "hush"), ("TERM", "xterm")]), &choices);
        assert_eq!(names(&made), ["TERM"]);
        assert!(!format!("{:?}", made).contains("hush"));
    }

    #[test]
    fn what_the_caller_sets_is_set() {
        let set = list(&[("HTTP_PROXY", "socks5h://198.18.0.1"), ("B", "2")]);
        let made = build(
            list(&[("HTTP_PROXY", "http://corp"), ("B", "1")]),
            &Choices { set: set.clone(), ..Choices::default() },
        );
        assert_eq!(made.variables["HTTP_PROXY".as_ref() as &OsStr], "socks5h://198.18.0.1");
        assert_eq!(made.variables["B".as_ref() as &OsStr], "2");
        let made = build(list(&[("PATH", "/bin")]), &Choices { set, clear: true, ..Choices::default() });
        assert_eq!(names(&made), ["B", "HTTP_PROXY"]);
        assert!(made.dropped.is_empty());
    }
}

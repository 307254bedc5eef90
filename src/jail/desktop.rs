//! `--allow display|wayland|audio|dbus`: what a program with a window needs of its user's session.
//!
//! Each word opens the one socket that the session's variables name, and sets those variables in the jail, whose /run is
//! otherwise empty. What lies behind such a socket acts for whoever asks: docs/flags.md says at what cost.
//!
//! The X cookie is not shown as it is: a cookie file names the host, and a client looks its entry up by a host name that the
//! jail does not have. The jail gets a file with the one cookie in an entry that fits every name.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::letterbox::FOLDER;

/// No cookie file is larger, bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// One word of `--allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The X server.
    Display,
    /// The Wayland compositor.
    Wayland,
    /// PulseAudio and PipeWire.
    Audio,
    /// The session D-Bus.
    Dbus,
}

impl Door {
    /// All words.
    pub const NAMES: [&'static str; 4] = ["display", "wayland", "audio", "dbus"];

    /// The door of a word.
    pub fn of(name: &str) -> Option<Self> {
        let doors = [Self::Display, Self::Wayland, Self::Audio, Self::Dbus];
        doors.into_iter().find(|door| door.name() == name)
    }

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Display => "display",
            Self::Wayland => "wayland",
            Self::Audio => "audio",
            Self::Dbus => "dbus",
        }
    }
}

/// What is taken of the caller's session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Sockets that the jail may connect to.
    pub sockets: Vec<PathBuf>,
    /// Variables that are set in the jail.
    pub set: Vec<(OsString, OsString)>,
    /// Files below /run in the jail, with their text.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// The folder that XDG_RUNTIME_DIR names in the jail.
    pub runtime_folder: Option<PathBuf>,
}

/// Why a part of the session can not be opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--allow {door}: {why}")]
pub struct DesktopError {
    door: &'static str,
    why: String,
}

impl Session {
    /// The variables as `NAME=value`.
    pub fn variables(&self) -> impl Iterator<Item = CString> + '_ {
        let join = |name: &OsStr, value: &OsStr| [name.as_bytes(), value.as_bytes()].join(&b'=');
        self.set.iter().filter_map(move |(name, value)| CString::new(join(name, value)).ok())
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.set.push((name.into(), value.into()));
    }
}

/// Finds what the doors need; `variable` looks up the caller's environment.
pub fn open(doors: &[Door], variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Session, DesktopError> {
    let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
    let mut session = Session::default();
    for &door in doors {
        let opened = match door {
            Door::Display => display(&mut session, &variable),
            Door::Wayland => wayland(&mut session, &variable),
            Door::Audio => audio(&mut session, &variable),
            Door::Dbus => dbus(&mut session, &variable),
        };
        opened.map_err(|why| DesktopError { door: door.name(), why })?;
    }
    if let Some(folder) = &session.runtime_folder {
        let folder = folder.clone();
        session.set("XDG_RUNTIME_DIR", folder);
    }
    Ok(session)
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<OsString>;

fn display(session: &mut Session, variable: Variable<'_>) -> Result<(), String> {
    let display = variable("DISPLAY").ok_or("DISPLAY is not set: there is no X display here")?;
    let text = display.to_string_lossy().into_owned();
    let number = local_display(&text)
        .ok_or_else(|| format!("DISPLAY={text} is reached over the network, which in the jail is another one"))?;
    let socket = PathBuf::from(format!("/tmp/.X11-unix/X{number}"));
    session.sockets.push(socket_at(socket)?);
    session.set("DISPLAY", display);
    let file = variable("XAUTHORITY")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".Xauthority")));
    let host = nix::unistd::gethostname().unwrap_or_default();
    // A server may ask for no cookie at all.
    if let Some(cookie) = file.and_then(|file| read(&file).ok()).and_then(|all| cookie(&all, host.as_bytes(), number)) {
        let at = Path::new(FOLDER).join("Xauthority");
        session.set("XAUTHORITY", at.clone());
        session.files.push((at, cookie));
    }
    Ok(())
}

/// The number in `:0`, `:0.1` and `unix:0`; none where the display is another machine's.
fn local_display(text: &str) -> Option<u16> {
    let (host, rest) = text.rsplit_once(':')?;
    let number = rest.split('.').next()?.parse().ok()?;
    (host.is_empty() || host == "unix" || host.ends_with("/unix")).then_some(number)
}

/// The cookie of a local display from an Xauthority file (Xau(3)), as a file of one entry that fits every host name.
fn cookie(mut file: &[u8], host: &[u8], display: u16) -> Option<Vec<u8>> {
    const LOCAL: u16 = 256;
    const WILD: u16 = 65535;
    const METHOD: &[u8] = b"MIT-MAGIC-COOKIE-1";
    let wanted = display.to_string().into_bytes();
    let mut best: Option<(u8, Vec<u8>)> = None;
    while !file.is_empty() {
        let (family, rest) = file.split_at_checked(2)?;
        let family = u16::from_be_bytes([family[0], family[1]]);
        file = rest;
        let mut fields: [&[u8]; 4] = [&[]; 4];
        for field in &mut fields {
            let (length, rest) = file.split_at_checked(2)?;
            let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([length[0], length[1]])))?;
            (*field, file) = (value, rest);
        }
        let [address, number, method, data] = fields;
        let rank = match family {
            LOCAL if address == host => 3,
            WILD => 2,
            // The host was renamed since.
            LOCAL => 1,
            _ => continue,
        };
        if method == METHOD && (number.is_empty() || number == wanted) && best.as_ref().is_none_or(|(r, _)| *r < rank) {
            best = Some((rank, data.to_vec()));
        }
    }
    let (_, data) = best?;
    let mut entry = WILD.to_be_bytes().to_vec();
    for field in [b"".as_slice(), &wanted, METHOD, &data] {
        entry.extend(u16::try_from(field.len()).ok()?.to_be_bytes());
        entry.extend(field);
    }
    Some(entry)
}

fn wayland(session: &mut Session, variable: Variable<'_>) -> Result<(), String> {
    let name = variable("WAYLAND_DISPLAY").unwrap_or_else(|| "wayland-0".into());
    let folder = runtime_folder(session, variable)?;
    session.sockets.push(socket_at(folder.join(&name))?);
    session.set("WAYLAND_DISPLAY", name);
    Ok(())
}

fn audio(session: &mut Session, variable: Variable<'_>) -> Result<(), String> {
    let folder = runtime_folder(session, variable)?;
    let pulse = match variable("PULSE_SERVER") {
        None => folder.join("pulse/native"),
        Some(server) => {
            let text = server.to_string_lossy().into_owned();
            let path = text.strip_prefix("unix:").unwrap_or(&text);
            if !path.starts_with('/') || path.contains(' ') {
                return Err(format!("PULSE_SERVER={text} is not the path of one socket; set it to unix:PATH"));
            }
            path.into()
        }
    };
    let pipewire = variable("PIPEWIRE_RUNTIME_DIR")
        .map_or(folder, PathBuf::from)
        .join(variable("PIPEWIRE_REMOTE").unwrap_or_else(|| "pipewire-0".into()));
    let found: Vec<PathBuf> = [pulse.clone(), pipewire.clone()].into_iter().filter_map(|p| socket_at(p).ok()).collect();
    if found.is_empty() {
        return Err(format!("neither PulseAudio ({}) nor PipeWire ({}) is there", pulse.display(), pipewire.display()));
    }
    if found.contains(&pulse) {
        session.set("PULSE_SERVER", [OsStr::new("unix:"), pulse.as_os_str()].concat_os());
    }
    if found.contains(&pipewire) {
        session.set("PIPEWIRE_REMOTE", pipewire);
    }
    session.sockets.extend(found);
    Ok(())
}

fn dbus(session: &mut Session, variable: Variable<'_>) -> Result<(), String> {
    let path = match variable("DBUS_SESSION_BUS_ADDRESS") {
        None => runtime_folder(session, variable)?.join("bus"),
        Some(address) => bus_path(&address.to_string_lossy()).ok_or_else(|| {
            format!(
                "DBUS_SESSION_BUS_ADDRESS={} names no socket by its path (unix:path=…), and others are not reached from a jail",
                address.to_string_lossy()
            )
        })?,
    };
    session.set("DBUS_SESSION_BUS_ADDRESS", [OsStr::new("unix:path="), path.as_os_str()].concat_os());
    session.sockets.push(socket_at(path)?);
    Ok(())
}

/// The path of the first address that has one (D-Bus Specification, Server Addresses; `%` escapes other characters).
fn bus_path(addresses: &str) -> Option<PathBuf> {
    let unix = addresses.split(';').find_map(|address| address.strip_prefix("unix:"))?;
    let path = unix.split(',').find_map(|pair| pair.strip_prefix("path="))?;
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    Some(OsString::from_vec(bytes).into())
}

fn runtime_folder(session: &mut Session, variable: Variable<'_>) -> Result<PathBuf, String> {
    let folder = variable("XDG_RUNTIME_DIR").ok_or("XDG_RUNTIME_DIR is not set: there is no session here")?;
    let folder = PathBuf::from(folder);
    if !folder.is_absolute() {
        return Err(format!("XDG_RUNTIME_DIR={} is not an absolute path", folder.display()));
    }
    session.runtime_folder = Some(folder.clone());
    Ok(folder)
}

fn socket_at(path: PathBuf) -> Result<PathBuf, String> {
    match fs::metadata(&path) {
        Ok(found) if found.file_type().is_socket() => Ok(path),
        Ok(_) => Err(format!("{} is not a socket", path.display())),
        Err(e) => Err(format!("{}: {e}", path.display())),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(LARGEST_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

trait Concat {
    fn concat_os(&self) -> OsString;
}

impl Concat for [&OsStr; 2] {
    fn concat_os(&self) -> OsString {
        let mut whole = self[0].to_owned();
        whole.push(self[1]);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn entry(family: u16, fields: [&[u8]; 4]) -> Vec<u8> {
        let mut bytes = family.to_be_bytes().to_vec();
        for field in fields {
            bytes.extend((field.len() as u16).to_be_bytes());
            bytes.extend(field);
        }
        bytes
    }

    #[test]
    fn only_displays_of_this_machine_are_opened() {
        assert_eq!([":0", ":12.1", "unix:3", "host/unix:4"].map(local_display), [Some(0), Some(12), Some(3), Some(4)]);
        assert_eq!(["localhost:10.0", "host:0", "", "0", ":", ":x"].map(local_display), [None; 6]);
    }

    #[test]
    fn the_cookie_of_the_display_gets_an_entry_that_names_no_host() {
        let method = b"MIT-MAGIC-COOKIE-1".as_slice();
        let file = [
            entry(0, [&[127, 0, 0, 1], b"7", method, b"internet"]),
            entry(256, [b"elsewhere", b"7", method, b"renamed"]),
            entry(256, [b"this", b"8", method, b"other display"]),
            entry(256, [b"this", b"7", b"XDM-AUTHORIZATION-1", b"other method"]),
            entry(256, [b"this", b"7", method, b"right"]),
            entry(65535, [b"", b"", method, b"wild"]),
        ]
        .concat();
        let wild = |data: &[u8]| Some(entry(65535, [b"", b"7", method, data]));
        assert_eq!(cookie(&file, b"this", 7), wild(b"right"));
        assert_eq!(cookie(&file, b"new name", 7), wild(b"wild"));
        assert_eq!(cookie(&file[..file.len() - 40], b"new name", 7), None, "a damaged file");
        assert_eq!(cookie(&[], b"this", 7), None);
    }

    #[test]
    fn a_bus_is_found_by_its_path_alone() {
        assert_eq!(bus_path("unix:path=/run/user/1/bus,guid=00"), Some("/run/user/1/bus".into()));
        assert_eq!(bus_path("tcp:host=h;unix:guid=0,path=/a%20b"), Some("/a b".into()));
        for other in ["unix:abstract=/tmp/x", "tcp:host=h,port=1", "autolaunch:", "", "unix:path=%", "unix:path=%zz"] {
            assert_eq!(bus_path(other), None, "{other}");
        }
    }

    #[test]
    fn each_door_opens_its_own_socket_and_sets_its_own_variables() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pulse")).unwrap();
        let _held: Vec<_> = ["wayland-1", "pulse/native", "bus"]
            .iter()
            .map(|name| UnixListener::bind(folder.path().join(name)).unwrap())
            .collect();
        let variable = |name: &str| match name {
            "XDG_RUNTIME_DIR" => Some(folder.path().into()),
            "WAYLAND_DISPLAY" => Some("wayland-1".into()),
            "DISPLAY" => Some("localhost:10".into()),
            _ => None,
        };
        let opened = |door| open(&[door], &variable).unwrap();
        let names = |session: &Session| session.set.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
        assert_eq!(names(&opened(Door::Wayland)), ["WAYLAND_DISPLAY", "XDG_RUNTIME_DIR"]);
        assert_eq!(names(&opened(Door::Audio)), ["PULSE_SERVER", "XDG_RUNTIME_DIR"]);
        assert_eq!(names(&opened(Door::Dbus)), ["DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR"]);
        assert_eq!(opened(Door::Dbus).sockets, [folder.path().join("bus")]);
        assert!(open(&[Door::Display], &variable).unwrap_err().to_string().contains("over the network"));
        assert!(open(&[Door::Wayland], &|_| None).unwrap_err().to_string().contains("XDG_RUNTIME_DIR"));
        assert_eq!(open(&[], &variable), Ok(Session::default()));
    }
}

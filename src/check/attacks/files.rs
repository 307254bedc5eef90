//! Files: netjail's own keys, and things planted where processes outside would use them.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::call::{any, connect, refused, socket, told};
use super::{Attack, Context, Outcome, Proof};

pub const ATTACKS: &[Attack] = &[
    Attack::new("own-keys", "read a key in netjail's state folder", |c| read(&c.hidden.join("secret"), c)),
    Attack::new("own-keys-rename", "uncover netjail's state folder by renaming a folder above it", rename),
    Attack::new("own-keys-link", "reach netjail's state folder through a hard or symbolic link", |c| {
        let link = c.file.with_file_name("to-keys");
        let secret = c.hidden.join("secret");
        any([true, false], |hard| {
            let made = if hard { fs::hard_link(&secret, &link) } else { std::os::unix::fs::symlink(&secret, &link) };
            made.map_err(|e| e.to_string())?;
            let outcome = read(&link, c);
            let _ = fs::remove_file(&link);
            outcome
        })
    }),
    Attack::new("own-control-socket", "command netjail through its control socket", |c| {
        let state = c.hidden.parent().and_then(Path::parent);
        let folder = state.map(|base| base.join("runtime/netjail")).ok_or("no folder")?;
        let entries = fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        any(entries.flatten(), |entry| {
            let name = entry.path().display().to_string();
            let fd = socket(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0).map_err(refused("socket"))?;
            let address = nix::sys::socket::UnixAddr::new(&entry.path()).map_err(refused(&name))?;
            connect(&fd, &address).map_err(refused(&name))?;
            Ok(format!("connected to {name}"))
        })
    }),
    Attack::new("plant-socket", "plant a socket in /tmp for clients outside (a fake tmux or agent)", |c| {
        let listener = UnixListener::bind(&c.plant).map_err(|e| e.to_string())?;
        // The inode stays when the process ends; it is what a client outside would connect to.
        drop(listener);
        Ok("planted".into())
    })
    .proven(Proof::Planted),
    Attack::new("plant-file", "plant a file in /tmp", |c| {
        fs::write(&c.plant, "x").map_err(|e| e.to_string())?;
        Ok("planted".into())
    })
    .proven(Proof::Planted),
];

fn read(path: &Path, c: &Context) -> Outcome {
    let name = path.display().to_string();
    let text = fs::read(path).map_err(|e| format!("{name}: {e}"))?;
    told(&text, &c.token, &name)
}

fn rename(c: &Context) -> Outcome {
    let above: Vec<&Path> = c.hidden.ancestors().take(3).collect();
    any(above, |folder| {
        let moved = folder.with_extension("moved");
        fs::rename(folder, &moved).map_err(|e| format!("rename {}: {e}", folder.display()))?;
        let inner = c.hidden.strip_prefix(folder).map_err(|e| e.to_string())?;
        let outcome = read(&moved.join(inner).join("secret"), c);
        let _ = fs::rename(&moved, folder);
        outcome
    })
}

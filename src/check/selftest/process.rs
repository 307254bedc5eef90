//! The victim process: of the caller's user, with a secret in its memory, a file, a listener, a working folder.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::check::attacks::Victim;

/// Tells on standard output where its secret lies, and lives until standard input ends.
pub fn serve(socket: &Path) -> i32 {
    let token = std::env::var("NETJAIL_SELFTEST_TOKEN").unwrap_or_default();
    let secret: &'static [u8] = Box::leak(token.clone().into_bytes().into_boxed_slice());
    let _ = fs::remove_file(socket);
    let (Ok(file), Ok(tcp), Ok(unix)) =
        (fs::File::open("secret"), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)), UnixListener::bind(socket))
    else {
        return 1;
    };
    // Yama lets only descendants be traced unless the process itself agrees.
    // SAFETY: integers.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::c_ulong::MAX) };
    let victim = Victim {
        pid: std::process::id() as i32,
        address: secret.as_ptr() as u64,
        file: file.as_raw_fd(),
        listener: tcp.as_raw_fd(),
    };
    println!("{}", serde_json::to_string(&victim).unwrap_or_default());
    // Connections stay open: their peer is this process.
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in unix.incoming().flatten() {
            let _ = stream.write_all(token.as_bytes());
            open.push(stream);
        }
    });
    let _ = io::stdin().read_to_end(&mut Vec::new());
    0
}

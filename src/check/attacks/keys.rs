//! Keyrings and System V and POSIX objects, which belong to a user or to an IPC namespace.

use std::ffi::CString;
use std::os::fd::AsRawFd;

use super::call::{Arg, ZERO, any, call, descriptor, refused, told};
use super::{Attack, Context, Outcome};

pub const ATTACKS: &[Attack] = &[
    Attack::new("keyring-read", "read a key of the user's keyring", keyring),
    Attack::new("keyring-write", "add a key", |_| {
        let text = b"x";
        let ring = Arg::Int(libc::KEY_SPEC_PROCESS_KEYRING.into());
        call(
            libc::SYS_add_key,
            &mut [Arg::Text(c"user"), Arg::Text(c"netjail-attack"), Arg::Bytes(text), Arg::Int(1), ring],
        )
        .map_err(refused("add_key"))?;
        Ok("a key was added".into())
    }),
    Attack::new("request-key", "have the kernel start a resolver outside with request_key", |_| {
        let arguments = &mut [Arg::Text(c"user"), Arg::Text(c"netjail-no-such-key"), Arg::Text(c""), ZERO];
        match call(libc::SYS_request_key, arguments) {
            Err(errno @ (nix::errno::Errno::EPERM | nix::errno::Errno::ENOSYS)) => Err(format!("{errno:?}")),
            other => Ok(format!("the kernel looked for the key ({other:?})")),
        }
    }),
    Attack::new("shared-memory", "attach System V shared memory", |c| {
        let id = call(libc::SYS_shmget, &mut [Arg::Int(c.ipc_key.into()), ZERO, ZERO]).map_err(refused("shmget"))?;
        // SAFETY: the kernel chooses the place; the segment is only read.
        let at = unsafe { libc::shmat(id as i32, std::ptr::null(), libc::SHM_RDONLY) };
        if at as isize == -1 {
            return Err(format!("shmat: {:?}", nix::errno::Errno::last()));
        }
        // SAFETY: the victim's segment is a page, longer than the token.
        let text = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), c.token.len()) };
        told(text, &c.token, "System V shared memory")
    }),
    Attack::new("message-queue", "read a System V message queue", |c| {
        let id = call(libc::SYS_msgget, &mut [Arg::Int(c.ipc_key.into()), ZERO]).map_err(refused("msgget"))?;
        let mut text = [0u8; 256];
        // MSG_COPY needs a checkpoint kernel; a message that is taken is put there again for each attack.
        let flags = Arg::Int(libc::IPC_NOWAIT.into());
        let read = call(libc::SYS_msgrcv, &mut [Arg::Int(id), Arg::Buffer(&mut text), Arg::Int(240), ZERO, flags])
            .map_err(refused("msgrcv"))?;
        told(&text[8..8 + read as usize], &c.token, "a System V message queue")
    }),
    Attack::new("posix-queue", "open a POSIX message queue", |c| {
        let name = CString::new(c.message_queue.trim_start_matches('/')).map_err(|e| e.to_string())?;
        let queue =
            descriptor(libc::SYS_mq_open, &mut [Arg::Text(&name), ZERO, ZERO, ZERO]).map_err(refused("mq_open"))?;
        Ok(format!("{} is open as {}", c.message_queue, queue.as_raw_fd()))
    }),
];

fn keyring(c: &Context) -> Outcome {
    let name = CString::new(c.key.as_str()).map_err(|e| e.to_string())?;
    any([libc::KEY_SPEC_USER_KEYRING, libc::KEY_SPEC_USER_SESSION_KEYRING, libc::KEY_SPEC_SESSION_KEYRING], |ring| {
        let search = Arg::Int(libc::KEYCTL_SEARCH.into());
        let id =
            call(libc::SYS_keyctl, &mut [search, Arg::Int(ring.into()), Arg::Text(c"user"), Arg::Text(&name), ZERO])
                .map_err(refused("KEYCTL_SEARCH"))?;
        let mut text = [0u8; 256];
        let read = Arg::Int(libc::KEYCTL_READ.into());
        call(libc::SYS_keyctl, &mut [read, Arg::Int(id), Arg::Buffer(&mut text), Arg::Int(256)])
            .map_err(refused("KEYCTL_READ"))?;
        told(&text, &c.token, "a key of the user's keyring")
    })
}

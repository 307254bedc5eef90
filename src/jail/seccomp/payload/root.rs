//! The rows for a payload that is host uid 0: it has no capability and still owns root's files.

use libc::{ENOSYS, EPERM, S_ISGID, S_ISUID};

use super::super::assembler::{Call, Field, Row, Rule, Test, Verdict, calls};
use super::errno;

/// `fchmodat2` (Linux 6.6).
const FCHMODAT2: Call = Call { name: "fchmodat2", number: 452 };
/// The bit of O_TMPFILE that O_DIRECTORY has not.
const TMPFILE: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

/// The rows.
pub fn rows() -> Vec<Row> {
    let why = "A set-user-id file of root's in the working folder makes root of whoever executes it outside; the jail's \
               mounts are nosuid, which says nothing outside. Root needs no capability to set the bits of its own files.";
    let mut rows = vec![
        Row { calls: calls![SYS_fchmod], rule: mode(1), why },
        Row { calls: calls![SYS_fchmodat, SYS_mknodat].into_iter().chain([FCHMODAT2]).collect(), rule: mode(2), why },
        Row { calls: calls![SYS_openat], rule: made(2, 3), why },
        Row {
            calls: calls![SYS_openat2],
            rule: errno(ENOSYS),
            why: "The same, with the mode in memory, where a filter does not see it; programs fall back to openat.",
        },
        Row {
            calls: calls![SYS_clone3],
            rule: errno(ENOSYS),
            why: "CLONE_INTO_CGROUP puts a child into any control group that can be opened, by the rights of root's files \
                  and past a read-only mount; its flags are in memory. Libraries fall back to clone.",
        },
    ];
    #[cfg(target_arch = "x86_64")]
    rows.extend([
        Row { calls: calls![SYS_chmod, SYS_creat, SYS_mknod], rule: mode(1), why },
        Row { calls: calls![SYS_open], rule: made(1, 2), why },
    ]);
    rows
}

fn set_id(argument: u8) -> (Field, Test) {
    (Field::Low(argument), Test::AnyOf(S_ISUID | S_ISGID))
}

fn mode(argument: u8) -> Rule {
    Rule::when(Verdict::Errno(EPERM), vec![vec![set_id(argument)]], Verdict::Allow)
}

/// Where no file is made, the mode is whatever the register holds.
fn made(flags: u8, mode: u8) -> Rule {
    let makes = Test::AnyOf(libc::O_CREAT as u32 | TMPFILE);
    Rule::when(Verdict::Errno(EPERM), vec![vec![(Field::Low(flags), makes), set_id(mode)]], Verdict::Allow)
}

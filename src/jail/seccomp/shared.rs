//! What more than one table speaks of.

use super::assembler::{Call, calls};

/// Typing into a terminal (TIOCSTI, TIOCLINUX), another line discipline on it, and the console's messages.
pub(super) const TERMINAL_REQUESTS: [u32; 4] =
    [libc::TIOCSTI as u32, libc::TIOCLINUX as u32, libc::TIOCSETD as u32, libc::TIOCCONS as u32];

/// The mount interface of Linux 5.2 and later.
pub(super) fn mount_interface() -> Vec<Call> {
    calls![SYS_open_tree, SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_mount_setattr]
}

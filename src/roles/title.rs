//! What `ps` shows of a process: init's own must not tell the jail netjail's arguments.

use std::ffi::c_char;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// What /proc/1/cmdline of a jail holds.
const TITLE: &[u8] = b"netjail-init\0";

static FIRST: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Remembers where the kernel laid the arguments: one after the other, each with its zero byte (`execve(2)`).
///
/// # Safety
/// They must be the arguments of `main`, untouched.
pub unsafe fn remember(count: i32, words: *mut *mut c_char) {
    let count = usize::try_from(count).unwrap_or(0);
    // SAFETY: the caller's promise: main's arguments are an array of `count` strings that live as long as the process.
    let length = (0..count).map(|index| unsafe { libc::strlen(*words.add(index)) } + 1).sum();
    if count > 0 {
        // SAFETY: as above, and there is a first.
        FIRST.store(unsafe { *words }, Ordering::Relaxed);
        LENGTH.store(length, Ordering::Relaxed);
    }
}

/// Overwrites them in this process, which has read them for the last time.
pub fn hide() {
    let (first, length) = (FIRST.load(Ordering::Relaxed), LENGTH.load(Ordering::Relaxed));
    for index in 0..length {
        let byte = TITLE.get(index).copied().unwrap_or(0);
        // SAFETY: inside the area that `remember` measured, which is writable and which nothing in this process reads again.
        unsafe { first.add(index).write(byte as c_char) };
    }
}

//! The netjail program; everything is in the library.
#![no_main]

/// The C entry point instead of Rust's own, whose runtime ignores SIGPIPE before `main` could see what the caller had set:
/// a command in a jail inherits its caller's signals, as it does everywhere else.
///
/// # Safety
/// Called by the C library alone, with the program's arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(count: i32, words: *mut *mut std::ffi::c_char) -> i32 {
    // SAFETY: this is main, and these are its arguments.
    unsafe { netjail::start(count, words) }
}

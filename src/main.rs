//! The netjail program; everything is in the library.
#![no_main]

/// The C entry point instead of Rust's own, whose runtime ignores SIGPIPE before `main` could see what the caller had set:
/// a command in a jail inherits its caller's signals, as it does everywhere else.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    netjail::start()
}

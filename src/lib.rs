//! netjail starts a command in a network namespace of its own whose only way out is the overlay its user chose.
//!
//! `ARCHITECTURE.md` has the map: one line for each module, the path of a byte and the path of a process.

pub mod check;
pub mod cli;
pub mod control;
pub mod demo;
#[cfg(test)]
mod docs;
pub mod escape;
pub mod flow;
pub mod jail;
pub mod log;
pub mod mediate;
pub mod names;
pub mod overlay;
pub mod policy;
pub mod probe;
pub mod registry;
pub mod roles;
pub mod stack;
pub mod tun;
pub mod worker;

/// Runs the program and returns its exit status.
///
/// # Safety
/// To be called by `main`, with its own arguments.
pub unsafe fn start(count: i32, words: *mut *mut std::ffi::c_char) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { roles::title::remember(count, words) };
    let ignored = jail::payload::ignored_signals();
    roles::streams::fill_holes();
    cli::main(ignored)
}

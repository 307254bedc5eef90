//! Links the unwinder, which only prints the backtrace of a panic, into the program instead of loading libgcc_s.so: one
//! library less to be mapped at every start, and in every process of a jail to be copied by fork and taken down again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    if !is("CARGO_CFG_TARGET_ENV", "gnu") || is("PROFILE", "debug") || !has_unwinder() {
        return Ok(());
    }
    // std asks the linker for `gcc_s`; a linker script of that name sends it to GCC's own archives (ld(1), INPUT).
    let folder = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    fs::write(folder.join("libgcc_s.so"), "INPUT(-lgcc_eh -lgcc)\n")?;
    println!("cargo::rustc-link-search=native={}", folder.display());
    Ok(())
}

/// Whether this compiler has the archive: it answers with a path, or with the bare name of what it does not find. A compiler
/// for another machine may not be called `cc`; then the library is loaded as everywhere.
fn has_unwinder() -> bool {
    let host = env::var("HOST").ok();
    let found = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    host.is_some()
        && host == env::var("TARGET").ok()
        && found.is_ok_and(|answer| Path::new(String::from_utf8_lossy(&answer.stdout).trim()).is_absolute())
}

//! `netjail allow`.

use super::{FINDING, Told, load, print, search};
use crate::registry::trust;

/// Believes the project's registry as it is now; the status is 1 if that cannot be recorded, or there is nothing valid to
/// believe.
pub fn run() -> Result<i32, Told> {
    let search = search(Vec::new())?;
    let line = trust::allow(&trust::Store::new(&search.state), &load(&search)?)
        .map_err(|e| Told::say(&e.to_string(), FINDING))?;
    Ok(print(&format!("{line}\n"), 0))
}

//! Landlock scopes: abstract unix sockets and signals stay within the jail (Linux 6.12).
//!
//! For abstract sockets, and for every process that is named by a number, a layer on top of namespaces that do the same. Not
//! for `kill(0, …)`: the command is in the caller's process group, so that the terminal's signals reach it, and the kernel
//! signals a group across pid namespaces wherever the users are the same (kernel/signal.c, kill_something_info). A kernel
//! without scopes is a note, and the payload's filter refuses such a signal there. Applied once, to init, so that all commands
//! of a jail share one domain. No file-system right is handled: with one of them every later mount of a sandbox inside the
//! jail would be refused.

use landlock::{CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetStatus, Scope};

/// Applies the scopes; whether the kernel has them.
pub fn scope() -> Result<bool, landlock::RulesetError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

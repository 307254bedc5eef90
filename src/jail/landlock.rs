//! Landlock scopes: abstract unix sockets and signals stay within the jail (Linux 6.12).
//!
//! A layer on top of namespaces that do the same, so a kernel without it is a note and not a refusal. Applied once, to
//! init, so that all commands of a jail share one domain. No file-system right is handled: with one of them every later
//! mount of a sandbox inside the jail would be refused.

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

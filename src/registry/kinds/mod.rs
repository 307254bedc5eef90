//! What each kind of entry may say.
//!
//! - `network`: `network.*`, ways out.
//! - `service`: `http.service`, listeners.
//! - `security`: `security.policy`, permissions.
//!
//! A kind that netjail has no use for is passed over with a note. What could weaken a promise is not: a misspelt
//! `network.*` or `security.*` kind is an error.

pub(super) mod network;
pub(super) mod security;
pub(super) mod service;

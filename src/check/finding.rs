//! What a probe found, and what repairs it.

use std::fmt::Display;

use serde::Serialize;

/// What a probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// There, and works.
    Ok,
    /// Works, with something less than it could.
    Degraded,
    /// Not there, or refused.
    Missing,
}

impl State {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Degraded => "degraded",
            State::Missing => "missing",
        }
    }
}

/// The result of one probe.
#[derive(Clone, Debug)]
pub struct Finding {
    pub(super) state: State,
    pub(super) found: String,
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(found: impl Display) -> Self {
        Self { state: State::Ok, found: found.to_string(), remedy: None }
    }

    pub(super) fn degraded(found: impl Display, remedy: impl Display) -> Self {
        Self { state: State::Degraded, found: found.to_string(), remedy: Some(remedy.to_string()) }
    }

    pub(super) fn missing(found: impl Display, remedy: impl Display) -> Self {
        Self { state: State::Missing, found: found.to_string(), remedy: Some(remedy.to_string()) }
    }

    pub(super) fn is_ok(&self) -> bool {
        self.state == State::Ok
    }
}

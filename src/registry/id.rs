//! An entry's identity.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `namespace:name`, the namespace dotted where it has parts: `app:tor`, `app.net:tailnet`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id {
    namespace: String,
    name: String,
}

/// Why a text is not an [`Id`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id: expected namespace:name, each of letters, digits, `-`, `_` and (in the namespace) `.`")]
pub struct BadId(pub String);

impl Id {
    /// Makes an id from its two halves.
    pub fn new(namespace: &str, name: &str) -> Result<Self, BadId> {
        let part = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if namespace.split('.').all(part) && name.split('.').all(part) {
            Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
        } else {
            Err(BadId(format!("{namespace}:{name}")))
        }
    }

    /// The id of the network that dials from the host itself; no registry can define it, for `netjail` is not a user's namespace.
    pub fn direct() -> Self {
        Self { namespace: "netjail".into(), name: "direct".into() }
    }

    /// The part before the colon.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The part after the colon.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Id {
    type Err = BadId;
    fn from_str(text: &str) -> Result<Self, BadId> {
        let (namespace, name) = text.split_once(':').ok_or_else(|| BadId(text.to_owned()))?;
        Self::new(namespace, name)
    }
}

impl TryFrom<String> for Id {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        text.parse()
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.to_string()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.namespace, self.name)
    }
}

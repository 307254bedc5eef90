//! What makes a jail: the stages that a fresh pid 1 walks through before a command may run in it.
//!
//! Each file is one stage or one question, knows nothing of the roles that call it, and reports a failure with its stage,
//! path, errno and remedy.

pub mod core_dumps;
pub mod descriptors;
pub mod environment;
pub mod identity;
pub mod mounts;

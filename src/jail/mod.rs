//! What makes a jail: each stage of its construction in a file of its own, named for the moment it happens.
//!
//! 1. [`namespaces`]: front's one `clone3` and the id maps of the first user namespace (U1).
//! 2. [`network`]: loopback, the TUN device's link, addresses, routes.
//! 3. [`payload`]: what each command passes through before `exec`: the second user namespace (U2), keyring,
//!    capabilities, `no_new_privs`, Landlock, seccomp.
//! 4. [`seccomp`]: the filters themselves, of payloads and of netjail's own roles.

pub mod namespaces;
pub mod network;
pub mod payload;
pub mod seccomp;
//! What makes a jail: the stages that a fresh pid 1 walks through before a command may run in it.
//!
//! Each file is one stage or one question, knows nothing of the roles that call it, and reports a failure with its stage,
//! path, errno and remedy.

pub mod core_dumps;
pub mod identity;
pub mod mounts;

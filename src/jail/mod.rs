//! What makes a jail: each stage of its construction in a file of its own, named for the moment it happens.
//!
//! Each file is one stage or one question, knows nothing of the roles that call it, and reports a failure with its stage,
//! path, errno and remedy.
//!
//! 1. [`descriptors`]: what of the caller's streams and descriptors may go in.
//! 2. [`namespaces`]: front's one `clone3` and the id maps of the first user namespace (U1).
//! 3. [`network`]: loopback, the TUN device's link, addresses, routes.
//! 4. [`mounts`] and [`identity`]: the file system that the jail sees, and what it is called.
//! 5. [`payload`]: what each command passes through before `exec`: the second user namespace (U2), keyring,
//!    capabilities, `no_new_privs`, Landlock, seccomp. [`environment`] and [`core_dumps`] are about what it inherits.
//! 6. [`landlock`] and [`counters`]: for the whole jail, what its signals reach and what it can use up.
//! 7. [`seccomp`]: the filters themselves, of payloads and of netjail's own roles.

pub mod core_dumps;
pub mod counters;
pub mod descriptors;
pub mod desktop;
pub mod environment;
pub mod identity;
pub mod landlock;
pub mod letterbox;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod payload;
pub mod seccomp;
pub mod signals;

//! What a jail is made of, one module for each stage of its construction.

pub mod seccomp;

//! The netjail program; everything is in the library.

fn main() {}

//! stub
use crate::control::channel::Channel;
use crate::control::messages::RelaySetup;
use crate::control::worker::*;
use std::os::fd::OwnedFd;
use std::sync::Arc;
pub struct Shared;
impl Shared {
    pub fn new(_: &RelaySetup) -> std::io::Result<Self> {
        Ok(Self)
    }
}
pub struct Worker {
    _q: OwnedFd,
    c: Channel<ToWarden, FromWarden>,
}
impl Worker {
    pub fn new(_: Arc<Shared>, q: OwnedFd, c: Channel<ToWarden, FromWarden>) -> std::io::Result<Self> {
        Ok(Self { _q: q, c })
    }
    pub fn run(&mut self) {
        loop {
            match self.c.receive() {
                Ok((FromWarden::Stop, _)) | Err(_) => return,
                _ => {}
            }
        }
    }
}

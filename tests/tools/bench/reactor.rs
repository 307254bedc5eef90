//! An edge-triggered epoll loop on a few threads, for servers that must never be what a measurement waits for.
//!
//! Each thread accepts from the shared listeners and keeps what it accepted, so that nothing is shared afterwards. A
//! connection that has used up its budget is looked at again after the others.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What a connection wants next.
#[derive(PartialEq, Eq)]
pub enum Next {
    /// To be called when one of its descriptors is ready.
    Wait,
    /// To be called again soon: its budget is used up.
    Again,
    /// To be dropped.
    End,
}

/// One accepted connection and what belongs to it.
pub trait Connection: Sized {
    /// `port` is the local one.
    fn accepted(stream: TcpStream, port: u16) -> Self;

    /// Does what can be done. New descriptors are watched with `watch`; closing them ends that.
    fn ready(&mut self, shared: &mut Shared, watch: &dyn Fn(BorrowedFd<'_>)) -> Next;
}

/// What the connections of a thread have in common.
pub struct Shared {
    /// For copies.
    pub buffer: Vec<u8>,
    /// Empty pipes for splice(2).
    pub pipes: Vec<crate::proxy::Pipe>,
}

const LISTENER: u64 = 1 << 63;

fn flags() -> EpollFlags {
    EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET
}

/// Serves for ever.
pub fn serve<C: Connection>(listeners: Vec<TcpListener>) -> io::Result<()> {
    let listeners = Arc::new(listeners);
    let threads = std::thread::available_parallelism()?.get();
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let listeners = Arc::clone(&listeners);
            std::thread::spawn(move || work::<C>(&listeners))
        })
        .collect();
    for worker in workers {
        worker.join().map_err(|_| io::Error::other("a server thread died"))??;
    }
    Ok(())
}

fn work<C: Connection>(listeners: &[TcpListener]) -> io::Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (at, listener) in listeners.iter().enumerate() {
        listener.set_nonblocking(true)?;
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        epoll.add(listener.as_fd(), EpollEvent::new(flags, LISTENER | at as u64))?;
    }
    let mut shared = Shared { buffer: vec![0; 256 << 10], pipes: Vec::new() };
    let mut slots: Vec<Option<Box<C>>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut again: Vec<usize> = Vec::new();
    let mut events = vec![EpollEvent::empty(); 256];
    loop {
        let wait = if again.is_empty() { EpollTimeout::NONE } else { EpollTimeout::ZERO };
        let count = match epoll.wait(&mut events, wait) {
            Ok(count) => count,
            Err(nix::Error::EINTR) => continue,
            Err(errno) => return Err(errno.into()),
        };
        let mut todo = std::mem::take(&mut again);
        for event in &events[..count] {
            if event.data() & LISTENER == 0 {
                todo.push(event.data() as usize);
                continue;
            }
            let listener = &listeners[(event.data() & !LISTENER) as usize];
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                let slot = free.pop().unwrap_or_else(|| {
                    slots.push(None);
                    slots.len() - 1
                });
                if epoll.add(stream.as_fd(), EpollEvent::new(flags(), slot as u64)).is_ok() {
                    slots[slot] = Some(Box::new(C::accepted(stream, listener.local_addr()?.port())));
                } else {
                    free.push(slot);
                }
            }
        }
        todo.sort_unstable();
        todo.dedup();
        for slot in todo {
            let Some(connection) = &mut slots[slot] else { continue };
            let watch = |fd: BorrowedFd<'_>| {
                let _ = epoll.add(fd, EpollEvent::new(flags(), slot as u64));
            };
            match connection.ready(&mut shared, &watch) {
                Next::Wait => {}
                Next::Again => again.push(slot),
                Next::End => {
                    slots[slot] = None;
                    free.push(slot);
                }
            }
        }
    }
}

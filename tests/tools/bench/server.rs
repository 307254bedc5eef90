//! The far end of every measurement: echo, sink and source, told by port.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::reactor::{Connection, Next, Shared};
use crate::{ECHO_PORTS, SINK_PORT, SOURCE_PORT, STALL_PORT};

/// How many bytes one connection moves before the next one's turn.
const BUDGET: usize = 8 << 20;

struct Service {
    stream: TcpStream,
    port: u16,
    /// What an echo could not send yet.
    rest: Vec<u8>,
}

impl Connection for Service {
    fn accepted(stream: TcpStream, port: u16) -> Self {
        Self { stream, port, rest: Vec::new() }
    }

    fn ready(&mut self, shared: &mut Shared, _: &dyn Fn(BorrowedFd<'_>)) -> Next {
        if self.port == STALL_PORT {
            return Next::Wait;
        }
        let mut moved = 0;
        while moved < BUDGET {
            let outcome = match self.port {
                SINK_PORT => discard(&self.stream),
                SOURCE_PORT => self.stream.write(&shared.buffer),
                _ => self.echo(&mut shared.buffer),
            };
            match outcome {
                Ok(0) => return Next::End,
                Ok(count) => moved += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Wait,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Next::End,
            }
        }
        Next::Again
    }
}

impl Service {
    fn echo(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if !self.rest.is_empty() {
            let sent = self.stream.write(&self.rest)?;
            self.rest.drain(..sent);
            return Ok(sent);
        }
        let count = self.stream.read(buffer)?;
        if count > 0 {
            match self.stream.write(&buffer[..count]) {
                Ok(sent) if sent == count => {}
                Ok(sent) => self.rest.extend_from_slice(&buffer[sent..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.rest.extend_from_slice(&buffer[..count]),
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }
}

/// Takes what has arrived without copying it (tcp(7), MSG_TRUNC), so that the sink costs as little as can be.
fn discard(stream: &TcpStream) -> std::io::Result<usize> {
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer, which may be null (tcp(7)).
    let count = unsafe { libc::recv(stream.as_raw_fd(), std::ptr::null_mut(), 4 << 20, libc::MSG_TRUNC) };
    if count < 0 { Err(std::io::Error::last_os_error()) } else { Ok(count as usize) }
}

/// Serves at every one of `addresses`, for ever.
pub fn run(addresses: &[String]) -> std::io::Result<()> {
    let mut listeners = Vec::new();
    for address in addresses {
        for port in ECHO_PORTS.chain([SINK_PORT, SOURCE_PORT, STALL_PORT]) {
            listeners.push(crate::listen(address, port)?);
        }
        let udp = UdpSocket::bind(crate::socket_address(address, ECHO_PORTS.start)?)?;
        std::thread::spawn(move || {
            let mut buffer = [0; 65536];
            while let Ok((count, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&buffer[..count], peer);
            }
        });
    }
    let _: &[TcpListener] = &listeners;
    println!("ready");
    crate::reactor::serve::<Service>(listeners)
}

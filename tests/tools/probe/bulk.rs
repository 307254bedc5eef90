//! A pattern in both directions at once, verified byte for byte at both ends.
//!
//! The pattern is a xorshift stream: neither end can pass by luck, a lost or doubled block shows at its offset.
//!
//! Nobody closes a half while bytes are under way (some real proxies end both ways then): the server closes first, once it
//! has all, and the client after it has seen that.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

/// The stream that both ends make; the test library's server uses the same file.
pub struct Pattern(u64);

impl Pattern {
    /// A stream told apart by its seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// Fills the buffer with the next bytes; its length must be a multiple of 8 until the last call.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for word in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(&self.0.to_le_bytes()[..word.len()]);
        }
    }
}

const BLOCK: usize = 65536;

/// Sends `mib` MiB of the pattern `seed`.
pub fn send(mut stream: impl Write, mib: u64, seed: u64) -> std::io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut block = vec![0; BLOCK];
    for _ in 0..mib * 16 {
        pattern.fill(&mut block);
        stream.write_all(&block)?;
    }
    Ok(())
}

/// Reads `mib` MiB and compares with the pattern `seed`. The offset of the first difference is an error.
pub fn receive(mut stream: impl Read, mib: u64, seed: u64) -> Result<(), String> {
    let mut pattern = Pattern::new(seed);
    let (mut expected, mut got) = (vec![0; BLOCK], vec![0; BLOCK]);
    for block in 0..mib * 16 {
        pattern.fill(&mut expected);
        stream.read_exact(&mut got).map_err(|e| format!("block {block}: {e}"))?;
        if expected != got {
            let at = expected.iter().zip(&got).position(|(a, b)| a != b).unwrap_or(0);
            return Err(format!("differs at byte {}", block as usize * BLOCK + at));
        }
    }
    Ok(())
}

/// Nothing but EOF may follow.
pub fn end(mut stream: impl Read) -> Result<(), String> {
    match stream.read(&mut [0; 4096]) {
        Ok(0) => Ok(()),
        Ok(n) => Err(format!("{n} bytes too many")),
        Err(e) => Err(format!("at the end: {e}")),
    }
}

/// Sends pattern `seed` and ends at once, with whatever is still under way.
#[allow(dead_code, reason = "the test library includes this file for its server side only")]
pub fn upload(addrs: &[SocketAddr], mib: u64, seed: u64) {
    match TcpStream::connect(addrs[0]).and_then(|stream| send(stream, mib, seed)) {
        Ok(()) => println!("up sent"),
        Err(e) => println!("up {e}"),
    }
}

/// The client's side: pattern `seed` up, pattern `seed + 1` down.
#[allow(dead_code, reason = "the test library includes this file for its server side only")]
pub fn both_ways(addrs: &[SocketAddr], mib: u64, seed: u64) {
    let begun = Instant::now();
    let stream = match TcpStream::connect(addrs[0]) {
        Ok(stream) => stream,
        Err(e) => return println!("failed {e}"),
    };
    let up = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || send(&up, mib, seed));
    match receive(&stream, mib, seed + 1).and_then(|()| end(&stream)) {
        Ok(()) => println!("down good"),
        Err(e) => println!("down {e}"),
    }
    match sender.join().unwrap() {
        Ok(()) => println!("up sent"),
        Err(e) => println!("up {e}"),
    }
    println!("ms {}", begun.elapsed().as_millis());
}

//! Flows that are held while somebody else looks at the launcher: after each step the client says a word and waits for one.
//!
//! | mode | says |
//! |---|---|
//! | `idle` | `alone`, the round trip on the first flow; `held`, with N more; `echo`, the seconds for one on each of them; `beside`, the round trip again |
//! | `unread`, `untaken` | `one`, with a first flow; `held`, with N more, in none of which a byte can move |
//! | `burst` | `one`, with a first flow; `over`, when N more have come and gone, and bulk up and down |

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::{DOWN, MESSAGE, Options, UP, bulk, dial, echo, timed, wait_for_a_word};
use crate::{ECHO_PORTS, STALL_PORT};

/// A first flow, with a limit of descriptors that allows many.
fn first(options: &Options) -> io::Result<TcpStream> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut first = dial(options, ECHO_PORTS.start)?;
    echo(&mut first)?;
    Ok(first)
}

/// N flows, made one after another.
fn open(options: &Options, mut one: impl FnMut(usize) -> io::Result<TcpStream>) -> io::Result<Vec<TcpStream>> {
    let name = |at, error| io::Error::other(format!("flow {at} of {}: {error}", options.streams));
    (0..options.streams).map(|at| one(at).map_err(|error| name(at + 1, error))).collect()
}

/// To all of the echo ports in turn: a port has only so many peers.
fn to_echo(options: &Options, at: usize) -> io::Result<TcpStream> {
    dial(options, ECHO_PORTS.start + at as u16 % ECHO_PORTS.len() as u16)
}

pub fn idle(options: &Options) -> io::Result<()> {
    let mut first = first(options)?;
    println!("alone {}", timed(options, || echo(&mut first))?);
    wait_for_a_word()?;
    let mut flows = open(options, |at| to_echo(options, at))?;
    println!("held");
    wait_for_a_word()?;
    let start = Instant::now();
    for flow in &mut flows {
        flow.write_all(&[7; MESSAGE])?;
    }
    for flow in &mut flows {
        flow.read_exact(&mut [0; MESSAGE])?;
    }
    println!("echo {}", start.elapsed().as_secs_f64());
    println!("beside {}", timed(options, || echo(&mut first))?);
    Ok(())
}

/// How long nothing may have moved until everything stands still.
const STILL: Duration = Duration::from_millis(300);

/// Of flows to [`SOURCE_PORT`](crate::SOURCE_PORT) nothing is read here; into flows to [`STALL_PORT`], where nothing is read, as much is written as
/// there is room for.
pub fn stalled(options: &Options, port: u16) -> io::Result<()> {
    let _first = first(options)?;
    println!("one");
    wait_for_a_word()?;
    let mut flows = open(options, |_| dial(options, port))?;
    flows.iter().try_for_each(|flow| flow.set_nonblocking(true))?;
    let piece = [7; 64 << 10];
    let mut moved = Instant::now();
    while moved.elapsed() < STILL {
        for flow in flows.iter_mut().filter(|_| port == STALL_PORT) {
            while flow.write(&piece).is_ok() {
                moved = Instant::now();
            }
        }
        std::thread::sleep(STILL / 10);
    }
    println!("held");
    wait_for_a_word()
}

pub fn burst(options: &Options) -> io::Result<()> {
    let mut first = first(options)?;
    println!("one");
    wait_for_a_word()?;
    let mut flows = open(options, |at| to_echo(options, at))?;
    flows.iter_mut().try_for_each(echo)?;
    let eight = Options { streams: 8, ..options.clone() };
    for way in [UP, DOWN] {
        bulk(&eight, way, |options, _| {
            std::thread::sleep(options.time);
            Ok(())
        })?;
    }
    drop(flows);
    echo(&mut first)?;
    println!("over");
    wait_for_a_word()
}

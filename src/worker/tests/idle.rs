//! What nothing costs: the CPU of a stalled flow, the memory of idle ones.

use super::*;

pub(super) fn stalled_outside(scenario: &str) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let stopped = Mutex::new(stopped);
    // Neither reads nor writes until it is told to.
    serve((HOST4, 1000), move |_stream| assert!(stopped.lock().unwrap().recv().is_err()));
    let host = Host::start(scenario, None, |_| {});
    host.go.send(&0).unwrap();
    host.go.receive().expect("the jail's stream is stalled");
    let before = worker_nanoseconds();
    thread::sleep(Span::from_secs(3)); // the property is that nothing happens for a while
    let spent = worker_nanoseconds() - before;
    assert!(spent < 10_000_000, "a stalled flow costs CPU: {spent} ns");
    drop(stop);
    host.finish();
}

pub(super) fn stalled_inside() {
    let mut stream = dial(HOST4, 1000).unwrap();
    stream.set_nonblocking(true).unwrap();
    let data = vec![1; 1 << 20];
    let mut refused = 0;
    while refused < 50 {
        let written = stream.write(&data).map_err(|error| error.kind());
        refused = if written == Err(ErrorKind::WouldBlock) { refused + 1 } else { 0 };
        thread::sleep(Span::from_millis(10)); // the buffers of two kernels fill up
    }
    let channel = channel_of_the_host();
    channel.send(&0).unwrap();
    channel.receive().unwrap();
}

pub(super) fn idle_outside(scenario: &str) {
    raise_limit();
    let listener = TcpListener::bind((HOST4, 1000)).unwrap();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            if byte[0] == 0 {
                kept.clear();
            }
            stream.write_all(&byte).unwrap();
            kept.push(stream);
        }
    });
    let host = Host::start(scenario, None, |_| {});
    host.go.send(&0).unwrap();
    host.go.receive().expect("the first flow is there");
    let before = own_memory();
    host.go.receive().expect("all flows are there");
    await_size(before + IDLE * 3 * 1024);
    host.go.send(&0).unwrap();
    host.go.receive().expect("all flows are gone");
    // A fifth, and what the test's own server and warden keep.
    await_size(before + before / 5 + (128 << 10));
    host.finish();
}

pub(super) fn idle_inside() {
    raise_limit();
    let channel = channel_of_the_host();
    let flow = |byte| {
        let mut stream = dial(HOST4, 1000).unwrap();
        stream.write_all(&[byte]).unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream
    };
    let first = flow(1);
    channel.send(&0).unwrap();
    let flows: Vec<_> = (0..IDLE).map(|_| flow(1)).collect();
    channel.send(&0).unwrap();
    channel.receive().unwrap();
    drop((first, flows));
    flow(0);
    channel.send(&0).unwrap();
    channel.receive().unwrap();
}

/// Idle flows of the test of their memory.
const IDLE: u64 = 2000;

fn raise_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// The memory that this process has made, in bytes. Not the proportional size, in which the share of the program's own text
/// grows whenever another test program ends.
fn own_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Waits until memory has gone down so far.
fn await_size(most: u64) {
    let begun = Clock::now();
    while own_memory() > most {
        assert!(begun.elapsed() < Span::from_secs(8), "{} bytes, {most} expected", own_memory());
        thread::sleep(Span::from_millis(100)); // between two looks
    }
    println!("{} bytes after {:?}, at most {most} expected", own_memory(), begun.elapsed());
}

#[test]
fn an_idle_flow_costs_three_kilobytes_and_gives_them_back() {
    check("idle");
}

#[test]
fn a_stalled_flow_costs_no_cpu() {
    check("stalled");
}

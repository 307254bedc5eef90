//! Figures for people.

use super::*;

pub(super) fn speed_outside(scenario: &str) {
    for (port, up) in [(1000, true), (1001, false)] {
        serve((HOST4, port), move |stream| if up { swallow(stream) } else { pour(stream) });
    }
    serve((HOST4, 1002), |stream| {
        stream.set_nodelay(true).unwrap();
        echo(stream);
    });
    measure("no jail", &mut |_| {});
    let host = Host::start(scenario, None, |_| {});
    host.go.send(&0).unwrap();
    for phase in ["up", "down", "round trips", "dials"] {
        let before = worker_nanoseconds();
        host.go.receive().expect("the end of a phase");
        println!("  {phase}: {:.3} s of the worker's CPU", (worker_nanoseconds() - before) as f64 * 1e-9);
    }
    host.finish();
}

pub(super) fn speed_inside() {
    let channel = channel_of_the_host();
    measure("netjail", &mut |bytes| {
        println!("  {:.3} GB", bytes as f64 * 1e-9);
        channel.send(&0).unwrap();
    });
    channel.receive().unwrap();
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = vec![0; 1 << 20];
    while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
    let _ = stream.write_all(b"!");
}

fn pour(mut stream: TcpStream) {
    let buffer = vec![7; 1 << 20];
    while stream.write_all(&buffer).is_ok() {}
}

/// Figures for people; nothing is asserted.
fn round_trip(stream: &mut TcpStream) {
    stream.write_all(&[1; 64]).unwrap();
    stream.read_exact(&mut [0; 64]).unwrap();
}

fn measure(label: &str, phase: &mut dyn FnMut(usize)) {
    let span = Span::from_millis(1500);
    let data = vec![3; 1 << 20];
    let gigabits = |bytes: usize, since: Clock| bytes as f64 * 8e-9 / since.elapsed().as_secs_f64();
    let (mut stream, start, mut bytes) = (dial(HOST4, 1000).unwrap(), Clock::now(), 0);
    while start.elapsed() < span {
        stream.write_all(&data).unwrap();
        bytes += data.len();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    stream.read_exact(&mut [0]).unwrap();
    let up = gigabits(bytes, start);
    phase(bytes);
    let (mut stream, start, mut bytes) = (dial(HOST4, 1001).unwrap(), Clock::now(), 0);
    let mut buffer = vec![0; 1 << 20];
    while start.elapsed() < span {
        bytes += stream.read(&mut buffer).unwrap();
    }
    let down = gigabits(bytes, start);
    drop(stream);
    phase(bytes);
    let mut stream = dial(HOST4, 1002).unwrap();
    let mut rounds: Vec<_> = (0..5000)
        .map(|_| {
            let start = Clock::now();
            round_trip(&mut stream);
            start.elapsed()
        })
        .collect();
    rounds.sort_unstable();
    phase(0);
    let mut dials: Vec<_> = (0..2000)
        .map(|_| {
            let start = Clock::now();
            let mut stream = dial(HOST4, 1002).unwrap();
            round_trip(&mut stream);
            start.elapsed()
        })
        .collect();
    dials.sort_unstable();
    phase(0);
    println!(
        "{label}: up {up:.1} Gbit/s, down {down:.1} Gbit/s, round trip p50 {:?}, connect+echo p50 {:?}",
        rounds[2500], dials[1000]
    );
}

/// Set NETJAIL_SPEED to see figures.
#[test]
fn speed() {
    if std::env::var_os("NETJAIL_SPEED").is_some() {
        check("speed@65520");
        check("speed@1500");
    }
}

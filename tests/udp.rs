//! Datagrams: carried from the host itself (direct) or through a proxy's relay, each as it was, from and to whom it was.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use lab::Jail;
use lab::host::{Host, WEB, WEB6};

/// Every datagram that came: from whom, and its length.
type Seen = Arc<Mutex<Vec<(SocketAddr, usize)>>>;

/// Answers each datagram with what `answer` makes of it and of whom it is from.
fn serve(socket: UdpSocket, answer: impl Fn(SocketAddr, &[u8]) -> Vec<u8> + Send + 'static) -> Seen {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 70_000];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            kept.lock().unwrap().push((from, n));
            let _ = socket.send_to(&answer(from, &buffer[..n]), from);
        }
    });
    seen
}

fn echo(_: SocketAddr, data: &[u8]) -> Vec<u8> {
    data.to_vec()
}

fn who(from: SocketAddr, _: &[u8]) -> Vec<u8> {
    format!("you are {from}").into_bytes()
}

#[test]
fn datagrams_of_every_size_go_there_and_back_in_both_families() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    serve(host.datagrams("internet", &format!("{WEB}:4000")), echo);
    serve(host.datagrams("internet", &format!("[{WEB6}]:4000")), echo);
    for mtu in lab::MTUS {
        let jail = Jail::new().inside(&host).with(&["--mtu", mtu]);
        let sizes = ["0", "1", "1200", "1472", "1473", "9000", "32768", "65507"];
        for target in [format!("{WEB}:4000"), format!("[{WEB6}]:4000")] {
            let mut words = vec!["udp", "echo", target.as_str()];
            words.extend(sizes);
            if target.starts_with('[') {
                words.push("65527");
            }
            let done = jail.probe_on("nil", &words).good();
            assert_eq!(done.facts("echoed"), words[3..], "MTU {mtu}: {done:?}");
        }
    }
}

#[test]
fn one_socket_is_one_outside_port_whomever_it_is_for_and_with_any_number_of_workers() {
    require!(Host::lack().is_none(), "{}", Host::lack().unwrap());
    let host = Host::new();
    let mut targets = Vec::new();
    for port in 4000..4016 {
        serve(host.datagrams("internet", &format!("{WEB}:{port}")), who);
        targets.push(format!("{WEB}:{port}"));
    }
    for workers in ["1", "2"] {
        let jail = Jail::new().inside(&host).with(&["--workers", workers]);
        let mut words = vec!["udp", "many"];
        words.extend(targets.iter().map(String::as_str));
        let done = jail.probe_on("nil", &words).good();
        let lines = done.facts("from");
        assert_eq!(lines.len(), 16, "{workers} workers: {done:?}");
        let mut outside: Vec<&str> = Vec::new();
        for (line, target) in lines.iter().zip(&targets) {
            let (from, said) = line.split_once(" said you are ").unwrap();
            assert_eq!(from, format!("{target} asked {target}"), "the answer is from whom was asked");
            outside.push(said);
        }
        assert!(outside[0].starts_with("192.0.2.2:"), "{outside:?}");
        outside.dedup();
        assert_eq!(outside.len(), 1, "{workers} workers: {outside:?}");
    }
}

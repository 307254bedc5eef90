//! A SOCKS5 server that obeys, refuses, and misbehaves.

use super::*;

pub(super) fn socks_outside(scenario: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || scripted_proxy(stream));
        }
    });
    let host = Host::start(scenario, Some(proxy), |setup| setup.connect_timeout = Span::from_secs(5));
    let records = host.finish();
    assert!(records.iter().any(|r| r.name.as_deref() == Some("n80.test")));
    assert!(records.iter().any(|r| matches!(r.end, Some(End { close: Close::Dial(DialError::TimedOut), .. }))));
}

pub(super) fn socks_inside() {
    // By name, and with bytes of the server right behind the reply.
    let mut stream = dial("198.18.1.80", 80).unwrap();
    let mut early = [0; 9];
    stream.read_exact(&mut early).unwrap();
    assert_eq!(&early, b"n80.test!");
    stream.write_all(b"ping").unwrap();
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"ping");
    for (port, expected) in [
        (5, libc::ECONNREFUSED),
        (4, libc::EHOSTUNREACH),
        (3, libc::ENETUNREACH),
        (2, libc::EHOSTUNREACH),
        (1, libc::ECONNREFUSED),
        (200, libc::ENETUNREACH),  // garbage
        (201, libc::ENETUNREACH),  // end of file
        (202, libc::EHOSTUNREACH), // silence
    ] {
        assert_eq!(errno(dial(HOST4, port)), expected, "reply {port}");
    }
    for mut stream in (0..200).map(|_| dial("198.18.1.80", 80).unwrap()).collect::<Vec<_>>() {
        stream.read_exact(&mut early).unwrap();
    }
}

pub(super) fn down_outside(scenario: &str) {
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    Host::start(scenario, Some(unused), |_| {}).finish();
}

pub(super) fn down_inside() {
    for _ in 0..3 {
        assert_eq!(errno(dial(HOST4, 80)), libc::ENETUNREACH);
    }
}

/// A SOCKS5 server that does what the port says: 80 connects, below 100 is a reply code, the rest is misbehaviour.
fn scripted_proxy(mut stream: TcpStream) {
    let mut head = [0; 3];
    if stream.read_exact(&mut head).is_err() {
        return; // made ahead, and never needed
    }
    assert_eq!(head, [5, 1, 0]);
    stream.write_all(&[5, 0]).unwrap();
    let mut request = [0; 4];
    if stream.read_exact(&mut request).is_err() {
        return; // made ahead, and never needed
    }
    let name = match request[3] {
        1 => {
            let mut address = [0; 4];
            stream.read_exact(&mut address).unwrap();
            String::new()
        }
        3 => {
            let mut length = [0];
            stream.read_exact(&mut length).unwrap();
            let mut name = vec![0; usize::from(length[0])];
            stream.read_exact(&mut name).unwrap();
            String::from_utf8(name).unwrap()
        }
        other => panic!("address type {other}"),
    };
    let mut port = [0; 2];
    stream.read_exact(&mut port).unwrap();
    match u16::from_be_bytes(port) {
        80 => {
            let reply = [&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name.as_bytes(), b"!"].concat();
            stream.write_all(&reply).unwrap();
            echo(stream);
        }
        200 => stream.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap(),
        201 => {}
        202 => drop(stream.read(&mut [0])),
        code => stream.write_all(&[5, code as u8, 0, 0]).unwrap(),
    }
}

#[test]
fn socks5_by_name_and_each_failure_at_once() {
    check("socks");
}

#[test]
fn a_proxy_that_is_down_is_an_unreachable_network() {
    check("down");
}

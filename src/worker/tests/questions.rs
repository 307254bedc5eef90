//! Names: answered inside, and forwarded.

use super::*;

pub(super) fn questions_outside(scenario: &str) {
    let records = Host::start(scenario, None, |_| {}).finish();
    assert_eq!(records.iter().filter(|r| r.kind == Kind::Question).count(), 6);
}

pub(super) fn questions_inside() {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for server in ["198.18.0.1", "8.8.8.8"] {
        socket.send_to(&question(b"01", "n80.test"), (server, 53)).unwrap();
        let mut answer = [0; 100];
        let (count, from) = socket.recv_from(&mut answer).unwrap();
        assert_eq!((&answer[..2], from.to_string()), (&b"01"[..], format!("{server}:53")));
        assert!(answer[..count].ends_with(&[198, 18, 1, 80]));
        // Two in one segment, the second in two pieces.
        let mut stream = dial(server, 53).unwrap();
        let mut messages = Vec::new();
        append(&question(b"ab", "n80.test"), &mut messages).unwrap();
        append(&question(b"cd", "other.test"), &mut messages).unwrap();
        let (head, tail) = messages.split_at(messages.len() - 7);
        stream.write_all(head).unwrap();
        stream.write_all(tail).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answers = Vec::new();
        stream.read_to_end(&mut answers).unwrap();
        let second = 2 + usize::from(answers[1]);
        assert_eq!((&answers[2..4], &answers[second + 2..second + 4]), (&b"ab"[..], &b"cd"[..]));
        assert_eq!(answers.len(), second + 2 + usize::from(answers[second + 1]));
    }
}

pub(super) fn forwarded_outside(scenario: &str) {
    let silent = UdpSocket::bind((HOST4, 0)).unwrap();
    let resolver = UdpSocket::bind((HOST4, 0)).unwrap();
    let at = resolver.local_addr().unwrap();
    let over_tcp = TcpListener::bind(at).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 600];
        while let Ok((count, from)) = resolver.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            // First a forgery, with another id.
            let mut forged = buffer[..count].to_vec();
            forged[0] ^= 1;
            resolver.send_to(&forged, from).unwrap();
            resolver.send_to(&buffer[..count], from).unwrap();
        }
    });
    thread::spawn(move || {
        for mut stream in over_tcp.incoming().map_while(Result::ok) {
            let mut message = vec![0; 2];
            stream.read_exact(&mut message).unwrap();
            message.resize(2 + usize::from(message[1]), 0);
            stream.read_exact(&mut message[2..]).unwrap();
            message[4] |= 0x80;
            stream.write_all(&message).unwrap();
        }
    });
    let silent_at = silent.local_addr().unwrap();
    Host::start(scenario, None, |setup| {
        setup.names = Resolver::Host(HostNames::new(HostsTable::default(), testing::host("jail"), vec![], false));
        setup.resolvers = Some(vec!["198.18.0.1".parse().unwrap()]);
        setup.upstream_resolvers = vec![silent_at, at];
    })
    .finish();
    drop(silent);
}

pub(super) fn forwarded_inside() {
    let mut question = question(b"ab", "elsewhere.test");
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send_to(&question, ("198.18.0.1", 53)).unwrap();
    let mut answer = [0; 100];
    let (count, _) = socket.recv_from(&mut answer).unwrap();
    question[2] |= 0x80;
    assert_eq!(&answer[..count], question, "the second resolver's, under the program's id");
    assert_eq!(errno(dial("8.8.8.8", 53)), libc::ENETUNREACH, "port 53 elsewhere is a flow like others");
}

/// A question with this id.
fn question(id: &[u8; 2], name: &str) -> Vec<u8> {
    let mut message = testing::question(name, 1);
    message[..2].copy_from_slice(id);
    message
}

#[test]
fn questions_to_any_address_are_answered_inside_over_udp_and_tcp() {
    check("questions");
}

#[test]
fn questions_are_forwarded_to_the_next_resolver_and_forgeries_passed_over() {
    check("forwarded");
}

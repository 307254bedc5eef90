//! Associations: forgotten, bounded, judged again.

use super::*;

pub(super) fn datagrams_outside(scenario: &str) {
    let seen: Arc<Mutex<Vec<SocketAddr>>> = Arc::default();
    for port in [123, 2000] {
        let (server, seen) = (UdpSocket::bind((HOST4, port)).unwrap(), Arc::clone(&seen));
        thread::spawn(move || {
            while let Ok((count, from)) = server.recv_from(&mut [0; 9]) {
                seen.lock().unwrap().push(from);
                server.send_to(&[0; 9][..count], from).unwrap();
            }
        });
    }
    let host = Host::start(scenario, None, |setup| {
        setup.stack.datagrams.carried = true;
        setup.table.direct = true;
        let short = Duration::from_millis(500);
        setup.datagrams = Limits { mappings: 20, short, spare: Duration::from_secs(3600), ..Limits::default() };
    });
    host.go.send(&0).unwrap();
    let ended = |close: Close| {
        let records = host.records.lock().unwrap();
        records.iter().filter(|r| r.end.is_some_and(|end| end.close == close)).count()
    };
    await_state("an association of one question is forgotten", || ended(Close::Idle) > 0);
    host.go.send(&0).unwrap();
    host.go.receive().expect("a flood of sockets is over");
    let ports = seen.lock().unwrap().clone();
    assert_ne!(ports[0], ports[1], "a mapping that was forgotten has another port");
    let own = crate::policy::OwnAddress {
        address: HOST4.parse::<IpAddr>().unwrap().into(),
        on_link: HOST4.parse::<IpAddr>().unwrap().into(),
    };
    let (generation, network) = (8, Id::direct());
    let table = Table { generation, network, direct: true, allow_lan: false, host: vec![own] };
    host.warden.send(&FromWarden::Table(table)).unwrap();
    await_state("what has become the host's own is not sent to any more", || {
        ended(Close::Limit(Rule::HostAddress)) > 0
    });
    let before = seen.lock().unwrap().len();
    host.go.send(&0).unwrap();
    host.go.receive().expect("the last datagram is refused");
    assert_eq!(seen.lock().unwrap().len(), before);
    let records = host.finish();
    assert!(records.iter().any(|r| r.rule == Rule::LimitMappings && r.end.is_none()), "{records:?}");
    let counted = |r: &&Record| r.end.is_some_and(|end| end.bytes_in == 1 && end.bytes_out == 1);
    assert!(records.iter().filter(counted).count() > 10);
}

pub(super) fn datagrams_inside() {
    let channel = channel_of_the_host();
    let socket = |port: u16| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((HOST4, port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    let ask = |socket: &UdpSocket| socket.send(b"x").and_then(|_| socket.recv(&mut [0; 9]));
    let clock = socket(123);
    assert_eq!(ask(&clock).unwrap(), 1);
    channel.receive().unwrap();
    // Forgotten, and begun anew.
    assert_eq!(ask(&clock).unwrap(), 1);
    let many: Vec<UdpSocket> = (0..50).map(|_| socket(2000)).collect();
    let refused = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(libc::EHOSTUNREACH));
    let answered = many.iter().filter(|socket| ask(socket).map_err(refused).is_ok()).count();
    assert!((10..=20).contains(&answered), "{answered} of 50, where 20 may be");
    channel.send(&0).unwrap();
    channel.receive().unwrap();
    // The address is the host's own now.
    let error = ask(&many[0]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH), "{error}");
    channel.send(&0).unwrap();
    channel.receive().unwrap();
}

#[test]
fn associations_are_forgotten_bounded_and_judged_again() {
    check("datagrams");
}

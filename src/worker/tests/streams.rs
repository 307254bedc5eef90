//! TCP as the program and the server meet it.

use super::*;

pub(super) fn direct_outside(scenario: &str) {
    for address in [HOST4, HOST6] {
        serve((address, 1000), echo);
        serve((address, 1001), |mut stream| {
            // Answers only after the client's FIN: half-close.
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        });
        serve((address, 1002), |mut stream| {
            stream.write_all(b"bye").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            // The other direction lives on.
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            assert_eq!(all, b"still here");
        });
        serve((address, 1003), |mut stream| {
            stream.read_exact(&mut [0]).unwrap();
            reset(stream);
        });
        serve((address, 1004), |stream| both_ways(stream, TOTAL, true));
    }
    let (saw, seen) = std::sync::mpsc::channel();
    let saw = Mutex::new(saw);
    serve((HOST4, 1005), move |mut stream| {
        let end = loop {
            match stream.read(&mut [0; 100]) {
                Ok(1..) => {}
                end => break end.map_err(|e| e.kind()),
            }
        };
        saw.lock().unwrap().send(end).unwrap();
    });
    let host = Host::start(scenario, None, |_| {});
    let records = host.finish();
    let end = seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(end, Err(ErrorKind::ConnectionReset), "a reset is passed on as one");
    let close = |port, close| {
        records
            .iter()
            .any(|r| r.port == Some(port) && r.generation == 7 && r.end.as_ref().map(|end| end.close) == Some(close))
    };
    assert!(close(1000, Close::Finished));
    assert!(close(1003, Close::ResetByPeer));
    assert!(close(1005, Close::ResetByProgram));
    assert!(close(9, Close::Dial(DialError::Direct(libc::ECONNREFUSED))), "{records:?}");
    assert!(records.iter().any(|r| r.rule == Rule::UnknownPoolAddress));
    let bulk: Vec<_> = records.iter().filter(|r| r.port == Some(1004)).filter_map(|r| r.end).collect();
    assert_eq!(bulk.len(), 2);
    assert!(bulk.iter().all(|end| end.bytes_out == TOTAL as u64 && end.bytes_in == TOTAL as u64), "{bulk:?}");
}

pub(super) fn direct_inside() {
    for host in [HOST4, HOST6] {
        let mut stream = dial(host, 1000).unwrap();
        stream.write_all(b"hello").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello");
        drop(stream);

        let mut stream = dial(host, 1001).unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "question");

        let mut stream = dial(host, 1002).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "bye");
        stream.write_all(b"still here").unwrap();
        drop(stream);

        let mut stream = dial(host, 1003).unwrap();
        stream.write_all(b"x").unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        both_ways(dial(host, 1004).unwrap(), TOTAL, false);
        assert_eq!(errno(dial(host, 9)), libc::ECONNREFUSED);
    }
    let mut stream = dial(HOST4, 1005).unwrap();
    stream.write_all(b"x").unwrap();
    reset(stream);
    assert_eq!(errno(dial("198.18.7.7", 80)), libc::ECONNREFUSED, "a pool address that was never given out");
    // Whatever is no question is refused at once.
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect((HOST4, 443)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.send(b"hello").unwrap();
    assert_eq!(socket.recv(&mut [0; 10]).unwrap_err().raw_os_error(), Some(libc::EHOSTUNREACH));
}

const TOTAL: usize = 64 << 20;

fn byte(at: usize) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)) as u8
}

/// Sends and receives a pattern at once and checks every byte. The server closes last, so that the client knows that all of
/// its bytes have arrived.
fn both_ways(stream: TcpStream, total: usize, server: bool) {
    let mut writer = stream.try_clone().unwrap();
    let up = thread::spawn(move || {
        let mut at = 0;
        let mut buffer = vec![0; 200_000];
        while at < total {
            let count = buffer.len().min(total - at);
            buffer[..count].iter_mut().enumerate().for_each(|(i, b)| *b = byte(at + i));
            writer.write_all(&buffer[..count]).unwrap();
            at += count;
        }
        if !server {
            writer.shutdown(Shutdown::Write).unwrap();
        }
    });
    let mut reader = stream;
    let (mut at, mut buffer) = (0, vec![0; 300_000]);
    loop {
        let count = reader.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        assert!(buffer[..count].iter().enumerate().all(|(i, b)| *b == byte(at + i)), "damaged near {at}");
        at += count;
    }
    assert_eq!(at, total);
    up.join().unwrap();
}

#[test]
fn a_program_meets_the_real_server_as_if_there_were_no_jail() {
    check("direct");
}

#[test]
fn the_same_holds_at_an_mtu_of_1500() {
    check("direct@1500");
}

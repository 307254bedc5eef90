use super::*;
use crate::flow::HostName;
use proptest::prelude::*;

const NO_LOGIN: Option<(&[u8], &[u8])> = None;
const LOGIN: Option<(&[u8], &[u8])> = Some((b"user", b"secret"));
const SUCCESS: &[u8] = &[5, 0, 0, 1, 127, 0, 0, 1, 0x1f, 0x90];

fn name(text: &str) -> Target {
    Target::Name(HostName::parse(text).unwrap(), 80)
}

fn addr(text: &str) -> Target {
    Target::Addr(text.parse().unwrap())
}

/// Sends everything that is outgoing and returns it.
fn send(handshake: &mut Handshake) -> Vec<u8> {
    let bytes = handshake.outgoing().to_vec();
    handshake.sent(bytes.len());
    bytes
}

/// Plays a proxy that gives these answers, one after each message, cut into pieces of `size` bytes.
/// The result tells how many bytes of the last answer were left.
fn play(handshake: &mut Handshake, answers: &[&[u8]], size: usize) -> Result<Option<usize>, DialError> {
    for answer in answers {
        send(handshake);
        let mut left = answer.len();
        for piece in answer.chunks(size) {
            left -= piece.len();
            match handshake.receive(piece)? {
                Progress::More => {}
                Progress::Done { consumed } => {
                    assert!(consumed <= piece.len());
                    return Ok(Some(left + piece.len() - consumed));
                }
            }
        }
    }
    Ok(None)
}

#[test]
fn a_name_is_sent_as_a_name_and_a_literal_as_a_literal() {
    let cases: [(Target, &[u8]); 4] = [
        (name("Abc.onion"), b"\x05\x01\x00\x03\x09abc.onion\x00\x50"),
        (addr("192.0.2.1:443"), b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"),
        (addr("[::ffff:192.0.2.1]:443"), b"\x05\x01\x00\x01\xc0\x00\x02\x01\x01\xbb"),
        (addr("[2001:db8::1]:1"), b"\x05\x01\x00\x04\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x01"),
    ];
    for (target, request) in cases {
        let mut handshake = Handshake::new(&target, NO_LOGIN).unwrap();
        assert_eq!(send(&mut handshake), [5, 1, 0]);
        assert_eq!(handshake.receive(&[5, 0]), Ok(Progress::More));
        assert_eq!(send(&mut handshake), request);
        assert_eq!(handshake.receive(SUCCESS), Ok(Progress::Done { consumed: SUCCESS.len() }));
    }
}

#[test]
fn a_login_is_the_only_method_offered_and_sent_before_the_request() {
    let mut handshake = Handshake::new(&name("a"), LOGIN).unwrap();
    assert_eq!(send(&mut handshake), [5, 1, 2]);
    assert_eq!(handshake.receive(&[5, 2]), Ok(Progress::More));
    assert_eq!(send(&mut handshake), b"\x01\x04user\x06secret");
    assert_eq!(handshake.receive(&[1, 0]), Ok(Progress::More));
    assert_eq!(send(&mut handshake), b"\x05\x01\x00\x03\x01a\x00\x50");
}

#[test]
fn a_partly_sent_message_goes_on_where_it_stopped() {
    let mut handshake = Handshake::new(&name("a"), NO_LOGIN).unwrap();
    handshake.sent(1);
    assert_eq!(handshake.outgoing(), [1, 0]);
    handshake.sent(usize::MAX);
    assert!(handshake.outgoing().is_empty());
}

#[test]
fn every_address_type_and_every_split_ends_at_the_last_byte() {
    let mut longest = vec![5, 0, 0, 3, 255];
    longest.extend([b'x'; 257]);
    let replies: [&[u8]; 5] = [
        SUCCESS,
        &[5, 0, 0x77, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 80],
        &[5, 0, 0, 3, 3, b'a', b'.', b'b', 0, 80],
        &[5, 0, 0, 3, 0, 0, 80],
        &longest,
    ];
    for reply in replies {
        for early in [&b""[..], b"SSH-2.0-early\r\n"] {
            let answer = [reply, early].concat();
            for size in 1..=answer.len() {
                let mut handshake = Handshake::new(&name("a"), LOGIN).unwrap();
                let left = play(&mut handshake, &[&[5, 2], &[1, 0], &answer], size);
                assert_eq!(left, Ok(Some(early.len())), "{size} of {answer:?}");
                assert_eq!(handshake.receive(b"later"), Ok(Progress::Done { consumed: 0 }));
            }
        }
    }
}

#[test]
fn every_failure_code_is_reported_at_its_second_byte() {
    for code in 1..=255 {
        let mut handshake = Handshake::new(&name("a"), NO_LOGIN).unwrap();
        assert_eq!(play(&mut handshake, &[&[5, 0], &[5, code]], 1), Err(DialError::Reply(code)));
        let mut handshake = Handshake::new(&name("a"), NO_LOGIN).unwrap();
        let with_type_0 = [5, code, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(play(&mut handshake, &[&[5, 0], &with_type_0], 10), Err(DialError::Reply(code)));
        assert_eq!(handshake.receive(SUCCESS), Err(DialError::Reply(code)), "a failure stays one");
    }
}

#[test]
fn methods_and_logins_fail_by_name() {
    let cases: [(_, &[&[u8]], _); 10] = [
        (NO_LOGIN, &[&[5, 0xff]], DialError::NoAcceptableMethod),
        (LOGIN, &[&[5, 0xff]], DialError::NoAcceptableMethod),
        (NO_LOGIN, &[&[5, 2]], DialError::UnofferedMethod(2)),
        (LOGIN, &[&[5, 0]], DialError::UnofferedMethod(0)),
        (LOGIN, &[&[5, 1]], DialError::UnofferedMethod(1)),
        (LOGIN, &[&[5, 2], &[1, 1]], DialError::LoginRejected),
        (LOGIN, &[&[5, 2], &[0, 0]], DialError::Garbage),
        (NO_LOGIN, &[b"HTTP/1.1 400 Bad Request\r\n"], DialError::Garbage),
        (NO_LOGIN, &[&[4, 0x5b]], DialError::Garbage),
        (NO_LOGIN, &[&[5, 0], &[5, 0, 0, 2, 0, 0, 0]], DialError::Garbage),
    ];
    for (login, answers, error) in cases {
        for size in [1, 100] {
            let mut handshake = Handshake::new(&name("a"), login).unwrap();
            assert_eq!(play(&mut handshake, answers, size), Err(error), "{answers:?}");
            assert!(handshake.outgoing().is_empty(), "nothing is sent after a failure");
        }
    }
}

#[test]
fn an_answer_before_its_question_is_garbage() {
    let mut handshake = Handshake::new(&name("a"), NO_LOGIN).unwrap();
    assert_eq!(handshake.receive(&[5, 0]), Err(DialError::Garbage));
    let mut handshake = Handshake::new(&name("a"), NO_LOGIN).unwrap();
    send(&mut handshake);
    assert_eq!(handshake.receive(&[&[5, 0], SUCCESS].concat()), Err(DialError::Garbage));
}

#[test]
fn a_connection_can_be_greeted_ahead_of_its_request() {
    for (login, answers) in [(NO_LOGIN, &[&[5, 0][..]][..]), (LOGIN, &[&[5, 2][..], &[1, 0][..]][..])] {
        let mut handshake = Handshake::greeting(login).unwrap();
        assert!(!handshake.greeted());
        assert_eq!(play(&mut handshake, answers, 1), Ok(None));
        assert!(handshake.greeted() && handshake.outgoing().is_empty());
        handshake.request(&name("a")).unwrap();
        assert!(!handshake.greeted());
        assert_eq!(play(&mut handshake, &[SUCCESS], 1), Ok(Some(0)));
        assert_eq!(handshake.request(&name("b")), Err(DialError::Inexpressible));
    }
    let mut handshake = Handshake::greeting(NO_LOGIN).unwrap();
    assert_eq!(play(&mut handshake, &[&[5, 0, 5]], 1), Err(DialError::Garbage), "nothing was asked yet");
}

#[test]
fn what_the_protocol_cannot_say_is_refused() {
    let long = [b'x'; 256];
    for login in [(&b""[..], &b"p"[..]), (&long[..], b"p"), (b"u", &long)] {
        assert_eq!(Handshake::greeting(Some(login)).unwrap_err(), DialError::Inexpressible);
    }
    assert!(Handshake::greeting(Some((&long[..255], &long[..255]))).is_ok());
    assert!(Handshake::greeting(Some((b"u", b""))).is_ok());
    assert_eq!(Handshake::new(&addr("[fe80::1%3]:80"), NO_LOGIN).unwrap_err(), DialError::Inexpressible);
}

#[test]
fn debug_shows_no_secret() {
    let mut handshake = Handshake::new(&name("a"), LOGIN).unwrap();
    send(&mut handshake);
    handshake.receive(&[5, 2]).unwrap();
    let text = format!("{handshake:?}");
    let numbers = format!("{:?}", b"secret");
    assert!(!text.contains("secret") && !text.contains(numbers.trim_matches(['[', ']'])), "{text}");
}

/// Answers that go wrong late: mostly valid, sometimes anything.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(vec![5, 0]),
        Just(vec![5, 2]),
        Just(vec![1, 0]),
        (0..3u8, 0..6u8, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(code, kind, rest)| [
            vec![5, code, 0, kind],
            rest
        ]
        .concat()),
        prop::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2000)))]

    #[test]
    fn the_outcome_does_not_depend_on_how_an_answer_is_cut(
        answers in prop::collection::vec(answer(), 0..5), size in 1..40usize, login in any::<bool>()
    ) {
        let login = if login { LOGIN } else { NO_LOGIN };
        let answers: Vec<&[u8]> = answers.iter().map(Vec::as_slice).collect();
        let outcome = |size| {
            let mut handshake = Handshake::new(&name("a.example"), login).unwrap();
            play(&mut handshake, &answers, size)
        };
        prop_assert_eq!(outcome(size), outcome(1));
        prop_assert_eq!(outcome(usize::MAX), outcome(1));
    }

    #[test]
    fn random_bytes_in_any_pieces_are_bounded_and_never_panic(
        pieces in prop::collection::vec((prop_oneof![answer(), prop::collection::vec(any::<u8>(), 0..64)], 0..600usize), 0..20),
        login in any::<bool>(),
    ) {
        let mut handshake = Handshake::greeting(if login { LOGIN } else { NO_LOGIN }).unwrap();
        let mut ended = None;
        for (piece, sent) in pieces {
            handshake.sent(sent);
            let result = handshake.receive(&piece);
            if let Ok(Progress::Done { consumed }) = result {
                prop_assert!(consumed <= piece.len());
                prop_assert!(handshake.outgoing().is_empty());
            }
            prop_assert!(handshake.outgoing().len() <= 513);
            if let Some(error) = ended {
                prop_assert_eq!(result, Err(error), "a failure stays one");
            }
            ended = result.err();
            if handshake.greeted() {
                handshake.request(&name("a.example")).unwrap();
            }
        }
    }
}

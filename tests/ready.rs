//! The connection that is made and greeted before its dial: it saves time where it can, and nobody sees it where it can not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lab;

use lab::proxy::Manner;
use lab::{Answer, Behaviour, Jail, Proxy};

const TARGET: &str = "203.0.113.10:80";

fn echo_with(manner: Manner) -> Proxy {
    Proxy::with(manner, |_| Answer::Serve(Behaviour::Echo))
}

#[test]
fn a_program_that_dials_once_makes_one_connection() {
    let proxy = echo_with(Manner::default());
    Jail::socks5(proxy.addr, "").probe(&["sequence", TARGET, "1"]);
    assert_eq!((proxy.asked().len(), proxy.accepted()), (1, 1));
}

#[test]
fn dials_in_a_row_keep_few_connections_ahead() {
    let proxy = echo_with(Manner::default());
    let done = Jail::socks5(proxy.addr, "").probe(&["sequence", TARGET, "8"]);
    assert_eq!(proxy.asked().len(), 8, "{done:?}");
    // A quarter of what was dialled may be left over.
    assert!(proxy.accepted() <= 8 + 2, "{} connections for 8 dials", proxy.accepted());
}

#[test]
fn a_proxy_that_closes_what_waits_is_not_asked_again_and_no_dial_fails_of_it() {
    // The first dial's, the second one's, and then the one that was made ahead.
    let proxy = echo_with(Manner { drops: Some(3), ..Manner::default() });
    let done = Jail::socks5(proxy.addr, "").probe(&["sequence", TARGET, "40"]);
    assert!(done.facts("failed").is_empty(), "{done:?}");
    assert_eq!(proxy.asked().len(), 40, "{done:?}");
    // Forty dials and the one that was closed; one more may have been under way when that was seen. A jail that went on would
    // have ten left over.
    assert!(proxy.accepted() <= 42, "{} connections", proxy.accepted());
}

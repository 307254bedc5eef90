//! What a role that has been taken over, or a stranger, can send to another one: any packet at all.

use std::fmt::Debug;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::channel::{ChannelError, MAX_MESSAGE, pair};
use super::messages::{
    ClientAnswer, ClientRequest, ClientSignal, ExecRequest, InitToFront, InitToWarden, RelayToWarden, UsherToInit,
};
use super::packet::MAX_DESCRIPTORS;
use super::worker::ToWarden;
use crate::mediate::FromMediator;

/// Sends the bytes as one packet and receives them as a message, with as many descriptors beside it.
fn hear<T: DeserializeOwned + Debug>(bytes: &[u8], descriptors: usize) -> Result<usize, ChannelError> {
    let (role, stranger) = pair::<(), T>().unwrap();
    let rights = vec![stranger.as_fd().as_raw_fd(); descriptors];
    let beside = [ControlMessage::ScmRights(&rights)];
    let beside = if descriptors == 0 { &[][..] } else { &beside };
    sendmsg::<()>(stranger.as_fd().as_raw_fd(), &[std::io::IoSlice::new(bytes)], beside, MsgFlags::empty(), None)
        .unwrap();
    role.receive().map(|(_, came)| came.len())
}

/// The kernel installs what fits and says that it was not all; a peer must not fill a role's table with that.
#[test]
fn too_many_descriptors_are_refused_and_none_stays_open() {
    let (mut read, write) = std::io::pipe().unwrap();
    let (role, stranger) = pair::<(), ClientRequest>().unwrap();
    let rights = vec![write.as_raw_fd(); MAX_DESCRIPTORS + 1];
    let beside = [ControlMessage::ScmRights(&rights)];
    let request = [std::io::IoSlice::new(&[0])];
    sendmsg::<()>(stranger.as_fd().as_raw_fd(), &request, &beside, MsgFlags::empty(), None).unwrap();
    assert!(matches!(role.receive(), Err(ChannelError::Malformed(_))));
    drop(write);
    // The end, because nobody has the other side any more: not this process either. (A fork of another test may for a moment.)
    assert_eq!(std::io::Read::read(&mut read, &mut [0]).unwrap(), 0);
}

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let tail = prop::collection::vec(prop_oneof![3 => any::<u8>(), 1 => Just(0u8), 1 => Just(0xff)], 0..200);
    // The number of a variant comes first, so that random bytes get further than that.
    prop_oneof![
        6 => (0u8..16, tail.clone()).prop_map(|(variant, tail)| [&[variant][..], &tail].concat()),
        2 => tail,
        1 => (0u8..16, 0usize..MAX_MESSAGE + 2).prop_map(|(variant, length)| vec![variant; length]),
    ]
}

macro_rules! never_panics {
    ($($name:ident: $message:ty),* $(,)?) => { $(
        proptest! {
            #[test]
            fn $name(bytes in packet(), descriptors in prop_oneof![4 => Just(0usize), 1 => 1usize..40]) {
                match hear::<$message>(&bytes, descriptors) {
                    Ok(came) => prop_assert!(came == descriptors && came <= MAX_DESCRIPTORS),
                    // An empty packet is what a peer that has gone looks like.
                    Err(ChannelError::Closed) => prop_assert!(bytes.is_empty()),
                    Err(ChannelError::Malformed(_)) => {}
                    Err(other) => prop_assert!(false, "{other:?}"),
                }
            }
        }
    )* };
}

never_panics! {
    a_worker_of_the_relay_says_anything: ToWarden,
    a_relay_says_anything: RelayToWarden,
    a_mediator_says_anything: FromMediator,
    an_usher_says_anything: UsherToInit,
    init_says_anything_to_the_warden: InitToWarden,
    init_says_anything_to_front: InitToFront,
    a_client_asks_anything: ClientRequest,
    a_client_wants_anything_executed: ExecRequest,
    a_client_signals_anything: ClientSignal,
    a_jail_answers_a_client_anything: ClientAnswer,
}

#[test]
fn what_a_peer_said_before_it_closed_is_heard_even_if_it_did_not_listen() {
    let (ours, theirs) = pair::<String, String>().unwrap();
    ours.send(&"never read".to_owned()).unwrap();
    theirs.send(&"why".to_owned()).unwrap();
    drop(theirs);
    assert_eq!(ours.receive().unwrap().0, "why");
    assert!(matches!(ours.receive(), Err(ChannelError::Closed)));
}

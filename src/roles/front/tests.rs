use super::*;

/// What front says of a jail whose init and warden have left these words behind.
fn told(init: &[InitToFront], warden: &[WardenToFront]) -> String {
    let (to_init, init_end) = channel::pair::<FrontToInit, InitToFront>().unwrap();
    let (to_warden, warden_end) = channel::pair::<FrontToWarden, WardenToFront>().unwrap();
    init.iter().for_each(|message| init_end.send(message).unwrap());
    warden.iter().for_each(|message| warden_end.send(message).unwrap());
    drop((init_end, warden_end));
    let watch = Watch {
        early: &mut VecDeque::new(),
        init: &to_init,
        warden: &to_warden,
        signals: &Signals::block(&[]).unwrap(),
        child: nix::unistd::getpid(), // Nobody's child here: there is nothing to reap.
        verbose: false,
        running: false,
        warden_lives: true,
        warden_said: None,
        told: &mut Told::default(),
    };
    match watch.until_the_end() {
        Err(Stop::Refused(Refusal(text)) | Stop::NotBuilt(Refusal(text))) => text,
        Err(Stop::NotRun(error)) => error.to_string(),
        Err(Stop::Interrupted(_)) | Ok(_) => panic!("an end without words"),
    }
}

fn refused(text: &str) -> WardenToFront {
    WardenToFront::Refused(Refusal(text.into()))
}

#[test]
fn the_wardens_reason_wins_over_what_init_saw_of_it_however_much_was_said_before() {
    let reason = [WardenToFront::Say("one".into()), WardenToFront::Say("two".into()), refused("no such socket")];
    let closed = InitToFront::Failed(Refusal("hand the device out: the channel is closed".into()));
    let unreached = InitToFront::NotRun(StageError::new("reach the mediator", Errno::ENOTCONN));
    assert_eq!(told(&[closed], &reason), "no such socket");
    assert_eq!(told(&[unreached], &reason), "no such socket");
    assert_eq!(told(&[], &reason), "no such socket", "init ended without a word");
}

#[test]
fn without_a_word_of_the_wardens_init_is_believed_and_a_commands_own_failure_always() {
    let failed = InitToFront::Failed(Refusal("mount /x: EPERM".into()));
    assert_eq!(told(&[failed], &[WardenToFront::Say("one".into())]), "mount /x: EPERM");
    let not_found = StageError { stage: "nothing".into(), errno: libc::ENOENT, exec: true };
    let text = told(&[InitToFront::NotRun(not_found)], &[refused("later")]);
    assert!(text.starts_with("nothing: "), "{text}");
}

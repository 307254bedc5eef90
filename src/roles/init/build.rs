//! Stages two to five: from fresh namespaces to a jail that only lacks its command.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use nix::sys::prctl;
use nix::sys::signal::Signal;

use super::{Draft, Ends, Plan};
use crate::control::messages::{FrontToInit, InitToFront, InitToWarden, Machine, Note, Refusal, WardenToInit};
use crate::jail::payload::ignore;
use crate::jail::{landlock, letterbox, mounts, namespaces, network};
use crate::roles::{RunOptions, title};
use crate::tun;

fn stage(what: &str) -> impl Fn(&dyn std::fmt::Display) -> Refusal {
    move |e| Refusal(format!("can not build the jail: {what}: {e}"))
}

/// Builds it, then waits for the warden. Also the signals for the command, which came before it.
///
/// The namespaces are made, and the network in them, while the warden reads the registry; nothing of the caller's is touched
/// before the warden says that there will be a jail.
pub fn build(options: &RunOptions, draft: Draft, ends: &Ends) -> Result<(Plan, Vec<i32>), Refusal> {
    let _ = prctl::set_name(c"nj-init");
    title::hide();
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| stage("tie it to its supervisor")(&e))?;
    for signal in [
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGHUP,
        Signal::SIGTERM,
        Signal::SIGTTOU,
        Signal::SIGTTIN,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        ignore(signal);
    }
    let mut heard = Heard::default();
    map_ids(&draft, ends, &mut heard)?;
    prctl::set_dumpable(false).map_err(|e| stage("close init to others")(&e))?;
    tell_front(ends, &InitToFront::Closed)?;

    let device = tun::Source::Path(Path::new("/dev/net/tun"));
    let queues = tun::open(device, &draft.link.name, draft.queues.into()).map_err(|e| Refusal(e.to_string()))?;
    let requests = network::prepare(&draft.link).map_err(|e| stage("configure its network")(&e))?;
    let descriptors: Vec<BorrowedFd<'_>> = queues.iter().map(AsFd::as_fd).collect();
    ends.warden.send_with(&InitToWarden::Queues, &descriptors).map_err(|e| stage("hand the device out")(&e))?;
    drop(queues);

    // The kernel waits for itself to bring links up, and meanwhile the files can be built: the only time at which init has
    // two threads.
    let (mut plan, notes) = thread::scope(|scope| {
        let links = thread::Builder::new()
            .stack_size(LINKS_STACK)
            .spawn_scoped(scope, || requests.send())
            .map_err(|e| stage("start a thread")(&e))?;
        let files = files(options, draft, ends, &mut heard);
        match links.join() {
            Ok(Ok(())) => files,
            Ok(Err(e)) => Err(stage("configure its network")(&e)),
            Err(_) => Err(stage("configure its network")(&"its thread ended")),
        }
    })?;
    if plan.filter.allow_datagrams {
        let [log, notify] = letterbox::bind().map_err(|e| stage("make its own /dev/log")(&e))?;
        let letters = [log.as_fd(), notify.as_fd()];
        ends.warden.send_with(&InitToWarden::Letterbox, &letters).map_err(|e| stage("hand its /dev/log out")(&e))?;
    }
    let important = |note: &mounts::Note| {
        use mounts::Note::{NoSocket, PrivateWorkingFolder, ReadOnlyWorkingFolder};
        matches!(note, PrivateWorkingFolder { .. } | ReadOnlyWorkingFolder { .. } | NoSocket { .. })
    };
    let mut notes: Vec<Note> =
        notes.iter().map(|note| Note { text: note.to_string(), important: important(note) }).collect();
    let scoped = landlock::scope().is_ok_and(|applied| applied);
    plan.filter.refuse_group_signals = !scoped;
    if !scoped {
        let text = "this kernel has no Landlock scopes (Linux 6.12), so kill(0) is refused in the jail: the caller is in the \
                    same process group";
        notes.push(Note { text: text.into(), important: false });
    }
    if !notes.is_empty() {
        tell_front(ends, &InitToFront::Notes(notes))?;
    }
    match ends.warden.receive() {
        Ok((WardenToInit::Ready, _)) => Ok((plan, heard.signals)),
        other => Err(no_jail(other)),
    }
}

/// Bytes; a few netlink messages.
const LINKS_STACK: usize = 64 * 1024;

/// Waits until it is known what the jail is, and builds what it sees of the host.
fn files(options: &RunOptions, draft: Draft, ends: &Ends, heard: &mut Heard) -> Result<(Plan, mounts::Notes), Refusal> {
    // A host with a read-only /proc/sys keeps its own values; none of them guards the promise.
    let _ = network::tune(draft.setting.identity.gid);
    let machine = loop {
        match heard.machine.take() {
            Some(machine) => break machine,
            None => heard.front(ends)?,
        }
    };
    let prepared = match ends.warden.receive() {
        Ok((WardenToInit::Prepared(prepared), _)) => prepared,
        other => return Err(no_jail(other)),
    };
    let plan = Plan::new(options, draft, machine, prepared);
    plan.shares.apply();
    for &number in [0, 1, 2].iter().chain(&plan.setting.kept) {
        mounts::reopen::read_only(number).map_err(|e| Refusal(e.to_string()))?;
    }
    plan.view.identity.set_uts().map_err(|e| Refusal(e.to_string()))?;
    let notes = mounts::build(&plan.view).map_err(|e| Refusal(e.to_string()))?;
    Ok((plan, notes))
}

/// Why the warden's word is not the one that was waited for.
fn no_jail<E>(word: Result<(WardenToInit, Vec<OwnedFd>), E>) -> Refusal {
    match word {
        Ok((WardenToInit::Failed(refusal), _)) => refusal,
        _ => Refusal("the jail's warden died while the jail was being built; nothing was started".into()),
    }
}

fn map_ids(draft: &Draft, ends: &Ends, heard: &mut Heard) -> Result<(), Refusal> {
    let identity = &draft.setting.identity;
    if !identity.full_range {
        return namespaces::map_self_only("self", identity.uid, identity.gid).map_err(|e| stage("map its user")(&e));
    }
    tell_front(ends, &InitToFront::MapMe)?;
    while !heard.mapped {
        heard.front(ends)?;
    }
    Ok(())
}

/// What front has said, in whatever order it came.
#[derive(Default)]
struct Heard {
    mapped: bool,
    machine: Option<Machine>,
    /// For the command, once there is one.
    signals: Vec<i32>,
}

impl Heard {
    /// Waits for front's next word.
    fn front(&mut self, ends: &Ends) -> Result<(), Refusal> {
        let word = ends.front.receive().map_err(|_| Refusal("front died while the jail was being built".into()))?;
        match word.0 {
            FrontToInit::Mapped => self.mapped = true,
            FrontToInit::Machine(machine) => self.machine = Some(machine),
            FrontToInit::Signal(number) => self.signals.push(number),
        }
        Ok(())
    }
}

fn tell_front(ends: &Ends, message: &InitToFront) -> Result<(), Refusal> {
    ends.front.send(message).map_err(|e| stage("reach front")(&e))
}

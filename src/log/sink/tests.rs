use super::*;
use crate::log::{Kind, Protocol};
use crate::policy::Rule;
use nix::fcntl::OFlag;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, pipe2};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

fn record(port: u16) -> Record {
    let mut record = Record::new(Kind::Flow, Protocol::Tcp, Rule::Default, 1);
    record.port = Some(port);
    record
}

fn lines(bytes: &[u8]) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Ports of flows in order, with the losses said in between counted.
fn ports_and_losses(bytes: &[u8]) -> (Vec<u64>, u64) {
    let (mut ports, mut lost) = (Vec::new(), 0);
    for line in lines(bytes) {
        match line["kind"].as_str().unwrap() {
            "flow" => ports.push(line["port"].as_u64().unwrap()),
            _ => lost += line["count"].as_u64().unwrap(),
        }
    }
    (ports, lost)
}

#[test]
fn a_file_is_private_and_appended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    for port in [1, 2] {
        let mut sink = Sink::open(&path, "one").unwrap();
        sink.write(&[record(port)]);
        assert_eq!(sink.finish(Duration::ZERO), 0);
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(ports_and_losses(&std::fs::read(&path).unwrap()), (vec![1, 2], 0));
}

#[test]
fn what_is_no_file_is_refused_with_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::os::unix::fs::symlink("/dev/null", path("link")).unwrap();
    mkfifo(&path("fifo"), Mode::S_IRWXU).unwrap();
    for (name, text) in [("link", "symbolic link"), ("fifo", "start the reader"), ("", "folder"), ("no/log", "folder")]
    {
        let error = Sink::open(&path(name), "one").unwrap_err().to_string();
        assert!(error.contains(text), "{name}: {error}");
    }
}

#[test]
fn a_full_pipe_never_blocks_and_loses_nothing_uncounted() {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut sink = Sink::from_fd(writer, "one").unwrap();
    assert_eq!(sink.way, Way::NonBlocking);
    for port in 0..20_000 {
        sink.write(&[record(port)]);
    }
    assert!(sink.waiting_bytes <= MAX_WAITING);
    assert!(sink.lost() > 0 && sink.is_waiting());
    assert!(matches!(sink.trouble(), Some(LogError::Slow(_))));
    assert!(sink.trouble().is_none(), "said once");

    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        File::from(reader).read_to_end(&mut bytes).unwrap();
        bytes
    });
    let lost = sink.finish(Duration::from_secs(20));
    let (ports, said) = ports_and_losses(&reading.join().unwrap());
    assert_eq!(said, lost);
    assert_eq!(ports, (0..20_000 - lost).collect::<Vec<_>>());
}

#[test]
fn a_reader_that_never_reads_is_waited_for_no_longer_than_said() {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut sink = Sink::from_fd(writer, "one").unwrap();
    (0..10_000).for_each(|port| sink.write(&[record(port)]));
    assert!(sink.lost() > 0, "a loss waits to be said");
    let start = Instant::now();
    let lost = sink.finish(Duration::from_millis(50));
    assert!(start.elapsed() < Duration::from_secs(5));

    let mut bytes = Vec::new();
    File::from(reader).read_to_end(&mut bytes).unwrap();
    assert_eq!(ports_and_losses(&bytes).0.len() as u64 + lost, 10_000, "each is in the log or counted, once");
}

#[test]
fn a_reader_that_leaves_is_said_and_counted() {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut sink = Sink::from_fd(writer, "one").unwrap();
    drop(reader);
    sink.write(&[record(1), record(2)]);
    sink.write(&[record(3)]);
    assert!(matches!(sink.trouble(), Some(LogError::Write { .. })));
    assert_eq!(sink.finish(Duration::ZERO), 3);
}

#[test]
fn a_full_disk_is_said_and_counted() {
    let mut sink = Sink::open(Path::new("/dev/full"), "one").unwrap();
    sink.write(&[record(1)]);
    assert!(matches!(sink.trouble(), Some(LogError::Write { .. })));
    assert_eq!(sink.lost(), 0, "it may get room again");
    sink.way = Way::File;
    assert_eq!(sink.finish(Duration::ZERO), 1);
}

#[test]
fn a_socket_keeps_its_blocking_mode() {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::empty()).unwrap();
    let mut sink = Sink::from_fd(ours.try_clone().unwrap(), "one").unwrap();
    (0..10_000).for_each(|port| sink.write(&[record(port)]));
    let flags = nix::fcntl::fcntl(&ours, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));
    drop((sink, theirs));
}

#[test]
fn a_shared_pipe_keeps_its_blocking_mode() {
    let (_reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut sink = Sink::from_fd(writer.try_clone().unwrap(), "one").unwrap();
    sink.write(&[record(1)]);
    let flags = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));
}

#[test]
fn losses_on_the_way_stand_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut sink = Sink::open(&path, "one").unwrap();
    sink.lose(7);
    sink.write(&[record(1)]);
    assert_eq!(sink.finish(Duration::ZERO), 7);
    assert_eq!(ports_and_losses(&std::fs::read(&path).unwrap()), (vec![1], 7));
}

#[test]
fn a_pipe_that_cannot_be_opened_again_does_not_block_either() {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let mut sink = Sink::new(File::from(writer), Way::Polled, Path::new("-"), "one");
    (0..1_000).for_each(|port| sink.write(&[record(port)]));
    assert!(sink.is_waiting());
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        File::from(reader).read_to_end(&mut bytes).unwrap();
        bytes
    });
    assert_eq!(sink.finish(Duration::from_secs(20)), 0);
    assert_eq!(ports_and_losses(&reading.join().unwrap()), ((0..1_000).collect(), 0));
}

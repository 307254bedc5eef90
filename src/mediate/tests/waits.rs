//! Connects that wait: full backlogs, time-outs, signals.

use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::{Duration, Instant};

use libc::{AF_INET, AF_UNIX, SOCK_NONBLOCK, SOCK_STREAM};

use super::jail::*;

/// A listener whose backlog is full, what fills it, and its address.
pub struct Full {
    pub server: OwnedFd,
    pub _inside: Vec<OwnedFd>,
    pub address: Vec<u8>,
    pub family: i32,
}

impl Full {
    pub fn unix(path: &Path) -> Self {
        let server = socket(AF_UNIX, SOCK_STREAM);
        let address = unix_address(path.as_os_str().as_bytes());
        // SAFETY: a live address with its length.
        assert_eq!(unsafe { libc::bind(server.as_raw_fd(), address.as_ptr().cast(), address.len() as u32) }, 0);
        Self::fill(server, address, AF_UNIX)
    }

    pub fn tcp() -> Self {
        let server: OwnedFd = TcpListener::bind("127.0.0.1:0").unwrap().into();
        let name = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(server.as_raw_fd()).unwrap();
        Self::fill(server, inet_address(name.port()), AF_INET)
    }

    fn fill(server: OwnedFd, address: Vec<u8>, family: i32) -> Self {
        // SAFETY: no memory is passed.
        assert_eq!(unsafe { libc::listen(server.as_raw_fd(), 0) }, 0);
        let mut inside = Vec::new();
        for _ in 0..4 {
            let fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK);
            let _ = connect(fd.as_raw_fd(), &address, address.len() as u32);
            inside.push(fd);
        }
        Self { server, _inside: inside, address, family }
    }

    pub fn connect(&self, fd: &OwnedFd) -> i32 {
        connect(fd.as_raw_fd(), &self.address, self.address.len() as u32)
    }

    pub fn socket(&self) -> OwnedFd {
        socket(self.family, SOCK_STREAM)
    }
}

fn both(run: impl Fn(&Jail, &dyn Fn() -> Said), body: impl Fn(Full) -> Said) {
    let jail = Jail::new();
    for family in [AF_UNIX, AF_INET] {
        let outer = folder();
        run(&jail, &|| body(if family == AF_UNIX { Full::unix(&outer.path().join("full")) } else { Full::tcp() }));
    }
}

/// In the jail and, as the control, outside of any.
fn everywhere(body: impl Fn(Full) -> Said) {
    both(|_, body| unmediated(body).good(), &body);
    both(|jail, body| jail.run(body), &body);
}

fn set_timeout(fd: &OwnedFd, time: Duration) {
    let value = libc::timeval { tv_sec: time.as_secs() as _, tv_usec: time.subsec_micros() as _ };
    // SAFETY: a live option of the right size.
    unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDTIMEO, (&raw const value).cast(), 16) };
}

#[test]
fn a_full_backlog_makes_a_blocking_connect_wait_until_it_is_not() {
    everywhere(|full| {
        let tid = AtomicI32::new(0);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                tid.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
                full.connect(&full.socket())
            });
            check!(eventually(|| connecting(tid.load(Ordering::SeqCst))));
            check!(!waiting.is_finished());
            check!(eventually(|| {
                empty(&full);
                waiting.is_finished()
            }));
            same!(waiting.join().unwrap(), 0);
            Ok(())
        })
    });
}

#[test]
fn a_send_timeout_ends_a_connect_with_the_native_errno() {
    everywhere(|full| {
        let fd = full.socket();
        set_timeout(&fd, Duration::from_millis(150));
        let begin = Instant::now();
        same!(full.connect(&fd), if full.family == AF_UNIX { libc::EAGAIN } else { libc::EINPROGRESS });
        check!(begin.elapsed() >= Duration::from_millis(140));
        Ok(())
    });
}

static CAUGHT: AtomicI32 = AtomicI32::new(0);

extern "C" fn caught(_: i32) {
    CAUGHT.fetch_add(1, Ordering::SeqCst);
}

fn catch(flags: i32) {
    // SAFETY: the handler only counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = caught as extern "C" fn(i32) as usize;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
}

/// A signal every so often, with these flags for its handler; or no longer.
pub fn catch_alarms(every: Duration, flags: i32) {
    let every = libc::timeval { tv_sec: 0, tv_usec: every.as_micros() as _ };
    let interval = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: the handler only counts, and the interval is live.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = caught as extern "C" fn(i32) as usize;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const interval, std::ptr::null_mut::<u8>());
    }
}

/// Whether this thread waits in a connect (proc(5), /proc/pid/syscall).
fn connecting(tid: i32) -> bool {
    let call = format!("{} ", libc::SYS_connect);
    std::fs::read_to_string(format!("/proc/{tid}/syscall")).is_ok_and(|text| text.starts_with(&call))
}

/// A field of /proc/pid/status.
fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t"));
    value.unwrap_or_default().to_owned()
}

/// Has another process send these signals to this one: each when it waits in a connect, or, to be continued, has stopped.
fn later(signals: &'static [i32]) -> Child {
    let to = nix::unistd::getpid().as_raw();
    // Yama lets nobody but an ancestor look at a call in progress otherwise.
    // SAFETY: no memory is passed; EINVAL without Yama.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    spawn(move || {
        for &signal in signals {
            let stopped = || status(to, "State").starts_with('T');
            check!(eventually(|| if signal == libc::SIGCONT { stopped() } else { connecting(to) }));
            // SAFETY: no memory is passed.
            unsafe { libc::kill(to, signal) };
            let pending = || u64::from_str_radix(&status(to, "ShdPnd"), 16).unwrap_or(0);
            check!(eventually(|| pending() & (1 << (signal - 1)) == 0));
        }
        Ok(())
    })
}

fn empty(full: &Full) {
    // SAFETY: no memory is passed, and no address is asked for.
    unsafe {
        libc::fcntl(full.server.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        while libc::accept(full.server.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut()) >= 0 {}
    }
}

#[test]
fn a_caught_signal_interrupts_a_blocking_connect() {
    everywhere(|full| {
        catch(0);
        let signals = later(&[libc::SIGUSR1]);
        same!(full.connect(&full.socket()), libc::EINTR);
        signals.good();
        Ok(())
    });
}

#[test]
fn a_signal_whose_handler_restarts_is_handled_and_the_connect_goes_on() {
    everywhere(|full| {
        catch(libc::SA_RESTART);
        CAUGHT.store(0, Ordering::SeqCst);
        let signals = later(&[libc::SIGUSR1; 3]);
        let connected = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Threads are made with the signal blocked, so it is the main thread's, which connects.
            let mask = nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGUSR1);
            mask.thread_block().unwrap();
            let helper = scope.spawn(|| {
                let handled = eventually(|| CAUGHT.load(Ordering::SeqCst) == 3);
                // What filled the backlog goes on trying as well, so once may not be enough.
                handled
                    && eventually(|| {
                        empty(&full);
                        connected.load(Ordering::SeqCst)
                    })
            });
            mask.thread_unblock().unwrap();
            same!(full.connect(&full.socket()), 0);
            connected.store(true, Ordering::SeqCst);
            check!(helper.join().unwrap());
            Ok(())
        })?;
        signals.good();
        Ok(())
    });
}

#[test]
fn a_timed_connect_is_interrupted_even_where_the_handler_would_restart() {
    everywhere(|full| {
        catch(libc::SA_RESTART);
        let signals = later(&[libc::SIGUSR1]);
        let fd = full.socket();
        set_timeout(&fd, Duration::from_secs(30));
        same!(full.connect(&fd), libc::EINTR);
        signals.good();
        Ok(())
    });
}

#[test]
fn stop_and_continue_do_not_end_a_connect_and_a_fatal_signal_does() {
    both(
        |jail, body| {
            let child = jail.start(body);
            let pid = child.pid;
            let (status, said) = child.wait();
            assert_eq!(said, "");
            assert_eq!(status, nix::sys::wait::WaitStatus::Signaled(pid, nix::sys::signal::Signal::SIGTERM, false));
        },
        |full: Full| {
            let _signals = later(&[libc::SIGSTOP, libc::SIGCONT, libc::SIGTERM]);
            Err(format!("the connect ended with {}", full.connect(&full.socket())))
        },
    );
}

#[test]
fn a_storm_of_signals_changes_no_result() {
    Jail::new().run(|| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = inet_address(server.local_addr().unwrap().port());
        catch_alarms(Duration::from_micros(300), libc::SA_RESTART);
        for _ in 0..2000 {
            let fd = socket(AF_INET, SOCK_STREAM);
            same!(connect(fd.as_raw_fd(), &to, 16), 0);
            drop((server.accept().unwrap(), fd));
        }
        check!(CAUGHT.load(Ordering::SeqCst) > 10);
        Ok(())
    });
}

#[test]
fn a_signal_for_a_waiting_thread_interrupts_that_thread_alone() {
    everywhere(|full| {
        catch(0);
        let waiting = [const { AtomicI32::new(0) }; 2];
        std::thread::scope(|scope| {
            let threads: Vec<_> = waiting
                .iter()
                .map(|tid| {
                    let full = &full;
                    scope.spawn(move || {
                        tid.store(nix::unistd::gettid().as_raw(), Ordering::SeqCst);
                        full.connect(&full.socket())
                    })
                })
                .collect();
            check!(eventually(|| waiting.iter().all(|tid| connecting(tid.load(Ordering::SeqCst)))));
            let first = waiting[0].load(Ordering::SeqCst);
            // SAFETY: no memory is passed.
            unsafe { libc::syscall(libc::SYS_tgkill, nix::unistd::getpid().as_raw(), first, libc::SIGUSR1) };
            check!(eventually(|| threads[0].is_finished()));
            check!(!threads[1].is_finished());
            check!(eventually(|| {
                empty(&full);
                threads[1].is_finished()
            }));
            let got: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            same!(got, vec![libc::EINTR, 0]);
            Ok(())
        })
    });
}

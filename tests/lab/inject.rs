//! Makes a running process try a system call, as somebody who has taken it over could: ptrace(2) stops one of its threads,
//! gives it other registers, lets it execute one `syscall` instruction, and puts everything back.
//!
//! The thread must be waiting in a system call (the roles mostly are), because the instruction before the one that it would
//! go on with is then `syscall`.

use std::ffi::c_void;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// A thread that has been stopped; it goes on when this is dropped.
pub struct Injected {
    pid: Pid,
    registers: libc::user_regs_struct,
    /// What was where memory is written.
    memory: Vec<i64>,
}

/// An argument of a call.
pub enum Arg<'a> {
    Number(i64),
    /// The address of a copy of these bytes in the process; at most [`ROOM`] in all.
    Bytes(&'a [u8]),
}

/// A call's result as the kernel gives it.
pub type Outcome = Result<i64, Errno>;

/// Bytes that the arguments of one call may take.
pub const ROOM: usize = 512;
/// Below the stack pointer, behind the red zone of the x86-64 ABI.
const BELOW: u64 = 4096;
const WORD: usize = 8;

impl Injected {
    /// Stops the thread.
    pub fn stop(pid: i32) -> Self {
        let pid = Pid::from_raw(pid);
        ptrace::seize(pid, Options::empty()).unwrap_or_else(|e| panic!("ptrace of {pid}: {e} (root only)"));
        ptrace::interrupt(pid).unwrap();
        waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        let registers = ptrace::getregs(pid).unwrap();
        let mut stopped = Self { pid, registers, memory: Vec::new() };
        stopped.memory =
            (0..ROOM / WORD).map(|word| ptrace::read(pid, stopped.address(word * WORD)).unwrap()).collect();
        let code = ptrace::read(pid, (registers.rip - 2) as *mut c_void).unwrap();
        assert_eq!(code as u16, 0x050f, "{pid} does not wait in a system call");
        stopped
    }

    fn address(&self, offset: usize) -> *mut c_void {
        ((self.registers.rsp - BELOW) / 16 * 16 + offset as u64) as *mut c_void
    }

    /// One call with up to six arguments.
    pub fn call(&mut self, number: i64, arguments: &[Arg<'_>]) -> Outcome {
        let mut used = 0;
        let mut values = [0u64; 6];
        for (value, argument) in values.iter_mut().zip(arguments) {
            *value = match argument {
                Arg::Number(number) => *number as u64,
                Arg::Bytes(bytes) => {
                    assert!(used + bytes.len() <= ROOM);
                    let at = self.address(used);
                    for (index, piece) in bytes.chunks(WORD).enumerate() {
                        let mut word = [0; WORD];
                        word[..piece.len()].copy_from_slice(piece);
                        ptrace::write(self.pid, self.address(used + index * WORD), i64::from_ne_bytes(word)).unwrap();
                    }
                    used += bytes.len().next_multiple_of(WORD);
                    at as u64
                }
            };
        }
        let mut changed = self.registers;
        changed.rip -= 2;
        // Not a call that the kernel would restart.
        (changed.rax, changed.orig_rax) = (number as u64, u64::MAX);
        [changed.rdi, changed.rsi, changed.rdx, changed.r10, changed.r8, changed.r9] = values;
        ptrace::setregs(self.pid, changed).unwrap();
        ptrace::step(self.pid, None).unwrap();
        let stopped = waitpid(self.pid, Some(WaitPidFlag::__WALL)).unwrap();
        assert!(matches!(stopped, nix::sys::wait::WaitStatus::Stopped(..)), "{number}: {stopped:?}");
        let result = ptrace::getregs(self.pid).unwrap().rax as i64;
        if (-4095..0).contains(&result) { Err(Errno::from_raw(-result as i32)) } else { Ok(result) }
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        for (index, word) in self.memory.iter().enumerate() {
            let _ = ptrace::write(self.pid, self.address(index * WORD), *word);
        }
        let _ = ptrace::setregs(self.pid, self.registers);
        let _ = ptrace::detach(self.pid, None);
    }
}

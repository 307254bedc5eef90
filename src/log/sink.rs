//! Where records are kept: `--log FILE` or `--log -` (standard error; standard output is the command's).
//!
//! The sink never blocks its owner: a full pipe or disk makes lines wait, up to [`MAX_WAITING`] bytes; what finds no room
//! then is counted, a `lost` line takes its place in the log as soon as there is room, and the first trouble is handed out
//! once to be said to the user. A write holds whole lines only, at most [`MAX_LINE`] bytes on pipes and terminals so
//! that it goes whole or not at all, and on files is appended, so that several jails can share one log.
//!
//! The owner must ignore SIGPIPE and SIGXFSZ, or a reader that leaves, or a file size limit, kills it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};

use super::json::{self, MAX_LINE};
use super::{Record, now_micros};

/// The most bytes that wait for a slow reader.
pub const MAX_WAITING: usize = 1024 * 1024;

/// The most bytes in one write to a file.
const FILE_CHUNK: usize = 64 * 1024;

/// What goes wrong with a log. Each is said once.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file cannot be opened.
    #[error("the log `{path}` cannot be opened: {source}; {remedy}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
        /// What to do.
        remedy: &'static str,
    },
    /// It is a folder, a socket or a block device.
    #[error("the log `{0}` is no file: name a regular file, a pipe or a terminal, or `-` for standard error")]
    Kind(PathBuf),
    /// Records cannot be written any more, or not now.
    #[error("the log `{path}` cannot be written: {source}; records that find no room are counted and left out")]
    Write {
        /// The file, or `-`.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// More records than the reader of the log takes.
    #[error("the log `{0}` is not read fast enough; records that find no room are counted and left out")]
    Slow(PathBuf),
}

/// How to write without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A regular file does not wait for a reader.
    File,
    /// A pipe or terminal, opened by ourselves with O_NONBLOCK.
    NonBlocking,
    /// A pipe or terminal whose open file belongs to others as well, who would suffer from O_NONBLOCK: asked first.
    Polled,
    /// A socket has a flag for each call.
    Socket,
}

/// Lines that go out in one write.
#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    records: u64,
}

/// An open log.
#[derive(Debug)]
pub struct Sink {
    file: File,
    way: Way,
    path: PathBuf,
    jail: String,
    waiting: VecDeque<Chunk>,
    waiting_bytes: usize,
    /// How much of the first chunk has gone.
    written: usize,
    /// Lost and not yet said in the log.
    unsaid: u64,
    lost: u64,
    /// Nobody will ever read it.
    dead: bool,
    trouble: Option<LogError>,
    told: bool,
}

impl Sink {
    /// Opens what `--log` names, for records of the jail of this name.
    ///
    /// A new file is readable by its owner only. A symbolic link as the last part is refused: a jail may be able to write
    /// the folder, and would choose the file.
    ///
    /// # Errors
    /// [`LogError::Open`] and [`LogError::Kind`].
    pub fn open(path: &Path, jail: &str) -> Result<Self, LogError> {
        if path == Path::new("-") {
            let fd = io::stderr().as_fd().try_clone_to_owned().map_err(|e| open_error(path, e))?;
            return Self::from_fd(fd, jail);
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(path)
            .map_err(|e| open_error(path, e))?;
        let kind = file.metadata().map_err(|e| open_error(path, e))?.file_type();
        let way = if kind.is_file() {
            Way::File
        } else if kind.is_fifo() || kind.is_char_device() {
            Way::NonBlocking
        } else {
            return Err(LogError::Kind(path.to_owned()));
        };
        Ok(Self::new(file, way, path, jail))
    }

    /// Takes a descriptor that others may hold as well, such as standard error.
    ///
    /// # Errors
    /// [`LogError::Open`] and [`LogError::Kind`].
    fn from_fd(fd: OwnedFd, jail: &str) -> Result<Self, LogError> {
        let path = Path::new("-");
        let file = File::from(fd);
        let kind = file.metadata().map_err(|e| open_error(path, e))?.file_type();
        if kind.is_file() {
            return Ok(Self::new(file, Way::File, path, jail));
        }
        if kind.is_socket() {
            return Ok(Self::new(file, Way::Socket, path, jail));
        }
        if !kind.is_fifo() && !kind.is_char_device() {
            return Err(LogError::Kind(path.to_owned()));
        }
        // An open file of our own, where its owner allows it (a terminal may belong to somebody else after su).
        let own = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        Ok(match own {
            Ok(own) => Self::new(own, Way::NonBlocking, path, jail),
            Err(_) => Self::new(file, Way::Polled, path, jail),
        })
    }

    fn new(file: File, way: Way, path: &Path, jail: &str) -> Self {
        Self {
            file,
            way,
            path: path.to_owned(),
            jail: jail.to_owned(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            written: 0,
            unsaid: 0,
            lost: 0,
            dead: false,
            trouble: None,
            told: false,
        }
    }

    /// Writes records, or lets them wait; never blocks.
    pub fn write<'r>(&mut self, records: impl IntoIterator<Item = &'r Record>) {
        for record in records {
            if self.dead {
                self.lose(1);
                continue;
            }
            let line = json::line(record, &self.jail);
            let room = MAX_WAITING.saturating_sub(self.waiting_bytes);
            // The room for the line that would tell of the loss is kept.
            if line.len() + MAX_LINE > room {
                self.flush();
            }
            if line.len() + MAX_LINE > MAX_WAITING.saturating_sub(self.waiting_bytes) {
                self.say(LogError::Slow(self.path.clone()));
                self.lose(1);
            } else {
                self.say_losses();
                self.queue(&line, 1);
            }
        }
        self.flush();
    }

    /// Counts records that were lost before they came here; the log says so.
    pub fn lose(&mut self, count: u64) {
        self.unsaid = self.unsaid.saturating_add(count);
        self.lost = self.lost.saturating_add(count);
    }

    /// Records that are not in the log.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether lines wait: then [`flush`](Self::flush) should be called when the descriptor is writable, or after a while.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.unsaid > 0
    }

    /// The first trouble, once: to be said to the user.
    pub fn trouble(&mut self) -> Option<LogError> {
        self.trouble.take()
    }

    /// Writes as much of what waits as can be written at once.
    pub fn flush(&mut self) {
        while let Some(chunk) = self.waiting.front() {
            match write_some(&self.file, self.way, &chunk.bytes[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    if self.written >= chunk.bytes.len() {
                        self.waiting_bytes -= chunk.bytes.len();
                        self.written = 0;
                        self.waiting.pop_front();
                    } else if count == 0 {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    // A disk may get room again, a reader never comes back.
                    self.dead = matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::EBADF));
                    self.say(LogError::Write { path: self.path.clone(), source: error });
                    if self.dead {
                        self.drop_waiting();
                    }
                    return;
                }
            }
        }
    }

    /// Writes what waits, for at most `patience`; what is left then is lost. The number of records that the log lacks.
    pub fn finish(mut self, patience: Duration) -> u64 {
        let deadline = Instant::now() + patience;
        loop {
            if !self.dead {
                self.say_losses();
            }
            self.flush();
            let left = deadline.saturating_duration_since(Instant::now());
            if self.waiting.is_empty() || left.is_zero() || self.way == Way::File {
                break;
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            if !matches!(poll(&mut fds, timeout), Ok(1..) | Err(nix::Error::EINTR)) {
                break;
            }
        }
        self.drop_waiting();
        self.lost
    }

    fn queue(&mut self, line: &str, records: u64) {
        self.waiting_bytes += line.len();
        let limit = if self.way == Way::File { FILE_CHUNK } else { MAX_LINE };
        // A chunk that is partly written must stay as it is.
        let open = if self.written > 0 && self.waiting.len() == 1 { None } else { self.waiting.back_mut() };
        match open {
            Some(chunk) if chunk.bytes.len() + line.len() <= limit => {
                chunk.bytes.extend_from_slice(line.as_bytes());
                chunk.records += records;
            }
            _ => self.waiting.push_back(Chunk { bytes: line.as_bytes().to_vec(), records }),
        }
    }

    /// Puts the line about losses where the lost records would have been.
    fn say_losses(&mut self) {
        if self.unsaid > 0 {
            let line = json::lost_line(std::mem::take(&mut self.unsaid), now_micros(), &self.jail);
            self.queue(&line, 0);
        }
    }

    fn say(&mut self, trouble: LogError) {
        if !self.told {
            self.told = true;
            self.trouble = Some(trouble);
        }
    }

    fn drop_waiting(&mut self) {
        let records: u64 = self.waiting.drain(..).map(|chunk| chunk.records).sum();
        self.waiting_bytes = 0;
        self.written = 0;
        self.lose(records);
    }
}

fn write_some(mut file: &File, way: Way, bytes: &[u8]) -> io::Result<usize> {
    match way {
        Way::File | Way::NonBlocking => file.write(bytes),
        Way::Socket => Ok(send(file.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?),
        Way::Polled => {
            let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
            if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            file.write(bytes)
        }
    }
}

fn open_error(path: &Path, source: io::Error) -> LogError {
    let remedy = match source.raw_os_error() {
        Some(libc::ELOOP) => "it is a symbolic link: name the file it points to",
        Some(libc::ENXIO) => "nobody reads this pipe, or it is a socket: start the reader first",
        Some(libc::ENOENT) => "make its folder first",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => "choose a file that you may write",
        Some(libc::EISDIR) => "it is a folder: name a file in it",
        _ => "choose another file, or `-` for standard error",
    };
    LogError::Open { path: path.to_owned(), source, remedy }
}

#[cfg(test)]
mod tests;

//! Reading files that somebody hostile may have put there.
//!
//! A payload can write a project's files: it may replace one by a FIFO (whose open would block for ever), a device, a
//! folder, or something endless. So a file is opened without waiting, looked at through its descriptor and not its name,
//! and read up to a limit.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// The largest registry, settings or lock file, in bytes.
pub(super) const MAX_FILE: u64 = 4 << 20;
/// The largest file that `${file:…}` may name, in bytes.
pub(super) const MAX_SECRET_FILE: u64 = 64 << 10;

/// Why a file was not read. The path is said by whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// open(2), fstat(2) or read(2) failed.
    #[error("{0}")]
    Io(std::io::Error),
    /// It is there, and is something else than a regular file.
    #[error("it is {0}, expected a regular file")]
    NotRegular(&'static str),
    /// More than the limit.
    #[error("it is larger than {0} KiB")]
    TooLarge(u64),
    /// Not UTF-8; the number is the byte offset of the first wrong byte.
    #[error("it is not UTF-8 text (byte {0})")]
    NotText(usize),
}

impl ReadError {
    /// Whether nothing is there at all.
    pub fn is_absent(&self) -> bool {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        matches!(self, Self::Io(e) if matches!(e.kind(), NotFound | NotADirectory))
    }
}

/// Opens a regular file without ever waiting for it.
fn open_regular(path: &Path) -> Result<File, ReadError> {
    // O_NONBLOCK: opening a FIFO without a writer waits otherwise (open(2)). It means nothing to a regular file.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
        .open(path)
        .map_err(ReadError::Io)?;
    let kind = file.metadata().map_err(ReadError::Io)?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(ReadError::NotRegular(match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () => "a special file",
    }))
}

/// Reads a whole regular file of at most `limit` bytes.
pub(super) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>, ReadError> {
    read_open(open_regular(path)?, limit)
}

fn read_open(file: File, limit: u64) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    // The length is not asked for first: the file can grow while it is read, and /proc's files say 0.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(ReadError::Io)?;
    if bytes.len() as u64 > limit { Err(ReadError::TooLarge(limit >> 10)) } else { Ok(bytes) }
}

/// A text file as it was read.
#[derive(Debug)]
pub(super) struct TextFile {
    /// The text without a byte order mark.
    pub text: String,
    /// Whose file it is.
    pub owner: u32,
}

/// Reads a text file of at most [`MAX_FILE`] bytes.
pub(super) fn read_text(path: &Path) -> Result<TextFile, ReadError> {
    let file = open_regular(path)?;
    let owner = file.metadata().map_err(ReadError::Io)?.uid();
    let bytes = read_open(file, MAX_FILE)?;
    let text = String::from_utf8(bytes).map_err(|e| ReadError::NotText(e.utf8_error().valid_up_to()))?;
    Ok(TextFile { text: text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text), owner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opening_a_fifo_a_device_or_a_folder_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for (path, what) in [(fifo.as_path(), "a FIFO"), (Path::new("/dev/zero"), "a device"), (dir.path(), "a folder")]
        {
            match read_text(path) {
                Err(ReadError::NotRegular(found)) => assert_eq!(found, what),
                other => panic!("{}: {other:?}", path.display()),
            }
        }
    }

    #[test]
    fn a_file_over_the_limit_is_refused_and_one_at_the_limit_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, vec![b'x'; 1024]).unwrap();
        assert_eq!(read_bytes(&path, 1024).unwrap().len(), 1024);
        assert!(matches!(read_bytes(&path, 1023), Err(ReadError::TooLarge(_))));
    }

    #[test]
    fn a_byte_order_mark_is_dropped_and_other_encodings_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"\xef\xbb\xbfversion: 1").unwrap();
        assert_eq!(read_text(&path).unwrap().text, "version: 1");
        std::fs::write(&path, b"ab\xff").unwrap();
        assert!(matches!(read_text(&path), Err(ReadError::NotText(2))));
    }
}

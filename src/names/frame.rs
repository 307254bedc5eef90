//! DNS over TCP: messages behind a length of two bytes (RFC 1035 section 4.2.2), several in one segment or one in several
//! (RFC 7766: a resolver must take pipelined questions).
//!
//! A message that lies whole in what was read is not copied. One that does not is gathered, and the buffer grows with the
//! bytes that came, not with the length that was announced.

/// Questions longer than this are no questions: the longest name with its type, class and an OPT record takes about 300
/// bytes, EDNS padding (RFC 8467) less than 500.
pub const LARGEST_QUESTION: usize = 4096;

/// Cuts a stream into messages.
#[derive(Debug)]
pub struct Frames {
    largest: usize,
    /// The beginning of a message, its length prefix included.
    partial: Vec<u8>,
    /// `partial` was handed out and is empty from now on.
    spent: bool,
}

/// The stream is of no further use and should be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a DNS message of {announced} bytes was announced where {largest} are allowed; the connection must be closed")]
pub struct TooLarge {
    /// By the length prefix.
    pub announced: usize,
    /// What this stream allows.
    pub largest: usize,
}

const PREFIX: usize = 2;

impl Frames {
    /// Takes messages of at most `largest` bytes; 65,535 is what the prefix can say.
    pub fn new(largest: usize) -> Self {
        Self { largest, partial: Vec::new(), spent: false }
    }

    /// The next message. `input` is moved past what was taken; `None` means that all of it was, and more must be read.
    /// Bytes left over when the stream ends are half a message, see [`Self::is_between`].
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Result<Option<&'s [u8]>, TooLarge> {
        if std::mem::take(&mut self.spent) {
            self.partial.clear();
        }
        if self.partial.is_empty()
            && let Some(length) = self.announced(input)?
            && let Some((message, rest)) = input.split_at_checked(PREFIX + length)
        {
            *input = rest;
            return Ok(Some(&message[PREFIX..]));
        }
        self.gather(PREFIX, input);
        let Some(length) = self.announced(&self.partial)? else { return Ok(None) };
        self.gather(PREFIX + length, input);
        if self.partial.len() < PREFIX + length {
            return Ok(None);
        }
        self.spent = true;
        Ok(Some(&self.partial[PREFIX..]))
    }

    /// Whether the stream stands between two messages, so that its end here is a proper one.
    pub fn is_between(&self) -> bool {
        self.spent || self.partial.is_empty()
    }

    fn announced(&self, bytes: &[u8]) -> Result<Option<usize>, TooLarge> {
        let Some(&[high, low]) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
        let announced = usize::from(u16::from_be_bytes([high, low]));
        if announced > self.largest {
            return Err(TooLarge { announced, largest: self.largest });
        }
        Ok(Some(announced))
    }

    /// Moves bytes of `input` to `partial` until that holds `until`.
    fn gather(&mut self, until: usize, input: &mut &[u8]) {
        let missing = until.saturating_sub(self.partial.len()).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.partial.extend_from_slice(taken);
        *input = rest;
    }
}

/// Appends a message with its length prefix to what will be written.
pub fn append(message: &[u8], to: &mut Vec<u8>) -> Result<(), TooLarge> {
    let largest = usize::from(u16::MAX);
    let length = u16::try_from(message.len()).map_err(|_| TooLarge { announced: message.len(), largest })?;
    to.extend_from_slice(&length.to_be_bytes());
    to.extend_from_slice(message);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(frames: &mut Frames, mut input: &[u8]) -> Result<Vec<Vec<u8>>, TooLarge> {
        let mut messages = vec![];
        while let Some(message) = frames.next(&mut input)? {
            messages.push(message.to_vec());
        }
        assert!(input.is_empty(), "None means that everything was taken");
        Ok(messages)
    }

    proptest! {
        #[test]
        fn messages_come_out_as_they_went_in_however_the_stream_is_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            cuts in prop::collection::vec(1..400usize, 1..50),
        ) {
            let mut stream = vec![];
            for message in &messages {
                append(message, &mut stream).unwrap();
            }
            let mut frames = Frames::new(LARGEST_QUESTION);
            let mut got = vec![];
            let mut rest = &stream[..];
            for cut_at in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut_at).min(rest.len()));
                got.extend(cut(&mut frames, now).unwrap());
                rest = later;
            }
            prop_assert_eq!(got, messages);
            prop_assert!(frames.is_between());
        }

        #[test]
        fn no_stream_makes_it_panic_or_hold_more_than_one_message(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 0..30),
        ) {
            let mut frames = Frames::new(512);
            for piece in pieces {
                if cut(&mut frames, &piece).is_err() {
                    break;
                }
                prop_assert!(frames.partial.len() <= PREFIX + 512);
            }
        }
    }

    #[test]
    fn single_bytes_make_a_message() {
        let mut stream = vec![];
        append(b"question", &mut stream).unwrap();
        let mut frames = Frames::new(LARGEST_QUESTION);
        let (last, before) = stream.split_last().unwrap();
        for &byte in before {
            assert_eq!(cut(&mut frames, &[byte]), Ok(vec![]));
            assert!(!frames.is_between());
        }
        assert_eq!(cut(&mut frames, &[*last]), Ok(vec![b"question".to_vec()]));
        assert!(frames.is_between());
    }

    #[test]
    fn a_length_beyond_the_bound_ends_the_stream_before_its_bytes_are_kept() {
        let error = TooLarge { announced: 65535, largest: LARGEST_QUESTION };
        assert_eq!(cut(&mut Frames::new(LARGEST_QUESTION), &[0xff; 100]), Err(error));
        let mut frames = Frames::new(LARGEST_QUESTION);
        assert_eq!(cut(&mut frames, &[0xff]), Ok(vec![]));
        assert_eq!(cut(&mut frames, &[0xff]), Err(error));
        assert!(append(&[0; 65536], &mut vec![]).is_err());
    }
}

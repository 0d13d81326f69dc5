//! Frames on a stream (RFC 4571 §2): two bytes of length, then a datagram.

/// Longest frame taken, as long as the longest datagram that is taken from a UDP socket.
pub const FRAME_MAX: usize = 2_048;
/// Room for a few frames, so that a busy connection is not read once for each.
const BUFFER_LEN: usize = 4 * (HEADER_LEN + FRAME_MAX);
const HEADER_LEN: usize = 2;

/// The peer announced a frame longer than [`FRAME_MAX`]: what follows cannot be told from garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Takes a stream apart. Its memory is bounded, and allocated when the first bytes come.
#[derive(Debug, Default)]
pub struct Unframer {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Unframer {
    /// Where to put the next bytes of the stream; never empty once all whole frames are taken.
    pub fn room(&mut self) -> &mut [u8] {
        self.buffer.resize(BUFFER_LEN, 0);
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.buffer[self.end..]
    }

    /// Says how many bytes were put there.
    pub fn advance(&mut self, len: usize) {
        self.end = (self.end + len).min(self.buffer.len());
    }

    /// The next whole frame. Empty ones are passed over: they carry nothing (RFC 4571 §2).
    ///
    /// # Errors
    /// When the next frame is too long; it stays so.
    pub fn next_frame(&mut self) -> Result<Option<&mut [u8]>, TooLong> {
        while let Some(&[high, low]) = self.buffer.get(self.start..self.end).and_then(|rest| rest.first_chunk()) {
            let len = usize::from(u16::from_be_bytes([high, low]));
            if len > FRAME_MAX {
                return Err(TooLong);
            }
            let at = self.start + HEADER_LEN;
            if at + len > self.end {
                break;
            }
            self.start = at + len;
            if len > 0 {
                return Ok(Some(&mut self.buffer[at..at + len]));
            }
        }
        Ok(None)
    }

    /// Undoes the last [`Unframer::next_frame`], for a frame of this length.
    pub(super) fn give_back(&mut self, len: usize) {
        self.start = self.start.saturating_sub(HEADER_LEN + len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(unframer: &mut Unframer, mut bytes: &[u8], step: usize) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut frames = Vec::new();
        while !bytes.is_empty() {
            let room = unframer.room();
            let len = step.min(bytes.len()).min(room.len());
            room[..len].copy_from_slice(&bytes[..len]);
            unframer.advance(len);
            bytes = &bytes[len..];
            while let Some(frame) = unframer.next_frame()? {
                frames.push(frame.to_vec());
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_the_stream_is_cut() {
        let frames: Vec<Vec<u8>> = [1, 2, 700, 2_048, 3, 2_048].iter().map(|len| vec![7; *len]).collect();
        let mut stream = vec![0, 0]; // an empty frame
        for frame in &frames {
            stream.extend(u16::try_from(frame.len()).unwrap().to_be_bytes());
            stream.extend(frame);
        }
        for step in [1, 2, 3, 1_000, 100_000] {
            assert_eq!(feed(&mut Unframer::default(), &stream, step).unwrap(), frames, "{step} bytes at a time");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_stream() {
        let mut unframer = Unframer::default();
        assert_eq!(feed(&mut unframer, &[0, 1, 9, 0x08, 0x01, 5], 6), Err(TooLong));
        assert_eq!(unframer.next_frame(), Err(TooLong));
    }

    #[test]
    fn a_frame_that_is_given_back_comes_again() {
        let mut unframer = Unframer::default();
        assert_eq!(feed(&mut unframer, &[0, 1, 9], 3).unwrap(), [[9]]);
        unframer.give_back(1);
        assert_eq!(unframer.next_frame().unwrap(), Some(&mut [9][..]));
    }
}

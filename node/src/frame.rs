//! One frame as bytes on a connection, the same on every network.
//!
//! ```text
//! magic u32 | header length u32 | payload length u32 | header CRC u32 | payload CRC u32 | header | payload
//! ```
//! All integers are little endian; the CRCs are CRC32C. The header's CRC also covers the lengths and the payload's CRC,
//! so that a damaged length is found as soon as the header is there instead of after a long wait for bytes that never
//! come. Pure functions over bytes; deliberately knows no socket and not what headers say. Lengths are checked against
//! `core::limits` before anything is allocated for them.

use bytes::{Buf, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use polyfs_core::limits::{FRAME_HEADER_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};
use thiserror::Error;

use crate::runtime::{Frame, NetError};

/// What every frame begins with: "PFS1" when read as bytes.
pub const MAGIC: u32 = u32::from_le_bytes(*b"PFS1");
/// The fixed part before header and payload, in bytes.
pub const PREFIX_BYTES: usize = 20;

/// Why bytes are no frame, or a frame can't become bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// It does not begin with [`MAGIC`]: another program speaks.
    #[error("it does not begin with the magic number")]
    Magic,
    /// The header is, or claims to be, longer than `FRAME_HEADER_BYTES_MAX`.
    #[error("its header is too long")]
    HeaderLength,
    /// The payload is, or claims to be, longer than `FRAME_PAYLOAD_BYTES_MAX`.
    #[error("its payload is too long")]
    PayloadLength,
    /// It is longer than a greeting may be.
    #[error("it is too long for a greeting")]
    TooLarge,
    /// Header or lengths do not match their checksum.
    #[error("its header is damaged")]
    HeaderChecksum,
    /// The payload does not match its checksum.
    #[error("its payload is damaged")]
    PayloadChecksum,
}

impl From<FrameError> for NetError {
    fn from(error: FrameError) -> Self {
        Self::Garbage(match error {
            FrameError::Magic => "it does not begin with the magic number",
            FrameError::HeaderLength => "its header is too long",
            FrameError::PayloadLength => "its payload is too long",
            FrameError::TooLarge => "it is too long for a greeting",
            FrameError::HeaderChecksum => "its header is damaged",
            FrameError::PayloadChecksum => "its payload is damaged",
        })
    }
}

/// The fixed part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    header_bytes: u32,
    payload_bytes: u32,
    header_crc: u32,
    payload_crc: u32,
}

impl Prefix {
    /// The prefix that belongs before `frame`; reads all of its bytes once.
    ///
    /// # Errors
    /// When the header or the payload exceeds its limit.
    pub fn of(frame: &Frame) -> Result<Self, FrameError> {
        let header_bytes = bounded(
            frame.header.len(),
            FRAME_HEADER_BYTES_MAX,
            FrameError::HeaderLength,
        )?;
        let payload_bytes = bounded(
            frame.payload.iter().map(Bytes::len).sum(),
            FRAME_PAYLOAD_BYTES_MAX,
            FrameError::PayloadLength,
        )?;
        let payload_crc = crc(frame.payload.iter().map(|piece| &piece[..]));
        let mut prefix = Self {
            header_bytes,
            payload_bytes,
            header_crc: 0,
            payload_crc,
        };
        prefix.header_crc = prefix.crc_with(&frame.header);
        Ok(prefix)
    }

    /// As it goes onto the wire.
    #[must_use]
    pub fn encode(&self) -> [u8; PREFIX_BYTES] {
        let words = [
            MAGIC,
            self.header_bytes,
            self.payload_bytes,
            self.header_crc,
            self.payload_crc,
        ];
        let mut bytes = [0; PREFIX_BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a prefix and checks its lengths.
    ///
    /// # Errors
    /// When it begins with something else than [`MAGIC`], or claims more than the limits allow.
    pub fn decode(bytes: &[u8; PREFIX_BYTES]) -> Result<Self, FrameError> {
        let word = |at: usize| {
            u32::from_le_bytes(
                bytes[at..at + 4]
                    .try_into()
                    .expect("four bytes within the prefix"),
            )
        };
        if word(0) != MAGIC {
            return Err(FrameError::Magic);
        }
        let prefix = Self {
            header_bytes: word(4),
            payload_bytes: word(8),
            header_crc: word(12),
            payload_crc: word(16),
        };
        bounded(
            prefix.header_len(),
            FRAME_HEADER_BYTES_MAX,
            FrameError::HeaderLength,
        )?;
        bounded(
            prefix.payload_len(),
            FRAME_PAYLOAD_BYTES_MAX,
            FrameError::PayloadLength,
        )?;
        Ok(prefix)
    }

    /// The header's length in bytes.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_bytes as usize
    }

    /// The payload's length in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload_bytes as usize
    }

    /// The length of the whole frame in bytes, prefix included.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        PREFIX_BYTES + self.header_len() + self.payload_len()
    }

    fn crc_with(&self, header: &[u8]) -> u32 {
        crc([
            &self.header_bytes.to_le_bytes()[..],
            &self.payload_bytes.to_le_bytes()[..],
            &self.payload_crc.to_le_bytes()[..],
            header,
        ]
        .into_iter())
    }
}

fn bounded(bytes: usize, max: usize, error: FrameError) -> Result<u32, FrameError> {
    if bytes > max {
        return Err(error);
    }
    u32::try_from(bytes).map_err(|_| error)
}

fn crc<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    for piece in pieces {
        digest.update(piece);
    }
    u32::try_from(digest.finalize()).expect("a CRC32C has 32 bits")
}

/// A whole frame as one piece of bytes (copies the payload; the simulated network sends this).
///
/// # Errors
/// As [`Prefix::of`].
pub fn encode(frame: &Frame) -> Result<Bytes, FrameError> {
    let prefix = Prefix::of(frame)?;
    let mut bytes = BytesMut::with_capacity(prefix.frame_len());
    bytes.extend_from_slice(&prefix.encode());
    bytes.extend_from_slice(&frame.header);
    for piece in &frame.payload {
        bytes.extend_from_slice(piece);
    }
    Ok(bytes.freeze())
}

/// Headers and payloads up to so many bytes are copied out of the buffer they were received into. It can be used again then,
/// while its pages are in the processor's cache; one that a frame still holds costs the next read 64 KiB of fresh pages,
/// and a small payload that is kept for long keeps no more than itself.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// Takes what a frame holds off the front of a buffer.
fn take(bytes: &mut BytesMut, count: usize) -> Bytes {
    if count > COPIED_BYTES_MAX {
        return bytes.split_to(count).freeze();
    }
    let taken = Bytes::copy_from_slice(&bytes[..count]);
    bytes.advance(count);
    taken
}

/// Cuts a stream of bytes into frames; what is large is not copied. After an error the stream is of no more use.
#[derive(Debug, Default)]
pub struct Decoder {
    prefix: Option<Prefix>,
    header: Option<Bytes>,
    /// The next frame may have so many bytes, if it comes from a stranger.
    small: Option<usize>,
}

impl Decoder {
    /// The next frame may have at most `bytes`, prefix included.
    pub fn expect_small(&mut self, bytes: usize) {
        self.small = Some(bytes);
    }

    /// Whether the next frame comes from a stranger.
    #[must_use]
    pub fn expects_small(&self) -> bool {
        self.small.is_some()
    }

    /// Takes the next frame from the front of `bytes`, or `None` when it is not all there yet. What it took apart
    /// already (prefix, header) is gone from `bytes` and kept here.
    ///
    /// # Errors
    /// When the bytes are no frame.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let prefix = match self.prefix {
            Some(prefix) => prefix,
            None => {
                let Some(first) = bytes.first_chunk::<PREFIX_BYTES>() else {
                    return Ok(None);
                };
                let prefix = Prefix::decode(first)?;
                if self.small.is_some_and(|max| prefix.frame_len() > max) {
                    return Err(FrameError::TooLarge);
                }
                bytes.advance(PREFIX_BYTES);
                *self.prefix.insert(prefix)
            }
        };
        if self.header.is_none() {
            if bytes.len() < prefix.header_len() {
                return Ok(None);
            }
            let header = take(bytes, prefix.header_len());
            if prefix.crc_with(&header) != prefix.header_crc {
                return Err(FrameError::HeaderChecksum);
            }
            self.header = Some(header);
        }
        if bytes.len() < prefix.payload_len() {
            return Ok(None);
        }
        let payload = take(bytes, prefix.payload_len());
        if crc(std::iter::once(&payload[..])) != prefix.payload_crc {
            return Err(FrameError::PayloadChecksum);
        }
        let header = self.header.take().expect("the header was taken above");
        self.prefix = None;
        self.small = None;
        let payload = if payload.is_empty() {
            Vec::new()
        } else {
            vec![payload]
        };
        Ok(Some(Frame { header, payload }))
    }

    /// How many bytes the buffer must hold in all before [`Decoder::next`] can get further.
    #[must_use]
    pub fn wants(&self) -> usize {
        match (&self.prefix, &self.header) {
            (None, _) => PREFIX_BYTES,
            (Some(prefix), None) => prefix.header_len() + prefix.payload_len(),
            (Some(prefix), Some(_)) => prefix.payload_len(),
        }
    }

    /// Whether the stream is between two frames, so that it may end here.
    #[must_use]
    pub fn is_between_frames(&self) -> bool {
        self.prefix.is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

    use super::*;

    fn sample() -> Frame {
        Frame {
            header: Bytes::from_static(b"what it says"),
            payload: vec![
                Bytes::from_static(b"what "),
                Bytes::new(),
                Bytes::from_static(b"it carries"),
            ],
        }
    }

    fn joined(frame: &Frame) -> Frame {
        let whole: Vec<u8> = frame.payload.concat();
        Frame {
            header: frame.header.clone(),
            payload: if whole.is_empty() {
                vec![]
            } else {
                vec![whole.into()]
            },
        }
    }

    fn decode_all(bytes: &[u8]) -> Result<Vec<Frame>, FrameError> {
        let mut buffer = BytesMut::from(bytes);
        let mut decoder = Decoder::default();
        let mut frames = vec![];
        while let Some(frame) = decoder.next(&mut buffer)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    /// A small generator with a fixed seed: tests here need neither quality nor a dependency.
    fn random(state: &mut u64) -> usize {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*state >> 33).unwrap()
    }

    #[test]
    fn frames_come_back_whole_whatever_the_pieces_they_arrive_in() {
        let frames = [sample(), Frame::default(), sample()];
        let bytes: Vec<u8> = frames
            .iter()
            .flat_map(|frame| encode(frame).unwrap().to_vec())
            .collect();
        for step in 1..bytes.len() {
            let (mut decoder, mut buffer, mut got) = (Decoder::default(), BytesMut::new(), vec![]);
            for piece in bytes.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decoder.next(&mut buffer).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames.each_ref().map(joined), "in pieces of {step}");
            assert!(decoder.is_between_frames() && buffer.is_empty());
        }
    }

    #[test]
    fn a_frame_cut_at_any_byte_is_no_frame() {
        let bytes = encode(&sample()).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(decode_all(&bytes[..end]), Ok(vec![]), "cut at {end}");
        }
    }

    #[test]
    fn a_damaged_frame_is_never_taken_for_a_frame() {
        let bytes = encode(&sample()).unwrap();
        let mut state = 7;
        for round in 0..10_000 {
            let mut damaged = bytes.to_vec();
            for _ in 0..=random(&mut state) % 4 {
                let at = random(&mut state) % damaged.len();
                damaged[at] ^= u8::try_from(1 + random(&mut state) % 255).unwrap();
            }
            if damaged == bytes {
                continue;
            }
            match decode_all(&damaged) {
                Err(_) => {}
                Ok(frames) => assert!(frames.is_empty(), "round {round} of seed 7: {damaged:?}"),
            }
        }
    }

    #[test]
    fn a_damaged_length_is_found_with_the_header_and_not_awaited() {
        let mut bytes = encode(&sample()).unwrap().to_vec();
        bytes[9] ^= 0x40; // the payload now claims 16 KiB more
        assert_eq!(decode_all(&bytes), Err(FrameError::HeaderChecksum));
    }

    #[test]
    fn lengths_beyond_the_limits_are_refused_before_they_are_believed() {
        let refused = |header: u32, payload: u32| {
            let mut bytes = [0; PREFIX_BYTES];
            bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
            bytes[4..8].copy_from_slice(&header.to_le_bytes());
            bytes[8..12].copy_from_slice(&payload.to_le_bytes());
            Prefix::decode(&bytes).err()
        };
        let header_max = u32::try_from(FRAME_HEADER_BYTES_MAX).unwrap();
        let payload_max = u32::try_from(FRAME_PAYLOAD_BYTES_MAX).unwrap();
        assert_eq!(refused(header_max, payload_max), None);
        assert_eq!(refused(header_max + 1, 0), Some(FrameError::HeaderLength));
        assert_eq!(refused(0, payload_max + 1), Some(FrameError::PayloadLength));
        let frame = Frame {
            header: vec![0; FRAME_HEADER_BYTES_MAX + 1].into(),
            payload: vec![],
        };
        assert_eq!(encode(&frame), Err(FrameError::HeaderLength));
        let half: Bytes = vec![0; FRAME_PAYLOAD_BYTES_MAX / 2 + 1].into();
        let frame = Frame {
            header: Bytes::new(),
            payload: vec![half.clone(), half],
        };
        assert_eq!(encode(&frame), Err(FrameError::PayloadLength));
    }

    #[test]
    fn a_strangers_first_frame_is_small_and_later_ones_need_not_be() {
        let bytes = encode(&sample()).unwrap();
        let mut decoder = Decoder::default();
        decoder.expect_small(bytes.len());
        let mut buffer = BytesMut::from(&[&bytes[..], &bytes[..]].concat()[..]);
        assert!(decoder.next(&mut buffer).unwrap().is_some());
        assert!(!decoder.expects_small());
        assert!(decoder.next(&mut buffer).unwrap().is_some());
        let mut decoder = Decoder::default();
        decoder.expect_small(bytes.len() - 1);
        // Found with the prefix: nothing is awaited.
        let mut buffer = BytesMut::from(&bytes[..PREFIX_BYTES]);
        assert_eq!(decoder.next(&mut buffer), Err(FrameError::TooLarge));
    }

    /// The receiver's memory for each small message is what it holds, and its buffer is touched again and again.
    #[test]
    fn a_small_frame_that_is_kept_leaves_its_buffer_to_the_next() {
        let bytes = encode(&sample()).unwrap();
        let (mut decoder, mut buffer) = (Decoder::default(), BytesMut::with_capacity(1 << 12));
        let (begin, mut kept) = (buffer.as_ptr(), Vec::new());
        for _ in 0..100 {
            buffer.reserve(1 << 12);
            assert_eq!(buffer.as_ptr(), begin);
            buffer.extend_from_slice(&bytes);
            kept.push(decoder.next(&mut buffer).unwrap().unwrap());
        }
        assert!(kept.iter().all(|frame| *frame == joined(&sample())));
    }

    #[test]
    fn the_bytes_on_the_wire_stay_what_they_are() {
        let frame = Frame {
            header: Bytes::from_static(b"h"),
            payload: vec![Bytes::from_static(b"123456789")],
        };
        let bytes = encode(&frame).unwrap();
        assert_eq!(&bytes[..12], b"PFS1\x01\0\0\0\x09\0\0\0");
        assert_eq!(
            bytes[16..20],
            0xe306_9283_u32.to_le_bytes(),
            "CRC32C of 123456789"
        );
        assert_eq!(&bytes[20..], b"h123456789");
    }
}

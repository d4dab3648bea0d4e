//! Frames, [RFC 9113 section 4](https://datatracker.ietf.org/doc/html/rfc9113#section-4).

/// Bytes of a frame's header.
pub(super) const HEADER: usize = 9;
/// The limit on a frame's payload, bytes: the default, which this client's SETTINGS do not change.
pub(super) const MAX_PAYLOAD: usize = 16 << 10;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// A flag of SETTINGS and PING.
pub(super) const ACK: u8 = 1;
/// A flag of DATA and HEADERS.
pub(super) const END_STREAM: u8 = 1;
/// A flag of HEADERS and CONTINUATION.
pub(super) const END_HEADERS: u8 = 4;
/// A flag of DATA and HEADERS.
pub(super) const PADDED: u8 = 8;
/// A flag of HEADERS.
pub(super) const PRIORITY: u8 = 0x20;

pub(super) const SETTINGS_ENABLE_PUSH: u16 = 2;
pub(super) const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const SETTINGS_MAX_HEADER_LIST_SIZE: u16 = 6;

/// A received frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Http2Frame<'a> {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Http2Frame<'a> {
    /// Reads the first frame of `input`; `None` while it is incomplete.
    ///
    /// # Errors
    /// The length of a payload that is too long.
    pub(super) fn parse(input: &'a [u8]) -> Result<Option<Http2Frame<'a>>, usize> {
        let Some((header, rest)) = input.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *header;
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        if length > MAX_PAYLOAD {
            return Err(length);
        }
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        Ok(rest.get(..length).map(|payload| Http2Frame { kind, flags, stream, payload }))
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Returns the payload without its padding; `None` if the padding is longer than the payload.
    pub(super) fn unpadded(&self) -> Option<&'a [u8]> {
        if !self.has(PADDED) {
            return Some(self.payload);
        }
        let (padding, rest) = self.payload.split_first()?;
        rest.get(..rest.len().checked_sub(usize::from(*padding))?)
    }

    /// Returns the payload as a number of 32 bits.
    pub(super) fn number(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.payload.try_into().ok()?))
    }
}

/// Appends a frame.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

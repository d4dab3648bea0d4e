//! One request and its response on a connection of its own.
//!
//! The client sends preface, SETTINGS, WINDOW_UPDATE and HEADERS at once, then DATA as far as the peer's windows admit.
//! It grants the peer the largest windows of HTTP/2, so that it never has to send another WINDOW_UPDATE;
//! [`Http2Request::max_data`] limits the response instead. The limits on a peer: 16 KiB a frame, [`MAX_BLOCK`] a header
//! block, [`MAX_OTHER_FRAMES`] frames without data.

use thiserror::Error;
use zeroize::Zeroizing;

use super::frame::{self, Http2Frame};
use super::hpack::{self, HeaderField, HpackDecoder, HpackError};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The only stream.
const STREAM: u32 = 1;
/// The largest window and the default one, bytes.
const MAX_WINDOW: i64 = (1 << 31) - 1;
const DEFAULT_WINDOW: i64 = 65_535;

/// The size of a header block, bytes, encoded and decoded.
const MAX_BLOCK: usize = 64 << 10;
/// Frames without data that a peer may send in a call: SETTINGS, PING, CONTINUATION, empty DATA, unknown ones.
const MAX_OTHER_FRAMES: u32 = 1000;

/// A request: header fields and body.
pub(crate) struct Http2Request<'a> {
    /// The pseudo-header fields come first.
    pub(crate) fields: &'a [(&'a str, &'a str)],
    pub(crate) body: Zeroizing<Vec<u8>>,
    /// The limit on the response's body, bytes.
    pub(crate) max_data: usize,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Http2Response {
    pub(crate) headers: Vec<HeaderField>,
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: Vec<HeaderField>,
}

/// A peer that breaks the protocol or a limit, or ends the exchange.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum Http2Error {
    #[error("it speaks HTTP/1, not HTTP/2")]
    Http1,
    #[error("it does not speak HTTP/2")]
    NoPreface,
    #[error("a frame of {0} bytes came; at most 16 KiB are allowed")]
    FrameSize(usize),
    #[error("a frame came that HTTP/2 does not allow there (type {0})")]
    Unexpected(u8),
    #[error("a frame of type {0} is malformed")]
    Malformed(u8),
    #[error("more than 1,000 frames without data came")]
    TooManyFrames,
    #[error("a header block is longer than 64 KiB")]
    BlockTooLarge,
    #[error("more than {0} bytes of data came")]
    DataTooLarge(usize),
    #[error(transparent)]
    Hpack(#[from] HpackError),
    #[error("the peer reset the call (HTTP/2 error {0})")]
    Reset(u32),
    #[error("the peer ends the connection (HTTP/2 error {0})")]
    GoAway(u32),
}

impl Http2Error {
    /// Reports whether the peer did not process the request, so that it can be sent again.
    pub(crate) fn is_refusal(self) -> bool {
        const NO_ERROR: u32 = 0;
        const REFUSED_STREAM: u32 = 7;
        matches!(self, Http2Error::Reset(REFUSED_STREAM) | Http2Error::GoAway(NO_ERROR))
    }
}

/// An exchange in progress.
pub(crate) struct Http2Exchange {
    out: Zeroizing<Vec<u8>>,
    body: Zeroizing<Vec<u8>>,
    sent: usize,
    /// The peer's windows: bytes of data that it accepts now, on the connection and on the stream.
    connection_window: i64,
    stream_window: i64,
    peer_initial_window: i64,

    input: Vec<u8>,
    has_settings: bool,
    other_frames: u32,
    decoder: HpackDecoder,
    /// An incomplete header block, and whether it ends the stream.
    block: Option<(Vec<u8>, bool)>,
    max_data: usize,
    headers: Option<Vec<HeaderField>>,
    data: Vec<u8>,
    trailers: Vec<HeaderField>,
    is_done: bool,
}

impl Http2Exchange {
    pub(crate) fn new(request: Http2Request<'_>) -> Self {
        let frames = request.body.len() / frame::MAX_PAYLOAD + 1;
        // A buffer that grows would leave copies of the body behind.
        let mut out = Zeroizing::new(Vec::with_capacity(request.body.len() + frames * frame::HEADER + 4096));
        out.extend_from_slice(PREFACE);
        let mut settings = Vec::new();
        for (id, value) in [
            (frame::SETTINGS_ENABLE_PUSH, 0),
            (frame::SETTINGS_INITIAL_WINDOW_SIZE, MAX_WINDOW as u32),
            (frame::SETTINGS_MAX_HEADER_LIST_SIZE, MAX_BLOCK as u32),
        ] {
            settings.extend_from_slice(&u16::to_be_bytes(id));
            settings.extend_from_slice(&u32::to_be_bytes(value));
        }
        frame::write(&mut out, frame::SETTINGS, 0, 0, &settings);
        let grant = (MAX_WINDOW - DEFAULT_WINDOW) as u32;
        frame::write(&mut out, frame::WINDOW_UPDATE, 0, 0, &grant.to_be_bytes());
        let mut block = Vec::new();
        hpack::encode(request.fields, &mut block);
        frame::write(&mut out, frame::HEADERS, frame::END_HEADERS, STREAM, &block);

        let mut exchange = Http2Exchange {
            out,
            body: request.body,
            sent: 0,
            connection_window: DEFAULT_WINDOW,
            stream_window: DEFAULT_WINDOW,
            peer_initial_window: DEFAULT_WINDOW,
            input: Vec::new(),
            has_settings: false,
            other_frames: 0,
            decoder: HpackDecoder::new(MAX_BLOCK),
            block: None,
            max_data: request.max_data,
            headers: None,
            data: Vec::new(),
            trailers: Vec::new(),
            is_done: false,
        };
        exchange.send_data();
        exchange
    }

    /// Returns the bytes to send, and forgets them.
    pub(crate) fn take_output(&mut self) -> Zeroizing<Vec<u8>> {
        std::mem::take(&mut self.out)
    }

    /// Returns the response once it is complete.
    pub(crate) fn into_response(self) -> Option<Http2Response> {
        let headers = self.headers.filter(|_| self.is_done)?;
        Some(Http2Response { headers, data: self.data, trailers: self.trailers })
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Processes received bytes.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), Http2Error> {
        let mut input = std::mem::take(&mut self.input);
        input.extend_from_slice(bytes);
        let mut rest = &input[..];
        while !self.is_done {
            match Http2Frame::parse(rest) {
                Ok(Some(frame)) => {
                    rest = rest.get(frame::HEADER + frame.payload.len()..).unwrap_or_default();
                    self.take_frame(frame)?;
                }
                Ok(None) => break,
                Err(_) if !self.has_settings && rest.starts_with(b"HTTP/1") => {
                    return Err(Http2Error::Http1);
                }
                Err(_) if !self.has_settings => return Err(Http2Error::NoPreface),
                Err(length) => return Err(Http2Error::FrameSize(length)),
            }
        }
        let consumed = input.len() - rest.len();
        input.drain(..consumed);
        self.input = input;
        self.send_data();
        Ok(())
    }

    fn take_frame(&mut self, frame: Http2Frame<'_>) -> Result<(), Http2Error> {
        let malformed = Http2Error::Malformed(frame.kind);
        let unexpected = Http2Error::Unexpected(frame.kind);
        if !self.has_settings && (frame.kind != frame::SETTINGS || frame.has(frame::ACK)) {
            return Err(Http2Error::NoPreface);
        }
        if frame.kind != frame::DATA || frame.payload.is_empty() {
            self.count_other_frame()?;
        }
        // No other frame may come between HEADERS and the last CONTINUATION.
        if self.block.is_some() != (frame.kind == frame::CONTINUATION) {
            return Err(unexpected);
        }
        let is_of_stream =
            matches!(frame.kind, frame::DATA | frame::HEADERS | frame::RST_STREAM | frame::CONTINUATION);
        let is_of_connection = matches!(frame.kind, frame::SETTINGS | frame::PING | frame::GOAWAY);
        if is_of_stream && frame.stream != STREAM || is_of_connection && frame.stream != 0 {
            return Err(unexpected);
        }
        match frame.kind {
            frame::DATA => self.take_data(frame),
            frame::HEADERS => self.take_headers(frame),
            frame::CONTINUATION => {
                let (block, ends_stream) = self.block.take().ok_or(unexpected)?;
                self.take_block(block, frame.payload, ends_stream, frame.has(frame::END_HEADERS))
            }
            frame::RST_STREAM => Err(Http2Error::Reset(frame.number().ok_or(malformed)?)),
            frame::SETTINGS if frame.has(frame::ACK) => Ok(()),
            frame::SETTINGS => self.take_settings(frame),
            frame::PING if frame.payload.len() != 8 => Err(malformed),
            frame::PING => {
                if !frame.has(frame::ACK) {
                    frame::write(&mut self.out, frame::PING, frame::ACK, 0, frame.payload);
                }
                Ok(())
            }
            frame::GOAWAY => {
                let words = frame.payload.first_chunk::<8>().ok_or(malformed)?;
                let [last @ .., c0, c1, c2, c3] = *words;
                // The peer still answers the streams up to the last one that it names.
                if u32::from_be_bytes(last) & 0x7fff_ffff >= STREAM {
                    return Ok(());
                }
                Err(Http2Error::GoAway(u32::from_be_bytes([c0, c1, c2, c3])))
            }
            frame::WINDOW_UPDATE => self.take_window(frame),
            frame::PUSH_PROMISE => Err(unexpected),
            // PRIORITY and types that are unknown are ignored.
            _ => Ok(()),
        }
    }

    fn count_other_frame(&mut self) -> Result<(), Http2Error> {
        self.other_frames += 1;
        if self.other_frames > MAX_OTHER_FRAMES { Err(Http2Error::TooManyFrames) } else { Ok(()) }
    }

    fn take_data(&mut self, frame: Http2Frame<'_>) -> Result<(), Http2Error> {
        if self.headers.is_none() {
            return Err(Http2Error::Unexpected(frame.kind));
        }
        let data = frame.unpadded().ok_or(Http2Error::Malformed(frame.kind))?;
        if self.data.len() + data.len() > self.max_data {
            return Err(Http2Error::DataTooLarge(self.max_data));
        }
        if data.is_empty() && !frame.payload.is_empty() {
            // Padding is no data.
            self.count_other_frame()?;
        }
        self.data.extend_from_slice(data);
        self.is_done = frame.has(frame::END_STREAM);
        Ok(())
    }

    fn take_headers(&mut self, frame: Http2Frame<'_>) -> Result<(), Http2Error> {
        let malformed = Http2Error::Malformed(frame.kind);
        let mut fragment = frame.unpadded().ok_or(malformed)?;
        if frame.has(frame::PRIORITY) {
            fragment = fragment.get(5..).ok_or(malformed)?;
        }
        self.take_block(Vec::new(), fragment, frame.has(frame::END_STREAM), frame.has(frame::END_HEADERS))
    }

    fn take_block(
        &mut self,
        mut block: Vec<u8>,
        fragment: &[u8],
        ends_stream: bool,
        is_complete: bool,
    ) -> Result<(), Http2Error> {
        if block.len() + fragment.len() > MAX_BLOCK {
            return Err(Http2Error::BlockTooLarge);
        }
        block.extend_from_slice(fragment);
        if !is_complete {
            self.block = Some((block, ends_stream));
            return Ok(());
        }
        let fields = self.decoder.decode(&block)?;
        let is_informational =
            fields.iter().any(|(name, value)| name == b":status" && value.starts_with(b"1"));
        match &self.headers {
            None if is_informational && !ends_stream => return Ok(()),
            None => self.headers = Some(fields),
            Some(_) if ends_stream => self.trailers = fields,
            Some(_) => return Err(Http2Error::Unexpected(frame::HEADERS)),
        }
        self.is_done = ends_stream;
        Ok(())
    }

    fn take_settings(&mut self, frame: Http2Frame<'_>) -> Result<(), Http2Error> {
        let malformed = Http2Error::Malformed(frame.kind);
        let (settings, rest) = frame.payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(malformed);
        }
        for [i0, i1, value @ ..] in settings {
            if u16::from_be_bytes([*i0, *i1]) != frame::SETTINGS_INITIAL_WINDOW_SIZE {
                continue;
            }
            let window = i64::from(u32::from_be_bytes(*value));
            self.stream_window += window - self.peer_initial_window;
            self.peer_initial_window = window;
            if window > MAX_WINDOW || self.stream_window > MAX_WINDOW {
                return Err(malformed);
            }
        }
        self.has_settings = true;
        frame::write(&mut self.out, frame::SETTINGS, frame::ACK, 0, &[]);
        Ok(())
    }

    fn take_window(&mut self, frame: Http2Frame<'_>) -> Result<(), Http2Error> {
        let malformed = Http2Error::Malformed(frame.kind);
        let grant = i64::from(frame.number().ok_or(malformed)? & 0x7fff_ffff);
        let window = match frame.stream {
            0 => &mut self.connection_window,
            STREAM => &mut self.stream_window,
            _ => return Err(Http2Error::Unexpected(frame.kind)),
        };
        *window += grant;
        if grant == 0 || *window > MAX_WINDOW { Err(malformed) } else { Ok(()) }
    }

    /// Writes as much of the body as the peer's windows admit.
    fn send_data(&mut self) {
        while self.sent < self.body.len() {
            let window = self.connection_window.min(self.stream_window).max(0);
            let left = self.body.get(self.sent..).unwrap_or_default();
            let length = left.len().min(frame::MAX_PAYLOAD).min(window as usize);
            if length == 0 {
                return;
            }
            let chunk = left.get(..length).unwrap_or_default();
            let flags = if length == left.len() { frame::END_STREAM } else { 0 };
            frame::write(&mut self.out, frame::DATA, flags, STREAM, chunk);
            self.sent += length;
            self.connection_window -= length as i64;
            self.stream_window -= length as i64;
        }
    }
}

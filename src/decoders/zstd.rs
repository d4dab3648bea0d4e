//! [Zstandard](https://www.rfc-editor.org/rfc/rfc8878): frames, one after the other; skippable ones are
//! passed over.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::errors::{broken, cut_short, trailing};

const MAGIC: &[u8] = b"\x28\xb5\x2f\xfd";

/// Whether a stream that begins like this is Zstandard: the first frame may be a skippable one.
pub(super) fn is_magic(head: &[u8]) -> bool {
    head.starts_with(MAGIC) || matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

pub(crate) struct ZstdDecoder<R> {
    source: R,
    frame: FrameDecoder,
    is_in_frame: bool,
    is_first: bool,
}

impl<R: BufRead> ZstdDecoder<R> {
    pub(super) fn new(source: R, max_window: u64) -> Self {
        let mut frame = FrameDecoder::new();
        frame.set_max_window_size(max_window);
        ZstdDecoder { source, frame, is_in_frame: false, is_first: true }
    }

    /// Begins the next frame; `false` at the stream's end.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.source.fill_buf()?.is_empty() {
            match self.frame.reset(&mut self.source) {
                Ok(()) => {
                    self.is_in_frame = true;
                    return Ok(true);
                }
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => self.pass_over(u64::from(length))?,
                Err(error) => return Err(self.explained(&error)),
            }
            self.is_first = false;
        }
        Ok(false)
    }

    fn pass_over(&mut self, length: u64) -> io::Result<()> {
        let passed = io::copy(&mut self.source.by_ref().take(length), &mut io::sink())?;
        if passed < length { Err(cut_short("zstd")) } else { Ok(()) }
    }

    fn explained(&mut self, error: &FrameDecoderError) -> io::Error {
        match error {
            FrameDecoderError::WindowSizeTooBig { requested, max } => {
                let text = format!(
                    "a zstd frame needs a window of {requested} bytes, and {max} are allowed: raise \
                     `zstd_window` to unpack, or decompress it first"
                );
                io::Error::new(io::ErrorKind::Unsupported, text)
            }
            FrameDecoderError::DictNotProvided { .. } => {
                io::Error::new(io::ErrorKind::Unsupported, "the zstd stream needs a dictionary")
            }
            FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::BadMagicNumber(_))
                if !self.is_first =>
            {
                trailing("zstd")
            }
            // The decoder meets the end of its source within a block or a header.
            _ if self.source.fill_buf().is_ok_and(<[u8]>::is_empty) => cut_short("zstd"),
            _ => broken("zstd"),
        }
    }
}

impl<R: BufRead> Read for ZstdDecoder<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.is_in_frame && !self.begin()? {
                return Ok(0);
            }
            while self.frame.can_collect() == 0 && !self.frame.is_finished() {
                let decoded =
                    self.frame.decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1));
                if let Err(error) = decoded {
                    return Err(self.explained(&error));
                }
            }
            let read = self.frame.read(output)?;
            if read > 0 {
                return Ok(read);
            }
            (self.is_in_frame, self.is_first) = (false, false);
        }
    }
}

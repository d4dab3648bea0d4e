//! [Gzip](https://www.rfc-editor.org/rfc/rfc1952): members, one after the other. zlib-rs reads their
//! headers, and compares their sums.

use std::io::{self, BufRead, Read};

use zlib_rs::{Inflate, InflateFlush, Status};

use super::errors::{broken, cut_short, trailing};

pub(super) const MAGIC: &[u8] = b"\x1f\x8b";
/// The largest window, and a gzip header around it.
const WINDOW_BITS: u8 = 15 + 16;

pub(crate) struct GzipDecoder<R> {
    source: R,
    /// `None` between two members.
    member: Option<Inflate>,
    is_first: bool,
}

impl<R: BufRead> GzipDecoder<R> {
    pub(super) fn new(source: R) -> Self {
        GzipDecoder { source, member: None, is_first: true }
    }

    /// Begins the next member; `false` at the stream's end.
    fn begin(&mut self) -> io::Result<bool> {
        let next = self.source.fill_buf()?;
        match next.first() {
            None => return Ok(false),
            Some(first) if *first != MAGIC[0] => return Err(trailing("gzip")),
            Some(_) => {}
        }
        self.member = Some(Inflate::new(true, WINDOW_BITS));
        Ok(true)
    }
}

impl<R: BufRead> Read for GzipDecoder<R> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        if output.is_empty() {
            return Ok(0);
        }
        loop {
            if self.member.is_none() && !self.begin()? {
                return Ok(0);
            }
            let Some(member) = &mut self.member else { return Ok(0) };
            let input = self.source.fill_buf()?;
            if input.is_empty() {
                return Err(cut_short("gzip"));
            }
            let (read, written) = (member.total_in(), member.total_out());
            let outcome = member.decompress(input, output, InflateFlush::NoFlush);
            let is_header = member.total_out() == 0;
            let (read, written) = (member.total_in() - read, member.total_out() - written);
            self.source.consume(usize::try_from(read).unwrap_or(usize::MAX));
            match outcome {
                Ok(Status::StreamEnd) => {
                    self.member = None;
                    self.is_first = false;
                }
                Ok(Status::Ok | Status::BufError) => {}
                Err(_) if is_header && !self.is_first => return Err(trailing("gzip")),
                Err(_) => return Err(broken("gzip")),
            }
            if written > 0 {
                return Ok(usize::try_from(written).unwrap_or(usize::MAX));
            }
        }
    }
}

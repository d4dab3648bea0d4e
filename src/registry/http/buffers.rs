//! The buffers of a connection.

/// Size of the buffer for a request, bytes: a token may be as long as a token server's answer, 64 KiB. Untouched pages
/// take no memory.
const OUTPUT: usize = 80 * 1024;

/// Size of the buffer for a reply, bytes. Measured: 64 KiB takes a third more time for a large layer, and more than
/// 128 KiB gains nothing.
const INPUT: usize = 128 * 1024;

/// The buffers of a connection. Each is allocated at its first use: most connections transfer little. (Smaller reads
/// do not help: a server that sees a small window waits 40 ms for a delayed acknowledgement.)
pub(super) struct ConnectionBuffers {
    output: Vec<u8>,
    input: Vec<u8>,
    /// Received bytes that are not consumed yet are `input[consumed..filled]`.
    consumed: usize,
    filled: usize,
    /// The unconsumed bytes were too few at the last look.
    wants_more: bool,
}

impl ConnectionBuffers {
    pub(super) fn new() -> Self {
        ConnectionBuffers { output: Vec::new(), input: Vec::new(), consumed: 0, filled: 0, wants_more: true }
    }

    pub(super) fn output(&mut self) -> &mut [u8] {
        if self.output.is_empty() {
            self.output = vec![0; OUTPUT];
        }
        &mut self.output
    }

    /// Returns the bytes that were read and not consumed yet.
    pub(super) fn input(&self) -> &[u8] {
        self.input.get(self.consumed..self.filled).unwrap_or_default()
    }

    /// Returns the free space for further input.
    pub(super) fn free_input(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; INPUT];
        }
        self.input.copy_within(self.consumed..self.filled, 0);
        (self.consumed, self.filled) = (0, self.filled - self.consumed);
        self.input.get_mut(self.filled..).unwrap_or_default()
    }

    pub(super) fn note_filled(&mut self, amount: usize) {
        self.filled = (self.filled + amount).min(self.input.len());
    }

    pub(super) fn consume(&mut self, amount: usize) {
        self.wants_more = amount == 0;
        self.consumed = (self.consumed + amount).min(self.filled);
    }

    /// Returns scratch memory for a request's body, and where the body goes.
    pub(super) fn scratch_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.output();
        self.free_input();
        (self.input.get_mut(self.filled..).unwrap_or_default(), &mut self.output)
    }

    /// Returns whether there is input that was not looked at yet.
    pub(super) fn has_new_input(&self) -> bool {
        self.consumed < self.filled && !self.wants_more
    }
}

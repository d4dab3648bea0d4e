//! The memory of a connection.

use ureq::unversioned::transport::Buffers;

/// Room for a request's head, bytes.
const OUTPUT: usize = 16 * 1024;

/// The buffers of a connection. ureq's own write zeros on all of theirs; here, what nothing was ever
/// written on takes no memory, and most connections bring small things. (To read less at a time instead
/// is no good: a server that meets a small window at first waits 40 ms for a delayed acknowledgement.)
pub(super) struct Room {
    output: Vec<u8>,
    input: Vec<u8>,
    /// How large the input is once it is used, bytes.
    size: usize,
    /// What has come and was not consumed yet is `input[consumed..filled]`.
    consumed: usize,
    filled: usize,
    /// What is there was looked at, and was too little to be consumed.
    wants_more: bool,
}

impl Room {
    pub(super) fn of(size: usize) -> Self {
        Room { output: Vec::new(), input: Vec::new(), size, consumed: 0, filled: 0, wants_more: true }
    }

    fn free_input(&mut self) -> &mut [u8] {
        if self.input.is_empty() {
            self.input = vec![0; self.size];
        }
        self.input.copy_within(self.consumed..self.filled, 0);
        (self.consumed, self.filled) = (0, self.filled - self.consumed);
        self.input.get_mut(self.filled..).unwrap_or_default()
    }
}

impl Buffers for Room {
    fn output(&mut self) -> &mut [u8] {
        if self.output.is_empty() {
            self.output = vec![0; OUTPUT];
        }
        &mut self.output
    }

    fn input(&self) -> &[u8] {
        self.input.get(self.consumed..self.filled).unwrap_or_default()
    }

    fn input_append_buf(&mut self) -> &mut [u8] {
        self.free_input()
    }

    fn input_appended(&mut self, amount: usize) {
        self.filled = (self.filled + amount).min(self.input.len());
    }

    fn input_consume(&mut self, amount: usize) {
        self.wants_more = amount == 0;
        self.consumed = (self.consumed + amount).min(self.filled);
    }

    /// Scratch memory for a request's body, and where it goes.
    fn tmp_and_output(&mut self) -> (&mut [u8], &mut [u8]) {
        self.output();
        self.free_input();
        (self.input.get_mut(self.filled..).unwrap_or_default(), &mut self.output)
    }

    fn can_use_input(&self) -> bool {
        self.consumed < self.filled && !self.wants_more
    }
}

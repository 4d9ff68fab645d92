//! The calls that a consumer has sent under one agreement, and the receipts that can follow from them.
//!
//! The count bounds what a provider can bill: a receipt's number is at most the calls that were sent, answered or not. It is
//! durable in blocks: a block is written before the first call of it is sent, so that no call waits for a write of its own, and a
//! restart that finds only the block counts too many calls rather than too few.
//!
//! ```text
//! sent   |#### sent ####|.... reserved, durable ....|
//!                       ^ after a crash, all of the block counts as sent
//! ```

use protocol::{Timestamp, agreement::Agreement, receipt::Receipt};

/// Calls of the first block: few, as a crash counts what is left of a block as sent.
const SMALLEST: u64 = 16;
/// Calls of the largest block: one write for so many calls of an agreement in constant use.
const LARGEST: u64 = 256;

/// How many calls a consumer has sent under an agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentCalls {
    sent: u64,
    /// Up to which number calls may be sent: this much is durable.
    reserved: u64,
}

impl SentCalls {
    /// Nothing is sent yet; the first block is written with the agreement.
    pub fn new() -> Self {
        Self { sent: 0, reserved: SMALLEST }
    }

    /// What was durable when the process ended: all of it may have been sent.
    pub fn restored(reserved: u64) -> Self {
        Self { sent: reserved, reserved }
    }

    /// Counts a call that is about to be sent; `false` if a block must become durable first.
    pub fn send(&mut self) -> bool {
        let covered = self.sent < self.reserved;
        self.sent += u64::from(covered);
        covered
    }

    /// The calls that were sent, at most.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Up to which number calls may be sent.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Up to which number the next block should reach, if it should be written now: half of the last one is used.
    pub fn next_block(&self) -> Option<u64> {
        let block = self.sent.clamp(SMALLEST, LARGEST);
        (self.reserved.saturating_sub(self.sent) <= block / 2).then(|| self.sent.saturating_add(block))
    }

    /// A block up to this number is durable.
    pub fn reserve(&mut self, upto: u64) {
        self.reserved = self.reserved.max(upto);
    }

    /// Ends the block, so that a restart counts exactly what was sent: returns the number to write. Further calls need a block
    /// again.
    pub fn end_block(&mut self) -> Option<u64> {
        (self.reserved > self.sent).then(|| {
            self.reserved = self.sent;
            self.sent
        })
    }

    /// Whether a receipt under `terms` can follow from the calls that were sent by `now`.
    ///
    /// # Errors
    /// What can't be.
    pub fn check(&self, terms: &Agreement, receipt: &Receipt, now: Timestamp) -> Result<(), String> {
        if receipt.sequence > self.sent {
            return Err(format!("is number {}, but at most {} calls were sent", receipt.sequence, self.sent));
        }
        receipt.check(terms)?;
        // Windows count by this clock: the provider's own date would open windows that haven't begun.
        receipt.check_bounds(terms, now)
    }
}

impl Default for SentCalls {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_sent_that_a_restart_would_not_count() {
        let (mut calls, mut durable, mut writes) = (SentCalls::new(), SMALLEST, 0);
        for sent in 1..=100_000_u64 {
            while !calls.send() {
                durable = calls.next_block().expect("a block that is used up is followed by another");
                calls.reserve(durable);
                writes += 1;
            }
            assert_eq!(calls.sent(), sent);
            assert!(SentCalls::restored(durable).sent() >= sent, "a restart counts too few");
            assert!(durable - sent <= LARGEST, "a restart counts too many");
        }
        assert!(writes < 450, "{writes} writes for 100,000 calls");
        assert_eq!(calls.end_block(), (durable > 100_000).then_some(100_000));
        assert!(!calls.send(), "what was ended needs a block again");
    }

    #[test]
    fn a_block_is_asked_for_before_it_is_needed() {
        let mut calls = SentCalls::new();
        assert_eq!(calls.next_block(), None);
        (0..8).for_each(|_| assert!(calls.send()));
        assert_eq!(calls.next_block(), Some(24));
        calls.reserve(24);
        assert_eq!((calls.next_block(), calls.reserved()), (None, 24));
        calls.reserve(20);
        assert_eq!(calls.reserved(), 24, "an earlier write that is heard of later takes nothing away");
    }
}

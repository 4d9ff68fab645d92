//! The memory limit of a call: one sum over all memories and tables of the instance.
//!
//! wasmtime's own `StoreLimits` bound each memory alone, so that a component of forty core modules could use
//! forty times its limit.

use wasmtime::{ResourceLimiter, Result, format_err};

use crate::ceiling::Ceiling;

/// What one table element costs the host.
const TABLE_ELEMENT: u64 = size_of::<usize>() as u64;

/// Counts what an instance holds.
#[derive(Debug)]
pub(crate) struct MemoryLimit {
    limit: u64,
    used: u64,
    exceeded: bool,
    ceiling: Ceiling,
    crowded: bool,
}

impl MemoryLimit {
    /// A limit in bytes, below what all guests may hold together.
    pub(crate) fn new(limit: u64, ceiling: Ceiling) -> Self {
        Self { limit, used: 0, exceeded: false, ceiling, crowded: false }
    }

    /// Whether the instance wanted more than it may have.
    pub(crate) fn exceeded(&self) -> bool {
        self.exceeded
    }

    /// Whether the instance wanted more than the node's other guests leave.
    pub(crate) fn crowded(&self) -> bool {
        self.crowded
    }

    fn grow(&mut self, more: u64) -> Result<()> {
        match self.used.checked_add(more).filter(|sum| *sum <= self.limit) {
            Some(sum) if self.ceiling.take(more) => {
                self.used = sum;
                Ok(())
            }
            Some(_) => {
                self.crowded = true;
                Err(format_err!("the node's guests hold all the memory that they may together"))
            }
            // An error traps. A mere refusal would leave the guest to abort in a way that nobody can tell from a bug.
            None => {
                self.exceeded = true;
                Err(format_err!("the call wants more than {} bytes of memory", self.limit))
            }
        }
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        self.ceiling.give(self.used);
    }
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        if maximum.is_some_and(|maximum| desired > maximum) && self.used.saturating_add(more) <= self.limit {
            return Ok(false); // over what the module itself declared: its own `memory.grow` answers -1
        }
        self.grow(more).map(|()| true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.grow(desired.saturating_sub(current) as u64 * TABLE_ELEMENT).map(|()| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_count_together() {
        let mut limit = MemoryLimit::new(100, Ceiling::new(0));
        assert!(limit.memory_growing(0, 60, None).expect("the first fits"));
        assert!(!limit.memory_growing(0, 30, Some(20)).expect("its own maximum is no offence"));
        assert!(limit.memory_growing(0, 60, None).is_err(), "two of 60 are over 100");
        assert!(limit.exceeded());
    }

    #[test]
    fn guests_share_the_nodes_ceiling_and_give_back_what_they_held() {
        let ceiling = Ceiling::new(100);
        let (mut one, mut other) = (MemoryLimit::new(90, ceiling.clone()), MemoryLimit::new(90, ceiling));
        assert!(one.memory_growing(0, 60, None).expect("room"));
        assert!(other.memory_growing(0, 60, None).is_err() && other.crowded() && !other.exceeded());
        drop(one);
        assert!(other.memory_growing(0, 60, None).expect("room again"));
    }
}

//! Which keys this node provides, and which of them wait to be told to the mesh: a few at a time, so that a node with
//! thousands of capabilities doesn't drown its neighbours in look-ups.

use std::collections::{HashSet, VecDeque};

/// Keys that are being told at once; each is a look-up of some twenty requests.
const PARALLEL: usize = 4;
/// Keys that one node may provide: half of what others keep for all.
const MAX_KEYS: usize = 32 * 1024;

/// A provider key: the SHA-256 of what is provided.
pub(crate) type ProviderKey = [u8; 32];

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Providing {
    wanted: HashSet<ProviderKey>,
    waiting: VecDeque<ProviderKey>,
    running: usize,
}

impl Providing {
    /// Replaces the full set; returns those that are provided no more.
    pub(crate) fn set(&mut self, keys: Vec<ProviderKey>) -> Vec<ProviderKey> {
        if keys.len() > MAX_KEYS {
            tracing::warn!(keys = keys.len(), limit = MAX_KEYS, "more provider keys than the mesh carries: the rest isn't found");
        }
        let wanted: HashSet<ProviderKey> = keys.into_iter().take(MAX_KEYS).collect();
        let gone = self.wanted.difference(&wanted).copied().collect();
        let new: Vec<ProviderKey> = wanted.difference(&self.wanted).copied().collect();
        self.waiting.retain(|key| wanted.contains(key));
        self.waiting.extend(new);
        self.wanted = wanted;
        gone
    }

    /// Every key is to be told again: there are peers that haven't heard of them.
    pub(crate) fn repeat(&mut self) {
        self.waiting = self.wanted.iter().copied().collect();
    }

    /// The next key to tell, if there is one and not enough are being told. [`Self::told`] ends it.
    pub(crate) fn next(&mut self) -> Option<ProviderKey> {
        if self.running >= PARALLEL {
            return None;
        }
        let key = self.waiting.pop_front()?;
        self.running += 1;
        Some(key)
    }

    /// A key that [`Self::next`] gave was told, or could not be.
    pub(crate) fn told(&mut self) {
        self.running = self.running.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(providing: &mut Providing) -> HashSet<ProviderKey> {
        std::iter::from_fn(|| providing.next().inspect(|_| providing.told())).collect()
    }

    #[test]
    fn only_the_difference_is_told_unless_repeated() {
        let mut providing = Providing::default();
        assert!(providing.set(vec![[1; 32], [2; 32]]).is_empty());
        assert_eq!(drain(&mut providing), HashSet::from([[1; 32], [2; 32]]));
        assert_eq!(providing.set(vec![[2; 32], [3; 32]]), [[1; 32]]);
        assert_eq!(drain(&mut providing), HashSet::from([[3; 32]]));
        providing.repeat();
        assert_eq!(drain(&mut providing), HashSet::from([[2; 32], [3; 32]]));
    }

    #[test]
    fn few_are_told_at_once() {
        let mut providing = Providing::default();
        providing.set((0..100).map(|i| [i; 32]).collect());
        assert_eq!(std::iter::from_fn(|| providing.next()).count(), PARALLEL);
        providing.told();
        assert!(providing.next().is_some() && providing.next().is_none());
    }
}

//! A small map whose entries expire.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

/// At most `capacity` entries, each believed for `ttl`.
#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    entries: HashMap<K, (V, Instant)>,
    capacity: usize,
    ttl: Duration,
}

impl<K: Hash + Eq + Copy, V: Clone> Cache<K, V> {
    pub(crate) fn new(capacity: usize, ttl: Duration) -> Self {
        Self { entries: HashMap::new(), capacity, ttl }
    }

    /// The value, if it is still believed at `now`.
    pub(crate) fn get(&self, key: &K, now: Instant) -> Option<V> {
        self.entries.get(key).filter(|(_, until)| now < *until).map(|(value, _)| value.clone())
    }

    /// Forgets a value.
    pub(crate) fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// Keeps a value from `now` on. Makes room by dropping what has expired, or else what expires first.
    pub(crate) fn put(&mut self, key: K, value: V, now: Instant) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&key) {
            self.entries.retain(|_, (_, until)| now < *until);
            if self.entries.len() >= self.capacity
                && let Some(oldest) = self.entries.iter().min_by_key(|(_, (_, until))| *until).map(|(key, _)| *key)
            {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(key, (value, now + self.ttl));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_expire_and_the_oldest_makes_room() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut cache = Cache::new(2, 5 * second);
        cache.put("a", 1, start);
        cache.put("b", 2, start + second);
        assert_eq!((cache.get(&"a", start + 4 * second), cache.get(&"a", start + 5 * second)), (Some(1), None));
        cache.put("c", 3, start + 2 * second);
        assert_eq!(["a", "b", "c"].map(|key| cache.get(&key, start + 2 * second)), [None, Some(2), Some(3)]);
        cache.put("b", 4, start + 2 * second);
        assert_eq!(cache.get(&"b", start + 6 * second), Some(4));
        cache.put("d", 5, start + 60 * second);
        assert_eq!(cache.entries.len(), 1);
        cache.remove(&"d");
        assert_eq!(cache.get(&"d", start + 60 * second), None);
    }
}

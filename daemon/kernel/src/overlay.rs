//! What a call has written, over the committed state that it reads.
//!
//! ```text
//! guest --get, list--> Overlay (own writes) --else--> State (the committed view)
//! guest --set, delete--> Overlay --the call succeeded--> Outcome::writes --> one commit
//! ```

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
};

use async_trait::async_trait;

/// The longest key in bytes.
pub const MAX_KEY: usize = 1024;
/// The longest value in bytes: what fits one record of every store.
pub const MAX_VALUE: usize = 8 << 20;
/// The most keys that one listing gives.
pub const MAX_KEYS: usize = 10_000;
/// The most keys that one call writes: each takes the host some 100 bytes beside what it holds, which no quota of bytes sees.
const MAX_WRITES: usize = 1 << 18;

/// What reading the committed state may fail with.
pub type StateError = Box<dyn std::error::Error + Send + Sync>;

/// An agent's committed state, as it was when the call began.
#[async_trait]
pub trait State: Send {
    /// The value of a key.
    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StateError>;

    /// Keys with the prefix that follow `after`, in the order of their bytes, at most `limit`.
    async fn list(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StateError>;
}

/// Writes by key; `None` deletes.
pub type Writes = BTreeMap<String, Option<Vec<u8>>>;

/// The committed state and a call's own writes over it.
pub(crate) struct Overlay {
    state: Box<dyn State>,
    writes: Writes,
    size: u64,
    quota: u64,
    exceeded: Option<(u64, &'static str)>,
}

impl Overlay {
    /// No writes yet, at most `quota` bytes of them.
    pub(crate) fn new(state: Box<dyn State>, quota: u64) -> Self {
        Self { state, writes: Writes::new(), size: 0, quota, exceeded: None }
    }

    /// The limit for which a write was refused, and of what it is.
    pub(crate) fn exceeded(&self) -> Option<(u64, &'static str)> {
        self.exceeded
    }

    /// What was written.
    pub(crate) fn into_writes(self) -> Writes {
        self.writes
    }

    /// The value of a key, own writes first.
    pub(crate) async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.state.get(key).await,
        }
    }

    /// Writes or deletes a key; the error is for the guest.
    pub(crate) fn put(&mut self, key: String, value: Option<Vec<u8>>) -> Result<(), String> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(format!("a key has 1 to {MAX_KEY} bytes"));
        }
        let length = value.as_ref().map_or(0, Vec::len);
        if length > MAX_VALUE {
            return Err(format!("a value has at most {MAX_VALUE} bytes"));
        }
        let cost = |key: &str, length: usize| (key.len() + length) as u64;
        let before = self.writes.get(&key).map(|old| cost(&key, old.as_ref().map_or(0, Vec::len)));
        let size = self.size - before.unwrap_or(0) + cost(&key, length);
        if size > self.quota {
            self.exceeded = Some((self.quota, "bytes"));
            return Err(format!("the call may write at most {} bytes of state", self.quota));
        }
        if before.is_none() && self.writes.len() >= MAX_WRITES {
            self.exceeded = Some((MAX_WRITES as u64, "keys"));
            return Err(format!("the call may write at most {MAX_WRITES} keys"));
        }
        self.size = size;
        self.writes.insert(key, value);
        Ok(())
    }

    /// Keys in order, own writes merged in.
    pub(crate) async fn list(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StateError> {
        let limit = limit.min(MAX_KEYS);
        let mut keys = Vec::new();
        let mut cursor = after.map(str::to_owned);
        while keys.len() < limit {
            // Keys that the call deleted are asked for and left out, so small pages would mean many.
            let asked = (limit - keys.len()).max(100);
            let page = self.state.list(prefix, cursor.as_deref(), asked).await?;
            let end = if page.len() < asked { None } else { page.last().cloned() };
            self.merge(prefix, cursor.as_deref(), end.as_deref(), page, &mut keys);
            match end {
                Some(end) => cursor = Some(end),
                None => break,
            }
        }
        keys.truncate(limit);
        Ok(keys)
    }

    /// Appends the committed `page`, which reaches from `after` to `end` (or to the last key), merged with own writes.
    fn merge(&self, prefix: &str, after: Option<&str>, end: Option<&str>, page: Vec<String>, keys: &mut Vec<String>) {
        let from = match after {
            Some(after) if after >= prefix => Excluded(after),
            _ => Included(prefix),
        };
        if end.is_some_and(|end| end < prefix || after.is_some_and(|after| end <= after)) {
            return; // a store that answers out of order must not make the range below panic
        }
        let range = self.writes.range::<str, _>((from, end.map_or(Unbounded, Included)));
        let mut own = range.take_while(|(key, _)| key.starts_with(prefix)).peekable();
        for key in page {
            while let Some((mine, value)) = own.next_if(|(mine, _)| **mine < key) {
                keys.extend(value.is_some().then(|| mine.clone()));
            }
            match own.next_if(|(mine, _)| **mine == key) {
                Some((_, None)) => {}
                Some(_) | None => keys.push(key),
            }
        }
        keys.extend(own.filter(|(_, value)| value.is_some()).map(|(key, _)| key.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Memory;

    fn overlay(committed: &[&str]) -> Overlay {
        let state: Memory = committed.iter().map(|key| ((*key).to_owned(), b"old".to_vec())).collect();
        Overlay::new(Box::new(state), 100)
    }

    #[tokio::test]
    async fn reads_and_listings_see_own_writes() {
        let mut overlay = overlay(&["a/1", "a/3", "a/5", "b/1"]);
        overlay.put("a/2".into(), Some(b"new".to_vec())).expect("within the quota");
        overlay.put("a/3".into(), None).expect("within the quota");
        overlay.put("a/9".into(), Some(Vec::new())).expect("within the quota");
        assert_eq!(overlay.get("a/2").await.expect("state").as_deref(), Some(&b"new"[..]));
        assert_eq!(overlay.get("a/3").await.expect("state"), None);
        assert_eq!(overlay.get("a/1").await.expect("state").as_deref(), Some(&b"old"[..]));
        assert_eq!(overlay.list("a/", None, 10).await.expect("state"), ["a/1", "a/2", "a/5", "a/9"]);
        assert_eq!(overlay.list("a/", Some("a/1"), 2).await.expect("state"), ["a/2", "a/5"]);
        assert_eq!(overlay.list("", Some("a/5"), 10).await.expect("state"), ["a/9", "b/1"]);
        assert_eq!(overlay.list("c", Some("a/5"), 10).await.expect("state"), Vec::<String>::new());
    }

    #[tokio::test]
    async fn paging_gives_each_key_once() {
        let names: Vec<String> = (0..950).map(|i| format!("k{i:04}")).collect();
        let mut overlay = overlay(&names.iter().map(String::as_str).collect::<Vec<_>>());
        overlay.quota = u64::MAX;
        (0..900).filter(|i| i % 3 != 0).for_each(|i| overlay.put(format!("k{i:04}"), None).expect("no quota"));
        (0..10).for_each(|i| overlay.put(format!("k0300-{i}"), Some(vec![])).expect("no quota"));
        let whole = overlay.list("k", None, MAX_KEYS).await.expect("state");
        assert_eq!(whole.len(), 300 + 50 + 10);
        assert!(whole.is_sorted());
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = overlay.list("k", after.as_deref(), 7).await.expect("state");
            after = page.last().cloned();
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, whole);
    }

    #[test]
    fn the_quota_counts_what_would_be_committed() {
        let mut overlay = overlay(&[]);
        for _ in 0..50 {
            overlay.put("key".into(), Some(vec![0; 90])).expect("the same key again costs nothing more");
        }
        assert!(overlay.put("more".into(), Some(vec![0; 90])).is_err());
        assert_eq!(overlay.exceeded(), Some((100, "bytes")));
        overlay.put("key".into(), None).expect("smaller than before");
        overlay.put("more".into(), Some(vec![0; 90])).expect("there is room now");
        assert!(overlay.put(String::new(), None).is_err() && overlay.put("k".repeat(MAX_KEY + 1), None).is_err());
    }

    #[test]
    fn keys_without_values_are_limited_too() {
        let mut overlay = overlay(&[]);
        overlay.quota = u64::MAX;
        (0..MAX_WRITES).for_each(|i| overlay.put(format!("{i:x}"), Some(Vec::new())).expect("within the limit"));
        assert!(overlay.put("more".into(), Some(Vec::new())).is_err());
        assert_eq!(overlay.exceeded(), Some((MAX_WRITES as u64, "keys")));
        overlay.put("0".into(), None).expect("a key that was written already");
    }
}

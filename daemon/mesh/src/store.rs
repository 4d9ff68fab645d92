//! Kademlia's memory: provider records only, bounded, and without those that expired.
//!
//! libp2p's own store keeps expired records of others for ever and so fills up for good; values aren't kept at all.

use std::{
    borrow::Cow,
    collections::HashMap,
    time::{Duration, Instant},
};

use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

use crate::limits::{MAX_PROVIDERS, MAX_RECORDS, MAX_RECORDS_PER_PROVIDER};

/// A full store is searched for expired records this often at most.
const SWEEP: Duration = Duration::from_secs(60);

/// See the module.
pub(crate) struct Store {
    local: PeerId,
    keys: HashMap<RecordKey, Vec<ProviderRecord>>,
    records: usize,
    /// Records of each provider.
    shares: HashMap<PeerId, usize>,
    swept: Option<Instant>,
}

impl Store {
    pub(crate) fn new(local: PeerId) -> Self {
        Self { local, keys: HashMap::new(), records: 0, shares: HashMap::new(), swept: None }
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + SWEEP) {
            return;
        }
        self.swept = Some(now);
        self.keys.retain(|_, providers| {
            providers.retain(|record| !record.is_expired(now));
            !providers.is_empty()
        });
        self.recount();
    }

    fn recount(&mut self) {
        self.records = self.keys.values().map(Vec::len).sum();
        self.shares.clear();
        for record in self.keys.values().flatten() {
            *self.shares.entry(record.provider).or_default() += 1;
        }
    }

    /// Records that are kept, those that have expired unnoticed included.
    pub(crate) fn len(&self) -> usize {
        self.records
    }
}

impl RecordStore for Store {
    type RecordsIter<'a> = std::iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Box<dyn Iterator<Item = Cow<'a, ProviderRecord>> + 'a>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        std::iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let now = Instant::now();
        if self.records >= MAX_RECORDS {
            self.sweep(now);
        }
        let full = self.records >= MAX_RECORDS;
        let known = self.keys.get_mut(&record.key);
        if let Some(present) = known.and_then(|providers| providers.iter_mut().find(|present| present.provider == record.provider)) {
            *present = record;
            return Ok(());
        }
        let share = self.shares.get(&record.provider).copied().unwrap_or_default();
        if full || (share >= MAX_RECORDS_PER_PROVIDER && record.provider != self.local) {
            return Err(Error::MaxProvidedKeys);
        }
        let (key, provider) = (record.key.clone(), record.provider);
        let expired: Vec<PeerId> =
            self.keys.get(&key).into_iter().flatten().filter(|present| present.is_expired(now)).map(|present| present.provider).collect();
        for gone in expired {
            self.remove_provider(&key, &gone);
        }
        let providers = self.keys.entry(key).or_default();
        if providers.len() < MAX_PROVIDERS || provider == self.local {
            providers.push(record);
            self.records += 1;
            *self.shares.entry(provider).or_default() += 1;
        }
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = Instant::now();
        let providers = self.keys.get(key).into_iter().flatten();
        providers.filter(|record| !record.is_expired(now)).cloned().collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let local = self.local;
        Box::new(self.keys.values().flatten().filter(move |record| record.provider == local).map(Cow::Borrowed))
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if let Some(providers) = self.keys.get_mut(key) {
            let before = providers.len();
            providers.retain(|record| record.provider != *provider);
            let removed = before - providers.len();
            self.records -= removed;
            if let Some(share) = self.shares.get_mut(provider) {
                *share = share.saturating_sub(removed);
                if *share == 0 {
                    self.shares.remove(provider);
                }
            }
            if providers.is_empty() {
                self.keys.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: u32, expires: Option<Instant>) -> ProviderRecord {
        ProviderRecord { key: RecordKey::new(&key.to_be_bytes()), provider: PeerId::random(), expires, addresses: Vec::new() }
    }

    #[test]
    fn a_full_store_makes_room_of_expired_records_only() {
        let mut store = Store::new(PeerId::random());
        let now = Instant::now();
        for key in 0..u32::try_from(MAX_RECORDS).expect("small") {
            let expires = if key == 7 { now } else { now + SWEEP };
            store.add_provider(record(key, Some(expires))).expect("room");
        }
        store.add_provider(record(u32::MAX, None)).expect("the room of the one that expired");
        assert!(store.add_provider(record(u32::MAX - 1, None)).is_err());
        assert_eq!(store.records, MAX_RECORDS);
        assert!(store.providers(&record(7, None).key).is_empty());
    }

    #[test]
    fn one_provider_has_its_share_and_no_more() {
        let mut store = Store::new(PeerId::random());
        let greedy = PeerId::random();
        let own = |key: u32| ProviderRecord { provider: greedy, ..record(key, None) };
        for key in 0..u32::try_from(MAX_RECORDS_PER_PROVIDER).expect("small") {
            store.add_provider(own(key)).expect("its share");
        }
        assert!(store.add_provider(own(u32::MAX)).is_err());
        store.add_provider(record(u32::MAX, None)).expect("another's share");
        store.remove_provider(&own(0).key, &greedy);
        store.add_provider(own(u32::MAX)).expect("room again");
        assert_eq!(store.len(), MAX_RECORDS_PER_PROVIDER + 1);
    }

    #[test]
    fn a_flood_of_providers_pushes_nobody_out() {
        let mut store = Store::new(PeerId::random());
        let first = record(1, None);
        store.add_provider(first.clone()).expect("room");
        for _ in 0..100 {
            store.add_provider(record(1, None)).expect("ignored");
        }
        let own = ProviderRecord { provider: store.local, ..record(1, None) };
        store.add_provider(own.clone()).expect("always room");
        assert_eq!(store.providers(&first.key).len(), MAX_PROVIDERS + 1);
        assert!(store.providers(&first.key).contains(&first));
        assert!(store.provided().eq([Cow::Borrowed(&own)]));
        store.remove_provider(&own.key, &own.provider);
        assert_eq!((store.provided().count(), store.records), (0, MAX_PROVIDERS));
    }
}

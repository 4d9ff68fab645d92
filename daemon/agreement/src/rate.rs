//! How often somebody may do something: token buckets, of which only a bounded number is remembered.

use std::{collections::HashMap, hash::Hash, time::Duration};

/// A burst, and how soon it may be had again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// So many at once.
    pub burst: u32,
    /// After this time there is one more.
    pub every: Duration,
}

/// One bucket: the time at which it is full again. It is behind `now` where nothing was taken for long.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket(Duration);

impl Bucket {
    /// The generic cell rate algorithm (ITU-T I.371): a bucket is the time at which it is full again.
    fn take(&mut self, rate: Rate, now: Duration) -> Result<(), Duration> {
        let full = self.0.max(now) + rate.every;
        let most = now + rate.every * rate.burst;
        if full > most {
            return Err(full - most);
        }
        self.0 = full;
        Ok(())
    }
}

/// Buckets by key. Whoever comes when no more keys can be remembered shares one bucket with all others of that kind, so that
/// many keys gain an attacker nothing and cost no memory.
#[derive(Debug)]
pub struct Rates<K> {
    rate: Rate,
    most: usize,
    buckets: HashMap<K, Bucket>,
    others: Bucket,
}

impl<K: Eq + Hash> Rates<K> {
    /// At most `most` keys are remembered.
    pub fn new(rate: Rate, most: usize) -> Self {
        Self { rate, most, buckets: HashMap::new(), others: Bucket::default() }
    }

    /// Takes one, at a time since any fixed moment that doesn't run backwards.
    ///
    /// # Errors
    /// There is none left: says after what time there is.
    pub fn take(&mut self, key: K, now: Duration) -> Result<(), Duration> {
        if self.buckets.len() >= self.most && !self.buckets.contains_key(&key) {
            // One that is full again says no more than none.
            self.buckets.retain(|_, bucket| bucket.0 > now);
        }
        let room = self.buckets.len() < self.most;
        match self.buckets.get_mut(&key) {
            Some(bucket) => bucket.take(self.rate, now),
            None if room => {
                let mut bucket = Bucket::default();
                bucket.take(self.rate, now)?;
                self.buckets.insert(key, bucket);
                Ok(())
            }
            None => self.others.take(self.rate, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, every: Duration::from_secs(10) };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let mut rates = Rates::new(RATE, 8);
        for _ in 0..3 {
            rates.take("a", at(5)).expect("the burst");
        }
        assert_eq!(rates.take("a", at(5)), Err(at(10)));
        assert_eq!(rates.take("a", at(12)), Err(at(3)));
        rates.take("b", at(5)).expect("another one's");
        rates.take("a", at(15)).expect("one more");
        assert!(rates.take("a", at(15)).is_err());
        for _ in 0..3 {
            rates.take("a", at(1_000)).expect("a burst again, and no more than one");
        }
        assert!(rates.take("a", at(1_000)).is_err());
    }

    #[test]
    fn many_keys_share_what_one_has() {
        let mut rates = Rates::new(RATE, 4);
        let taken = (0..1_000).filter(|key| rates.take(*key, at(1)).is_ok()).count();
        assert_eq!((taken, rates.buckets.len()), (4 + 3, 4), "one of each that is remembered, one burst of all others");
        // Those who came before keep what is theirs; who has taken nothing for long is forgotten.
        rates.take(0, at(1)).expect("its own burst");
        rates.take(1_000, at(100)).expect("there is room again");
        assert_eq!(rates.buckets.len(), 1);
    }
}

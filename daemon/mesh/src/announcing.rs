//! When this node's announcement is published again: soon after new peers can hear it, and each minute.

use std::time::Duration;

use protocol::{Timestamp, wire::Announcement};
use tokio::time::Instant;

/// Peers that join together hear one announcement, not one each.
const SETTLE: Duration = Duration::from_secs(1);
/// However many peers come, it isn't repeated more often.
const SPACING: Duration = Duration::from_secs(5);
/// Heals what was lost on the way.
const REPEAT: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Announcing {
    current: Option<Announcement>,
    due: Option<Instant>,
    published: Option<Instant>,
}

impl Announcing {
    /// Replaces the announcement, to be published at once.
    pub(crate) fn set(&mut self, announcement: Announcement, now: Instant) {
        self.current = Some(announcement);
        self.due = Some(now);
    }

    /// A peer subscribed.
    pub(crate) fn subscribed(&mut self, now: Instant) {
        let earliest = self.published.map_or(now, |published| now.max(published + SPACING));
        let due = earliest + SETTLE;
        if self.current.is_some() && self.due.is_none_or(|present| present > due) {
            self.due = Some(due);
        }
    }

    /// When [`Self::take`] is to be called next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be published at `now`; `jitter` in 0..1 keeps nodes from speaking in chorus.
    pub(crate) fn take(&mut self, now: Instant, time: Timestamp, jitter: f64) -> Option<Announcement> {
        if self.due.is_none_or(|due| due > now) {
            return None;
        }
        self.due = None;
        if self.current.as_ref().is_some_and(|announcement| announcement.expires_at <= time) {
            self.current = None;
        }
        let announcement = self.current.clone()?;
        self.due = Some(now + REPEAT.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0));
        self.published = Some(now);
        Some(announcement)
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Digest, Key};

    use super::*;

    #[test]
    fn it_is_repeated_for_newcomers_and_until_it_expires() {
        let (mut announcing, now, time) = (Announcing::default(), Instant::now(), Timestamp::UNIX_EPOCH);
        announcing.subscribed(now);
        assert!(announcing.next().is_none(), "there is nothing to say");
        let expires_at = Timestamp::from_second(1000).expect("a time");
        let announcement =
            Announcement { node: Key::generate().node_id(), sequence: 1, digest: Digest::blake3(b"advert"), expires_at, withdrawn: false };
        announcing.set(announcement.clone(), now);
        assert_eq!(announcing.take(now, time, 0.5), Some(announcement.clone()));
        assert!(announcing.take(now, time, 0.5).is_none());
        assert_eq!(announcing.next(), Some(now + REPEAT));
        announcing.subscribed(now);
        announcing.subscribed(now + SETTLE);
        assert_eq!(announcing.next(), Some(now + SPACING + SETTLE));
        assert_eq!(announcing.take(now + SPACING + SETTLE, time, 0.5), Some(announcement));
        assert_eq!(announcing.take(now + REPEAT * 2, expires_at, 0.5), None);
        assert!(announcing.next().is_none());
    }
}

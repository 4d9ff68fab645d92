//! Charges: no interleaving passes a limit.

use std::sync::Arc;

use protocol::{AgreementId, Usage};
use tokio::task::JoinSet;

use super::{apply, at_most, calls, charge, made};
use crate::{
    Store,
    commit::{Bucket, Charge, Commit, Rejected},
    committer::Committer,
    error::Error,
};

fn charged(agreement: AgreementId, usage: Usage, buckets: &[(&str, Usage)]) -> Commit {
    Commit { charge: Some(charge(agreement, usage, buckets)), ..Commit::default() }
}

/// 64 callers try 640 charges of a limit of 100: half of them through the committer, half beside it.
pub(super) async fn limits_are_hard(store: &Arc<dyn Store>) {
    let agreement = AgreementId::new();
    let committer = Committer::spawn(Arc::clone(store));
    let mut callers = JoinSet::new();
    for caller in 0..64 {
        let (store, committer) = (Arc::clone(store), committer.clone());
        callers.spawn(async move {
            let mut totals = Vec::new();
            for _ in 0..10 {
                let commit = charged(agreement, calls(1), &[("total", at_most(100)), ("1h:1", at_most(1000))]);
                let outcome = match caller % 2 {
                    0 => committer.commit(commit).await,
                    _ => apply(&*store, commit).await.map_err(Error::Rejected),
                };
                match outcome {
                    Ok(committed) => totals.push(committed.total.expect("a charge has a total").calls),
                    Err(Error::Rejected(Rejected::OverLimit { bucket, .. })) => assert_eq!(bucket, "total"),
                    Err(error) => panic!("neither made nor over the limit: {error}"),
                }
            }
            totals
        });
    }
    let mut totals = callers.join_all().await.concat();
    totals.sort_unstable();
    assert_eq!(totals, (1..=100).collect::<Vec<_>>(), "exactly the limit, each counted once");
    let used = [("1h:1".to_owned(), calls(100)), ("total".to_owned(), calls(100))];
    assert_eq!(store.usage(&agreement).await.expect("usage"), used);
    committer.shutdown().await;
}

pub(super) async fn each_quantity_and_bucket_is_limited(store: &dyn Store) {
    let one = Usage { calls: 1, fuel: 1, wall_us: 1, egress_bytes: 1 };
    let tight: [Usage; 4] = [
        Usage { calls: 0, ..Usage::UNLIMITED },
        Usage { fuel: 0, ..Usage::UNLIMITED },
        Usage { wall_us: 0, ..Usage::UNLIMITED },
        Usage { egress_bytes: 0, ..Usage::UNLIMITED },
    ];
    for cap in tight {
        let agreement = AgreementId::new();
        let over = apply(store, charged(agreement, one, &[("total", Usage::UNLIMITED), ("1d:1", cap)])).await;
        assert_eq!(over, Err(Rejected::OverLimit { agreement, bucket: "1d:1".into() }), "{cap:?}");
        assert_eq!(store.usage(&agreement).await.expect("usage"), [], "the bucket before it isn't charged");
        made(store, charged(agreement, one, &[("total", Usage::UNLIMITED), ("1d:1", one)])).await;
        let next = made(store, charged(agreement, one, &[("total", Usage::UNLIMITED), ("1d:2", one)])).await;
        assert_eq!(next.total, Some(one.plus(one)), "the first bucket's sum is told");
    }
}

pub(super) async fn sums_saturate(store: &dyn Store) {
    let agreement = AgreementId::new();
    let most = Usage { fuel: u64::MAX, ..calls(1) };
    made(store, charged(agreement, most, &[("total", Usage::UNLIMITED)])).await;
    let after = made(store, charged(agreement, most, &[("total", Usage::UNLIMITED)])).await.total.expect("total");
    assert_eq!(after.calls, 2);
    assert!(after.fuel >= i64::MAX as u64, "it neither wraps nor fails");
    assert_eq!(store.usage(&agreement).await.expect("usage"), [("total".to_owned(), after)], "as it was told");
    let over = apply(store, charged(agreement, calls(0), &[("total", Usage { fuel: 5, ..Usage::UNLIMITED })])).await;
    assert!(matches!(over, Err(Rejected::OverLimit { .. })), "a saturated sum is over every limit");
}

pub(super) async fn windows_are_retired(store: &dyn Store) {
    let (agreement, other) = (AgreementId::new(), AgreementId::new());
    for id in [agreement, other] {
        made(store, charged(id, calls(1), &[("total", Usage::UNLIMITED), ("1h:1", Usage::UNLIMITED)])).await;
    }
    let next = charged(agreement, calls(1), &[("total", Usage::UNLIMITED), ("1h:3", Usage::UNLIMITED)]);
    made(store, Commit { retire: vec![(agreement, "1h:1".into()), (agreement, "1h:0".into())], ..next }).await;
    let used = [("1h:3".to_owned(), calls(1)), ("total".to_owned(), calls(2))];
    assert_eq!(store.usage(&agreement).await.expect("usage"), used);
    assert_eq!(store.usage(&other).await.expect("usage").len(), 2, "another agreement keeps its own");
}

/// Each unit counts once, wherever it passes a limit, and nothing passes a cap.
pub(super) async fn what_passes_a_limit_is_overage(store: &dyn Store) {
    let agreement = AgreementId::new();
    let fuel = |calls, fuel| Usage { calls, fuel, ..Usage::default() };
    let limited = |name: &str, calls, fuel| Bucket { limit: Usage { calls, fuel, ..Usage::UNLIMITED }, ..Bucket::unlimited(name) };
    let charge = |usage, hour: &str| Charge { agreement, usage, buckets: vec![limited("total", 3, 100), limited(hour, 1, 1_000)] };
    // Two calls in the first hour, of which it allows one; of the fuel nothing is too much yet.
    for (usage, hour, overage) in [
        (fuel(1, 40), "1h:1", fuel(0, 0)),
        (fuel(1, 40), "1h:1", fuel(1, 0)),
        // The total's third call; 20 of its fuel pass the limit in all.
        (fuel(1, 40), "1h:2", fuel(1, 20)),
        // Beyond both: once.
        (fuel(1, 5), "1h:2", fuel(2, 25)),
        (fuel(1, 5), "1h:3", fuel(3, 30)),
    ] {
        let made = made(store, Commit { charge: Some(charge(usage, hour)), ..Commit::default() }).await;
        assert_eq!(made.overage, Some(overage), "{usage:?} in {hour}");
    }
    let used = store.usage(&agreement).await.expect("usage");
    assert!(used.contains(&("overage".to_owned(), fuel(3, 30))) && used.contains(&("total".to_owned(), fuel(5, 130))), "{used:?}");
    let capped = Bucket { cap: Usage { calls: 5, ..Usage::UNLIMITED }, ..limited("total", 3, 100) };
    let over = Charge { agreement, usage: fuel(1, 0), buckets: vec![limited("1h:4", 1, 1), capped] };
    let over = apply(store, Commit { charge: Some(over), ..Commit::default() }).await;
    assert_eq!(over, Err(Rejected::OverLimit { agreement, bucket: "total".into() }));
    assert_eq!(store.usage(&agreement).await.expect("usage"), used, "what is refused leaves nothing, no overage either");
}

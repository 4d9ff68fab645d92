//! When books are closed, and on what: by the clock of the caller.

use protocol::{
    AgentId, AgreementId, Digest, Header, Key, MeshId, OperationId, Signed, Usage,
    agreement::{Agreement, AtLimit, PerCall, Pricing, Reason, Transition},
    receipt::{Position, Receipt},
};
use store::{Sqlite, Store};

use super::*;
use crate::node::{agreements::Order, journal::Journal};

fn provider() -> Key {
    Key::from_seed(&[1; 32])
}

fn consumer() -> Key {
    Key::from_seed(&[2; 32])
}

fn mesh() -> MeshId {
    "test".parse().expect("a mesh id")
}

/// Terms that end in an hour.
fn terms() -> Agreement {
    Agreement {
        header: Header::new::<Agreement>(&mesh(), Timestamp::now(), 60 * MINUTE),
        id: AgreementId::new(),
        provider: provider().did(),
        provider_node: Key::from_seed(&[3; 32]).node_id(),
        consumer: consumer().did(),
        consumer_node: Key::from_seed(&[4; 32]).node_id(),
        agent: AgentId::new(),
        methods: Vec::new(),
        template: "trial".into(),
        limits: Vec::new(),
        per_call: PerCall { fuel: 1, wall_ms: 1, result_bytes: 1 },
        pricing: Pricing::free(),
        at_limit: AtLimit::Deny,
    }
}

fn receipt(terms: &Agreement, number: u64) -> Signed<Receipt> {
    let total = Usage { calls: number, ..Usage::default() };
    let receipt = Receipt {
        header: Header::new::<Receipt>(&mesh(), Timestamp::now(), 60 * MINUTE),
        agreement: terms.id,
        provider: terms.provider,
        operation: OperationId::new(),
        agent: terms.agent,
        method: "count".into(),
        params: Digest::sha256(b"{}"),
        result: Digest::sha256(b"1"),
        usage: Usage { calls: 1, ..Usage::default() },
        sequence: number,
        total,
        overage: Usage::default(),
        price: terms.pricing.price(&total, &Usage::default()).expect("a price"),
        currency: terms.pricing.currency.clone(),
        trace: Position { log: terms.provider_node, index: 0, leaf: [0; 32] },
        repeated: false,
    };
    Signed::sign(receipt, &[&provider()])
}

async fn opened(store: &Arc<dyn Store>, owner: &Key) -> Agreements {
    let clock = crate::node::clock::Clock::open(store.as_ref()).await.expect("a clock");
    Agreements::open(Journal::new(Arc::clone(store), mesh(), clock), mesh(), owner.did(), (10, MINUTE)).await.expect("open")
}

async fn agreed(agreements: &Agreements) -> Arc<Contract> {
    let caller = Caller { principal: consumer().did(), request_id: "test".into() };
    agreements.keep(&caller, Signed::sign(terms(), &[&consumer(), &provider()]), false).await.expect("kept")
}

async fn closes(agreements: &Agreements, contract: &Contract) {
    let terms = contract.terms();
    let (from, to, reason) = (Status::Active, Status::Closed, Some(Reason::Completed));
    let header = Header::new::<Transition>(&mesh(), Timestamp::now(), 60 * MINUTE);
    let step = Transition { header, agreement: terms.id, sequence: 1, from, to, reason, note: None, by: terms.provider };
    let order = if agreements.owner == terms.provider { Order::Own } else { Order::Taken };
    agreements.apply("test", contract, Signed::sign(step, &[&provider()]).into(), order).await.expect("legal");
}

#[tokio::test]
async fn an_end_by_itself_is_closed_once_on_what_both_signed() {
    let home = tempfile::tempdir().expect("a place");
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&home.path().join("store.db")).expect("open"));
    let agreements = opened(&store, &consumer()).await;
    let contract = agreed(&agreements).await;
    let (terms, id) = (contract.terms(), contract.id());
    let ends = terms.header.expires_at;
    let due = |now| {
        let (due, next) = agreements.due(now);
        (due.len(), next)
    };
    assert_eq!(due(Timestamp::now()), (0, Some(ends)));
    assert_eq!(due(ends), (0, Some(later(ends, MINUTE))), "the last receipts may still come");
    assert_eq!(due(later(ends, MINUTE)), (1, None));

    agreements.count_call(&contract).await.expect("counted");
    assert!(contract.take_receipt(&receipt(&terms, 1)).expect("the first"));
    assert!(!agreements.close(&contract, None).await.expect("no failure"), "this consumer hasn't signed it");
    contract.countersigned(&consumer()).await.expect("signed");
    assert!(agreements.close(&contract, None).await.expect("closed"));
    let closing = contract.closing().expect("closed");
    assert_eq!((closing.receipt, closing.total.calls, closing.unacknowledged), (1, 1, 0));
    assert!(!contract.take_receipt(&receipt(&terms, 2)).expect("no contradiction"), "nothing is taken any more");
    let entries = store.log_size().await.expect("a log");
    assert!(agreements.close(&contract, None).await.expect("closed already"));
    assert_eq!((entries, store.log_size().await.expect("a log")), (2, 2), "the agreement, and its end");

    let again = opened(&store, &consumer()).await;
    assert!(again.find_open(&id).is_none());
    assert_eq!(again.get(&id).await.expect("kept").closing(), Some(closing));
    assert_eq!(again.due(later(ends, MINUTE)).0.len(), 0);
}

#[tokio::test]
async fn a_step_that_both_know_needs_no_more_than_its_own_grace() {
    for owner in [provider(), consumer()] {
        let home = tempfile::tempdir().expect("a place");
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&home.path().join("store.db")).expect("open"));
        let agreements = opened(&store, &owner).await;
        let contract = agreed(&agreements).await;
        let last = later(contract.terms().header.expires_at, MINUTE);
        closes(&agreements, &contract).await;
        let graced = later(Timestamp::now(), MINUTE);
        assert!(agreements.due(Timestamp::now()).1.is_some_and(|next| next <= graced));
        // The provider hasn't told it yet, the consumer hasn't asked for the last receipt.
        assert_eq!((agreements.due(graced).0.len(), agreements.due(graced).1), (0, Some(last)));
        assert_eq!(agreements.due(last).0.len(), 1, "whoever is gone");
        let reopened = opened(&store, &owner).await;
        assert_eq!(reopened.find_open(&contract.id()).map(|contract| contract.is_untold()), Some(owner.did() == provider().did()));
        {
            let settling = contract.settling.lock().await;
            contract.begin_settling().done();
            assert_eq!(agreements.due(graced).0.len(), 0, "it is being asked for");
            drop(settling);
        }
        agreements.told(&contract, 0).await.expect("no failure");
        assert_eq!(agreements.due(graced).0.len(), usize::from(owner.did() == consumer().did()), "it knows but the agreement");
        agreements.told(&contract, 1).await.expect("told");
        assert_eq!(agreements.due(graced).0.len(), 1);
    }
}

/// Calls run under the one agreement in memory: a closed one is shown, and nothing more, though its terms have an hour left as
/// they have when the clock is set back.
#[tokio::test]
async fn nothing_is_set_aside_once_the_books_are_closed() {
    let home = tempfile::tempdir().expect("a place");
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&home.path().join("store.db")).expect("open"));
    let agreements = opened(&store, &provider()).await;
    let contract = agreed(&agreements).await;
    let terms = contract.terms();
    let request = agreement::authorize::Request { caller_node: terms.consumer_node, agent: terms.agent, method: "count" };
    let reserve = |contract: &Arc<Contract>| contract.reserve(&request, Timestamp::now()).map(drop);
    reserve(&contract).expect("in force");
    let held = contract.reserve(&request, Timestamp::now()).expect("in force");
    assert!(!agreements.close(&contract, None).await.expect("no failure"), "a call is under way");
    drop(held);
    assert!(agreements.close(&contract, None).await.expect("closed"));
    let copy = agreements.get(&terms.id).await.expect("kept");
    for contract in [contract, copy] {
        assert_eq!(contract.status(Timestamp::now()), Status::Active, "as its terms say");
        assert_eq!(reserve(&contract).expect_err("over").code, protocol::Code::AgreementNotActive);
        assert!(contract.require_in_force(&mesh(), Timestamp::now()).is_err() && contract.require_books(&mesh(), Timestamp::now()).is_ok());
    }
    assert!(agreements.find_open(&terms.id).is_none());

    // Proposed again, it doesn't come back.
    let caller = Caller { principal: consumer().did(), request_id: "test".into() };
    let again = agreements.keep(&caller, Signed::sign(terms, &[&consumer(), &provider()]), false).await;
    assert_eq!(again.expect_err("over").code, protocol::Code::AlreadyExists);
}

#[tokio::test]
async fn of_agreements_that_were_never_used_the_newest_are_kept() {
    let home = tempfile::tempdir().expect("a place");
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&home.path().join("store.db")).expect("open"));
    let agreements = opened(&store, &provider()).await;
    let kept = async || {
        let all = |kind| journal::all_records(store.as_ref(), kind);
        (all(Kind::Agreement).await.expect("records").len(), all(Kind::Closing).await.expect("records").len())
    };
    let mut first = None;
    for number in 0..1_001 {
        // One consumer has no such number of places: each is another one's.
        let key = Key::from_seed(&[9, (number % 256) as u8, (number / 256) as u8].repeat(11)[..32].try_into().expect("32 bytes"));
        let terms = Agreement { consumer: key.did(), consumer_node: key.node_id(), ..terms() };
        let caller = Caller { principal: key.did(), request_id: "test".into() };
        let contract = agreements.keep(&caller, Signed::sign(terms, &[&key, &provider()]), false).await.expect("kept");
        assert!(agreements.close(&contract, None).await.expect("closed"));
        first.get_or_insert(contract.id());
    }
    assert_eq!(kept().await, (1_000, 1_000));
    assert!(agreements.get(&first.expect("one")).await.is_err(), "the oldest goes");
    drop(agreements);
    opened(&store, &provider()).await;
    assert_eq!(kept().await, (1_000, 1_000));
}

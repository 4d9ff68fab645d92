//! An agreement with its receipts, as the tests of this command share it.

use jiff::SignedDuration;
use protocol::{
    AgentId, AgreementId, Digest, Header, Key, OperationId, Signed, Timestamp, Usage,
    agreement::{Agreement, AtLimit, Bundle, Limit, PerCall, Pricing, Quantity, Reason, Status, Transition, Window},
    document::{Document, Sealed},
    receipt::{Position, Receipt},
};
use rust_decimal::Decimal;

/// Two parties, and terms of ten calls and half as many beyond.
pub(super) struct Case {
    pub(super) provider: Key,
    pub(super) consumer: Key,
    pub(super) terms: Agreement,
}

pub(super) fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().expect("time")
}

pub(super) fn header<D: Document>() -> Header {
    Header::new::<D>(&"test".parse().expect("mesh"), now(), SignedDuration::from_hours(24))
}

pub(super) fn case() -> Case {
    let (provider, consumer) = (Key::from_seed(&[1; 32]), Key::from_seed(&[2; 32]));
    let pricing = Pricing {
        currency: "EUR".into(),
        per_call: Decimal::new(1, 2),
        overage_per_call: Some(Decimal::new(3, 2)),
        overage_percent: Some(50),
        ..Pricing::free()
    };
    let terms = Agreement {
        header: header::<Agreement>(),
        id: AgreementId::new(),
        provider: provider.did(),
        provider_node: Key::from_seed(&[3; 32]).node_id(),
        consumer: consumer.did(),
        consumer_node: Key::from_seed(&[4; 32]).node_id(),
        agent: AgentId::new(),
        methods: vec!["search".into()],
        template: "standard".into(),
        limits: vec![Limit { quantity: Quantity::Calls, window: Window::Total, max: 10 }],
        per_call: PerCall { fuel: 1, wall_ms: 1, result_bytes: 1 },
        pricing,
        at_limit: AtLimit::Overage,
    };
    Case { provider, consumer, terms }
}

pub(super) fn calls(calls: u64) -> Usage {
    Usage { calls, ..Usage::default() }
}

impl Case {
    /// The receipt of so many calls.
    pub(super) fn receipt(&self, number: u64) -> Receipt {
        let (total, overage) = (calls(number), calls(number.saturating_sub(10)));
        Receipt {
            header: header::<Receipt>(),
            agreement: self.terms.id,
            provider: self.provider.did(),
            operation: OperationId::new(),
            agent: self.terms.agent,
            method: "search".into(),
            params: Digest::sha256(b"{}"),
            result: Digest::sha256(b"[]"),
            usage: calls(1),
            sequence: number,
            total,
            overage,
            price: self.terms.pricing.price(&total, &overage).expect("a price"),
            currency: "EUR".into(),
            trace: Position { log: self.terms.provider_node, index: 11, leaf: [0; 32] },
            repeated: false,
        }
    }

    /// A transition; one that closes says that all was delivered.
    pub(super) fn step(&self, sequence: u64, from: Status, to: Status, by: &Key) -> Sealed<Transition> {
        let (header, reason) = (header::<Transition>(), (to == Status::Closed).then_some(Reason::Completed));
        Signed::sign(Transition { header, agreement: self.terms.id, sequence, from, to, reason, note: None, by: by.did() }, &[by]).into()
    }

    /// Closed by the consumer after twelve calls, of which it signed eleven.
    pub(super) fn bundle(&self) -> Bundle {
        Bundle {
            agreement: Signed::sign(self.terms.clone(), &[&self.consumer, &self.provider]).into(),
            transitions: vec![self.step(1, Status::Active, Status::Closed, &self.consumer)],
            receipt: Some(Signed::sign(self.receipt(12), &[&self.provider]).into()),
            countersigned: Some(Signed::sign(self.receipt(11), &[&self.provider, &self.consumer]).into()),
        }
    }
}

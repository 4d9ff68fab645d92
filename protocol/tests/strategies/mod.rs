//! Arbitrary documents and messages.

use proptest::{collection::vec, option, prelude::*, sample};
use protocol::{
    AgentId, AgreementId, Code, Did, Digest, Document, Header, Key, MeshId, NodeId, OperationId, Signed, Timestamp, Usage,
    advert::{Advert, Effect, Method, Offered, Service},
    agreement::{Agreement, AtLimit, Limit, PerCall, Pricing, Quantity, Reason, Status, Transition, Window},
    entry::{self, Action, Entry},
    manifest::{Import, Manifest},
    receipt::{Position, Receipt},
    wire::Execute,
};
use rust_decimal::Decimal;
use serde_json::Value;

pub(crate) fn keys() -> impl Strategy<Value = Key> {
    any::<[u8; 32]>().prop_map(|seed| Key::from_seed(&seed))
}

pub(crate) fn dids() -> impl Strategy<Value = Did> {
    keys().prop_map(|key| key.did())
}

pub(crate) fn nodes() -> impl Strategy<Value = NodeId> {
    keys().prop_map(|key| key.node_id())
}

pub(crate) fn digests() -> impl Strategy<Value = Digest> {
    prop_oneof![any::<[u8; 32]>().prop_map(Digest::Blake3), any::<[u8; 32]>().prop_map(Digest::Sha256)]
}

pub(crate) fn meshes() -> impl Strategy<Value = MeshId> {
    "[a-z0-9.-]{1,64}".prop_map(|text| text.parse().expect("a mesh id"))
}

/// Every time stamp there is.
pub(crate) fn times() -> impl Strategy<Value = Timestamp> {
    let (first, last) = (Timestamp::MIN.as_nanosecond(), Timestamp::MAX.as_nanosecond());
    prop_oneof![
        (first..=last).prop_map(|nanoseconds| Timestamp::from_nanosecond(nanoseconds).expect("within range")),
        (0i64..4_000_000_000).prop_map(|seconds| Timestamp::from_second(seconds).expect("within range")),
    ]
}

/// Any text, with what JSON escapes.
pub(crate) fn texts() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[a-z\"\\\\\u{0}-\u{1f}\u{2028}é]{0,40}"]
}

pub(crate) fn decimals() -> impl Strategy<Value = Decimal> {
    (any::<i64>(), 0u32..=28).prop_map(|(digits, scale)| Decimal::new(digits, scale))
}

pub(crate) fn usages() -> impl Strategy<Value = Usage> {
    any::<[u64; 4]>().prop_map(|[calls, fuel, wall_us, egress_bytes]| Usage { calls, fuel, wall_us, egress_bytes })
}

pub(crate) fn headers<D: Document>() -> impl Strategy<Value = Header> {
    (meshes(), times(), times()).prop_map(|(mesh, issued_at, expires_at)| Header {
        kind: D::TYPE.into(),
        version: D::VERSION,
        mesh,
        issued_at,
        expires_at,
    })
}

pub(crate) fn pricings() -> impl Strategy<Value = Pricing> {
    let overage = (option::of(decimals()), option::of(decimals()), option::of(any::<u32>()));
    (texts(), decimals(), decimals(), overage).prop_map(|(currency, per_call, per_million_fuel, overage)| Pricing {
        currency,
        per_call,
        per_million_fuel,
        overage_per_call: overage.0,
        overage_per_million_fuel: overage.1,
        overage_percent: overage.2,
    })
}

/// JSON as schemas hold it.
pub(crate) fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        texts().prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(texts(), inner, 0..3).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

pub(crate) fn methods() -> impl Strategy<Value = Method> {
    let effect = sample::select(vec![Effect::ReadOnly, Effect::Mutating]);
    (texts(), texts(), effect, any::<bool>(), schemas(), schemas()).prop_map(
        |(name, description, effect, idempotent, input_schema, output_schema)| Method {
            name,
            description,
            effect,
            idempotent,
            input_schema,
            output_schema,
        },
    )
}

pub(crate) fn services() -> impl Strategy<Value = Service> {
    let agents = vec(texts().prop_map(|name| Offered { id: AgentId::new(), name, epoch: 3, salt: None }), 0..3);
    (texts(), texts(), digests(), vec(methods(), 0..3), pricings(), agents)
        .prop_map(|(plugin, release, component, methods, pricing, agents)| Service { plugin, release, component, methods, pricing, agents })
}

pub(crate) fn adverts() -> impl Strategy<Value = Advert> {
    (headers::<Advert>(), nodes(), dids(), any::<u64>(), vec(texts(), 0..3), vec(services(), 0..3)).prop_map(
        |(header, node, owner, sequence, addresses, services)| Advert {
            header,
            node,
            owner,
            ownership: None,
            sequence,
            zone: None,
            load: 50,
            addresses,
            lineage: Vec::new(),
            services,
        },
    )
}

pub(crate) fn manifests() -> impl Strategy<Value = Manifest> {
    let imports = sample::subsequence(Import::ALL.to_vec(), 0..=6);
    (headers::<Manifest>(), texts(), texts(), dids(), digests(), any::<u64>(), texts(), imports).prop_map(
        |(header, name, release, publisher, component, size, interface, imports)| Manifest {
            header,
            name,
            release,
            publisher,
            component,
            size,
            interface,
            imports,
            health: None,
        },
    )
}

pub(crate) fn limits() -> impl Strategy<Value = Limit> {
    let quantity = sample::select(vec![Quantity::Calls, Quantity::Fuel, Quantity::WallUs, Quantity::EgressBytes]);
    (quantity, sample::select(Window::ALL.to_vec()), any::<u64>()).prop_map(|(quantity, window, max)| Limit { quantity, window, max })
}

pub(crate) fn agreements() -> impl Strategy<Value = Agreement> {
    let parties = (dids(), nodes(), dids(), nodes());
    let per_call = any::<[u64; 3]>().prop_map(|[fuel, wall_ms, result_bytes]| PerCall { fuel, wall_ms, result_bytes });
    let at_limit = sample::select(vec![AtLimit::Deny, AtLimit::Overage]);
    (headers::<Agreement>(), parties, vec(texts(), 0..4), texts(), vec(limits(), 0..6), per_call, pricings(), at_limit).prop_map(
        |(header, (provider, provider_node, consumer, consumer_node), methods, template, limits, per_call, pricing, at_limit)| Agreement {
            header,
            id: AgreementId::new(),
            provider,
            provider_node,
            consumer,
            consumer_node,
            agent: AgentId::new(),
            methods,
            template,
            limits,
            per_call,
            pricing,
            at_limit,
        },
    )
}

pub(crate) fn statuses() -> impl Strategy<Value = Status> {
    sample::select(vec![Status::Proposed, Status::Active, Status::Suspended, Status::Closed])
}

pub(crate) fn transitions() -> impl Strategy<Value = Transition> {
    let reasons = sample::select(vec![Reason::Completed, Reason::Expired, Reason::Terminated, Reason::Breached, Reason::Rejected]);
    (headers::<Transition>(), any::<u64>(), statuses(), statuses(), option::of(reasons), option::of(texts()), dids()).prop_map(
        |(header, sequence, from, to, reason, note, by)| Transition {
            header,
            agreement: AgreementId::new(),
            sequence,
            from,
            to,
            reason,
            note,
            by,
        },
    )
}

pub(crate) fn receipts() -> impl Strategy<Value = Receipt> {
    let trace = (nodes(), any::<u64>(), any::<[u8; 32]>()).prop_map(|(log, index, leaf)| Position { log, index, leaf });
    let call = (texts(), digests(), digests(), usages(), usages(), usages());
    (headers::<Receipt>(), dids(), call, decimals(), texts(), trace).prop_map(
        |(header, provider, (method, params, result, usage, total, overage), price, currency, trace)| Receipt {
            header,
            agreement: AgreementId::new(),
            provider,
            operation: OperationId::new(),
            agent: AgentId::new(),
            method,
            params,
            result,
            usage,
            sequence: total.calls,
            total,
            overage,
            price,
            currency,
            trace,
            repeated: false,
        },
    )
}

pub(crate) fn entries() -> impl Strategy<Value = Entry> {
    let agent = AgentId::new();
    let action = prop_oneof![
        (texts(), digests(), option::of(digests()), usages()).prop_map(move |(method, params, result, usage)| Action::Execute {
            agent,
            method,
            params,
            result,
            usage
        }),
        (nodes(), texts(), option::of(digests())).prop_map(move |(node, method, receipt)| Action::ExecuteRemote {
            node,
            agent,
            method,
            receipt
        }),
        digests().prop_map(move |component| Action::Spawn { agent, component }),
        digests().prop_map(move |digest| Action::Snapshot { agent, snapshot: protocol::SnapshotId::new(), digest }),
        Just(Action::Import { agent, snapshot: protocol::SnapshotId::new(), from: agent }),
        (digests(), digests()).prop_map(move |(from, to)| Action::Upgrade { agent, from, to }),
        Just(Action::Schedule { agent, every_s: Some(60), keep: Some(3) }),
        (digests(), option::of(texts())).prop_map(|(component, reason)| Action::Revoke { component, reason }),
        digests().prop_map(|component| Action::Unrevoke { component }),
        Just(Action::Stop { agent }),
        Just(Action::Start { agent }),
        Just(Action::Recover { agent, snapshot: protocol::SnapshotId::new() }),
        Just(Action::Terminate { agent }),
        statuses().prop_map(|status| Action::Agreement { status }),
    ];
    let failure = option::of(sample::select(Code::ALL.to_vec()));
    (times(), meshes(), dids(), any::<bool>(), action, failure, option::of(texts())).prop_map(
        |(time, mesh, principal, agreement, action, failure, request_id)| Entry {
            version: entry::VERSION,
            operation: OperationId::new(),
            time,
            mesh,
            principal,
            agreement: agreement.then(AgreementId::new),
            action,
            failure,
            request_id,
        },
    )
}

pub(crate) fn executes() -> impl Strategy<Value = Execute> {
    (texts(), vec(any::<u8>(), 0..200), any::<bool>(), option::of(texts()), option::of(receipts()), 0..4_usize).prop_map(
        |(method, params, agreement, idempotency_key, acknowledged, chain)| Execute {
            agent: AgentId::new(),
            method,
            params: params.into(),
            agreement: agreement.then(AgreementId::new),
            idempotency_key,
            acknowledged: acknowledged.map(|receipt| Signed::sign(receipt, &[&Key::from_seed(&[7; 32])]).into()),
            chain: std::iter::repeat_with(AgentId::new).take(chain).collect(),
        },
    )
}

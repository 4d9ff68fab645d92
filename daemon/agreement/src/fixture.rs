//! Parties, terms and times that the tests of this crate share.

use std::collections::BTreeMap;

use protocol::{AgreementId, Key, Timestamp, agreement::Agreement};

use crate::{Parties, propose, template, templates};

pub(crate) fn provider() -> Key {
    Key::from_seed(&[1; 32])
}

pub(crate) fn consumer() -> Key {
    Key::from_seed(&[2; 32])
}

/// Ten minutes before a midnight of UTC, so that tests cross the edges of hours and days.
pub(crate) fn now() -> Timestamp {
    "2030-06-01T23:50:00Z".parse().expect("a time")
}

pub(crate) fn after(seconds: i64) -> Timestamp {
    now().checked_add(jiff::SignedDuration::from_secs(seconds)).expect("within time")
}

pub(crate) fn parties() -> Parties {
    Parties {
        mesh: "test".parse().expect("a mesh id"),
        provider: provider().did(),
        provider_node: Key::from_seed(&[4; 32]).node_id(),
        consumer: consumer().did(),
        consumer_node: Key::from_seed(&[5; 32]).node_id(),
        agent: "agent_01h455vb4pex5vsknk084sn02q".parse().expect("an agent id"),
    }
}

/// The terms of a template for [`parties`], free of charge.
pub(crate) fn terms(template: &str, parameters: &[(&str, &str)]) -> Agreement {
    let parameters: BTreeMap<_, _> = parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let pricing = protocol::agreement::Pricing::free();
    let template = template::find(template, templates().iter()).expect("it comes along");
    propose(template, &parameters, parties(), Vec::new(), pricing, AgreementId::new(), now()).expect("valid parameters")
}

//! A peer without any agreement.

use std::{collections::BTreeSet, time::Duration};

use protocol::{
    AgreementId, Code, Key, Problem,
    agreement::Status,
    api::{AgreementOutline, List, TraceItem},
    entry::Action,
};
use tests::{Node, until};

use super::rounds;
use crate::{
    fixtures::{Pair, reaches},
    rogue::Rogue,
};

const HOUR: Duration = Duration::from_secs(3_600);

async fn listed(node: &Node) -> Vec<AgreementOutline> {
    node.client().get::<List<AgreementOutline>>("/v1/agreements").await.expect("a list").items
}

/// Agreements of which a node's trace says that they were proposed.
async fn traced(node: &Node) -> BTreeSet<AgreementId> {
    let trace: List<TraceItem> = node.client().get("/v1/trace?limit=1000").await.expect("a list");
    let proposed = |item: &TraceItem| item.entry.agreement.filter(|_| item.entry.action == Action::Agreement { status: Status::Proposed });
    trace.items.iter().filter_map(proposed).collect()
}

/// Proposals that lapse at once are refused and leave nothing; those that wait are few for each node and each principal, and all
/// of one node together come no faster than its rate.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_proposals_takes_no_places_of_others() {
    let pair = Pair::new("manual").await;
    let mut rogue = Rogue::join(&pair).await;
    let refused = |answer: Result<_, Problem>| answer.map(|_: protocol::document::Sealed<_>| ()).expect_err("refused").code;
    for (valid, back) in [(60, 0), (60, 50), (30_000, 0), (30_000, 50)] {
        let mut brief = rogue.terms(Duration::from_millis(valid));
        // Dated back, its length is enough.
        brief.header.issued_at -= protocol::SignedDuration::from_secs(back);
        let code = refused(rogue.propose(&brief).await);
        // On a busy machine it is over before it is opened.
        assert!(matches!(code, Code::AgreementRefused | Code::Expired), "{valid} ms: {code}");
    }
    let mut kept = 0;
    let mut codes = BTreeSet::new();
    for principal in 0..32 * rounds() {
        match rogue.propose(&rogue.terms(HOUR)).await {
            Ok(_) => kept += 1,
            Err(problem) => drop(codes.insert(problem.code.as_str())),
        }
        // Of each principal two, from one node.
        if principal % 2 == 1 {
            rogue.owner = Key::generate();
        }
    }
    assert!(kept <= 16 && codes.iter().all(|code| *code == "overloaded"), "{kept} proposals wait: {codes:?}");
    let listed = listed(&pair.provider).await;
    assert_eq!((listed.len(), traced(&pair.provider).await.len()), (kept, kept), "what is refused leaves nothing");

    // An honest consumer has its own.
    let proposed = pair.propose(&[]).await.expect("there is a place");
    pair.provider.json(&["agreement", "accept", &proposed.terms.id.to_string()]).await;
    reaches(&pair.consumer, proposed.terms.id, Status::Active).await;
    pair.count().await.expect("it is served");
}

/// What lapses unsigned is gone from memory and store, whether the node runs then or not.
#[tokio::test(flavor = "multi_thread")]
async fn lapsed_proposals_are_deleted() {
    let mut pair = Pair::with(&[("agreements.accept", "manual"), ("agreements.min_validity_s", "1")]).await;
    let rogue = Rogue::join(&pair).await;
    let brief = rogue.terms(Duration::from_secs(2));
    rogue.propose(&brief).await.expect("it waits");
    until("it to lapse", async || listed(&pair.provider).await.is_empty().then_some(())).await;
    assert!(pair.provider.agreement(brief.id).await.is_none());

    let brief = rogue.terms(Duration::from_secs(3));
    rogue.propose(&brief).await.expect("it waits");
    pair.provider.kill9();
    until("its time to pass", async || (protocol::Timestamp::now() > brief.header.expires_at).then_some(())).await;
    pair.provider.restart().await;
    assert!(listed(&pair.provider).await.is_empty());
    assert_eq!(traced(&pair.provider).await.len(), 2, "the trace has that they came");
}

/// An agreement is of the mesh in which it was made: in another one neither side knows it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_of_another_mesh_serves_nobody() {
    let (mut pair, state) = Pair::agreed(&[]).await;
    let (node, owner) = (Key::generate(), Key::generate());
    let rogue = Rogue::meet(&pair.provider, pair.agent.id, node.clone(), owner.clone()).await;
    let terms = rogue.terms(HOUR);
    rogue.propose(&terms).await.expect("accepted");
    rogue.count(Some(terms.id)).await.expect("in force").outcome.expect("counted");
    drop(rogue);

    for moved in [&mut pair.provider, &mut pair.consumer] {
        moved.stop().await;
        moved.set("mesh.id", "elsewhere");
        moved.set("mesh.bootstrap_peers", "");
        moved.restart().await;
        moved.look_again().await;
    }
    let rogue = Rogue::meet(&pair.provider, pair.agent.id, node, owner).await;
    let refused = rogue.count(Some(terms.id)).await.expect_err("made in another mesh");
    assert_eq!(refused.code, Code::ForeignMesh, "{refused}");
    assert_eq!(pair.provider.agreement(terms.id).await.expect("kept").used.calls, 1);

    pair.consumer.json(&["join", pair.provider.address("tcp")]).await;
    let (agent, id) = (pair.agent.id.to_string(), state.terms.id.to_string());
    let call = ["agent", "execute", &agent, "count", "--agreement", &id, "--json"];
    let refused = pair.consumer.mcpctl(&call).await.json();
    assert_eq!(refused["code"], "foreign_mesh", "{refused}");
    assert_eq!(pair.provider.agreement(state.terms.id).await.expect("kept").used.calls, 0);
}

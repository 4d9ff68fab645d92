use super::*;
use crate::{Key, signer::Signing, statement};

/// What a node signs with after a rotation.
#[derive(Debug)]
struct Heir {
    key: Key,
    lineage: Lineage,
}

impl Signer for Heir {
    fn did(&self) -> Did {
        self.lineage.root()
    }

    fn key(&self) -> Did {
        self.key.did()
    }

    fn lineage(&self) -> Option<&Lineage> {
        Some(&self.lineage)
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> Signing<'a> {
        Signer::sign(&self.key, message)
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("in range")
}

/// What never waits: keys at hand.
fn now<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("a key at hand doesn't wait"),
    }
}

fn extended(before: Option<&Lineage>, old: &Key, new: &Key, when: Timestamp) -> Result<Lineage, Problem> {
    let named = now(Lineage::name(before, old, new.did(), when))?;
    now(Lineage::accept(before, named, new))
}

/// The lineage of `keys`, a succession every 1,000 s.
fn chain(keys: &[&Key]) -> Lineage {
    let mut lineage = None;
    for (number, pair) in (1..).zip(keys.windows(2)) {
        lineage = Some(extended(lineage.as_ref(), pair[0], pair[1], at(1_000 * number)).expect("both sign"));
    }
    lineage.expect("two keys")
}

fn keys<const N: usize>() -> [Key; N] {
    std::array::from_fn(|_| Key::generate())
}

fn raw(from: &Key, to: &Key, number: u64, signers: &[&Key]) -> Envelope {
    let header = Header::new::<Succession>(&MeshId::any(), at(0), SignedDuration::MAX);
    Signed::sign(Succession { header, from: from.did(), to: to.did(), number }, signers).into_envelope()
}

/// Any document will do: a succession is one.
fn document(by: &dyn Signer, when: Timestamp) -> Signed<Succession> {
    let header = Header::new::<Succession>(&MeshId::any(), when, SignedDuration::MAX);
    let [one, two] = keys();
    now(Signed::sign_by(Succession { header, from: one.did(), to: two.did(), number: 1 }, by)).expect("a key at hand")
}

fn reopened(signed: &Signed<Succession>) -> Result<Signed<Succession>, document::Error> {
    let text = serde_json::to_string(signed).expect("JSON");
    Signed::open(serde_json::from_str(&text).expect("an envelope"), Expect::archived(&MeshId::any()))
}

#[test]
fn a_successor_signs_in_the_first_keys_name() {
    let [one, two, three] = keys();
    let heir = Heir { lineage: chain(&[&one, &two, &three]), key: three.clone() };
    assert_eq!((heir.lineage.root(), heir.lineage.newest()), (one.did(), three.did()));
    let signed = document(&heir, at(5_000));
    let again = reopened(&signed).expect("it verifies with what it has");
    assert_eq!(again, signed);
    assert_eq!((again.signers(), again.signatories()[0].key), (&[one.did()][..], three.did()));
    again.require(one.did()).expect("the owner's");
    assert!(again.require(three.did()).is_err(), "the owner has one name");
    // What the first key signed stays as it is.
    reopened(&document(&one, at(0))).expect("as ever").require(one.did()).expect("the owner's");
}

#[test]
fn nobody_but_the_holder_of_the_key_names_the_next() {
    let [one, two, stranger] = keys();
    let refused = |proof: Envelope| Lineage::open(&[proof]).expect_err("forged");
    for signers in [&[&two][..], &[&one], &[&stranger, &two], &[&one, &stranger], &[&one, &two, &stranger], &[]] {
        assert!(matches!(refused(raw(&one, &two, 1, signers)), Error::Invalid(1, _)), "{signers:?}");
    }
    assert_eq!(refused(raw(&one, &two, 2, &[&one, &two])), Error::Broken(1));
    assert_eq!(refused(raw(&one, &one, 1, &[&one, &one])), Error::Cyclic(1));
    // A changed payload, and a document of another type.
    let mut changed = raw(&one, &two, 1, &[&one, &two]);
    changed.payload = raw(&one, &stranger, 1, &[&one, &two]).payload;
    assert!(matches!(refused(changed), Error::Invalid(1, _)));
    let mut other = raw(&one, &two, 1, &[&one, &two]);
    other.payload_type = statement::Statement::payload_type();
    assert!(matches!(refused(other), Error::Invalid(1, _)));
    // Another's lineage is of no use to a stranger.
    let thief = Heir { lineage: chain(&[&one, &two]), key: stranger };
    let mut taken = document(&one, at(5_000)).into_envelope();
    taken.signatures[0].lineage = thief.lineage.proofs().to_vec();
    assert!(taken.verify().is_err(), "the first key isn't the second");
    let mut envelope = Envelope::sign("text/plain", b"terms", &[&thief.key]);
    envelope.signatures[0].lineage = thief.lineage.proofs().to_vec();
    let refused = document::Error::from(envelope.verify().expect_err("not its own"));
    assert_eq!(refused.code(), crate::Code::BadSignature);
}

#[test]
fn a_chain_is_whole_in_order_and_bounded() {
    let [one, two, three] = keys();
    let whole = chain(&[&one, &two, &three]);
    let proofs = whole.proofs();
    assert_eq!(Lineage::open(&[]), Ok(None));
    assert_eq!(Lineage::open(proofs).expect("whole").as_ref(), Some(&whole));
    assert_eq!(Lineage::open(&proofs[1..]), Err(Error::Broken(1)));
    assert_eq!(Lineage::open(&[proofs[1].clone(), proofs[0].clone()]), Err(Error::Broken(1)));
    assert_eq!(Lineage::open(&[proofs[0].clone(), raw(&one, &three, 2, &[&one, &three])]), Err(Error::Broken(2)));
    // A succession from before the one that it follows.
    assert_eq!(Lineage::open(&[proofs[0].clone(), raw(&two, &three, 2, &[&two, &three])]), Err(Error::Broken(2)));
    let back = extended(Some(&whole), &three, &one, at(9_000)).expect_err("a circle");
    assert!(back.detail.contains("returns to an earlier key"), "{back}");
    // As long as it may be, and no longer.
    let many: Vec<Key> = (0..=MAX_SUCCESSIONS + 1).map(|_| Key::generate()).collect();
    let most = chain(&many[..=MAX_SUCCESSIONS].iter().collect::<Vec<_>>());
    assert_eq!(most.steps().len(), MAX_SUCCESSIONS);
    let [.., last, beyond] = &many[..] else { panic!("there are many") };
    assert!(extended(Some(&most), last, beyond, at(99_000)).is_err());
    let over = [most.proofs(), &[raw(last, beyond, 17, &[last, beyond])]].concat();
    assert_eq!(Lineage::open(&over), Err(Error::TooLarge));
    // A clock that was set back doesn't make a lineage that nobody takes.
    let [next] = keys();
    let late = extended(Some(&whole), &three, &next, at(-9_000)).expect("in order");
    assert_eq!(late.steps()[2].at, late.steps()[1].at);
    assert!(late.follows(&whole) && !whole.follows(&late));
    assert_eq!(late.up_to(three.did()).expect("it is in there").as_ref(), Some(&whole));
    assert_eq!(late.up_to(one.did()), Ok(None));
    assert_eq!(whole.up_to(next.did()), Err(Error::Elsewhere(next.did())));
}

#[test]
fn a_succession_is_signed_by_bare_keys_and_lineages_together_are_bounded() {
    let [one, two, three] = keys();
    let heir = Heir { lineage: chain(&[&one, &two]), key: two.clone() };
    let header = Header::new::<Succession>(&MeshId::any(), at(0), SignedDuration::MAX);
    let signed = Signed::sign(Succession { header, from: two.did(), to: three.did(), number: 1 }, &[&three]);
    let nested = now(signed.countersign_by(&heir)).expect("signed").into_envelope();
    assert!(matches!(Lineage::open(&[nested]), Err(Error::Invalid(1, why)) if why.contains("bare keys")));
    let mut envelope = document(&heir, at(5_000)).into_envelope();
    let long = vec![heir.lineage.proofs()[0].clone(); MAX_SUCCESSIONS];
    envelope.signatures = vec![crate::envelope::Signature { lineage: long, ..envelope.signatures[0].clone() }; 3];
    assert!(matches!(envelope.verify(), Err(crate::envelope::Error::Lineage(Error::TooLarge))));
}

#[test]
fn whoever_knows_a_succession_refuses_what_the_old_key_signs_later() {
    let [one, two, three, thief] = keys();
    let first = chain(&[&one, &two]);
    let mut known = Known::default();
    known.check(&document(&one, at(500_000))).expect("nothing is known");
    assert_eq!((known.learn(&first), known.learn(&first)), (Ok(true), Ok(false)));
    known.check(&document(&one, at(900))).expect("signed before");
    known.check(&document(&one, at(1_060))).expect("as far as clocks differ");
    let refused = known.check(&document(&one, at(1_061))).expect_err("signed after");
    assert!(matches!(refused, document::Error::Succeeded { key, .. } if key == one.did()), "{refused}");
    let middle = Heir { lineage: first.clone(), key: two.clone() };
    known.check(&document(&middle, at(9_000))).expect("the newest that is known");
    let whole = extended(Some(&first), &two, &three, at(2_000)).expect("signed");
    assert_eq!((known.learn(&whole), known.learn(&first)), (Ok(true), Ok(false)));
    assert!(known.check(&document(&middle, at(9_000))).is_err());
    known.check(&document(&Heir { lineage: whole.clone(), key: three }, at(9_000))).expect("the newest");
    // Whoever stole the old key names another successor: too late.
    let forked = extended(None, &one, &thief, at(1_000)).expect("signed by both");
    assert_eq!(known.learn(&forked), Err(Error::Forked(one.did())));
    assert!(known.check(&document(&Heir { lineage: forked, key: thief }, at(9_000))).is_err());
    assert_eq!(known.of(one.did()), Some(&whole));
}

//! One session with a token (PKCS#11 v2.40 and later): the key is found, and signs. Every call blocks.

use std::{fs::File, path::Path};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::{Slot, TokenInfo},
    types::AuthPin,
};
use protocol::{Code, Did, Digest, Passphrase, Problem};

use super::{passphrase::check_mode, uri::Uri};

/// Ed25519 as CKA_EC_PARAMS has it: the curve's name (PKCS#11 v3.0); or the identifier of RFC 8410, which some tokens ask for.
const BY_NAME: &[u8] = b"\x13\x0cedwards25519";
const BY_IDENTIFIER: &[u8] = b"\x06\x03\x2b\x65\x70";

/// A token's library, as long as it is used.
#[derive(Debug)]
pub(super) struct Module {
    library: Pkcs11,
    uri: Uri,
    /// A PIN that the token has refused. It isn't tried again: tokens lock themselves after a few.
    refused: Option<Digest>,
}

/// A session in which the key was found.
#[derive(Debug)]
pub(super) struct Open {
    session: Session,
    key: ObjectHandle,
    pub(super) did: Did,
}

impl Module {
    /// Loads the library that the URI names.
    pub(super) fn load(uri: Uri) -> Result<Self, Problem> {
        let failed = |error: Error| {
            let problem = Problem::new(Code::InvalidConfig, format!("can't load {}: {error}", uri.module.display()));
            problem.hint("module-path names the token's PKCS#11 library, such as /usr/lib/softhsm/libsofthsm2.so")
        };
        let library = Pkcs11::new(&uri.module).map_err(failed)?;
        // For good: a library that is unloaded may leave handlers behind, for threads' ends and the process's, that crash it.
        std::mem::forget(library.clone());
        Ok(Self { library, uri, refused: None })
    }

    /// Begins anew: a library may know a token that is gone until it is told to look again.
    pub(super) fn connect(&mut self) -> Result<Open, Problem> {
        let session = self.log_in(false)?;
        let (key, did) = find(&session, &self.uri)?;
        Ok(Open { session, key, did })
    }

    /// Makes a key of this name in the token, which it never leaves.
    pub(super) fn generate(&mut self) -> Result<Did, Problem> {
        let session = self.log_in(true)?;
        if !session.find_objects(&private(&self.uri)).map_err(unavailable)?.is_empty() {
            let problem = Problem::new(Code::AlreadyExists, "the token has a key of this name already, which is left as it is");
            return Err(problem.hint("give another 'object', or name this one in the configuration: owner.pkcs11"));
        }
        let id = match &self.uri.id {
            Some(id) => id.clone(),
            None => super::random::<16>()?.to_vec(),
        };
        let label = self.uri.object.clone().unwrap_or_else(|| "mcp-zero owner".into()).into_bytes();
        let named = [Attribute::Token(true), Attribute::Label(label), Attribute::Id(id)];
        let private = [Attribute::Private(true), Attribute::Sensitive(true), Attribute::Extractable(false), Attribute::Sign(true)];
        let private = [&named[..], &private].concat();
        let make = |curve: &[u8]| {
            let public = [Attribute::Private(false), Attribute::Verify(true), Attribute::EcParams(curve.to_vec())];
            session.generate_key_pair(&Mechanism::EccEdwardsKeyPairGen, &[&named[..], &public].concat(), &private)
        };
        make(BY_NAME).or_else(|_| make(BY_IDENTIFIER)).map_err(|error| {
            let problem = Problem::new(Code::KeyUnavailable, format!("the token makes no Ed25519 key: {error:?}"));
            problem.hint("the token must know CKM_EC_EDWARDS_KEY_PAIR_GEN and CKM_EDDSA")
        })?;
        find(&session, &self.uri).map(|(_, did)| did)
    }

    fn log_in(&mut self, write: bool) -> Result<Session, Problem> {
        // Whatever was open is over. That there was nothing is no fault.
        let _ = self.library.clone().finalize();
        self.library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(unavailable)?;
        let (slot, token) = self.slot()?;
        let session = if write { self.library.open_rw_session(slot) } else { self.library.open_ro_session(slot) }.map_err(unavailable)?;
        if !token.login_required() {
            return Ok(session);
        }
        let Some(file) = self.uri.pin.as_deref() else {
            return Err(Problem::new(Code::InvalidConfig, "the token asks for a PIN").hint("add pin-source=file:/path/to/pin to the URI"));
        };
        let pin = read_pin(file)?;
        let digest = Digest::sha256(pin.expose().as_bytes());
        if self.refused == Some(digest) {
            return Err(bad_pin("it isn't tried again until the file has changed, as tokens lock themselves"));
        }
        match session.login(UserType::User, Some(&AuthPin::new(pin.expose().into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(Error::Pkcs11(error @ (RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange | RvError::PinLocked), _)) => {
                self.refused = Some(digest);
                Err(bad_pin(&format!("{error:?}")))
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// The one slot whose token the URI means.
    fn slot(&self) -> Result<(Slot, TokenInfo), Problem> {
        let mut found = Vec::new();
        for slot in self.library.get_slots_with_token().map_err(unavailable)? {
            // A token that can't be asked is none.
            let Ok(token) = self.library.get_token_info(slot) else { continue };
            let is = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is.trim_end());
            let uri = &self.uri;
            let ours = is(&uri.token, token.label())
                && is(&uri.serial, token.serial_number())
                && is(&uri.manufacturer, token.manufacturer_id())
                && is(&uri.model, token.model())
                && uri.slot.is_none_or(|wanted| wanted == slot.id());
            if ours && token.token_initialized() {
                found.push((slot, token));
            }
        }
        match (found.pop(), found.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => Err(Problem::new(Code::InvalidConfig, "the URI fits several tokens")
                .hint("name one: token=LABEL, serial=NUMBER or slot-id=NUMBER")),
            (None, _) => {
                Err(Problem::new(Code::KeyUnavailable, "the token is not there")
                    .hint("see that it is plugged in, and that the URI names it"))
            }
        }
    }
}

impl Drop for Module {
    /// Before the process ends: what a library has open then, it may look for too late.
    fn drop(&mut self) {
        let _ = self.library.clone().finalize();
    }
}

impl Open {
    /// Signs, and makes sure of the signature: no broken one ever gets into a document.
    pub(super) fn sign(&self, message: &[u8]) -> Result<[u8; 64], Problem> {
        let scheme = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        let signature = self.session.sign(&scheme, self.key, message).map_err(unavailable)?;
        let signature: [u8; 64] = signature.try_into().map_err(|_| broken())?;
        self.did.verify(message, &signature).map_err(|_| broken())?;
        Ok(signature)
    }
}

fn private(uri: &Uri) -> Vec<Attribute> {
    let label = uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes()));
    let id = uri.id.as_ref().map(|id| Attribute::Id(id.clone()));
    [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::EC_EDWARDS)].into_iter().chain(label).chain(id).collect()
}

/// The one private key that the URI means, and its public half, which lies beside it under the same id.
fn find(session: &Session, uri: &Uri) -> Result<(ObjectHandle, Did), Problem> {
    let keys = session.find_objects(&private(uri)).map_err(unavailable)?;
    let [key] = keys[..] else {
        let problem = format!("the token has {} Ed25519 keys that the URI fits", keys.len());
        return Err(Problem::new(Code::InvalidConfig, problem).hint(if keys.is_empty() {
            "make one: mcpctl key create --owner --pkcs11 URI"
        } else {
            "name one by its id: id=%01"
        }));
    };
    let same = session.get_attributes(key, &[AttributeType::Id, AttributeType::Label]).map_err(unavailable)?;
    let named = |attribute: &Attribute| matches!(attribute, Attribute::Id(bytes) | Attribute::Label(bytes) if !bytes.is_empty());
    let template: Vec<_> = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::KeyType(KeyType::EC_EDWARDS)]
        .into_iter()
        .chain(same.into_iter().filter(named))
        .collect();
    let missing = || Problem::new(Code::InvalidConfig, "the token doesn't have the public half of the key, under the same id and label");
    for public in session.find_objects(&template).map_err(unavailable)? {
        let attributes = session.get_attributes(public, &[AttributeType::EcPoint]).map_err(unavailable)?;
        let Some(Attribute::EcPoint(point)) = attributes.into_iter().next() else { continue };
        // An OCTET STRING around it (PKCS#11 v3.0), or the bare point, as some tokens have it.
        let point = point.strip_prefix(&[0x04, 0x20]).filter(|rest| rest.len() == 32).unwrap_or(&point);
        if let Some(did) = point.try_into().ok().and_then(|point| Did::from_bytes(point).ok()) {
            return Ok((key, did));
        }
    }
    Err(missing())
}

fn read_pin(file: &Path) -> Result<Passphrase, Problem> {
    let unreadable = |detail: String| Problem::new(Code::InvalidConfig, format!("the PIN in {}: {detail}", file.display()));
    check_mode(file)?;
    let opened = File::open(file).map_err(|error| unreadable(error.to_string()))?;
    Passphrase::read(opened).map_err(|problem| unreadable(problem.detail))
}

fn bad_pin(why: &str) -> Problem {
    Problem::new(Code::InvalidConfig, format!("the token refuses the PIN: {why}")).hint("correct the file that pin-source names")
}

fn unavailable(error: Error) -> Problem {
    let why = match error {
        // As the standard has the names, by which a token's manual can be searched.
        Error::Pkcs11(code, function) => format!("C_{function:?} returned {code:?}"),
        other => other.to_string(),
    };
    Problem::new(Code::KeyUnavailable, format!("the token with the owner's key fails: {why}"))
        .hint("see that the token is there, and that this process may use it")
}

fn broken() -> Problem {
    Problem::new(Code::KeyUnavailable, "the token made a signature that doesn't verify")
}

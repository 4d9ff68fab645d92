//! Which addresses this node dials at all.
//!
//! Kademlia dials what other peers tell it. Without this gate anyone could have the node knock at addresses inside its
//! own network. What the operator names is dialled wherever it is.

use std::{
    collections::HashSet,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, Transport,
    core::transport::{DialOpts, ListenerId, TransportError, TransportEvent},
};
use parking_lot::RwLock;

use crate::address;

/// What may be dialled.
#[derive(Debug, Clone)]
pub(crate) struct Permitted {
    private: bool,
    /// As many as bootstrap addresses are kept.
    named: Arc<RwLock<HashSet<Multiaddr>>>,
}

impl Permitted {
    pub(crate) fn new(private: bool) -> Self {
        Self { private, named: Arc::default() }
    }

    /// The operator named `address`.
    pub(crate) fn name(&self, address: &Multiaddr) {
        self.named.write().insert(address::split_peer(address.clone()).0);
    }

    /// Whether `address` may be dialled on anyone's word.
    pub(crate) fn by_anyone(&self, address: &Multiaddr) -> bool {
        address::dialable(address, self.private)
    }

    fn permits(&self, address: &Multiaddr) -> bool {
        self.by_anyone(address) || self.named.read().contains(&address::split_peer(address.clone()).0)
    }
}

/// Dials only what is permitted.
pub(super) struct Policy<T> {
    pub(super) inner: T,
    pub(super) permitted: Permitted,
}

impl<T> Transport for Policy<T>
where
    T: Transport<Error = io::Error> + Unpin,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<io::Error>> {
        if self.permitted.permits(&address) {
            return self.inner.dial(address, options);
        }
        let reason = "a private address that this node's operator didn't name";
        Err(TransportError::Other(io::Error::new(io::ErrorKind::PermissionDenied, reason)))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, io::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

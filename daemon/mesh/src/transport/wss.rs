//! WebSocket over TLS, seen from above as one transport of `/…/tcp/<port>/tls/ws`.
//!
//! ```text
//! /ip4/192.0.2.1/tcp/8765/tls/ws    what everyone above reads and writes
//!          | Wss: /tls/ws <-> /ws
//! websocket framing                 knows nothing of TLS
//!          | Tls::secure
//! TCP
//! ```

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{
    Multiaddr, Transport,
    core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent},
    multiaddr::Protocol,
    websocket,
};

use super::tls::{Secured, Tls};

/// The largest WebSocket message that is accepted: Noise frames inside are at most 64 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;

type Framed<S> = websocket::Config<Boxed<Secured<S>>>;

/// WebSocket over TLS over `tcp`.
pub(super) fn transport<T, S>(tcp: T, tls: Tls) -> Wss<Framed<S>>
where
    T: Transport<Output = S, Error: Send + Sync, Dial: Send, ListenerUpgrade: Send> + Send + Unpin + 'static,
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let secured = tcp.and_then(move |stream, endpoint| tls.secure(stream, endpoint)).boxed();
    let mut framed = websocket::Config::new(secured);
    framed.set_max_data_size(MAX_MESSAGE);
    Wss(framed)
}

/// Turns `/tls/ws` into the `/ws` of the transport inside, and back.
pub(super) struct Wss<T>(T);

impl<T> Transport for Wss<T>
where
    T: Transport + Unpin,
{
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.0.listen_on(id, inner(address)?).map_err(restore)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.0.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<T::Dial, TransportError<T::Error>> {
        self.0.dial(inner(address)?, options).map_err(restore)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<T::ListenerUpgrade, T::Error>> {
        Pin::new(&mut self.0).poll(cx).map(|event| match event {
            TransportEvent::NewAddress { listener_id, listen_addr } => {
                TransportEvent::NewAddress { listener_id, listen_addr: outer(listen_addr) }
            }
            TransportEvent::AddressExpired { listener_id, listen_addr } => {
                TransportEvent::AddressExpired { listener_id, listen_addr: outer(listen_addr) }
            }
            TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                TransportEvent::Incoming { listener_id, upgrade, local_addr: outer(local_addr), send_back_addr: outer(send_back_addr) }
            }
            closed @ (TransportEvent::ListenerClosed { .. } | TransportEvent::ListenerError { .. }) => closed,
        })
    }
}

fn restore<E>(error: TransportError<E>) -> TransportError<E> {
    match error {
        TransportError::MultiaddrNotSupported(address) => TransportError::MultiaddrNotSupported(outer(address)),
        other => other,
    }
}

/// `/tls/ws` (also with `/sni/<name>`, also written `/wss`) as `/ws`. Any other address isn't for this transport.
fn inner<E>(address: Multiaddr) -> Result<Multiaddr, TransportError<E>> {
    let mut rewritten = Multiaddr::empty();
    let (mut tls, mut websocket) = (false, false);
    for part in &address {
        match part {
            Protocol::Tls => tls = true,
            Protocol::Sni(_) if tls => {}
            Protocol::Ws(path) if tls => {
                websocket = true;
                rewritten.push(Protocol::Ws(path));
            }
            Protocol::Wss(path) => {
                websocket = true;
                rewritten.push(Protocol::Ws(path));
            }
            Protocol::P2pCircuit => return Err(TransportError::MultiaddrNotSupported(address)),
            other => rewritten.push(other),
        }
    }
    if websocket { Ok(rewritten) } else { Err(TransportError::MultiaddrNotSupported(address)) }
}

/// `/ws` as `/tls/ws`.
fn outer(address: Multiaddr) -> Multiaddr {
    address.iter().fold(Multiaddr::empty(), |built, part| match part {
        Protocol::Ws(path) => built.with(Protocol::Tls).with(Protocol::Ws(path)),
        other => built.with(other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_pass_both_ways() {
        for text in ["/ip4/127.0.0.1/tcp/1/tls/ws", "/ip4/127.0.0.1/tcp/1/wss", "/ip4/127.0.0.1/tcp/1/tls/sni/a.example/ws"] {
            let rewritten = inner::<std::io::Error>(text.parse().expect(text)).expect(text);
            assert_eq!(rewritten.to_string(), "/ip4/127.0.0.1/tcp/1/ws");
            assert_eq!(outer(rewritten).to_string(), "/ip4/127.0.0.1/tcp/1/tls/ws");
        }
        for text in ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/1/ws", "/ip4/127.0.0.1/udp/1/quic-v1"] {
            assert!(inner::<std::io::Error>(text.parse().expect(text)).is_err(), "{text}");
        }
    }
}

//! Frames of the mesh's RPC: `length u32 BE | kind u8 | id u64 BE | payload`; `length` counts what follows it.

use bytes::{Buf as _, Bytes, BytesMut};

use crate::wire::Kind;

/// Length, kind and id.
pub const HEADER: usize = 4 + 1 + 8;
/// What `length` counts besides the payload.
const COUNTED: usize = HEADER - 4;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// The request that it belongs to.
    pub id: u64,
    /// CBOR, by its kind.
    pub payload: Bytes,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Its header announces more than may be.
    #[error("frame {id} of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// The request.
        id: u64,
        /// Bytes of payload announced.
        size: usize,
        /// Bytes of payload allowed.
        limit: usize,
    },
    /// Its header makes no sense.
    #[error("the peer sent what is no frame: {0}")]
    Malformed(&'static str),
}

impl Frame {
    /// A frame.
    pub fn new(kind: Kind, id: u64, payload: impl Into<Bytes>) -> Self {
        Self { kind, id, payload: payload.into() }
    }

    /// What stands before the payload on the wire.
    pub fn header(&self) -> [u8; HEADER] {
        let length = u32::try_from(COUNTED + self.payload.len()).expect("payloads are checked against limits below 4 GiB");
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&length.to_be_bytes());
        header[4] = self.kind as u8;
        header[5..].copy_from_slice(&self.id.to_be_bytes());
        header
    }

    /// Bytes on the wire.
    pub fn size(&self) -> usize {
        HEADER + self.payload.len()
    }

    /// Takes one whole frame with at most `limit` bytes of payload off the front of `buffer`, if there is one.
    ///
    /// # Errors
    /// The header is enough to know that no frame follows that may be.
    pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Self>, Error> {
        let Some((header, _)) = buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [l0, l1, l2, l3, kind, id @ ..] = *header;
        let id = u64::from_be_bytes(id);
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let kind = Kind::try_from(kind).map_err(|_| Error::Malformed("a kind that this version doesn't know"))?;
        let size = length.checked_sub(COUNTED).ok_or(Error::Malformed("a length shorter than a header"))?;
        if size > limit {
            return Err(Error::TooLarge { id, size, limit });
        }
        if buffer.len() < HEADER + size {
            return Ok(None);
        }
        buffer.advance(HEADER);
        let payload = buffer.split_to(size).freeze();
        if buffer.is_empty() {
            // Lets go of what a large frame took; the next small one allocates little.
            *buffer = BytesMut::new();
        }
        Ok(Some(Self { kind, id, payload }))
    }
}

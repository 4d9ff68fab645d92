//! An agent in one file: its signed snapshot, its plugins with their signed manifests, and every chunk of its state. It is
//! verified by itself; no node, mesh or network is needed.
//!
//! ```text
//! "mcp-zero agent 1\n" | sections: kind u8, length u64 BE, content
//! snapshot; manifest and component of each of its plugins, in its order; index; the chunks in the index's order; the end
//! (length 0)
//! ```

use std::io::{self, Read, Write};

use crate::{
    digest::Digest,
    document::{self, Document, Expect, Sealed, Signed},
    id::MeshId,
    manifest::{MAX_COMPONENT, Manifest},
    snapshot::{self, Index, MAX_CHUNK, MAX_CHUNKS, MAX_PLUGINS, Snapshot},
};

const MAGIC: &[u8] = b"mcp-zero agent 1\n";
/// The largest envelope.
const MAX_DOCUMENT: u64 = 1 << 20;

/// What stands in a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Section {
    End = 0,
    Snapshot = 1,
    Manifest = 2,
    Component = 3,
    Index = 4,
    Chunk = 5,
}

/// Why a file is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It isn't what this reads, or was cut or changed.
    #[error("the file is no export of an agent, or was changed: {0}")]
    Malformed(String),
    /// A document in it doesn't verify.
    #[error(transparent)]
    Document(#[from] document::Error),
}

fn malformed(what: impl Into<String>) -> Error {
    Error::Malformed(what.into())
}

/// What stands before the chunks, verified.
#[derive(Debug)]
pub struct Head {
    /// The snapshot, signed by the agent's owner.
    pub snapshot: Signed<Snapshot>,
    /// The plugins, as the snapshot names them: the manifest, signed by its publisher, and the component. Whether to trust
    /// a publisher is the importer's to decide.
    pub plugins: Vec<(Signed<Manifest>, Vec<u8>)>,
    /// The chunks that follow.
    pub index: Index,
}

impl Head {
    /// Puts the parts together, if they belong together.
    ///
    /// # Errors
    /// A signature or a digest is wrong.
    pub fn verify(snapshot: Sealed<Snapshot>, plugins: Vec<(Sealed<Manifest>, Vec<u8>)>, index: &[u8]) -> Result<Self, Error> {
        let any = MeshId::any();
        let snapshot = snapshot.open(Expect::archived(&any))?;
        snapshot.require(snapshot.document().owner)?;
        let of = snapshot.document();
        let verified = |(manifest, component): (Sealed<Manifest>, Vec<u8>)| {
            let manifest = manifest.open(Expect::archived(&any))?;
            manifest.require(manifest.document().publisher)?;
            let same = manifest.document().component.matches(&component);
            if same { Ok((manifest, component)) } else { Err(malformed("a plugin is another than its manifest says")) }
        };
        let plugins = plugins.into_iter().map(verified).collect::<Result<Vec<_>, Error>>()?;
        if !of.plugins.iter().map(|ran| ran.component).eq(plugins.iter().map(|(manifest, _)| manifest.document().component)) {
            return Err(malformed("the plugins are others than the snapshot says"));
        }
        if !of.index.matches(index) {
            return Err(malformed("the index is another than the snapshot says"));
        }
        let index = Index::decode(index).map_err(|error: snapshot::Malformed| malformed(error.to_string()))?;
        Ok(Self { snapshot, plugins, index })
    }
}

/// Writes a bundle.
#[derive(Debug)]
pub struct Writer<W: Write> {
    file: W,
    chunks: std::vec::IntoIter<(Digest, u32)>,
}

impl<W: Write> Writer<W> {
    /// Begins with what stands before the chunks.
    ///
    /// # Errors
    /// It can't be written.
    pub fn begin(mut file: W, head: &Head) -> Result<Self, Error> {
        file.write_all(MAGIC)?;
        section(&mut file, Section::Snapshot, &json(&head.snapshot)?)?;
        for (manifest, component) in &head.plugins {
            section(&mut file, Section::Manifest, &json(manifest)?)?;
            section(&mut file, Section::Component, component)?;
        }
        section(&mut file, Section::Index, &head.index.encode())?;
        Ok(Self { file, chunks: head.index.0.clone().into_iter() })
    }

    /// Appends the next chunk.
    ///
    /// # Errors
    /// It is another one, or can't be written.
    pub fn chunk(&mut self, content: &[u8]) -> Result<(), Error> {
        expected(self.chunks.next(), content)?;
        section(&mut self.file, Section::Chunk, content)
    }

    /// Ends the file, and gives it back.
    ///
    /// # Errors
    /// Chunks are missing, or it can't be written.
    pub fn end(mut self) -> Result<W, Error> {
        if self.chunks.len() > 0 {
            return Err(malformed(format!("{} chunks are missing", self.chunks.len())));
        }
        section(&mut self.file, Section::End, &[])?;
        self.file.flush()?;
        Ok(self.file)
    }
}

/// Reads a bundle, verifying all of it.
#[derive(Debug)]
pub struct Reader<R: Read> {
    file: R,
    chunks: std::vec::IntoIter<(Digest, u32)>,
}

impl<R: Read> Reader<R> {
    /// Reads what stands before the chunks.
    ///
    /// # Errors
    /// It can't be read, isn't a bundle, or doesn't verify.
    pub fn begin(mut file: R) -> Result<(Self, Head), Error> {
        let mut magic = [0; MAGIC.len()];
        file.read_exact(&mut magic).map_err(|_| malformed("it is too short"))?;
        if magic != MAGIC {
            return Err(malformed("it begins with something else"));
        }
        let mut next = |section, limit| content(&mut file, section, limit);
        let snapshot = sealed::<Snapshot>(&next(Section::Snapshot, MAX_DOCUMENT)?)?;
        // How many plugins follow is the snapshot's to say; so its signature comes first.
        let ran = snapshot.clone().open(Expect::archived(&MeshId::any()))?.document().plugins.len();
        if ran > MAX_PLUGINS {
            return Err(malformed(format!("an agent has at most {MAX_PLUGINS} plugins")));
        }
        let mut plugin = || Ok((sealed(&next(Section::Manifest, MAX_DOCUMENT)?)?, next(Section::Component, MAX_COMPONENT as u64)?));
        let plugins = (0..ran).map(|_| plugin()).collect::<Result<Vec<_>, Error>>()?;
        let index = next(Section::Index, MAX_CHUNKS as u64 * 36)?;
        let head = Head::verify(snapshot, plugins, &index)?;
        Ok((Self { file, chunks: head.index.0.clone().into_iter() }, head))
    }

    /// The next chunk; `None` after the last one, when the file has ended as it should.
    ///
    /// # Errors
    /// It can't be read, or isn't what the index says.
    pub fn chunk(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(next) = self.chunks.next() else {
            content(&mut self.file, Section::End, 0)?;
            return if self.file.read(&mut [0; 1])? == 0 { Ok(None) } else { Err(malformed("more follows its end")) };
        };
        let chunk = content(&mut self.file, Section::Chunk, MAX_CHUNK as u64)?;
        expected(Some(next), &chunk)?;
        Ok(Some(chunk))
    }
}

fn expected(next: Option<(Digest, u32)>, chunk: &[u8]) -> Result<(), Error> {
    match next {
        Some((digest, size)) if chunk.len() == size as usize && digest.matches(chunk) => Ok(()),
        Some((digest, _)) => Err(malformed(format!("the chunk in the place of {digest} is another"))),
        None => Err(malformed("it has a chunk too many")),
    }
}

fn section(file: &mut impl Write, section: Section, content: &[u8]) -> Result<(), Error> {
    file.write_all(&[section as u8])?;
    file.write_all(&(content.len() as u64).to_be_bytes())?;
    Ok(file.write_all(content)?)
}

fn content(file: &mut impl Read, section: Section, limit: u64) -> Result<Vec<u8>, Error> {
    let mut head = [0; 9];
    file.read_exact(&mut head).map_err(|_| malformed("it is cut"))?;
    let [kind, length @ ..] = head;
    let length = u64::from_be_bytes(length);
    if kind != section as u8 || length > limit {
        return Err(malformed(format!("{section:?} should follow")));
    }
    // Memory grows with what is there, not with what is announced.
    let mut content = Vec::new();
    file.take(length).read_to_end(&mut content)?;
    if content.len() as u64 == length { Ok(content) } else { Err(malformed("it is cut")) }
}

fn json<D: Document>(signed: &Signed<D>) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(signed).map_err(|error| malformed(error.to_string()))
}

fn sealed<D: Document>(bytes: &[u8]) -> Result<Sealed<D>, Error> {
    serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        AgentId, Header, Key, SignedDuration, SnapshotId, Timestamp, agreement::Pricing, api::Limits, manifest::INTERFACE, snapshot::Ran,
    };

    fn head(chunks: &[Vec<u8>]) -> Head {
        let (owner, publisher, now) = (Key::generate(), Key::generate(), Timestamp::now());
        let year = SignedDuration::from_hours(366 * 24);
        let index = Index(chunks.iter().map(|chunk| (Digest::blake3(chunk), chunk.len() as u32)).collect());
        let plugins = [b"one".to_vec(), b"another".to_vec()].map(|component| {
            let manifest = Manifest {
                header: Header::new::<Manifest>(&MeshId::any(), now, year),
                name: "demo".into(),
                release: "1.0.0".into(),
                publisher: publisher.did(),
                component: Digest::blake3(&component),
                size: component.len() as u64,
                interface: INTERFACE.into(),
                imports: Vec::new(),
                health: None,
            };
            (Signed::sign(manifest, &[&publisher]).into(), component)
        });
        let ran = |(_, component): &(Sealed<Manifest>, Vec<u8>)| Ran { plugin: "demo@1.0.0".into(), component: Digest::blake3(component) };
        let snapshot = Snapshot {
            header: Header::new::<Snapshot>(&MeshId::any(), now, year),
            id: SnapshotId::new(),
            agent: AgentId::new(),
            name: "demo".into(),
            owner: owner.did(),
            node: owner.node_id(),
            epoch: 0,
            plugins: plugins.iter().map(ran).collect(),
            pricing: Pricing::free(),
            limits: Limits::default(),
            keys: 1,
            bytes: 1,
            index: Digest::blake3(&index.encode()),
        };
        let snapshot: Sealed<Snapshot> = Signed::sign(snapshot, &[&owner]).into();
        let mut swapped = plugins.clone();
        swapped.reverse();
        for wrong in [&plugins[..1], &swapped] {
            assert!(Head::verify(snapshot.clone(), wrong.to_vec(), &index.encode()).is_err());
        }
        Head::verify(snapshot, plugins.to_vec(), &index.encode()).expect("they belong together")
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let (mut reader, _) = Reader::begin(bytes)?;
        std::iter::from_fn(|| reader.chunk().transpose()).collect()
    }

    #[test]
    fn a_bundle_comes_back_and_no_changed_one_passes() {
        let chunks = [vec![1; 20_000], vec![2; 1], vec![3; 300]];
        let mut writer = Writer::begin(Vec::new(), &head(&chunks)).expect("written");
        assert!(writer.chunk(b"another").is_err());
        let mut writer = Writer::begin(Vec::new(), &head(&chunks)).expect("written");
        chunks.iter().for_each(|chunk| writer.chunk(chunk).expect("written"));
        let bytes = writer.end().expect("whole");
        assert_eq!(read(&bytes).expect("a bundle"), chunks);
        // A flipped bit anywhere, a cut anywhere, something more: each is seen.
        for at in (0..bytes.len()).step_by(61) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert!(read(&changed).is_err(), "byte {at}");
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
        }
        assert!(read(&[&bytes[..], b"x"].concat()).is_err());
        let unfinished = Writer::begin(Vec::new(), &head(&chunks)).expect("written");
        assert!(unfinished.end().is_err());
    }
}

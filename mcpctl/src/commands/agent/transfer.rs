//! An agent into a file, and out of it. What is written and read is verified here, and by the daemon again.

use std::{
    collections::HashSet,
    fs::File,
    io::{BufReader, BufWriter, Write as _},
    path::Path,
};

use protocol::{
    Client, Digest, Problem, SnapshotId,
    api::{Agent, Import, SnapshotOutline, TakeSnapshot},
    bundle::{Error, Head, Reader, Writer},
    document::Sealed,
    error::Code,
    grant::Grants,
    manifest::{MAX_COMPONENT, Manifest},
    snapshot::{MAX_CHUNK, MAX_CHUNKS, Snapshot},
};
use serde::de::IgnoredAny;

/// Writes a snapshot of `agent` into `file`, which is there whole or not at all.
pub(super) async fn export(client: &Client, agent: &str, file: &Path, snapshot: Option<SnapshotId>) -> Result<SnapshotOutline, Problem> {
    let taken = match snapshot {
        Some(id) => outline(client, agent, id).await?,
        None => client.post(&format!("/v1/agents/{agent}/snapshots"), &TakeSnapshot::default()).await?,
    };
    let sealed: Sealed<Snapshot> = client.post(&format!("/v1/agents/{agent}/snapshots/{}/export", taken.id), &()).await?;
    let any = protocol::MeshId::any();
    let signed = sealed.clone().open(protocol::Expect::archived(&any))?;
    let mut plugins = Vec::new();
    for ran in &signed.document().plugins {
        let manifest: Sealed<Manifest> = client.get(&format!("/v1/plugins/{}/manifest", ran.component)).await?;
        plugins.push((manifest, blob(client, &ran.component, MAX_COMPONENT).await?));
    }
    let index = blob(client, &signed.document().index, MAX_CHUNKS * 36).await?;
    let head = Head::verify(sealed, plugins, &index).map_err(|error| refused(file, error))?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = tempfile::NamedTempFile::new_in(directory).map_err(|error| refused(file, error.into()))?;
    let mut writer = Writer::begin(BufWriter::new(beside), &head).map_err(|error| refused(file, error))?;
    for (digest, _) in &head.index.0 {
        let chunk = blob(client, digest, MAX_CHUNK).await?;
        writer.chunk(&chunk).map_err(|error| refused(file, error))?;
    }
    let whole = writer.end().map_err(|error| refused(file, error))?;
    let mut whole = whole.into_inner().map_err(|error| refused(file, error.into_error().into()))?;
    whole.flush().and_then(|()| whole.as_file().sync_all()).map_err(|error| refused(file, error.into()))?;
    whole.persist(file).map_err(|error| refused(file, error.error.into()))?;
    Ok(taken)
}

/// Makes an agent of the export in `file`. All of it is verified before anything is sent.
pub(super) async fn import(client: &Client, file: &Path, name: Option<String>, grants: Grants) -> Result<Agent, Problem> {
    let open = || File::open(file).map(BufReader::new).map_err(|error| refused(file, error.into()));
    let (mut reader, _) = Reader::begin(open()?).map_err(|error| refused(file, error))?;
    while reader.chunk().map_err(|error| refused(file, error))?.is_some() {}
    let (mut reader, head) = Reader::begin(open()?).map_err(|error| refused(file, error))?;
    let Head { snapshot, plugins, index } = head;
    let mut manifests = Vec::new();
    for (manifest, component) in plugins {
        upload(client, manifest.document().component, component).await?;
        manifests.push(manifest.into());
    }
    upload(client, snapshot.document().index, index.encode()).await?;
    let mut sent = HashSet::new();
    while let Some(chunk) = reader.chunk().map_err(|error| refused(file, error))? {
        let digest = Digest::blake3(&chunk);
        if sent.insert(digest) {
            upload(client, digest, chunk).await?;
        }
    }
    let import = Import { name, snapshot: snapshot.into(), manifests, grants };
    client.post("/v1/agents/import", &import).await
}

async fn outline(client: &Client, agent: &str, id: SnapshotId) -> Result<SnapshotOutline, Problem> {
    let all: protocol::api::List<SnapshotOutline> = client.get(&format!("/v1/agents/{agent}/snapshots")).await?;
    let unknown = || Problem::new(Code::NotFound, format!("agent {agent} has no snapshot {id} on this node"));
    all.items.into_iter().find(|one| one.id == id).ok_or_else(unknown)
}

async fn blob(client: &Client, digest: &Digest, limit: usize) -> Result<Vec<u8>, Problem> {
    Ok(client.get_bytes(&format!("/v1/blobs/{digest}"), limit).await?.to_vec())
}

async fn upload(client: &Client, digest: Digest, content: Vec<u8>) -> Result<(), Problem> {
    client.put_bytes::<IgnoredAny>(&format!("/v1/blobs/{digest}"), content.into()).await.map(drop)
}

fn refused(file: &Path, error: Error) -> Problem {
    match error {
        Error::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Problem::new(Code::NotFound, format!("{}: {error}", file.display()))
        }
        Error::Io(error) => Problem::new(Code::InvalidRequest, format!("{}: {error}", file.display())),
        Error::Malformed(_) => Problem::new(Code::BadSignature, format!("{}: {error}", file.display())),
        Error::Document(error) => Problem::from(error),
    }
}

//! The giving side.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    sync::Arc,
};

use parking_lot::Mutex;
use protocol::{
    Code, Digest, NodeId, Problem,
    tree::{self, GROUP, Outline},
    wire::Response,
};

use super::VALUES;
use crate::{
    limits::{MAX_TRANSFERS, MAX_TRANSFERS_PER_PEER},
    rpc::Items,
};

/// Outlines that are kept: making one reads all of the content.
const MAX_OUTLINES: usize = 16;

/// The transfers that this node serves.
#[derive(Default)]
pub(crate) struct Serving {
    under_way: Mutex<HashMap<NodeId, usize>>,
    outlines: Mutex<VecDeque<(Digest, Arc<Outline>)>>,
}

/// A place among the transfers.
struct Place<'a>(&'a Serving, NodeId);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut under_way = self.0.under_way.lock();
        if let Some(count) = under_way.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.1);
            }
        }
    }
}

impl Serving {
    /// Sends the content in the file at `path` to `peer`, from group `from` on.
    pub(crate) async fn serve(&self, peer: NodeId, content: Digest, from: u64, path: PathBuf, items: &Items) -> Result<Response, Problem> {
        let _place = self.enter(peer)?;
        let file = blocking(move || File::open(&path)).await?;
        let file = Arc::new(file);
        let outline = self.outline(content, &file).await?;
        items.send(outline.size().to_be_bytes().to_vec()).await?;
        for values in outline.values().chunks(VALUES) {
            items.send(values.concat()).await?;
        }
        for index in from..tree::groups(outline.size()) {
            let (file, length) = (Arc::clone(&file), outline.length(index));
            let group = blocking(move || {
                let mut group = vec![0; length];
                file.read_exact_at(&mut group, index * GROUP as u64)?;
                Ok(group)
            });
            items.send(group.await?).await?;
        }
        Ok(Response::Done)
    }

    fn enter(&self, peer: NodeId) -> Result<Place<'_>, Problem> {
        let mut under_way = self.under_way.lock();
        let (all, own) = (under_way.values().sum::<usize>(), under_way.get(&peer).copied().unwrap_or_default());
        if all >= MAX_TRANSFERS || own >= MAX_TRANSFERS_PER_PEER {
            let detail = format!("{all} transfers are under way here, {own} of them of this node");
            return Err(Problem::new(Code::Overloaded, detail).hint("wait for some to end, then try again"));
        }
        *under_way.entry(peer).or_default() += 1;
        Ok(Place(self, peer))
    }

    async fn outline(&self, content: Digest, file: &Arc<File>) -> Result<Arc<Outline>, Problem> {
        let kept = self.outlines.lock().iter().find(|(of, _)| *of == content).map(|(_, outline)| Arc::clone(outline));
        if let Some(outline) = kept {
            return Ok(outline);
        }
        let file = Arc::clone(file);
        let (size, values) = blocking(move || read_outline(&file)).await?;
        let damaged = || Problem::new(Code::Internal, format!("content {content} is damaged on the node that has it"));
        let outline = Arc::new(Outline::verify(&content, size, values).ok_or_else(damaged)?);
        let mut outlines = self.outlines.lock();
        outlines.truncate(MAX_OUTLINES - 1);
        outlines.push_front((content, Arc::clone(&outline)));
        Ok(outline)
    }
}

fn read_outline(file: &File) -> io::Result<(u64, Vec<[u8; 32]>)> {
    let size = file.metadata()?.len();
    let only = tree::groups(size) == 1;
    let mut group = vec![0; GROUP];
    let mut values = Vec::new();
    for index in 0..tree::groups(size) {
        let start = index * GROUP as u64;
        let length = usize::try_from(size - start).unwrap_or(GROUP).min(GROUP);
        file.read_exact_at(&mut group[..length], start)?;
        values.push(tree::value(index, only, &group[..length]));
    }
    Ok((size, values))
}

/// Reading and hashing take their time: off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, Problem> {
    let failed = |error: &dyn std::fmt::Display| Problem::new(Code::Internal, format!("a file can't be read or written: {error}"));
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}

//! The taking side.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use protocol::{
    Code, Digest, Problem,
    tree::{self, GROUP, Outline},
    wire::{Request, Response},
};

use super::serve::blocking;
use crate::answers::{Answers, Piece};

/// Content on its way into a file, which may hold some of it already.
pub(crate) struct Download {
    content: Digest,
    limit: u64,
    file: Arc<File>,
    /// Groups that are in the file and verified.
    have: u64,
    verified: bool,
}

impl Download {
    /// Goes on with the file at `path`, or begins it; refuses content of over `limit` bytes.
    pub(crate) async fn open(path: &Path, content: Digest, limit: u64) -> Result<Self, Problem> {
        let path: PathBuf = path.into();
        let open = move || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = Arc::new(blocking(open).await?);
        let length = {
            let file = Arc::clone(&file);
            blocking(move || file.metadata()).await?.len()
        };
        Ok(Self { content, limit: limit.min(tree::MAX_CONTENT), file, have: length / GROUP as u64, verified: false })
    }

    /// What to ask for.
    pub(crate) fn request(&self) -> Request {
        Request::Fetch { content: self.content, from: self.have }
    }

    /// Groups that are there.
    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    /// Takes the answer, verifying it group by group; returns the content's size when all of it is in the file, durably.
    /// `None` if what the file held was something else: it is to be asked for again, from where it holds what it should.
    pub(crate) async fn take(&mut self, answers: &mut Answers) -> Result<Option<u64>, Problem> {
        let outline = self.outline(answers).await?;
        let groups = tree::groups(outline.size());
        if !self.verified {
            let asked = self.have;
            self.verify(&outline).await?;
            self.verified = true;
            if self.have < asked {
                return Ok(None);
            }
        }
        while self.have < groups {
            let group = item(answers).await?;
            if !outline.matches(self.have, &group) {
                return Err(malformed(format!("group {} of {groups} isn't what {} consists of", self.have, self.content)));
            }
            let (file, start) = (Arc::clone(&self.file), self.have * GROUP as u64);
            blocking(move || file.write_all_at(&group, start)).await?;
            self.have += 1;
        }
        match answers.next().await? {
            Piece::End(response) if *response == Response::Done => {}
            _ => return Err(malformed("more came than the content has".into())),
        }
        let (file, size) = (Arc::clone(&self.file), outline.size());
        blocking(move || file.set_len(size).and_then(|()| file.sync_all())).await?;
        Ok(Some(size))
    }

    async fn outline(&self, answers: &mut Answers) -> Result<Outline, Problem> {
        let size = <[u8; 8]>::try_from(&item(answers).await?[..]).map(u64::from_be_bytes);
        let size = size.map_err(|_| malformed("the content's size is missing".into()))?;
        if size > self.limit {
            return Err(Problem::new(Code::TooLarge, format!("{} has {size} bytes; the limit is {}", self.content, self.limit)));
        }
        let mut values = Vec::new();
        while (values.len() as u64) < tree::groups(size) {
            let item = item(answers).await?;
            let (some, rest) = item.as_chunks::<32>();
            if some.is_empty() || !rest.is_empty() {
                return Err(malformed("the content's outline is cut".into()));
            }
            values.extend_from_slice(some);
        }
        let refused = || malformed(format!("the outline isn't that of {}", self.content));
        Outline::verify(&self.content, size, values).ok_or_else(refused)
    }

    /// Keeps of the file what it should hold.
    async fn verify(&mut self, outline: &Outline) -> Result<(), Problem> {
        let (file, outline, have) = (Arc::clone(&self.file), outline.clone(), self.have);
        self.have = blocking(move || {
            let mut group = vec![0; GROUP];
            for index in 0..have.min(tree::groups(outline.size())) {
                let length = outline.length(index);
                match file.read_exact_at(&mut group[..length], index * GROUP as u64) {
                    Ok(()) if outline.matches(index, &group[..length]) => {}
                    Ok(()) => return Ok(index),
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(index),
                    Err(error) => return Err(error),
                }
            }
            Ok(have.min(tree::groups(outline.size())))
        })
        .await?;
        Ok(())
    }
}

async fn item(answers: &mut Answers) -> Result<Bytes, Problem> {
    match answers.next().await? {
        Piece::Item(item) => Ok(item),
        Piece::End(_) => Err(malformed("it ended early".into())),
    }
}

fn malformed(reason: String) -> Problem {
    Problem::new(Code::BadSignature, format!("the peer sent what was not asked for: {reason}"))
}

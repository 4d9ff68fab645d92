//! A mesh in one command: real processes, real connections, real work, and a verdict that comes from verification.
//!
//! ```text
//! stack   bootstrap, nodes a (consumer), b (provider), …, gateway   processes, in a directory of their own
//! story   spawn -> discover -> agree -> index, search -> verify      what they do, through their sockets
//! corpus  which files to index, what to search for
//! report  what came of it, for people and programs
//! ```

mod corpus;
mod report;
mod stack;
mod story;

use std::path::Path;

use protocol::{Code, Problem};
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{corpus::Corpus, stack::Stack};
use crate::{commands::devstack::Arguments, error::Result, output::Output};

/// Starts the mesh, does the work, shows what came of it, and leaves nothing behind.
pub(crate) async fn run(arguments: Arguments, output: Output) -> Result {
    let corpus = Corpus::open(arguments.docs.as_deref())?;
    let mut interrupts = Interrupts::listen()?;
    let (place, temporary) = place(arguments.keep.as_deref())?;
    let mut stack = Stack::new(&place)?;
    let done = tokio::select! {
        done = work(&mut stack, &corpus, &arguments, output) => done,
        () = interrupts.next() => match arguments.once {
            true => Err(Problem::new(Code::Cancelled, "interrupted before all was verified").into()),
            false => Ok(()),
        },
    };
    output.note("stopping");
    let stopped = stack.stop().await;
    if let Some(directory) = temporary {
        directory.close().map_err(|error| Problem::new(Code::Internal, format!("can't remove {}: {error}", place.display())))?;
    }
    done.and(stopped.map_err(Into::into))
}

async fn work(stack: &mut Stack, corpus: &Corpus, arguments: &Arguments, output: Output) -> Result {
    let begun = std::time::Instant::now();
    let mesh = stack.start(arguments.nodes, output).await?;
    let report = story::tell(&mesh, corpus, begun, output).await?;
    output.show(&report, report::describe)?;
    if arguments.once {
        return Ok(());
    }
    output.note(&report::next(&mesh));
    std::future::pending().await
}

/// Where the nodes live: a directory that the user keeps, or one that goes.
fn place(keep: Option<&Path>) -> Result<(std::path::PathBuf, Option<tempfile::TempDir>)> {
    let failed = |what: &dyn std::fmt::Display, error: std::io::Error| Problem::new(Code::Internal, format!("can't make {what}: {error}"));
    let Some(keep) = keep else {
        let directory = tempfile::Builder::new().prefix("mcp-zero-").tempdir().map_err(|error| failed(&"a temporary directory", error))?;
        return Ok((directory.path().into(), Some(directory)));
    };
    std::fs::create_dir_all(keep).map_err(|error| failed(&keep.display(), error))?;
    let mut entries = keep.read_dir().map_err(|error| failed(&keep.display(), error))?;
    if entries.next().is_some() {
        return Err(Problem::new(Code::Conflict, format!("{} is not empty", keep.display())).hint("name a new directory").into());
    }
    Ok((keep.canonicalize().map_err(|error| failed(&keep.display(), error))?, None))
}

/// Ctrl-C, or whoever ends us politely. Listened for from the beginning: whenever it comes, all is put away.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn listen() -> Result<Self, Problem> {
        let failed = |error: std::io::Error| Problem::new(Code::Internal, format!("can't listen for signals: {error}"));
        let listen = |kind| signal(kind).map_err(failed);
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

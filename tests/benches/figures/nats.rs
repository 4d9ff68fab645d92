//! The yardstick of remote execution: request/reply through a NATS server.
//!
//! ```text
//! this process ─► nats-server ─► responder (another process): the raw parts, or an echo
//! ```

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use async_nats::{Client, Message};
use bytes::Bytes;
use futures::StreamExt as _;
use tests::Process;
use tokio::task::JoinSet;

use crate::{counter, node::check, place::Place, raw::Raw};

/// A server on the loopback interface.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) url: String,
    /// From its start until it took a connection.
    pub(crate) started_in: Duration,
}

impl Server {
    /// Starts it, and waits until it listens.
    pub(crate) async fn start(place: &Place) -> Result<Self> {
        // Free a moment ago; who takes it meanwhile makes the server fail, and the run with it.
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new("nats-server");
        command.args(["--addr", "127.0.0.1", "--port", &port.to_string()]);
        let begun = Instant::now();
        let mut process = Process::start("nats", command, place.logs());
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            check(&mut process, begun)?;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Self { process, url: format!("nats://127.0.0.1:{port}"), started_in: begun.elapsed() })
    }

    /// Starts a responder with so many agents, in a process of its own, and waits until it answers.
    pub(crate) async fn responder(&self, place: &Place, agents: usize) -> Result<(Process, Requester)> {
        let directory = place.directory("responder");
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--responder", &self.url]).arg(directory).arg(agents.to_string());
        let mut process = Process::start("responder", command, place.logs());
        let requester = Requester(async_nats::connect(&self.url).await?);
        let begun = Instant::now();
        while requester.echo().await.is_err() {
            check(&mut process, begun)?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok((process, requester))
    }
}

/// Asks the responder.
#[derive(Debug, Clone)]
pub(crate) struct Requester(Client);

impl Requester {
    /// Calls `count` of an agent.
    pub(crate) async fn count(&self, agent: usize) -> Result<u64> {
        let answer = self.0.request(format!("count.{agent}"), Bytes::from_static(counter::PARAMS.as_bytes())).await?;
        counter::counted(&answer.payload)
    }

    /// Has a text sent back.
    pub(crate) async fn echo_of(&self, text: &str) -> Result<()> {
        let answer = self.0.request("echo", Bytes::copy_from_slice(text.as_bytes())).await?;
        anyhow::ensure!(answer.payload == text, "the echo is another text");
        Ok(())
    }

    /// Has the parameters sent back.
    pub(crate) async fn echo(&self) -> Result<()> {
        let answer = self.0.request("echo", Bytes::from_static(counter::PARAMS.as_bytes())).await?;
        anyhow::ensure!(answer.payload == counter::PARAMS, "the echo is another text");
        Ok(())
    }
}

/// The responder's process: answers until it is killed.
pub(crate) async fn respond(url: &str, directory: &Path, agents: usize) -> Result<()> {
    let raw = Arc::new(Raw::open(directory, agents).await?);
    let client = async_nats::connect(url).await?;
    let mut counts = client.subscribe("count.*").await?;
    let mut echoes = client.subscribe("echo").await?;
    // Bounded by the requests that the benches have in flight.
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            Some(message) = counts.next() => { tasks.spawn(answer(client.clone(), Arc::clone(&raw), message)); }
            Some(message) = echoes.next() => client.publish(message.reply.context("nobody waits")?, message.payload).await?,
            Some(ended) = tasks.join_next() => ended??,
            else => return Ok(()),
        }
    }
}

async fn answer(client: Client, raw: Arc<Raw>, message: Message) -> Result<()> {
    let agent = message.subject.rsplit('.').next().unwrap_or_default().parse()?;
    let result = raw.count(agent, std::str::from_utf8(&message.payload)?).await?;
    client.publish(message.reply.context("nobody waits")?, result.into()).await?;
    Ok(())
}

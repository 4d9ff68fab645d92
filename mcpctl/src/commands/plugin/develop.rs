//! Plugins from sources: begin one, build it, and have an agent follow it while it changes.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use protocol::{
    Client, Digest, Key, Problem,
    api::{Agent, LogLine, Publisher, Spawn, Trust, Upgrade},
    error::Code,
};
use serde::{Serialize, de::IgnoredAny};
use tokio::sync::Notify;

use super::{push, signing};
use crate::{
    commands::agent::grants,
    error::Result,
    output::Output,
    parse,
    project::{self, Language, Project},
};

/// Editors write a file in several steps: a build begins when there has been quiet for so long.
const QUIET: Duration = Duration::from_millis(200);
/// How long until logs are looked for again after their stream broke off.
const AGAIN: Duration = Duration::from_secs(1);
/// Where a folder keeps the key that signs while it is worked on.
const KEY: &str = ".mcp-zero/dev.pem";

#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// The plugin's name
    #[arg(value_parser = parse::plugin)]
    name: String,
    /// What it is written in
    #[arg(long, value_enum)]
    language: Language,
    /// The folder to make; the plugin's name if not given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    /// The plugin's folder
    dir: PathBuf,
    /// The agent that runs it: spawned if it isn't there, else moved to each build with its state
    #[arg(long, value_name = "NAME", value_parser = parse::name)]
    agent: String,
    /// The key that signs (PKCS#8 PEM); one made in the folder if not given
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    #[command(flatten)]
    grants: grants::Arguments,
}

pub(crate) fn new(arguments: New, output: Output) -> Result {
    let dir = arguments.dir.unwrap_or_else(|| PathBuf::from(&arguments.name));
    project::create(&dir, &arguments.name, arguments.language)?;
    output.show(&serde_json::json!({ "name": arguments.name, "dir": dir }), |_| {
        format!("{0} is ready: mcpctl plugin dev {0} --agent {1}", dir.display(), arguments.name)
    })
}

pub(crate) async fn build(dir: &Path, output: Output) -> Result {
    let project = Project::open(dir)?;
    project::build(&project).await?;
    let component = super::component(&project.component())?;
    let built = serde_json::json!({ "file": project.component(), "component": Digest::blake3(&component), "size": component.len() });
    output.show(&built, |_| format!("{}: {} bytes", project.component().display(), component.len()))
}

/// What happens while a plugin is worked on; one JSON document each.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Happened<'a> {
    Running { agent: &'a str, component: Digest, took_ms: u64 },
    Failed { problem: &'a Problem },
    Logged(&'a LogLine),
}

/// Builds, runs, and does it again at each change until it is ended.
pub(crate) async fn dev(arguments: Dev, client: &Client, output: Output) -> Result {
    let project = Project::open(&arguments.dir)?;
    let key_file = arguments.key.unwrap_or_else(|| project.dir.join(KEY));
    let key = signing::key_or_new(&key_file, output)?;
    let path = format!("/v1/publishers/{}", parse::segment(&key.did().to_string()));
    let name = format!("dev of {}", project.settings.name);
    let _: Publisher = client.put(&path, &Trust { name }).await?;
    output.note(&format!("this node trusts {} now, the key in {}", key.did(), key_file.display()));

    let mut changes = Changes::of(&project)?;
    let mut session =
        Session { client, dir: arguments.dir, agent: arguments.agent, key, grants: arguments.grants, made: VecDeque::new(), output };
    let logs = follow(client, session.agent.clone(), output);
    tokio::pin!(logs);
    loop {
        tokio::select! {
            done = session.turn() => done?,
            result = &mut logs => return result,
        }
        tokio::select! {
            () = changes.next() => {}
            result = &mut logs => return result,
        }
        // The settings may name other files now; a file that can't be read now is told by the next build.
        if let Ok(project) = Project::open(&session.dir) {
            changes = Changes::of(&project)?;
        }
    }
}

/// One agent that follows one folder.
struct Session<'a> {
    client: &'a Client,
    dir: PathBuf,
    agent: String,
    key: Key,
    grants: grants::Arguments,
    /// What was pushed, oldest first.
    made: VecDeque<Digest>,
    output: Output,
}

impl Session<'_> {
    /// One build on its way into the agent. What is wrong with it is shown, and work goes on.
    async fn turn(&mut self) -> Result {
        let begun = Instant::now();
        match self.attempt().await {
            Ok(component) => {
                let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
                let running = Happened::Running { agent: &self.agent, component, took_ms };
                self.output.show(&running, |_| format!("agent {} runs {component} ({took_ms} ms)", self.agent))
            }
            Err(problem) if problem.code == Code::NotRunning => Err(problem.into()),
            Err(problem) => self.output.show(&Happened::Failed { problem: &problem }, |_| {
                let hint = problem.hint.as_ref().map(|hint| format!("\n  {hint}")).unwrap_or_default();
                format!("{}{hint}", problem.detail)
            }),
        }
    }

    async fn attempt(&mut self) -> Result<Digest, Problem> {
        let project = Project::open(&self.dir)?;
        project::build(&project).await?;
        let file = project.component();
        signing::sign_project(&project, &self.key)?;
        let component = push(self.client, &file, None).await?.component;
        let agent = match self.client.get::<Agent>(&format!("/v1/agents/{}", self.agent)).await {
            Ok(agent) if agent.components().any(|runs| runs == component) => agent,
            Ok(agent) => {
                self.client
                    .post(&format!("/v1/agents/{}/upgrade", agent.id), &Upgrade { component, grants: self.grants.clone().changed() })
                    .await?
            }
            Err(problem) if problem.code == Code::AgentNotFound => {
                let (name, grants) = (self.agent.clone(), self.grants.clone().into());
                let spawn = Spawn { name, component, pricing: None, limits: None, grants };
                self.client.post("/v1/agents", &spawn).await?
            }
            Err(problem) => return Err(problem),
        };
        self.clear_away(&agent, component).await;
        Ok(component)
    }

    /// Removes builds that the agent can't be taken back to any more.
    async fn clear_away(&mut self, agent: &Agent, newest: Digest) {
        self.made.retain(|made| *made != newest);
        self.made.push_back(newest);
        let needed = |made: &Digest| agent.plugins.iter().any(|plugin| plugin.component == *made || plugin.previous.contains(made));
        let gone: Vec<Digest> = self.made.iter().filter(|made| !needed(made)).copied().collect();
        self.made.retain(needed);
        for component in gone {
            // Another agent or a snapshot may need it: then it stays.
            let _ = self.client.delete::<IgnoredAny>(&format!("/v1/plugins/{component}")).await;
        }
    }
}

/// Shows what the agent logs, for as long as the daemon is there.
async fn follow(client: &Client, agent: String, output: Output) -> Result {
    loop {
        // It isn't there before the first build that runs.
        match client.events(&format!("/v1/agents/{agent}/logs/follow?tail=0")).await {
            Ok(mut events) => {
                while let Ok(Some(event)) = events.next().await {
                    if let Ok(line) = serde_json::from_str::<LogLine>(&event.data) {
                        output.show(&Happened::Logged(&line), |_| crate::commands::agent::log_line(&line))?;
                    }
                }
            }
            Err(problem) if problem.code == Code::NotRunning => return Err(problem.into()),
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Tells of changes to a plugin's sources.
struct Changes {
    told: Arc<Notify>,
    _watcher: RecommendedWatcher,
}

impl Changes {
    fn of(project: &Project) -> Result<Self, Problem> {
        let failed = |error: notify::Error| Problem::new(Code::Internal, format!("can't watch the sources: {error}"));
        let absolute = |path: PathBuf| path.canonicalize().ok();
        let watched: Vec<PathBuf> = project.watched().filter_map(absolute).collect();
        let ours = watched.clone();
        let told = Arc::new(Notify::new());
        let teller = Arc::clone(&told);
        let tell = move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            let written = !matches!(event.kind, EventKind::Access(_));
            if written && event.paths.iter().any(|path| ours.iter().any(|watched| path.starts_with(watched))) {
                teller.notify_one();
            }
        };
        let mut watcher = notify::recommended_watcher(tell).map_err(failed)?;
        for path in &watched {
            // Editors put another file in a file's place: its folder sees that.
            match path.parent() {
                Some(folder) if path.is_file() => watcher.watch(folder, RecursiveMode::NonRecursive),
                _ => watcher.watch(path, RecursiveMode::Recursive),
            }
            .map_err(failed)?;
        }
        Ok(Self { told, _watcher: watcher })
    }

    /// Waits for a change, and for the quiet after it.
    async fn next(&self) {
        self.told.notified().await;
        while tokio::time::timeout(QUIET, self.told.notified()).await.is_ok() {}
    }
}

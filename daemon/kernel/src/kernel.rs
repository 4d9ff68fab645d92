//! The kernel's handle: loads plugins and runs calls.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use protocol::{Digest, advert::Effect, api::Limits, manifest::Manifest};
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit},
    task::spawn_blocking,
    time::timeout,
};
use wasmtime::{Engine, component::Component};

use crate::{
    aside::Aside,
    cache::Cache,
    call::{self, Call, Outcome, Sandbox},
    ceiling::Ceiling,
    compile::Compiler,
    engine,
    error::{Error, Failure},
    host::{self, Guest, Means, bindings},
    inspect::{MAX_FUNCTIONS, inspect},
    overlay::{State, StateError},
    places::Places,
    plugin::{MAX_DESCRIBED, Plugin},
    share::{Pass, Shares},
    tenants::Whose,
    ticker::Ticker,
};

/// What `describe` may use: it says constants.
const DESCRIBE: Limits = Limits {
    memory: 64 << 20,
    fuel: 10_000_000_000,
    wall_ms: 5_000,
    state_bytes: 0,
    result_bytes: MAX_DESCRIBED as u64,
    egress_bytes: 0,
    concurrency: 1,
    quota_bytes: 0,
    quota_keys: 0,
};

/// How to set up a kernel.
#[derive(Clone)]
pub struct Config {
    /// The folder of compiled code; made if missing, and made private.
    pub cache_dir: PathBuf,
    /// A secret of this node, by which it knows the code that it compiled itself.
    pub cache_key: [u8; 32],
    /// The most bytes of compiled code to keep.
    pub cache_bytes: u64,
    /// Who compiles.
    pub compiler: Compiler,
    /// The most functions of a component: beyond, no compiler is started for it.
    pub max_functions: u64,
    /// Calls that run at a time, beside those that they wait for; the others wait, at most as long as their own wall time.
    pub max_concurrent: usize,
    /// Percent of one processor that all guests may take together; 0 for no limit.
    pub cpu_percent: u32,
    /// Bytes of memory that all guests may hold together; 0 for no limit.
    pub max_memory: u64,
}

impl Config {
    /// 64 calls at a time, 1 GiB of compiled code, components of up to 65,536 functions.
    pub fn new(cache_dir: PathBuf, cache_key: [u8; 32], compiler: Compiler) -> Self {
        let (cache_bytes, max_functions) = (1 << 30, MAX_FUNCTIONS);
        Self { cache_dir, cache_key, cache_bytes, compiler, max_functions, max_concurrent: 64, cpu_percent: 0, max_memory: 0 }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").field("cache_dir", &self.cache_dir).field("max_concurrent", &self.max_concurrent).finish_non_exhaustive()
    }
}

/// The sandbox of a node. Cheap to clone; the last one dropped ends its only thread.
#[derive(Clone)]
pub struct Kernel(Arc<Parts>);

struct Parts {
    engine: Engine,
    ticker: Ticker,
    cache: Cache,
    compiler: Compiler,
    max_functions: u64,
    /// One compilation at a time: each may take half a gigabyte.
    compiling: Mutex<()>,
    places: Places,
    shares: Shares,
    aside: Aside,
    ceiling: Ceiling,
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").field("places", &self.0.places).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Sets up the sandbox: reserves its address space, opens the cache, starts the clock.
    pub fn new(config: Config) -> Result<Self, Error> {
        let max_concurrent = config.max_concurrent.clamp(1, 1024);
        let instances = u32::try_from(Places::total(max_concurrent)).expect("it is at most twice 1024");
        let sandbox = |error: wasmtime::Error| Error::Sandbox(error.to_string());
        let engine = engine::runner(instances).map_err(sandbox)?;
        let cache = Cache::open(config.cache_dir, config.cache_key, config.cache_bytes, &engine)?;
        let ticker = Ticker::spawn(&engine).map_err(|error| Error::Sandbox(error.to_string()))?;
        let parts = Parts {
            engine,
            ticker,
            cache,
            compiler: config.compiler,
            max_functions: config.max_functions,
            compiling: Mutex::new(()),
            places: Places::new(max_concurrent),
            shares: Shares::new(config.cpu_percent),
            aside: Aside::new(),
            ceiling: Ceiling::new(config.max_memory),
        };
        Ok(Self(Arc::new(parts)))
    }

    /// Checks a component against its manifest, compiles it if need be, and asks it for its methods.
    ///
    /// The caller has verified the manifest's signature, and that its publisher is trusted.
    pub async fn load(&self, component: &[u8], manifest: &Manifest) -> Result<Plugin, Error> {
        let bytes: Arc<[u8]> = component.into();
        let (checked, stated, most) = (bytes.clone(), manifest.clone(), self.0.max_functions);
        spawn_blocking(move || inspect(&checked, &stated, most)).await.map_err(|error| Error::Sandbox(error.to_string()))??;
        let code = self.code(&bytes, manifest.component).await?;
        let shape = |error: wasmtime::Error| Error::Shape(format!("{error:#}").chars().take(500).collect());
        let linker = host::linker(&self.0.engine, &manifest.imports).map_err(shape)?;
        let pre = linker.instantiate_pre(&code).and_then(bindings::PluginPre::new).map_err(shape)?;
        let described = self.describe(&pre, &manifest.name).await.map_err(Error::Describe)?;
        Plugin::new(manifest.component, pre, described)
    }

    /// Compiled code: from the cache, else made and cached.
    async fn code(&self, component: &Arc<[u8]>, digest: Digest) -> Result<Component, Error> {
        if let Some(code) = self.cached(digest).await? {
            return Ok(code);
        }
        let _alone = self.0.compiling.lock().await;
        // Another load may have compiled the same while this one waited.
        if let Some(code) = self.cached(digest).await? {
            return Ok(code);
        }
        let code = self.0.compiler.compile(&self.0.engine, component).await?;
        let parts = self.0.clone();
        let stored = spawn_blocking(move || {
            parts.cache.store(digest, &code)?;
            let unfit = |error| Error::Compile(format!("its code doesn't fit this node's sandbox: {error:#}"));
            parts.cache.fresh(&parts.engine, digest).map_err(unfit)
        });
        stored.await.map_err(|error| Error::Sandbox(error.to_string()))?
    }

    async fn cached(&self, digest: Digest) -> Result<Option<Component>, Error> {
        let parts = self.0.clone();
        let found = spawn_blocking(move || parts.cache.load(&parts.engine, digest));
        found.await.map_err(|error| Error::Sandbox(error.to_string()))?
    }

    async fn describe(&self, pre: &bindings::PluginPre<Guest>, name: &str) -> Result<Vec<bindings::Method>, Failure> {
        let (_place, pass) = self.place(DESCRIBE.wall_ms, None, None).await?;
        let _clock = self.0.ticker.run();
        let means = Means { state: Box::new(Nothing), label: name.to_owned(), log: Box::new(()), outside: Box::new(()) };
        let guest = Guest::new(means, Effect::ReadOnly, &DESCRIBE, self.0.ceiling.clone());
        let mut sandbox = Sandbox::new(&self.0.engine, pass, guest, DESCRIBE, 4 * MAX_DESCRIBED);
        let pre = pre.clone();
        sandbox.enter(std::future::pending(), async |store| pre.instantiate_async(&mut *store).await?.call_describe(store).await).await
    }

    /// Runs one method in an instance of its own. Dropping the future stops the guest, a long one at its next tick; nothing is
    /// committed here.
    pub async fn call(&self, plugin: &Plugin, call: Call) -> Outcome {
        self.call_until(plugin, call, std::future::pending()).await
    }

    /// The same, and `stop` stops the guest: unlike dropping the future, this tells what it has used by then.
    pub async fn call_until(&self, plugin: &Plugin, mut call: Call, stop: impl Future<Output = ()> + Send + 'static) -> Outcome {
        match call::admit(plugin, &call.method, std::mem::take(&mut call.params)).await {
            Ok(params) => call.params = params,
            Err(failure) => return Outcome::refused(failure),
        }
        let (place, pass) = match self.place(call.limits.wall_ms, Some(call.depth), Some(call.agent)).await {
            Ok(entered) => entered,
            Err(failure) => return Outcome::refused(failure),
        };
        let (kernel, plugin, clock) = (self.clone(), plugin.clone(), self.0.ticker.run());
        let work = async move |pass| {
            let outcome = call::run(&kernel.0.engine, (pass, &kernel.0.ceiling), &plugin, call, stop).await;
            drop((clock, place));
            outcome
        };
        self.0.aside.run(pass.clone(), work(pass)).await
    }

    /// How much of the places for calls is taken, in percent.
    pub fn occupancy(&self) -> u8 {
        self.0.places.occupancy()
    }

    /// Waits for a place in the sandbox (without a depth: for a plugin that describes itself), for room in memory, and for its turn.
    async fn place(&self, wait_ms: u64, depth: Option<usize>, whose: Whose) -> Result<(OwnedSemaphorePermit, Pass), Failure> {
        // Most find all that at once, and need no timer.
        if let Some(place) = depth.and_then(|depth| self.0.places.free(depth))
            && (depth != Some(0) || self.0.ceiling.has_room())
            && let Some(pass) = self.0.shares.free(whose)
        {
            return Ok((place, pass));
        }
        let entered = async {
            let place = match depth {
                Some(depth) => self.0.places.take(depth).await.ok_or(Failure::TooDeep)?,
                None => self.0.places.describe().await.ok_or(Failure::Overloaded)?,
            };
            if depth == Some(0) {
                self.0.ceiling.room().await;
            }
            Ok((place, self.0.shares.enter(whose).await))
        };
        timeout(Duration::from_millis(wait_ms), entered).await.unwrap_or(Err(Failure::Overloaded))
    }
}

/// The state that `describe` sees.
struct Nothing;

#[async_trait::async_trait]
impl State for Nothing {
    async fn get(&mut self, _: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(None)
    }

    async fn list(&mut self, _: &str, _: Option<&str>, _: usize) -> Result<Vec<String>, StateError> {
        Ok(Vec::new())
    }
}

//! The sandbox of one process: turns component files into revisions (checks, compiles, caches,
//! links) and owns the registry of active ones.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use patchbay_model::RevisionDigest;
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use crate::cache::Cache;
use crate::compile::{self, CompilerCommand};
use crate::sandbox::{HostLimits, Pool, Sandbox};
use crate::state::State;
use crate::{
    HostInterfaces, Inspected, LoadError, Registry, Rejection, Revision, RuntimeError, inspect, wit,
};

/// How many loaded revisions stay in memory although they may be unused. Each takes a few
/// megabytes.
const HELD: usize = 4;

#[derive(Debug, Clone)]
pub struct RuntimeConfig {
    /// Holds compiled code. Created with mode 0700.
    pub cache_dir: PathBuf,
    /// `None` compiles in this process.
    pub compiler: Option<CompilerCommand>,
    pub compile_timeout: Duration,
    /// Limit for the compiler's address space.
    pub compile_memory_bytes: u64,
    pub max_calls: usize,
    /// Number of threads for guests.
    pub worker_threads: usize,
    pub limits: HostLimits,
    /// Whether to accept plugins for draft versions of the contract, which may still change.
    pub draft_wit: bool,
    pub cache_key: [u8; 32],
}

pub struct Runtime {
    config: RuntimeConfig,
    sandbox: Arc<Sandbox>,
    linker: Linker<State>,
    cache: Cache,
    registry: Registry,
    loaded: Mutex<Loaded>,
}

/// Loaded revisions. They are kept so that swapping back and forth, or activating a file just after
/// staging, does not check and link again while jobs need the processor.
#[derive(Default)]
struct Loaded {
    all: HashMap<RevisionDigest, Weak<Revision>>,
    /// Keeps the most recently requested revisions in memory.
    last: VecDeque<Arc<Revision>>,
}

impl Loaded {
    /// Records that the revision was requested.
    fn hold(&mut self, revision: &Arc<Revision>) {
        self.last.retain(|held| held.digest() != revision.digest());
        self.last.push_front(Arc::clone(revision));
        self.last.truncate(HELD);
        self.all.retain(|_, revision| revision.strong_count() > 0);
        self.all.insert(revision.digest(), Arc::downgrade(revision));
    }
}

impl Runtime {
    /// Builds the engine and starts its epoch ticker. Must be called on the host's threads.
    /// `interfaces` are what plugins may import.
    pub fn new(
        config: RuntimeConfig,
        interfaces: HostInterfaces,
    ) -> Result<Arc<Self>, RuntimeError> {
        let sandbox = Sandbox::new(
            config.max_calls,
            config.worker_threads,
            config.limits.clone(),
        )?;
        let mut linker = Linker::new(&sandbox.engine);
        wit::link(&mut linker, config.draft_wit, interfaces)
            .map_err(|error| RuntimeError::Engine(format!("{error:#}")))?;
        let cache = Cache::open(
            &config.cache_dir,
            config.cache_key,
            compatibility(&sandbox.engine),
        )?;
        Ok(Arc::new(Self {
            config,
            sandbox: Arc::new(sandbox),
            linker,
            cache,
            registry: Registry::default(),
            loaded: Mutex::default(),
        }))
    }

    /// Reads a component file without compiling it.
    pub fn inspect(&self, component: &[u8]) -> Result<Inspected, Rejection> {
        let limit = self.config.limits.max_component_bytes;
        if component.len() > limit {
            return Err(Rejection::TooLarge(limit >> 20));
        }
        let inspected = inspect::inspect(component)?;
        if inspected.wit.is_draft() && !self.config.draft_wit {
            return Err(Rejection::DraftWit {
                wit: inspected.wit.as_str(),
            });
        }
        Ok(inspected)
    }

    /// Checks, compiles (or takes from the cache) and links a component file, without calling it. A
    /// file that is already loaded is not loaded again.
    pub async fn load(self: &Arc<Self>, component: &[u8]) -> Result<Arc<Revision>, LoadError> {
        if let Some(loaded) = self.loaded(&RevisionDigest::of(component)) {
            return Ok(loaded);
        }
        let (runtime, file) = (Arc::clone(self), component.to_vec());
        let inspected = aside(move || Ok(runtime.inspect(&file)?)).await?;
        self.load_inspected(inspected, component).await
    }

    /// Like [`Runtime::load`], for a file that [`Runtime::inspect`] has read.
    pub async fn load_inspected(
        self: &Arc<Self>,
        inspected: Inspected,
        component: &[u8],
    ) -> Result<Arc<Revision>, LoadError> {
        let digest = inspected.digest;
        if let Some(loaded) = self.loaded(&digest) {
            return Ok(loaded);
        }
        let runtime = Arc::clone(self);
        let cached = aside(move || Ok(runtime.cache.get(&digest))).await?;
        let is_new = cached.is_none();
        let code = match cached {
            Some(code) => code,
            None => {
                let RuntimeConfig {
                    compiler,
                    compile_timeout,
                    compile_memory_bytes,
                    ..
                } = &self.config;
                compile::compile(
                    component,
                    compiler.as_ref(),
                    *compile_timeout,
                    *compile_memory_bytes,
                )
                .await?
            }
        };
        let runtime = Arc::clone(self);
        aside(move || {
            if is_new {
                runtime.cache.put(&digest, &code);
            }
            runtime.link(inspected, &code)
        })
        .await
    }

    fn link(&self, inspected: Inspected, code: &[u8]) -> Result<Arc<Revision>, LoadError> {
        let component = deserialize(&self.sandbox.engine, code)?;
        let link = |error: wasmtime::Error| Rejection::Link(format!("{error:#}"));
        let linked = self.linker.instantiate_pre(&component).map_err(link)?;
        let exports = wit::exports(inspected.wit, linked);
        let revision = Arc::new(Revision::new(Arc::clone(&self.sandbox), inspected, exports));
        self.loaded.lock().hold(&revision);
        Ok(revision)
    }

    /// A revision that is already loaded, because it is in use or was requested recently.
    pub fn loaded(&self, digest: &RevisionDigest) -> Option<Arc<Revision>> {
        let mut loaded = self.loaded.lock();
        let revision = loaded.all.get(digest)?.upgrade()?;
        loaded.hold(&revision);
        Some(revision)
    }

    /// Revisions that stay in memory although they may be unused.
    pub fn held(&self) -> Vec<RevisionDigest> {
        self.loaded
            .lock()
            .last
            .iter()
            .map(|revision| revision.digest())
            .collect()
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The free share of the pool; 1.0 when nothing runs.
    pub fn free_share(&self) -> f64 {
        let Pool { slots, free } = self.pool();
        free as f64 / slots as f64
    }

    pub fn pool(&self) -> Pool {
        self.sandbox.pool()
    }

    /// The runtime of the guests' threads. Calling a guest from there saves two hops between
    /// threads; a call from elsewhere is moved there.
    pub fn guests(&self) -> tokio::runtime::Handle {
        self.sandbox.guests()
    }
}

/// Runs work that computes for milliseconds per file. It must not run on threads that answer
/// probes, and several files run at once.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LoadError> + Send + 'static,
) -> Result<T, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        Err(RuntimeError::Engine(format!("loading it panicked: {error}")).into())
    })
}

fn compatibility(engine: &Engine) -> Vec<u8> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish().to_be_bytes().to_vec()
}

#[allow(unsafe_code)]
fn deserialize(engine: &Engine, code: &[u8]) -> Result<Component, LoadError> {
    // SAFETY: the bytes come from this host's compiler in this call, or from a cache file. The MAC
    // of a cache file, keyed with a secret of this installation, was verified over exactly these
    // bytes. Uploads of compiled code are never accepted.
    unsafe { Component::deserialize(engine, code) }.map_err(|error| match format!("{error:#}") {
        // The component has a memory or table above the limit, or several memories in one module.
        text if text.contains("pooling allocator") => Rejection::Link(text).into(),
        text => RuntimeError::Engine(text).into(),
    })
}

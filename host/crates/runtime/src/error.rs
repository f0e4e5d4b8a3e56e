//! Why a component file is refused, and why the sandbox itself failed.

use patchbay_model::manifest::ManifestError;

/// The file is at fault. The text is for the person who uploaded it.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    #[error("the file is larger than the {0} MiB that this host accepts")]
    TooLarge(usize),
    #[error("not a WebAssembly component: {0}")]
    NotAComponent(String),
    #[error("the component has no patchbay:manifest section; make it with `patchbay plugin pack`")]
    NoManifest,
    #[error("the component has more than one patchbay:manifest section")]
    DoubledManifest,
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(
        "the component exports none of patchbay:plugin's interfaces (wrong world); it exports: {0}"
    )]
    NoExport(String),
    #[error(
        "the manifest names queues, but the component does not export the interface jobs of patchbay:plugin"
    )]
    NoJobs,
    #[error(
        "the manifest names {section}, but the component does not export the interface {interface} of patchbay:plugin"
    )]
    NoEndpoint {
        section: &'static str,
        interface: &'static str,
    },
    #[error(
        "the component has {name}, but this host serves only patchbay:plugin 0.1 and, as a draft, 0.2"
    )]
    UnknownWit { name: String },
    #[error(
        "the component has {first} and {second}: build all of it against the same version of patchbay:plugin"
    )]
    MixedWit { first: String, second: String },
    #[error(
        "the manifest says wit = {manifest:?}, but the component was built against {component}: use the same version in both"
    )]
    OtherWit {
        manifest: String,
        component: &'static str,
    },
    #[error(
        "the component is built against WIT {wit}, a draft that may still change: build it against a released version, or set plugins.draft_wit = true on hosts that are not in production"
    )]
    DraftWit { wit: &'static str },
    #[error("{}", not_asked(imports))]
    NotAsked { imports: Vec<String> },
    #[error("the core module cannot be made a component: {0}")]
    Encode(String),
    #[error("the component imports {import}, which this host does not have")]
    Unknown { import: String },
    #[error("the component is made of too many parts: {0}")]
    TooManyParts(String),
    #[error("the component cannot be compiled: {0}")]
    Compile(String),
    #[error("the component does not fit the host: {0}")]
    Link(String),
    #[error(
        "the component needs {needs} MiB of memory to start, but its limit is {limit} MiB: set [limits] memory_mb in plugin.toml to more than it needs to start (its jobs need memory, too)"
    )]
    Memory { needs: String, limit: u64 },
    #[error("the component cannot start: {0}")]
    Start(String),
    #[error("the self-test failed: {0}")]
    SelfTest(String),
}

fn not_asked(imports: &[String]) -> String {
    let count = if imports.len() == 1 {
        "1 interface"
    } else {
        &format!("{} interfaces", imports.len())
    };
    format!(
        "the component imports {count} that plugin.toml does not ask for: {}. Build it against its own world (`patchbay plugin build` \
         or `patchbay plugin wit` writes it to wit/), or ask for them in plugin.toml",
        imports.join(", ")
    )
}

/// The host is at fault: try again, or tell an operator.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    #[error("the WebAssembly engine failed: {0}")]
    Engine(String),
    #[error("{what}: {source}")]
    Io {
        what: &'static str,
        source: std::io::Error,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error(transparent)]
    Host(#[from] RuntimeError),
}

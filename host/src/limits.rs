//! Limits of the system for this process: open files and address space. When one is reached, work
//! fails with unrelated errors.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Connections to Redis, files of the runtime and of libraries, and briefly opened files.
const BASE_OPEN_FILES: u64 = 128;
/// For plugins' outside calls.
const OPEN_PER_CALL: u64 = 1;
/// Address space of each memory in the pool. It is reserved, not used.
const POOL_ADDRESS_SPACE: u64 = 1 << 40;
/// Without the pool, each memory of a call still reserves 4 GiB.
const LEAST_ADDRESS_SPACE: u64 = 16 << 30;

/// A limit that is too small.
#[derive(Debug, PartialEq, Eq)]
pub enum TooSmall {
    /// `ulimit -n`.
    OpenFiles {
        limit: u64,
        /// How many files the configuration may open at once.
        needed: u64,
    },
    /// `ulimit -v`.
    AddressSpace {
        /// In bytes.
        limit: u64,
        /// Whether no host can work with this limit.
        is_hopeless: bool,
    },
}

impl fmt::Display for TooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenFiles { limit, needed } => write!(
                f,
                "This process may open {limit} files and connections, and its configuration needs up to {needed}: connections will be \
                 refused under load. Raise the limit (systemd: LimitNOFILE={raised}; shell: ulimit -n {raised}; container: --ulimit \
                 nofile={raised}), or lower http.max_connections, database.pool_max, sql.max_connections and runtime.max_calls",
                raised = needed.next_multiple_of(1_024),
            ),
            Self::AddressSpace { limit, is_hopeless } => {
                let mib = limit >> 20;
                let meaning = match is_hopeless {
                    true => "plugins will fail to start or to compile",
                    false => {
                        "memory is allocated anew for each call of a plugin, which takes some tens of microseconds"
                    }
                };
                write!(
                    f,
                    "This process may use {mib} MiB of address space: {meaning}. Remove the limit (ulimit -v unlimited; systemd: no \
                     LimitAS); memory itself is limited by the container or by MemoryMax"
                )
            }
        }
    }
}

/// Raises the soft limit to the hard limit: the usual 1024 are for programs that use `select`,
/// which nothing here does.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        // If this is not allowed, the smaller limit stays and is reported.
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: limit.maximum,
                maximum: limit.maximum,
            },
        )
        .ok();
    }
}

/// The limits that are too small for this configuration.
pub fn problems(config: &Config) -> Vec<TooSmall> {
    let mut problems = Vec::new();
    let needed = BASE_OPEN_FILES
        + *config.http.max_connections as u64
        + u64::from(*config.database.pool_max)
        + *config.sql.max_connections as u64
        + *config.runtime.max_calls as u64 * OPEN_PER_CALL;
    if let Some(limit) = getrlimit(Resource::Nofile)
        .maximum
        .filter(|limit| *limit < needed)
    {
        problems.push(TooSmall::OpenFiles { limit, needed });
    }
    if let Some(limit) = getrlimit(Resource::As)
        .current
        .filter(|limit| *limit < POOL_ADDRESS_SPACE)
    {
        problems.push(TooSmall::AddressSpace {
            limit,
            is_hopeless: limit < LEAST_ADDRESS_SPACE,
        });
    }
    problems
}

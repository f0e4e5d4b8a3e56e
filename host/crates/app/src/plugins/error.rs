//! Why an operation on plugins did not happen.

use patchbay_model::PluginName;
use patchbay_model::grant::Ask;
use patchbay_model::signature::Untrusted;
use patchbay_runtime::{LoadError, Rejection, RuntimeError};
use patchbay_store::{RoleError, StoreError};

/// Why an operation on plugins did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    /// The component file is not acceptable.
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// Nobody whom this host trusts vouches for the file.
    #[error("{0}")]
    Untrusted(#[from] Untrusted),
    /// Postgres holds something else than what was staged.
    #[error("{0}")]
    Damaged(String),
    /// No such plugin or revision, or an ambiguous digest.
    #[error("{0}")]
    NotFound(String),
    /// It clashes with the present state.
    #[error("{0}")]
    Conflict(String),
    /// It asks for what no operator has granted.
    #[error("{} asks for what it is not granted: {}", .plugin, joined(.missing))]
    NotGranted {
        /// The plugin.
        plugin: PluginName,
        /// What it lacks.
        missing: Vec<Ask>,
    },
    /// Settings that the plugin's schema does not allow.
    #[error("settings do not fit the plugin's schema")]
    Settings(Vec<String>),
    /// The sandbox itself failed.
    #[error("the sandbox failed")]
    Runtime(#[source] RuntimeError),
    /// The rights on tables that it asks for.
    #[error(transparent)]
    Sql(#[from] RoleError),
    /// Postgres went away between the change and its effect on this host.
    #[error("the change is stored, and takes effect as soon as Postgres answers")]
    NotInEffectYet(#[source] StoreError),
    /// Postgres.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<LoadError> for PluginError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Rejected(rejection) => Self::Rejected(rejection),
            LoadError::Host(error) => Self::Runtime(error),
        }
    }
}

fn joined(asks: &[Ask]) -> String {
    asks.iter().map(|ask| format!("{:?}", ask.as_str())).collect::<Vec<_>>().join(", ")
}

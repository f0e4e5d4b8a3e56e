//! Errors of operations on plugins.

use patchbay_model::grant::Ask;
use patchbay_model::json_schema::Violations;
use patchbay_model::signature::Untrusted;
use patchbay_model::{PluginName, RevisionDigest};
use patchbay_runtime::{LoadError, Rejection, RuntimeError};
use patchbay_store::{RoleError, StoreError};
use serde_json::json;

/// Why an operation on plugins did not happen. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("{0}")]
    Rejected(#[from] Rejection),
    /// The file has no signature that this host trusts.
    #[error("{0}")]
    Untrusted(#[from] Untrusted),
    /// Postgres holds another file than the one that was staged.
    #[error("{0}")]
    Damaged(String),
    /// No such plugin or revision, or an ambiguous digest.
    #[error("{0}")]
    NotFound(String),
    /// The operation conflicts with the present state.
    #[error("{0}")]
    Conflict(String),
    #[error("{} asks for what it is not granted: {}", .plugin, joined(.missing))]
    NotGranted {
        plugin: PluginName,
        digest: RevisionDigest,
        missing: Vec<Ask>,
    },
    /// The revision would show more of jobs than the active one, to somebody who may not see it.
    #[error("This revision {0}, which the active one does not")]
    Widens(String),
    /// Settings that were to be stored.
    #[error("The settings do not fit the schema of plugin {plugin}: {violations}")]
    Settings {
        plugin: PluginName,
        violations: Violations,
    },
    /// The stored settings do not fit the revision that was to be activated.
    #[error("The stored settings do not fit the schema of this revision of {plugin}: {violations}")]
    StoredSettings {
        plugin: PluginName,
        violations: Violations,
    },
    /// The sandbox itself failed.
    #[error("the sandbox failed")]
    Runtime(#[source] RuntimeError),
    /// The plugin cannot have the rights on tables that it asks for.
    #[error(transparent)]
    Sql(#[from] RoleError),
    /// Postgres went away between the change and its effect on this host.
    #[error("The change is stored, and takes effect as soon as Postgres answers")]
    NotInEffectYet(#[source] StoreError),
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
    asks.iter()
        .map(|ask| format!("{:?}", ask.as_str()))
        .collect::<Vec<_>>()
        .join(", ")
}

impl From<PluginError> for crate::Error {
    fn from(error: PluginError) -> Self {
        match error {
            PluginError::Rejected(rejection) => Self::new(
                crate::error::Kind::Unprocessable,
                "rejected",
                rejection.to_string(),
            ),
            PluginError::Untrusted(reason) => Self::new(
                crate::error::Kind::Unprocessable,
                "untrusted",
                reason.to_string(),
            ),
            PluginError::Damaged(message) => {
                Self::new(crate::error::Kind::Conflict, "damaged", message)
            }
            PluginError::NotFound(message) => Self::not_found(message),
            PluginError::Conflict(message) => Self::conflict(message),
            PluginError::NotGranted {
                ref plugin,
                ref digest,
                ref missing,
            } => {
                let message = format!(
                    "{error}. Nothing was activated; the revision stays staged. Check what it asks for, then: patchbay plugin activate {plugin} \
                     {} --grant. To grant one by one: patchbay plugin grants {plugin}",
                    digest.short()
                );
                let missing: Vec<&str> = missing.iter().map(Ask::as_str).collect();
                Self::new(crate::error::Kind::Conflict, "not-granted", message)
                    .with_details(serde_json::json!({ "missing": missing }))
            }
            PluginError::Widens(what) => Self::new(
                crate::error::Kind::Forbidden,
                "data-hidden",
                format!(
                    "This revision {what}, unlike the active one, so it may show data that you may not see. Nothing was activated; the \
                     revision stays staged. Ask an owner, or an operator who may see data, to activate it"
                ),
            ),
            PluginError::Settings { ref violations, .. } => {
                let message = format!(
                    "{error}. Nothing was changed. Fix them; there is no --force for settings, because a revision whose settings do not \
                     fit cannot be activated or rolled back to"
                );
                Self::does_not_fit(message, json!({ "violations": violations.listed }))
            }
            PluginError::StoredSettings {
                ref plugin,
                ref violations,
            } => {
                let message = format!(
                    "{error}. Nothing was activated. Fix them: patchbay plugin settings set {plugin} NAME=VALUE"
                );
                Self::does_not_fit(message, json!({ "violations": violations.listed }))
            }
            PluginError::Runtime(error) => {
                crate::error::log_chain(&error);
                Self::internal()
            }
            PluginError::Sql(RoleError::NeedsAdministrator { ref statements, .. }) => {
                let details = serde_json::json!({ "statements": statements });
                Self::new(
                    crate::error::Kind::Conflict,
                    "database-rights",
                    error.to_string(),
                )
                .with_details(details)
            }
            PluginError::Sql(RoleError::Refused(message)) => {
                Self::new(crate::error::Kind::Conflict, "database-rights", message)
            }
            PluginError::Sql(RoleError::Store(error)) | PluginError::Store(error) => error.into(),
            PluginError::NotInEffectYet(_) => {
                crate::error::log_chain(&error);
                Self::unavailable(error.to_string())
            }
        }
    }
}

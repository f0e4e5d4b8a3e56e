//! `[[webhooks]]`: requests from vendors that the plugin verifies, and that become its jobs.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{HttpMethod, Manifest, ManifestError, RoutePath, invalid};
use crate::id::QueueName;

const MAX_WEBHOOKS: usize = 20;
const MAX_NAME: usize = 64;
const MAX_BODY_BYTES: u64 = 4 << 20;
const DEFAULT_BODY_BYTES: u64 = 256 << 10;
const DEFAULT_STATUS: u16 = 200;

/// A path that is given to a vendor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookSpec {
    /// The name that `verify` gets and operators see.
    pub name: String,
    /// Under `/api/`, without parameters.
    pub path: RoutePath,
    /// Default POST.
    #[serde(default = "post", skip_serializing_if = "is_post")]
    pub methods: Vec<HttpMethod>,
    /// Default 256 KiB.
    #[serde(
        default = "default_body_bytes",
        skip_serializing_if = "is_default_body_bytes"
    )]
    pub max_body_bytes: u64,
    /// Default 200.
    #[serde(default = "default_status", skip_serializing_if = "is_default_status")]
    pub success_status: u16,
    /// One of the plugin's own queues.
    pub queue: QueueName,
}

fn post() -> Vec<HttpMethod> {
    vec![HttpMethod::Post]
}

fn is_post(methods: &Vec<HttpMethod>) -> bool {
    *methods == post()
}

fn default_body_bytes() -> u64 {
    DEFAULT_BODY_BYTES
}

fn is_default_body_bytes(bytes: &u64) -> bool {
    *bytes == DEFAULT_BODY_BYTES
}

fn default_status() -> u16 {
    DEFAULT_STATUS
}

fn is_default_status(status: &u16) -> bool {
    *status == DEFAULT_STATUS
}

impl Manifest {
    pub(super) fn check_webhooks(&self) -> Result<(), ManifestError> {
        if self.webhooks.len() > MAX_WEBHOOKS {
            return Err(invalid(
                "webhooks",
                format!(
                    "{} webhooks; the limit is {MAX_WEBHOOKS}",
                    self.webhooks.len()
                ),
            ));
        }
        let mut names = BTreeSet::new();
        for (i, webhook) in self.webhooks.iter().enumerate() {
            let wrong = |(field, reason)| invalid(format!("webhooks[{i}].{field}"), reason);
            webhook.check().map_err(wrong)?;
            if !names.insert(&webhook.name) {
                return Err(wrong((
                    "name",
                    format!("{:?} is named twice", webhook.name),
                )));
            }
            if self.queue(&webhook.queue).is_none() {
                let reason = format!(
                    "{} is not one of the plugin's own queues: add it to [[queues]]",
                    webhook.queue
                );
                return Err(wrong(("queue", reason)));
            }
        }
        Ok(())
    }
}

impl WebhookSpec {
    /// The error names the field that is wrong, and what to write.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let is_name = (1..=MAX_NAME).contains(&self.name.len())
            && self
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !is_name {
            return Err((
                "name",
                format!("must be 1 to {MAX_NAME} letters, digits and - _ ."),
            ));
        }
        if let Some(name) = self.path.parameters().next() {
            let reason = format!(
                "has the parameter {{{name}}}: a vendor is given one URL, so write a path without any"
            );
            return Err(("path", reason));
        }
        if self.methods.is_empty() {
            return Err((
                "methods",
                "name at least one, or leave it out for POST".into(),
            ));
        }
        if self.methods.contains(&HttpMethod::Delete) {
            return Err((
                "methods",
                "a webhook takes GET, POST, PUT and PATCH, not DELETE".into(),
            ));
        }
        let mut methods = BTreeSet::new();
        if let Some(twice) = self.methods.iter().find(|method| !methods.insert(**method)) {
            return Err(("methods", format!("{} is named twice", twice.as_str())));
        }
        if !(1..=MAX_BODY_BYTES).contains(&self.max_body_bytes) {
            return Err((
                "max_body_bytes",
                format!(
                    "must be from 1 to {MAX_BODY_BYTES}, not {}",
                    self.max_body_bytes
                ),
            ));
        }
        if !(200..=299).contains(&self.success_status) {
            return Err((
                "success_status",
                format!("must be from 200 to 299, not {}", self.success_status),
            ));
        }
        Ok(())
    }
}

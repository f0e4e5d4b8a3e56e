//! What the audit trail `routes` is told of requests: who called which route, about what, and how it
//! ended. A request never waits for Postgres: its entry goes to a stream in Redis, and one host of
//! the fleet copies what is there.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use patchbay_model::audit::ActorKind;
use patchbay_model::operation::Caller;
use patchbay_queue::RouteAuditStream;
use patchbay_store::{LeaderTask, Leadership, NewRouteEntry, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::task::TaskTracker;
use tracing::{error, warn};
use uuid::Uuid;

use crate::Parts;
use crate::leader::{Led, LedTask, Next};
use crate::plugins::Route;
use crate::service::Service;

/// Longest target, in bytes. It is indexed.
const MAX_TARGET: usize = 200;
/// Between tries to reach Redis.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: usize = 600;
/// Between two looks for entries.
const ROUND: Duration = Duration::from_millis(500);
const BATCH: usize = 500;
/// How long the leader stays ready after the last entry.
const STANDS_FOR: Duration = Duration::from_secs(30);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct RouteAudits {
    stream: RouteAuditStream,
    /// Entries that wait for Redis. The host waits for them before it exits.
    tasks: TaskTracker,
}

/// How a request has ended.
pub(super) enum End<'a> {
    Status(u16),
    Code(&'a str),
}

/// An entry in the stream.
#[derive(Serialize, Deserialize)]
struct Written {
    key: String,
    kind: String,
    actor: Option<String>,
    action: String,
    target: Option<String>,
    address: Option<String>,
    platform: Option<String>,
    correlation: Option<String>,
    plugin: String,
    revision: String,
    entry: Value,
}

impl RouteAudits {
    pub(super) fn new(stream: RouteAuditStream, tasks: TaskTracker) -> Self {
        Self { stream, tasks }
    }

    /// Records a request that has ended, if its route says so. `key`: the prefix of a vendor's key; the
    /// actor is the vendor, whatever its key is. `value` looks up a value of its input
    /// by its path.
    pub(super) async fn record(
        &self,
        route: &Route,
        caller: &Caller,
        key: Option<&str>,
        end: End<'_>,
        value: impl FnOnce(&str) -> Option<Value>,
    ) {
        let spec = &route.spec;
        let Some((action, target)) = spec.audit() else {
            return;
        };
        let target = target.and_then(value).and_then(text);
        let kind = match (&caller.user_id, caller.role.as_deref()) {
            (None, _) => ActorKind::Anonymous,
            (Some(_), Some(super::VENDOR)) => ActorKind::Vendor,
            (Some(_), _) => ActorKind::User,
        };
        let mut entry = json!({
            "at": chrono::Utc::now(), "route": route.name(), "method": spec.method.as_str(), "path": spec.path.as_str(),
            "action": action, "revision": route.digest.short(),
        });
        match end {
            End::Status(status) => entry["status"] = status.into(),
            End::Code(code) => entry["code"] = code.into(),
        }
        if let Some(key) = key {
            entry["key"] = key.into();
        }
        if let Some(target) = &target {
            entry["target"] = target.as_str().into();
        }
        let written = Written {
            key: Uuid::now_v7().to_string(),
            kind: kind.as_str().into(),
            actor: caller.user_id.clone(),
            action,
            target: Some(target.unwrap_or_else(|| route.name())),
            address: caller.ip.clone(),
            platform: Some(caller.platform.clone()).filter(|name| !name.is_empty()),
            correlation: Some(caller.correlation_id.clone()).filter(|id| !id.is_empty()),
            plugin: route.plugin.to_string(),
            revision: route.digest.to_string(),
            entry,
        };
        let Ok(json) = serde_json::to_string(&written) else {
            return;
        };
        if self.stream.append(&json).await.is_err() {
            self.append_later(json);
        }
    }

    /// The request has happened, so its client gets the answer now.
    fn append_later(&self, json: String) {
        let stream = self.stream.clone();
        self.tasks.spawn(async move {
            for _ in 0..TRIES {
                tokio::time::sleep(PAUSE).await;
                if stream.append(&json).await.is_ok() {
                    return;
                }
            }
            error!(
                "an audit entry about a request to a route is lost: Redis was away for too long"
            );
        });
    }
}

fn text(value: Value) -> Option<String> {
    let mut text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    text.truncate(text.floor_char_boundary(MAX_TARGET));
    Some(text)
}

/// Copies entries to Postgres, by one host of the fleet.
pub fn recorder(parts: &Parts) -> Arc<dyn Service> {
    let task = Recorder {
        stream: parts.broker.route_audit(),
        seen: None,
    };
    Arc::new(Led::new(parts.store.clone(), task))
}

struct Recorder {
    stream: RouteAuditStream,
    seen: Option<Instant>,
}

#[async_trait]
impl LedTask for Recorder {
    const TASK: LeaderTask = LeaderTask::RouteAudit;
    const NAME: &'static str = "route-audit";
    const FAILING: &'static str =
        "audit entries about requests to routes are not copied to Postgres; they wait in Redis";

    fn every(&self) -> Duration {
        ROUND
    }

    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        if self.stream.waiting().await? > 0 {
            self.seen = Some(Instant::now());
        }
        Ok(self.seen.is_some_and(|at| at.elapsed() < STANDS_FOR))
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        let read = self.stream.read(BATCH).await?;
        let is_full = read.len() >= BATCH;
        let mut entries = Vec::with_capacity(read.len());
        let mut ids = Vec::with_capacity(read.len());
        for (id, json) in read {
            match json.and_then(|json| serde_json::from_str::<Written>(&json).ok()) {
                Some(written) => entries.push(written.row()),
                None => warn!(
                    id,
                    "an entry of the stream of audit entries is not the host's, and is dropped"
                ),
            }
            ids.push(id);
        }
        match lead.append_route_entries(&entries).await {
            Ok(()) => {}
            Err(StoreError::Unstorable(_) | StoreError::NoSuchTime(_) | StoreError::Refused(_))
                if entries.len() > 1 =>
            {
                // One of them must not keep the others back.
                for entry in entries {
                    if let Err(error) = lead.append_route_entries(&[entry]).await {
                        match error {
                            StoreError::Unstorable(_)
                            | StoreError::NoSuchTime(_)
                            | StoreError::Refused(_) => {
                                error!(%error, "Postgres does not accept an audit entry about a request to a route");
                            }
                            error => return Err(error.into()),
                        }
                    }
                }
            }
            Err(
                error @ (StoreError::Unstorable(_)
                | StoreError::NoSuchTime(_)
                | StoreError::Refused(_)),
            ) => {
                error!(%error, "Postgres does not accept an audit entry about a request to a route");
            }
            Err(error) => return Err(error.into()),
        }
        self.stream.delete(&ids).await?;
        Ok(if is_full { Next::AtOnce } else { Next::Later })
    }
}

impl Written {
    fn row(self) -> NewRouteEntry {
        let address = self
            .address
            .filter(|address| address.parse::<IpAddr>().is_ok());
        NewRouteEntry {
            key: self.key,
            actor_kind: self.kind,
            actor_id: self.actor,
            action: self.action,
            target: self.target,
            address,
            platform: self.platform,
            correlation_id: self.correlation,
            plugin: self.plugin,
            revision: self.revision,
            entry: self.entry,
        }
    }
}

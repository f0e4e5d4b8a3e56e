//! Replacing the key that signs access tokens, without a token that any host refuses: a new key
//! waits until every running host knows it, then it signs, and the one before verifies until its
//! last token has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use patchbay_store::{KeyWork, LeaderTask, Leadership, NewAction, Store};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::PeopleParts;
use super::config::ACCESS_LIFE;
use super::tokens::PURPOSE;
use crate::Parts;
use crate::leader::{Led, LedTask, Next};
use crate::service::{Service, task};

/// A key that nobody has found out in this time will not be found out from tokens either.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Of a key that does not sign any more: the life of its last token, and a minute in which a host
/// may still have signed with it.
const KEEP: Duration = Duration::from_secs(ACCESS_LIFE.as_secs() + 60);
/// Between reports of what a host knows. A change is reported at once.
const REPORT_EVERY: Duration = Duration::from_secs(10);
const REPORT_AGAIN: Duration = Duration::from_secs(1);
/// Between rounds: of the leader while a key waits, and otherwise.
const LOOK_OFTEN: Duration = Duration::from_millis(250);
const LOOK: Duration = Duration::from_secs(30);
/// By then every host that is well knows a new key.
const WARN_AFTER: Duration = Duration::from_secs(60);

/// Follows changes of the keys, and tells the others which ones this host knows. `None` on a host
/// whose keys are none of Postgres's.
pub fn key_service(parts: &Parts) -> Option<Arc<dyn Service>> {
    let people = parts.people.clone()?;
    let host = parts.plugins.host().to_owned();
    if people.tokens.is_configured() {
        return None;
    }
    Some(task("token-keys", move |stop| {
        let (people, host) = (Arc::clone(&people), host.clone());
        async move { people.report_keys(&host, stop).await }
    }))
}

impl PeopleParts {
    async fn report_keys(&self, host: &str, stop: CancellationToken) {
        let rounds = async {
            let mut changes = self.tokens.watch_changes();
            loop {
                changes.mark_unchanged();
                let is_read = self.tokens.read_unless(|_| false).await.is_ok();
                let kids = self.tokens.kids();
                let reported = self.store.report_token_keys(host, &kids);
                // What fails is told by the requests that need it.
                let is_told = is_read && reported.await.unwrap_or_default();
                let pause = if is_told { REPORT_EVERY } else { REPORT_AGAIN };
                tokio::select! {
                    _ = changes.changed() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        };
        stop.run_until_cancelled(rounds).await;
    }
}

/// Lets waiting keys sign, replaces old ones, and forgets those that have ended.
pub fn key_rotation(parts: &Parts) -> Option<Arc<dyn Service>> {
    let people = parts.people.clone()?;
    if people.tokens.is_configured() {
        return None;
    }
    let rotation = Rotation {
        host: parts.plugins.host().to_owned(),
        store: parts.store.clone(),
        changes: people.tokens.watch_changes(),
        people,
        work: KeyWork::default(),
        leads: false,
        waits: None,
    };
    Some(Arc::new(Led::new(parts.store.clone(), rotation)))
}

struct Rotation {
    store: Store,
    people: Arc<PeopleParts>,
    host: String,
    changes: tokio::sync::watch::Receiver<u64>,
    work: KeyWork,
    leads: bool,
    /// Since when this process, as the leader, has seen a key wait; `None` once that was told.
    waits: Option<Instant>,
}

#[async_trait]
impl LedTask for Rotation {
    const TASK: LeaderTask = LeaderTask::TokenKeys;
    const NAME: &'static str = "key-rotation";
    const FAILING: &'static str = "keys of access tokens are not replaced";

    fn every(&self) -> Duration {
        match self.leads && self.work.waiting.is_some() {
            true => LOOK_OFTEN,
            false => LOOK,
        }
    }

    async fn is_needed(&mut self) -> anyhow::Result<bool> {
        self.changes.mark_unchanged();
        let work = self.store.key_work(PURPOSE, LONGEST).await?;
        if work.waiting != self.work.waiting {
            self.waits = Some(Instant::now());
        }
        self.work = work;
        Ok(self.work != KeyWork::default())
    }

    async fn round(&mut self, lead: &mut Leadership<'_>) -> anyhow::Result<Next> {
        self.leads = true;
        if let Some(waiting) = &self.work.waiting {
            let lacking = self.store.hosts_without_token_key(waiting).await?;
            if lacking.is_empty() {
                if lead.let_key_sign(PURPOSE, waiting, KEEP).await? {
                    info!(kid = waiting, "a new key signs access tokens");
                }
            } else if self.waits.is_some_and(|at| at.elapsed() > WARN_AFTER) {
                self.waits = None;
                warn!(
                    kid = waiting,
                    hosts = lacking.join(", "),
                    "a new key of access tokens waits for hosts that do not know it; see: patchbay key list"
                );
            }
        } else if self.work.is_due {
            self.begin(lead).await?;
        }
        if self.work.has_ended {
            for kid in lead.forget_ended_keys(PURPOSE).await? {
                info!(kid, "a key of access tokens has ended");
            }
        }
        Ok(Next::Later)
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        self.leads = false;
        Ok(())
    }

    async fn woken(&self) {
        // An error would mean that the keys are gone, and this with them.
        if self.changes.clone().changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Rotation {
    async fn begin(&self, lead: &mut Leadership<'_>) -> anyhow::Result<()> {
        let (kid, sealed) = self.people.sealed.make(PURPOSE)?;
        let action = NewAction {
            actor: &format!("host {}", self.host),
            is_host: true,
            action: "key.rotate",
            target: PURPOSE,
            details: &json!({ "reason": "The key has signed for 30 days" }),
        };
        let id = self.store.begin_action(&action).await?;
        lead.add_waiting_key(PURPOSE, &kid, &sealed).await?;
        let result = Ok(json!({ "kid": kid }));
        Ok(self.store.finish_action(id, &result).await?)
    }
}

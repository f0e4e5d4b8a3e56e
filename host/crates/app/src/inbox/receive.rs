//! A request arrives: from its body to the answer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use patchbay_model::capability::Fields;
use patchbay_model::job::{NewJob, Trace};
use patchbay_model::manifest::{WebhookRate, WebhookSpec, WhenUnavailable};
use patchbay_model::webhook::{EventReply, InboxState, WebhookRequest};
use patchbay_store::{Added, InboxRequest, NewInboxRow};
use tracing::warn;
use uuid::Uuid;

use super::check::Checked;
use super::counts::Outcome;
use super::event::{self, Content, Hides};
use super::judging::{AcceptedEvent, Asked, Judged};
use super::seal::Part;
use super::writer::NotWritten;
use super::{Inbox, InboxParts, Reservation, spill};
use crate::error::{Error, Kind};
use crate::plugins::Webhook;

/// A vendor tries again after this time.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// After this time, or a quarter of what the vendor waits, a request that Postgres has not taken goes
/// to Redis.
const HEDGE: Duration = Duration::from_millis(500);
/// How long the sweep leaves accepted requests to the process that has accepted them.
const SWEEP_AFTER: TimeDelta = TimeDelta::seconds(5);
/// When a deferred request is judged again for the first time.
const JUDGE_AFTER: TimeDelta = TimeDelta::seconds(2);
/// How long rejected requests are kept.
const REJECTED_DAYS: i64 = 7;
/// Rejected requests that are kept, per process: of one source, and of a webhook.
const REJECTED_RATES: [u32; 2] = [2, 20];
/// KiB of them in a minute; twice as much at once.
const REJECTED_KIB: [u32; 2] = [5 << 10, 50 << 10];
/// Larger content is sealed on a thread of its own.
const LARGE: usize = 64 << 10;

/// A request with its whole body.
#[derive(Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    /// As it was sent, without `?`.
    pub query: String,
    pub headers: Fields,
    pub body: Vec<u8>,
    pub address: Option<IpAddr>,
    pub at: DateTime<Utc>,
    pub trace: Trace,
}

/// What the sender is told.
#[derive(Debug, PartialEq, Eq)]
pub enum WebhookAnswer {
    /// It is kept.
    Kept,
    /// It is kept, and the plugin answers this.
    Reply(EventReply),
    /// With this status, and nothing else.
    Rejected(u16),
}

/// What a row is made of, besides its verdict.
struct Incoming<'a> {
    id: Uuid,
    webhook: &'a Webhook,
    content: &'a Content,
    source: Option<String>,
    at: DateTime<Utc>,
    trace: &'a Trace,
}

impl Inbox {
    /// Room for a body. Without an address, only the whole room of the process counts.
    pub fn reservation(&self, address: Option<IpAddr>) -> Reservation {
        let source = address.map(event::source);
        self.parts.bodies.reservation(source.as_deref())
    }

    /// Counts a request of which nothing is kept.
    pub fn count_refused(&self, webhook: &Webhook, reason: &str) {
        self.parts.counts.count(webhook, Outcome::Refused, reason);
    }

    /// Judges a request and keeps it. What it answers is durable.
    pub async fn receive(
        &self,
        webhook: &Webhook,
        received: Received,
    ) -> Result<WebhookAnswer, Error> {
        let parts = &*self.parts;
        let began = Instant::now();
        let answer = parts.receive(webhook, received).await;
        parts.ack_times.observe(webhook, began.elapsed());
        if let Err(error) = &answer {
            parts.counts.count(webhook, Outcome::Refused, &error.code);
        }
        answer
    }
}

impl InboxParts {
    async fn receive(&self, webhook: &Webhook, received: Received) -> Result<WebhookAnswer, Error> {
        let spec = &webhook.spec;
        let source = received.address.map(event::source);
        let content = Content {
            request: WebhookRequest {
                name: spec.name.clone(),
                method: received.method,
                path: received.path,
                query: received.query,
                headers: received.headers,
                body: received.body,
                ip: received
                    .address
                    .map(|address| address.to_canonical().to_string())
                    .unwrap_or_default(),
                received_at_ms: u64::try_from(received.at.timestamp_millis()).unwrap_or_default(),
            },
            event_id: None,
            platform: received.trace.platform.clone(),
            hides: Hides::of(spec),
        };
        let incoming = Incoming {
            id: event::new_id(),
            webhook,
            content: &content,
            source,
            at: received.at,
            trace: &received.trace,
        };
        let checked = self.check(webhook, &content.request);
        self.limit(&incoming, &checked)?;
        let judged = self
            .judge(webhook, &content, checked, Asked::Arriving, &received.trace)
            .await?;
        match judged {
            Judged::Accepted(accepted) => self.keep(&incoming, *accepted).await,
            Judged::Rejected(rejected) => {
                self.counts
                    .count(webhook, Outcome::Rejected, &rejected.code);
                self.keep_rejected(&incoming, &rejected.code, &rejected.message)
                    .await;
                Ok(WebhookAnswer::Rejected(rejected.status))
            }
            Judged::Unjudged { code, message, .. } => match spec.when_unavailable {
                // Whoever tries the URL needs the answer now.
                _ if spec.is_handshake(&content.request.method) => Err(unavailable()),
                WhenUnavailable::Refuse => Err(unavailable()),
                WhenUnavailable::Accept => self.defer(&incoming, code, message).await,
            },
        }
    }

    /// After the host's check, all requests count together; without one, those of each source, since
    /// a stranger must not use up what the vendor may send.
    fn limit(&self, incoming: &Incoming<'_>, checked: &Checked) -> Result<(), Error> {
        let webhook = incoming.webhook;
        let spec = &webhook.spec;
        let method = &incoming.content.request.method;
        let taken = match (spec.check_of(method), checked) {
            // It is answered at once, and costs nothing more.
            (_, Checked::Refused(_)) => Ok(()),
            (None, _) => {
                let source = incoming.source.as_deref().unwrap_or_default();
                let key = format!("{} {source}", webhook.name());
                self.rates
                    .take(key, spec.source_rate())
                    .and_then(|()| self.rates.take(webhook.name(), spec.rate()))
            }
            (Some(_), _) => self.rates.take(webhook.name(), spec.rate()),
        };
        taken.map_err(|wait| {
            let message = "Too many requests to this webhook. Send it again later";
            let wait = wait.max(Duration::from_secs(1));
            Error::new(Kind::RateLimited, "rate-limited", message).retry_after(wait)
        })
    }

    async fn keep(
        &self,
        incoming: &Incoming<'_>,
        accepted: AcceptedEvent,
    ) -> Result<WebhookAnswer, Error> {
        let webhook = incoming.webhook;
        let AcceptedEvent {
            key,
            event_id,
            kind,
            jobs,
            reply,
        } = accepted;
        let content = Content {
            event_id,
            ..incoming.content.clone()
        };
        let mut row = self.row(incoming, &content).await?;
        row.kind = kind;
        row.event_key = Some(key);
        row.revision = Some(webhook.digest.to_string());
        self.take_jobs(&mut row, &jobs).await?;
        let added = self.write(row, jobs, &webhook.spec).await?;
        let outcome = match added {
            Added::New => Outcome::Accepted,
            Added::Repeat(_) => Outcome::Repeat,
        };
        self.counts.count(webhook, outcome, "");
        self.counts.note_source(webhook, incoming.source.as_deref());
        Ok(reply.map_or(WebhookAnswer::Kept, WebhookAnswer::Reply))
    }

    async fn defer(
        &self,
        incoming: &Incoming<'_>,
        code: &'static str,
        message: String,
    ) -> Result<WebhookAnswer, Error> {
        let webhook = incoming.webhook;
        if !self.deferred.has_room(webhook, incoming.source.as_deref()) {
            let message = "Too many requests wait to be judged. Send it again later";
            let error = Error::new(Kind::Unavailable, "unavailable", message);
            return Err(error.retry_after(RETRY_AFTER));
        }
        let mut row = self.row(incoming, incoming.content).await?;
        row.state = InboxState::Deferred;
        row.code = Some(code.into());
        row.message = Some(message);
        row.next_try_at = Some(Utc::now() + JUDGE_AFTER);
        let bytes = row.sealed.len();
        self.write(row, Vec::new(), &webhook.spec).await?;
        self.deferred
            .note(webhook, incoming.source.as_deref(), bytes);
        self.counts.count(webhook, Outcome::Deferred, code);
        Ok(WebhookAnswer::Kept)
    }

    /// Where many are rejected, only some are kept: the rest is counted.
    async fn keep_rejected(&self, incoming: &Incoming<'_>, code: &str, message: &str) {
        let [of_source, of_webhook] = REJECTED_RATES.map(|max| WebhookRate { max, per_ms: 1_000 });
        let name = incoming.webhook.name();
        let source = incoming.source.as_deref().unwrap_or_default();
        // A flood of strangers leaves those their room from whom requests are accepted otherwise.
        let who = match self.counts.is_known(incoming.webhook, source) {
            true => "known",
            false => "rejected",
        };
        let is_kept = self
            .rates
            .take(format!("{who} {name} {source}"), of_source)
            .and_then(|()| self.rates.take(format!("{who} {name}"), of_webhook))
            .and_then(|()| self.take_rejected_bytes(incoming));
        if is_kept.is_err() {
            return;
        }
        // Without a key nothing can be kept; the answer stands all the same.
        let Ok(mut row) = self.row(incoming, incoming.content).await else {
            return;
        };
        row.state = InboxState::Rejected;
        row.code = Some(code.to_owned());
        row.message = Some(message.to_owned());
        row.revision = Some(incoming.webhook.digest.to_string());
        row.keep_until = incoming.at + TimeDelta::days(REJECTED_DAYS);
        self.writer.add_rejected(row);
    }

    /// So that large bodies fill no disk before the oldest are forgotten.
    fn take_rejected_bytes(&self, incoming: &Incoming<'_>) -> Result<(), Duration> {
        let name = incoming.webhook.name();
        let source = incoming.source.as_deref().unwrap_or_default();
        let kib = incoming.content.request.body.len() / 1_024 + 1;
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let [of_source, of_webhook] = REJECTED_KIB.map(|max| WebhookRate {
            max,
            per_ms: 60_000,
        });
        self.rates
            .take_many(format!("rejected KiB {name} {source}"), of_source, kib)?;
        self.rates
            .take_many(format!("rejected KiB {name}"), of_webhook, kib)
    }

    async fn row(&self, incoming: &Incoming<'_>, content: &Content) -> Result<NewInboxRow, Error> {
        let spec: &WebhookSpec = &incoming.webhook.spec;
        let request = &content.request;
        let (sealed, sealed_key) = self
            .seal(incoming.id, Part::Request, content.to_bytes())
            .await?;
        let terms = match spec.searchable.as_slice() {
            [] => Vec::new(),
            paths => event::terms(&self.event_keys().await?, paths, request),
        };
        let content_type = request
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
            .map(|(_, value)| plain(&String::from_utf8_lossy(value)));
        Ok(NewInboxRow {
            id: incoming.id,
            received_at: incoming.at,
            plugin: incoming.webhook.plugin.clone(),
            webhook: spec.name.clone(),
            state: InboxState::Recorded,
            code: None,
            message: None,
            kind: String::new(),
            event_key: None,
            terms,
            revision: None,
            next_try_at: None,
            method: request.method.clone(),
            content_type,
            size: i32::try_from(request.body.len()).unwrap_or(i32::MAX),
            source: incoming.source.clone(),
            host: self.host.clone(),
            correlation_id: incoming.trace.correlation_id.clone().unwrap_or_default(),
            is_from_redis: false,
            jobs: 0,
            sealed,
            jobs_sealed: None,
            sealed_key,
            keep_until: incoming.at + TimeDelta::days(spec.retention_days.into()),
            remember_until: incoming.at + TimeDelta::days(spec.dedupe_days.into()),
        })
    }

    /// Puts jobs into a row, and with them its state.
    async fn take_jobs(&self, row: &mut NewInboxRow, jobs: &[NewJob]) -> Result<(), Error> {
        if jobs.is_empty() {
            row.state = InboxState::Recorded;
            return Ok(());
        }
        row.state = InboxState::Accepted;
        row.next_try_at = Some(Utc::now() + SWEEP_AFTER);
        row.jobs = i32::try_from(jobs.len()).unwrap_or(i32::MAX);
        let (sealed, _) = self.seal(row.id, Part::Jobs, jobs_to_bytes(jobs)).await?;
        row.jobs_sealed = Some(sealed);
        Ok(())
    }

    /// Sealed content, and the id of its key.
    pub(super) async fn seal(
        &self,
        id: Uuid,
        part: Part,
        content: Vec<u8>,
    ) -> Result<(Vec<u8>, String), Error> {
        let key = self.seals.current().await?;
        let kid = key.kid.clone();
        if content.len() < LARGE {
            return Ok((key.seal(id, part, &content), kid));
        }
        let sealed = tokio::task::spawn_blocking(move || key.seal(id, part, &content)).await;
        Ok((sealed.map_err(|_| Error::internal())?, kid))
    }

    /// Sealed with the key that the row has.
    pub(super) async fn seal_with(
        &self,
        row: &InboxRequest,
        part: Part,
        content: &[u8],
    ) -> Result<Vec<u8>, Error> {
        let key = self.seals.key(&row.sealed_key).await?;
        let key = key.ok_or_else(Error::internal)?;
        Ok(key.seal(row.id, part, content))
    }

    /// To Postgres; where that is slow or away, to Redis. The first durable copy answers: both have
    /// one id, so that they become one row.
    async fn write(
        &self,
        row: NewInboxRow,
        jobs: Vec<NewJob>,
        spec: &WebhookSpec,
    ) -> Result<Added, Error> {
        let entry = row.clone();
        let writing = self.writer.add(row, jobs);
        let mut writing = std::pin::pin!(writing);
        let hedge = HEDGE.min(Duration::from_millis(spec.ack_ms) / 4);
        let written = tokio::time::timeout(hedge, &mut writing).await;
        if let Ok(Ok(added)) = written {
            return Ok(added);
        }
        // Of a webhook that the host does not check, anybody's requests get this far.
        let stranger = spec.check_of(&entry.method).is_none();
        let stranger = stranger.then(|| entry.source.as_deref().unwrap_or_default());
        match self.broker.spill(&spill::to_bytes(&entry), stranger).await {
            Ok(true) => return Ok(Added::New),
            Ok(false) => warn!(
                "a request to a webhook finds no room in Redis, while Postgres is slow or away"
            ),
            Err(error) => {
                warn!(%error, "a request to a webhook cannot wait in Redis, while Postgres is slow or away")
            }
        }
        let failed = match written {
            Ok(Err(failed)) => failed,
            // It is under way: Postgres may still answer in time.
            _ => match writing.await {
                Ok(added) => return Ok(added),
                Err(failed) => failed,
            },
        };
        let message = match failed {
            NotWritten::Full => "Too many requests wait to be kept. Send it again later",
            NotWritten::Failed => "The request could not be kept. Send it again later",
        };
        Err(Error::new(Kind::Unavailable, "unavailable", message).retry_after(RETRY_AFTER))
    }
}

fn unavailable() -> Error {
    let message = "This webhook cannot take requests now. Send it again later";
    Error::new(Kind::Unavailable, "unavailable", message).retry_after(RETRY_AFTER)
}

pub(super) fn jobs_to_bytes(jobs: &[NewJob]) -> Vec<u8> {
    serde_json::to_vec(jobs).unwrap_or_default()
}

/// For a column: short, and without control characters.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

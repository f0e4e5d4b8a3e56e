//! A taken job as its handler sees it, read from the raw fields of its hash. Data that is not JSON
//! and odd options must reach an operator as they are, not as defaults.

use std::time::Duration;

use patchbay_model::job::{JobKey, Trace};
use patchbay_model::retry::Backoff;
use serde_json::value::RawValue;

use super::fetch::Taken;
use super::{End, Inner, JobHandle};
use crate::job_rules::MAX_DATA_BYTES;
use crate::js;
use crate::opts::JobOpts;
use crate::schedulers::MISSED_AFTER;

#[derive(Debug)]
pub struct Delivery {
    pub key: JobKey,
    /// Equal for all attempts of this job. Different for any other job, even one with the same id
    /// and time.
    pub idempotency_key: String,
    pub name: String,
    /// One JSON document; empty if it cannot be read.
    pub data: String,
    /// Why the job must not run. Its data and options stay unchanged in Redis.
    pub refusal: Option<Refusal>,
    /// Attempts and backoff that the producer set.
    pub retry: (Option<u32>, Option<Backoff>),
    pub trace: Trace,
    /// Number of counted attempts before this one.
    pub attempts_made: u32,
    /// Number of starts, including this one.
    pub started: u32,
    pub stalled: u32,
    /// Since when it could run, Unix milliseconds; `None` after its first start.
    pub ready_at_ms: Option<u64>,
    /// When it was first deferred, Unix milliseconds.
    pub first_deferred_at_ms: Option<u64>,
    /// How many times in a row it was deferred.
    pub deferrals: u32,
    /// The current Unix time in milliseconds by Redis's clock, like all other times of a job.
    pub taken_at_ms: u64,
    pub schedule_id: Option<String>,
    /// The parent of a flow's child, as `queue:id`.
    pub parent: Option<String>,
    pub job: JobHandle,
    /// Signals whether the call must end now, and why.
    pub end: End,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its data or options cannot be read.
    Unreadable(String),
    /// It is a tick of a schedule that skips missed ticks, and no worker could run it in time.
    Missed(String),
    /// It stalled too often, or a flow failed it. Holds BullMQ's own text.
    Condemned(String),
    /// It had expired when it was taken.
    Expired(String),
}

/// Patchbay's own field in a job's hash. It distinguishes this addition of the job from others
/// where the creation time is not enough.
pub(super) const ADDITION: &str = "pam";

/// BullMQ's text for a job that stalled more often than allowed.
const STALLED_TOO_OFTEN: &str = "job stalled more than allowable limit";

impl Refusal {
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "invalid-input",
            Self::Missed(_) => "missed",
            Self::Condemned(reason) if reason == STALLED_TOO_OFTEN => "crashed-host",
            Self::Condemned(_) => "failed-by-flow",
            Self::Expired(_) => "expired",
        }
    }

    pub fn message(&self) -> &str {
        match self {
            Self::Unreadable(reason)
            | Self::Missed(reason)
            | Self::Condemned(reason)
            | Self::Expired(reason) => reason,
        }
    }
}

impl Inner {
    /// A damaged job is no error: its damage becomes a refusal. Fails only for an id that is not
    /// valid in Patchbay.
    pub(super) fn delivery(
        &self,
        taken: &Taken,
        opts: &Result<JobOpts, String>,
        damage: Option<String>,
        end: End,
    ) -> Result<Delivery, patchbay_model::InvalidId> {
        let field = |name: &str| taken.fields.get(name).map(String::as_str);
        let number = |name: &str| field(name).and_then(js::whole);
        let count = |name: &str| {
            number(name)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0)
        };
        // As in BullMQ, missing data is an empty object.
        let data = field("data")
            .filter(|data| !data.is_empty())
            .unwrap_or("{}");
        let (retry, trace) = match opts {
            Ok(opts) => (opts.retry(), opts.trace.clone()),
            Err(_) => ((None, None), Trace::default()),
        };
        // Only before the first start: a tick that ran and is retried was not missed.
        let tick = taken
            .id
            .rsplit_once(':')
            .and_then(|(_, tick)| tick.parse().ok())
            .filter(|_| count("ats") <= 1);
        let now_ms = self.queues.now_ms();
        let refusal = refusal(data, opts, damage, field("defa"), tick, now_ms);
        let id: patchbay_model::JobId = taken.id.parse()?;
        let key = JobKey {
            prefix: self.queues.config.prefix.clone(),
            queue: self.config.queue.clone(),
            id: id.clone(),
            created_ms: number("timestamp").unwrap_or(0),
        };
        let delay_ms = opts.as_ref().map_or(0, |opts| opts.delay_ms);
        Ok(Delivery {
            ready_at_ms: (count("ats") <= 1).then(|| key.created_ms.saturating_add(delay_ms)),
            idempotency_key: key.idempotency_key_of(field(ADDITION)),
            key: key.clone(),
            name: field("name").unwrap_or_default().to_owned(),
            data: if matches!(refusal, Some(Refusal::Unreadable(_))) {
                String::new()
            } else {
                data.to_owned()
            },
            refusal,
            retry,
            trace,
            attempts_made: count("atm"),
            started: count("ats"),
            stalled: count("stc"),
            first_deferred_at_ms: number("pfd"),
            deferrals: count("pdc"),
            taken_at_ms: now_ms,
            schedule_id: field("rjk").map(str::to_owned),
            parent: field("parentKey").map(|key| self.parent(key)),
            job: JobHandle {
                connection: self.queues.connection.clone(),
                job_key: format!("{}{id}", self.names.prefix),
                events_key: self.names.keys.events(),
                keep_logs: opts.as_ref().ok().and_then(|opts| opts.keep_logs),
                key,
            },
            end,
        })
    }
}

impl Inner {
    /// Turns `prefix:queue:id` into `queue:id`.
    fn parent(&self, key: &str) -> String {
        let own = key
            .strip_prefix(self.queues.config.prefix.as_str())
            .and_then(|rest| rest.strip_prefix(':'));
        own.unwrap_or(key).to_owned()
    }
}

fn refusal(
    data: &str,
    opts: &Result<JobOpts, String>,
    damage: Option<String>,
    condemned: Option<&str>,
    tick: Option<u64>,
    now_ms: u64,
) -> Option<Refusal> {
    if let Some(reason) = condemned {
        return Some(Refusal::Condemned(reason.to_owned()));
    }
    if let Some(what) = damage {
        return Some(Refusal::Unreadable(format!(
            "the job's hash in Redis was damaged: {what}"
        )));
    }
    let opts = match opts {
        Ok(opts) => opts,
        Err(reason) => return Some(Refusal::Unreadable(reason.clone())),
    };
    if let Some(tick) = tick.filter(|_| opts.skip_missed) {
        let late = Duration::from_millis(now_ms.saturating_sub(tick));
        if late > MISSED_AFTER {
            let text = format!(
                "the tick was due {} s ago, and its schedule skips missed ticks",
                late.as_secs()
            );
            return Some(Refusal::Missed(text));
        }
    }
    let expires_at_ms = opts.expires_at_ms;
    if let Some(late_ms) = expires_at_ms
        .and_then(|at| now_ms.checked_sub(at))
        .filter(|&late_ms| late_ms > 0)
    {
        return Some(Refusal::Expired(format!(
            "a worker took the job {late_ms} ms after it expired"
        )));
    }
    if data.len() > MAX_DATA_BYTES {
        return Some(Refusal::Unreadable(format!(
            "the job's data is larger than {MAX_DATA_BYTES} bytes"
        )));
    }
    let unreadable = serde_json::from_str::<&RawValue>(data).err()?;
    Some(Refusal::Unreadable(format!(
        "the job's data is not JSON: {unreadable}"
    )))
}

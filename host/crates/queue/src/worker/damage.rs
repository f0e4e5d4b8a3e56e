//! Handles jobs whose hash another program has damaged. BullMQ's scripts stop in the middle of
//! them, which would leave such a job in no list, or active for ever. Where possible, damage is
//! found before the job runs; otherwise the job is moved to the failed jobs by hand.

use std::collections::HashMap;

use redis::{RedisResult, Value};
use serde_json::{Map, Value as Json, json};
use tracing::error;

use super::fetch::{Next, NextCheck, Taken, hash};
use super::settle::Settling;
use super::{Disposition, Inner};
use crate::QueueError;
use crate::damage::{read, shape, text};

/// Largest count of attempts that the history can store. No real job reaches it.
const MAX_COUNT: u32 = i32::MAX as u32 - 1;
/// BullMQ's short names for what a child's failure does to its parent, in the options and in
/// `parent`.
const ON_FAILURE: [&str; 4] = ["fpof", "cpof", "idof", "rdof"];

/// What is wrong with a job's hash, and the fields that must be written so that BullMQ's scripts
/// can end the job. A field without a value must be deleted.
#[derive(Debug, PartialEq)]
pub(super) struct Damage {
    pub(super) what: String,
    repairs: Vec<(&'static str, Option<String>)>,
}

pub(super) fn find(prefix: &str, fields: &HashMap<String, String>) -> Option<Damage> {
    let mut damage = Damage {
        what: String::new(),
        repairs: Vec::new(),
    };
    // Starts count from 1, and this is one.
    for (name, least) in [("atm", "0"), ("ats", "1"), ("stc", "0")] {
        let Some(count) = fields.get(name) else {
            continue;
        };
        if !count.parse::<u32>().is_ok_and(|count| count <= MAX_COUNT) {
            damage.note(
                format!("its field {name} is not a count"),
                name,
                Some(least.into()),
            );
        }
    }
    if let Some(parent) = fields.get("parent")
        && !is_parent(parent)
    {
        let rebuilt = rebuilt_parent(prefix, fields);
        if rebuilt.is_none() {
            damage.note(
                "its field parentKey is not the key of a job".into(),
                "parentKey",
                None,
            );
        }
        damage.note(
            "its field parent does not name a job".into(),
            "parent",
            rebuilt,
        );
    }
    (!damage.repairs.is_empty()).then_some(damage)
}

impl Damage {
    fn note(&mut self, what: String, field: &'static str, repair: Option<String>) {
        if !self.what.is_empty() {
            self.what.push_str(", ");
        }
        self.what.push_str(&what);
        self.repairs.push((field, repair));
    }
}

fn is_parent(text: &str) -> bool {
    serde_json::from_str::<Json>(text).is_ok_and(|parent| {
        (parent["id"].is_string() || parent["id"].is_u64()) && parent["queueKey"].is_string()
    })
}

/// Rebuilt from other fields that hold the same facts, so that a flow's parent learns of the
/// failure.
fn rebuilt_parent(prefix: &str, fields: &HashMap<String, String>) -> Option<String> {
    let key = fields.get("parentKey")?;
    // A job's id may contain colons, and so may a prefix; Patchbay's own prefix is known.
    let own = key
        .strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix(':')?.split_once(':'));
    let (queue, id) = match own {
        Some((queue, id)) => (format!("{prefix}:{queue}"), id),
        None => key
            .rsplit_once(':')
            .map(|(queue, id)| (queue.to_owned(), id))?,
    };
    let opts: Map<String, Json> = serde_json::from_str(fields.get("opts")?).ok()?;
    let mut parent = json!({ "id": id, "queueKey": queue });
    for name in ON_FAILURE
        .into_iter()
        .filter(|name| opts.get(*name) == Some(&Json::Bool(true)))
    {
        parent[name] = true.into();
    }
    Some(parent.to_string())
}

impl Inner {
    /// Returns what is wrong with the job, if anything. Repairs it in Redis as far as BullMQ's
    /// scripts need it.
    pub(super) async fn repair(&self, taken: &mut Taken) -> Option<String> {
        let damage = find(&self.queues.config.prefix, &taken.fields)?;
        error!(job = taken.id, queue = %self.config.queue, damage = damage.what, "A job's hash in Redis is damaged; the job fails");
        let key = self.names.keys.job_key(&taken.id);
        let mut pipe = redis::pipe();
        for (field, value) in damage.repairs {
            match value {
                Some(value) => {
                    pipe.hset(&key, field, &value).ignore();
                    taken.fields.insert(field.into(), value);
                }
                None => {
                    pipe.hdel(&key, field).ignore();
                    taken.fields.remove(field);
                }
            }
        }
        if let Err(error) = pipe
            .query_async::<()>(&mut self.queues.connection.get())
            .await
        {
            // The script will then stop at the job, and the job is ended by hand.
            error!(%error, job = taken.id, queue = %self.config.queue, "A damaged job could not be repaired");
        }
        Some(damage.what)
    }

    /// Finishes a settlement by hand after a script stopped in the middle of it. Returns the job
    /// that the script may have taken next.
    pub(super) async fn settle_by_hand(
        &self,
        job: &Settling<'_>,
        disposition: &Disposition,
        damage: redis::RedisError,
    ) -> Next {
        error!(error = %damage, job = job.taken.id, queue = %self.config.queue, "BullMQ's script stopped while it settled a job, because data in Redis is damaged");
        let ended = match disposition {
            Disposition::Complete { .. } => "had completed".to_owned(),
            Disposition::Fail { reason, .. } => format!("had failed ({reason})"),
            Disposition::Retry { reason, .. } | Disposition::Defer { reason, .. } => {
                format!("was to run again ({reason})")
            }
            Disposition::HandBack => "had not run".to_owned(),
        };
        let reason = format!(
            "damaged-data: {}; the job {ended}",
            QueueError::from(damage)
        );
        let next = async {
            if self.is_nowhere_else(job).await? {
                self.move_to_failed(job.taken.id.as_bytes(), &reason)
                    .await?;
            }
            self.half_taken(job.token, Some(&job.taken.id)).await
        };
        match next.await {
            Ok(Some(next)) => Next::Job(Box::new(next)),
            Ok(None) => Next::Nothing(NextCheck::Now),
            Err(error) => {
                error!(%error, job = job.taken.id, queue = %self.config.queue, "A damaged job may be in no list; find it by its id");
                Next::Nothing(NextCheck::Now)
            }
        }
    }

    /// Whether the job is in no list, or is active and locked by nobody else.
    async fn is_nowhere_else(&self, job: &Settling<'_>) -> Result<bool, QueueError> {
        let (keys, id) = (&self.names.keys, &job.taken.id);
        let mut pipe = redis::pipe();
        pipe.ignore_errors()
            .exists(keys.job_key(id))
            .get(format!("{}:lock", keys.job_key(id)));
        for set in [
            keys.completed(),
            keys.failed(),
            keys.delayed(),
            keys.prioritized(),
            keys.waiting_children(),
        ] {
            pipe.zscore(set, id);
        }
        for list in [keys.wait(), keys.paused()] {
            pipe.cmd("LPOS").arg(list).arg(id);
        }
        let replies: Vec<RedisResult<Value>> =
            pipe.query_async(&mut self.queues.connection.get()).await?;
        let mut replies = replies.into_iter().map(read::<Option<Value>>);
        let mut next = || replies.next().unwrap_or(Ok(Ok(None)));
        // It may be gone: removed as its options say, or by somebody.
        let exists = next()? == Ok(Some(Value::Int(1)));
        let lock = next()?.ok().flatten();
        let is_others =
            lock.is_some_and(|lock| lock != Value::BulkString(job.token.as_bytes().to_vec()));
        let mut is_somewhere = false;
        for place in replies {
            is_somewhere |= matches!(place?, Ok(Some(_)));
        }
        Ok(exists && !is_others && !is_somewhere)
    }

    /// The job that a script took under this token before it stopped. `except` is the job before
    /// it.
    pub(super) async fn half_taken(
        &self,
        token: &str,
        except: Option<&str>,
    ) -> Result<Option<Taken>, QueueError> {
        let keys = &self.names.keys;
        let mut connection = self.queues.connection.get();
        let ids: Vec<Vec<u8>> = redis::cmd("LRANGE")
            .arg(keys.active())
            .arg(0)
            .arg(-1)
            .query_async(&mut connection)
            .await?;
        if ids.is_empty() {
            return Ok(None);
        }
        let key = |id: &[u8]| [self.names.prefix.as_bytes(), id].concat();
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for id in &ids {
            pipe.get([&key(id), &b":lock"[..]].concat());
        }
        let locks: Vec<RedisResult<Value>> = pipe.query_async(&mut connection).await?;
        for (id, lock) in ids.iter().zip(locks) {
            let is_ours = read::<Option<Vec<u8>>>(lock)?
                .ok()
                .flatten()
                .is_some_and(|lock| lock == token.as_bytes());
            if !is_ours || except.is_some_and(|other| other.as_bytes() == id) {
                continue;
            }
            let fields: RedisResult<Value> = redis::cmd("HGETALL")
                .arg(key(id))
                .query_async(&mut connection)
                .await;
            let reason = match (String::from_utf8(id.clone()), read::<Vec<Value>>(fields)?) {
                (Ok(id), Ok(flat)) => {
                    return Ok(Some(Taken {
                        id,
                        fields: hash(flat)?,
                    }));
                }
                (Err(_), _) => "its id is not valid UTF-8".to_owned(),
                (_, Err(what)) => what,
            };
            self.move_to_failed(id, &format!("damaged-data: {reason}"))
                .await?;
        }
        Ok(None)
    }

    /// Moves a job to the failed jobs, where operators look, because BullMQ's script cannot.
    async fn move_to_failed(&self, id: &[u8], reason: &str) -> Result<(), QueueError> {
        let keys = &self.names.keys;
        let key = [self.names.prefix.as_bytes(), id].concat();
        let now = self.queues.now_ms();
        let mut pipe = redis::pipe();
        pipe.atomic().ignore_errors();
        pipe.lrem(keys.active(), 0, id)
            .del([&key, &b":lock"[..]].concat())
            .srem(keys.stalled(), id);
        // A job whose id is the name of one of the queue's own keys has no hash: writing one would
        // replace that key.
        if !shape(keys).iter().any(|(own, _)| own.as_bytes() == key) {
            pipe.hset(&key, "failedReason", reason)
                .hset(&key, "finishedOn", now)
                .hdel(&key, "defa");
        }
        pipe.zadd(keys.failed(), id, now);
        pipe.cmd("XADD")
            .arg(keys.events())
            .arg("*")
            .arg(&["event", "failed", "prev", "active"]);
        pipe.arg("jobId").arg(id).arg("failedReason").arg(reason);
        pipe.query_async::<Value>(&mut self.queues.connection.get())
            .await?;
        error!(job = text(id), queue = %self.config.queue, reason, "A damaged job was moved to the failed jobs without BullMQ's script; if it has a parent in a flow, the parent was not informed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&str, &str)]) -> HashMap<String, String> {
        fields
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn counters_that_are_no_counts_are_found_and_put_right() {
        assert_eq!(
            find("bull", &of(&[("atm", "3"), ("ats", "4"), ("data", "x")])),
            None
        );
        for odd in ["x", "-1", "", "4294967295", "1.5"] {
            let damage = find("bull", &of(&[("atm", odd), ("ats", "2")])).expect("damage");
            assert_eq!(damage.repairs, [("atm", Some("0".to_owned()))], "{odd}");
            assert!(damage.what.contains("atm"), "{}", damage.what);
        }
    }

    #[test]
    fn an_unreadable_parent_is_rebuilt_from_what_else_says_so() {
        let whole = of(&[
            ("parent", r#"{"id":"7","queueKey":"bull:q"}"#),
            ("parentKey", "bull:q:7"),
        ]);
        assert_eq!(find("bull", &whole), None);
        let rebuilt = find(
            "bull",
            &of(&[
                ("parent", "{"),
                ("parentKey", "bull:q:7"),
                ("opts", r#"{"fpof":true}"#),
            ]),
        );
        let (field, value) = rebuilt.expect("damage").repairs.remove(0);
        let value: Json = serde_json::from_str(&value.expect("a value")).expect("JSON");
        assert_eq!(
            (field, value),
            (
                "parent",
                json!({ "id": "7", "queueKey": "bull:q", "fpof": true })
            )
        );
        let colons = of(&[
            ("parent", "{"),
            ("parentKey", "bull:q:repeat:a:7"),
            ("opts", "{}"),
        ]);
        let value = find("bull", &colons)
            .expect("damage")
            .repairs
            .remove(0)
            .1
            .expect("a value");
        let value: Json = serde_json::from_str(&value).expect("JSON");
        assert_eq!(value, json!({ "id": "repeat:a:7", "queueKey": "bull:q" }));
        let lost = find("bull", &of(&[("parent", "[]"), ("opts", "{}")])).expect("damage");
        assert_eq!(lost.repairs, [("parentKey", None), ("parent", None)]);
    }
}

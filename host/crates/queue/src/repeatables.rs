//! Repeatables from before BullMQ had job schedulers: lists them, and removes them when a schedule
//! has replaced them.
//!
//! BullMQ 2 to 5.8 define them only by their key in the `repeat` set,
//! `name:id:endDate:zone:pattern` (the pattern of an interval is its milliseconds). They no longer
//! tick under BullMQ 6 or here: the scripts look for jobs named after the key, and their jobs are
//! named after its hash. Later versions of BullMQ 5 use the hash as key and keep the definition in
//! `repeat:<key>`; these tick here like job schedulers. The id of a job scheduler may look like
//! either, but its hash counts its ticks (`ic`), which a repeatable's does not.

use std::collections::HashMap;

use patchbay_model::QueueName;
use patchbay_model::queue::LegacyRepeatable;
use redis::AsyncCommands;

use crate::{Broker, QueueError};

/// Parsed from the end, because names may contain colons. `None` if the text does not have the form
/// of such a key.
fn parse(key: &str) -> Option<LegacyRepeatable> {
    let mut parts = key.rsplitn(5, ':');
    let (pattern, zone, ends_at, id, name) = (
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
        parts.next()?,
    );
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let every_ms = pattern.parse().ok();
    let has_date = ends_at.bytes().all(|b| b.is_ascii_digit());
    if !has_date || every_ms.is_none() && !pattern.contains([' ', '@']) {
        return None;
    }
    Some(LegacyRepeatable {
        key: key.to_owned(),
        name: name.to_owned(),
        id: filled(id),
        pattern: if every_ms.is_some() {
            None
        } else {
            Some(filled(pattern)?)
        },
        every_ms,
        zone: filled(zone),
        ends_at: ends_at.parse().ok(),
        ..LegacyRepeatable::default()
    })
}

/// From the hash that BullMQ 5 keeps.
fn of_hash(key: &str, fields: &HashMap<String, String>) -> Option<LegacyRepeatable> {
    let text = |name: &str| fields.get(name).filter(|text| !text.is_empty()).cloned();
    Some(LegacyRepeatable {
        key: key.to_owned(),
        name: text("name")?,
        every_ms: text("every").and_then(|text| text.parse().ok()),
        pattern: text("pattern"),
        zone: text("tz"),
        ends_at: text("endDate").and_then(|text| text.parse().ok()),
        ..LegacyRepeatable::default()
    })
}

/// Whether a member of the `repeat` set has the form of such a key. Ids of job schedulers may have
/// it, too.
pub(crate) fn has_legacy_shape(key: &str) -> bool {
    parse(key).is_some()
}

/// Whether a member of the `repeat` set is a repeatable, judged by its hash.
pub(crate) fn is_legacy(key: &str, fields: &HashMap<String, String>) -> bool {
    let of_a_scheduler = ["ic", "data", "opts"]
        .iter()
        .any(|name| fields.contains_key(*name));
    // MD5 is usual; others can be chosen.
    let is_digest =
        [32, 40, 64, 128].contains(&key.len()) && key.bytes().all(|b| b.is_ascii_hexdigit());
    !of_a_scheduler && (has_legacy_shape(key) || is_digest && !fields.is_empty())
}

impl Broker {
    /// The repeatables of a queue, each with its delayed jobs, and job schedulers whose ids look
    /// like repeatables.
    pub async fn legacy_repeatables(
        &self,
        queue: &QueueName,
    ) -> Result<Vec<LegacyRepeatable>, QueueError> {
        let keys = self.keys(queue);
        let mut connection = self.connection.get();
        let mut found = Vec::new();
        for (key, scheduler, _) in self.all_schedulers(queue).await? {
            let fields = &scheduler.fields;
            let is_scheduler = !is_legacy(&key, fields);
            let by_key = parse(&key);
            let by_hash = if is_scheduler {
                None
            } else {
                of_hash(&key, fields)
            };
            found.extend(by_key.or(by_hash).map(|repeatable| LegacyRepeatable {
                is_scheduler,
                ..repeatable
            }));
        }
        if found.iter().all(|repeatable| repeatable.is_scheduler) {
            return Ok(found);
        }
        let delayed: Vec<String> = connection.zrange(keys.delayed(), 0, -1).await?;
        let ticks: Vec<&String> = delayed
            .iter()
            .filter(|id| id.starts_with("repeat:"))
            .collect();
        let mut pipe = redis::pipe();
        for id in &ticks {
            pipe.hmget(keys.job_key(id), &["rjk", "opts", "data"]);
        }
        type Fields = (Option<String>, Option<String>, Option<String>);
        let fields: Vec<Fields> = if ticks.is_empty() {
            Vec::new()
        } else {
            pipe.query_async(&mut connection).await?
        };
        // Job id, data, limit.
        type Tick<'a> = (&'a String, Option<String>, Option<u64>);
        let mut by_key: HashMap<String, Vec<Tick<'_>>> = HashMap::new();
        for (id, (key, opts, data)) in ticks.into_iter().zip(fields) {
            // Older versions keep the key in the options only.
            let opts = opts
                .and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok())
                .unwrap_or_default();
            let key = key.or_else(|| opts["repeat"]["key"].as_str().map(str::to_owned));
            let limit = opts["repeat"]["limit"].as_u64();
            by_key
                .entry(key.unwrap_or_default())
                .or_default()
                .push((id, data, limit));
        }
        for repeatable in found
            .iter_mut()
            .filter(|repeatable| !repeatable.is_scheduler)
        {
            for (id, data, limit) in by_key.remove(&repeatable.key).unwrap_or_default() {
                repeatable.jobs.push(id.clone());
                repeatable.data = repeatable.data.take().or(data);
                repeatable.limit = repeatable.limit.or(limit);
            }
        }
        Ok(found)
    }

    /// Removes one with its delayed jobs. Refused if it has become a job scheduler since it was
    /// listed.
    pub async fn remove_legacy(
        &self,
        queue: &QueueName,
        repeatable: &LegacyRepeatable,
    ) -> Result<(), QueueError> {
        let keys = self.keys(queue);
        let scheduler = self.scheduler(queue, &repeatable.key).await?;
        if !scheduler.is_none_or(|scheduler| is_legacy(&repeatable.key, &scheduler.fields)) {
            return Ok(());
        }
        let mut pipe = redis::pipe();
        pipe.atomic().zrem(keys.repeat(), &repeatable.key).ignore();
        pipe.del(format!("{}:{}", keys.repeat(), repeatable.key))
            .ignore();
        for id in &repeatable.jobs {
            pipe.zrem(keys.delayed(), id)
                .ignore()
                .del(keys.job_key(id))
                .ignore();
        }
        Ok(pipe.query_async(&mut self.connection.get()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_repeatables_are_read_and_ids_of_schedulers_are_not() {
        let cron = parse("warn:daily::Asia/Kolkata:59 23 * * *").expect("a repeatable");
        assert_eq!(
            (cron.name.as_str(), cron.id.as_deref(), cron.zone.as_deref()),
            ("warn", Some("daily"), Some("Asia/Kolkata"))
        );
        assert_eq!(
            (cron.pattern.as_deref(), cron.every_ms),
            (Some("59 23 * * *"), None)
        );
        let every = parse("kpi::::900000").expect("a repeatable");
        assert_eq!(
            (every.name.as_str(), every.id, every.every_ms),
            ("kpi", None, Some(900_000))
        );
        assert_eq!(parse("mrlearn-sync-7"), None);
        assert_eq!(parse("a:b"), None);
        assert_eq!(
            parse("tenant:42:eu:Europe/Berlin:0 9 * * *"),
            None,
            "eu is no date"
        );
        assert_eq!(parse("a:b::d:e"), None, "e is no rhythm");
    }

    #[test]
    fn what_the_hash_holds_tells_a_repeatable_from_a_scheduler() {
        let fields = |names: &[&str]| {
            names
                .iter()
                .map(|name| ((*name).to_owned(), "1".to_owned()))
                .collect()
        };
        let key = "tenant:42::Europe/Berlin:0 9 * * *";
        let digest = "0123456789abcdef0123456789abcdef";
        assert!(is_legacy(key, &fields(&[])) && is_legacy(key, &fields(&["name", "pattern"])));
        assert!(is_legacy(digest, &fields(&["name", "every"])) && !is_legacy(digest, &fields(&[])));
        for one in [key, digest] {
            assert!(!is_legacy(one, &fields(&["name", "pattern", "ic"])));
            assert!(
                !is_legacy(one, &fields(&["name", "pattern", "data"])),
                "as early BullMQ 5 has them"
            );
        }
        assert!(!is_legacy("daily", &fields(&["name", "pattern"])));
    }
}

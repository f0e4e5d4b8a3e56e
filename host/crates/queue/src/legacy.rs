//! Repeatables from before BullMQ had job schedulers: found, and taken out when a schedule has taken their place.
//!
//! Their only definition is their key in the `repeat` set, `name:id:endDate:zone:pattern` (the pattern of an interval is its milliseconds).
//! They tick no more under BullMQ 6 or here: the scripts look for jobs named after the key, and theirs are named after its hash.

use std::collections::HashMap;

use patchbay_model::QueueName;
use redis::AsyncCommands;
use serde::Serialize;

use crate::{QueueError, Queues};

/// A legacy repeatable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LegacyRepeatable {
    /// As it stands in the `repeat` set.
    pub key: String,
    /// Name of its jobs.
    pub name: String,
    /// The id that its producer gave it.
    pub id: Option<String>,
    /// Milliseconds between ticks.
    pub every_ms: Option<u64>,
    /// Or a cron expression.
    pub pattern: Option<String>,
    /// In this zone.
    pub zone: Option<String>,
    /// When it ends, Unix milliseconds.
    pub ends_at: Option<u64>,
    /// Data of its next job, or of none.
    pub data: Option<String>,
    /// Its delayed jobs.
    pub jobs: Vec<String>,
}

impl LegacyRepeatable {
    /// From the end, since names may hold colons; nothing when it is a job scheduler's id.
    fn parse(key: &str) -> Option<Self> {
        let mut parts = key.rsplitn(5, ':');
        let (pattern, zone, ends_at, id, name) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let every_ms = pattern.parse().ok();
        Some(Self {
            key: key.to_owned(),
            name: name.to_owned(),
            id: filled(id),
            pattern: if every_ms.is_some() { None } else { Some(filled(pattern)?) },
            every_ms,
            zone: filled(zone),
            ends_at: ends_at.parse().ok(),
            data: None,
            jobs: Vec::new(),
        })
    }
}

impl Queues {
    /// Those of a queue, each with its delayed jobs.
    pub async fn legacy_repeatables(&self, queue: &QueueName) -> Result<Vec<LegacyRepeatable>, QueueError> {
        let keys = self.keys(queue);
        let mut connection = self.connection.get();
        let members: Vec<String> = connection.zrange(keys.repeat(), 0, -1).await?;
        let mut found: Vec<LegacyRepeatable> = members.iter().filter_map(|key| LegacyRepeatable::parse(key)).collect();
        if found.is_empty() {
            return Ok(found);
        }
        let delayed: Vec<String> = connection.zrange(keys.delayed(), 0, -1).await?;
        let ticks: Vec<&String> = delayed.iter().filter(|id| id.starts_with("repeat:")).collect();
        let mut pipe = redis::pipe();
        for id in &ticks {
            pipe.hmget(keys.job_key(id), &["rjk", "opts", "data"]);
        }
        type Fields = (Option<String>, Option<String>, Option<String>);
        let fields: Vec<Fields> = if ticks.is_empty() { Vec::new() } else { pipe.query_async(&mut connection).await? };
        let mut by_key: HashMap<String, Vec<(&String, Option<String>)>> = HashMap::new();
        for (id, (key, opts, data)) in ticks.into_iter().zip(fields) {
            // Older versions keep it in the options only.
            let opts = opts.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok()).unwrap_or_default();
            let key = key.or_else(|| opts["repeat"]["key"].as_str().map(str::to_owned));
            by_key.entry(key.unwrap_or_default()).or_default().push((id, data));
        }
        for repeatable in &mut found {
            for (id, data) in by_key.remove(&repeatable.key).unwrap_or_default() {
                repeatable.jobs.push(id.clone());
                repeatable.data = repeatable.data.take().or(data);
            }
        }
        Ok(found)
    }

    /// Takes one out, with its delayed jobs.
    pub async fn remove_legacy(&self, queue: &QueueName, repeatable: &LegacyRepeatable) -> Result<(), QueueError> {
        let keys = self.keys(queue);
        let mut pipe = redis::pipe();
        pipe.atomic().zrem(keys.repeat(), &repeatable.key).ignore();
        for id in &repeatable.jobs {
            pipe.zrem(keys.delayed(), id).ignore().del(keys.job_key(id)).ignore();
        }
        Ok(pipe.query_async(&mut self.connection.get()).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_repeatables_are_read_and_ids_of_schedulers_are_not() {
        let cron = LegacyRepeatable::parse("warn:daily::Asia/Kolkata:59 23 * * *").expect("a repeatable");
        assert_eq!(
            (cron.name.as_str(), cron.id.as_deref(), cron.zone.as_deref()),
            ("warn", Some("daily"), Some("Asia/Kolkata"))
        );
        assert_eq!((cron.pattern.as_deref(), cron.every_ms), (Some("59 23 * * *"), None));
        let every = LegacyRepeatable::parse("kpi::::900000").expect("a repeatable");
        assert_eq!((every.name.as_str(), every.id, every.every_ms), ("kpi", None, Some(900_000)));
        assert_eq!(LegacyRepeatable::parse("mrlearn-sync-7"), None);
        assert_eq!(LegacyRepeatable::parse("a:b"), None);
    }
}

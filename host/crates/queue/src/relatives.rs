//! A job's parent and children, as far as Redis still has them.

use std::collections::BTreeMap;

use patchbay_model::{JobId, QueueName};
use redis::{RedisResult, Value};
use serde::Serialize;

use crate::damage::{read, text};
use crate::opts::JobOpts;
use crate::{Broker, QueueError};

/// Limit for the children that are listed.
const MAX_CHILDREN: usize = 200;
/// Limit for the children, over a whole list of jobs, whose data is read.
const MAX_CHILDREN_READ: usize = 1_000;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Family {
    /// Format: `queue:id`.
    pub parent: Option<String>,
    /// State of each child by `queue:id`: `unfinished`, `completed` or `failed`. Only the first
    /// 200.
    pub children: BTreeMap<String, &'static str>,
    pub children_count: u64,
    /// Correlation id of the request that created the job, from the job's options.
    pub correlation_id: Option<String>,
    pub platform: Option<String>,
}

pub type ChildData = (QueueName, String);

impl Broker {
    /// For each job, the data of the children that have reported their end to it, while Redis has
    /// them. Limited to a thousand children of all jobs.
    pub async fn children_data(
        &self,
        queue: &QueueName,
        ids: &[&str],
    ) -> Result<Vec<Vec<ChildData>>, QueueError> {
        let mut of_jobs: Vec<Vec<ChildData>> = vec![Vec::new(); ids.len()];
        if ids.is_empty() {
            return Ok(of_jobs);
        }
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        for id in ids {
            let key = self.keys(queue).job_key(id);
            pipe.hkeys(format!("{key}:processed"))
                .hkeys(format!("{key}:failed"));
        }
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection.get()).await?;
        let own = format!("{}:", self.prefix());
        let mut by_queue: BTreeMap<QueueName, Vec<(usize, String)>> = BTreeMap::new();
        let mut left = MAX_CHILDREN_READ;
        for (place, reply) in replies.into_iter().enumerate() {
            let told: Vec<Vec<u8>> = read(reply)?.unwrap_or_default();
            for child in told.into_iter().take(left) {
                left -= 1;
                let child = text(&child);
                let named = child
                    .strip_prefix(&own)
                    .and_then(|name| name.split_once(':'));
                if let Some((queue, id)) =
                    named.and_then(|(queue, id)| Some((queue.parse().ok()?, id)))
                {
                    // Two replies per job.
                    by_queue
                        .entry(queue)
                        .or_default()
                        .push((place / 2, id.to_owned()));
                }
            }
        }
        for (queue, children) in by_queue {
            let ids: Vec<&str> = children.iter().map(|(_, id)| id.as_str()).collect();
            for ((job, _), data) in children.iter().zip(self.data_of(&queue, &ids).await?) {
                of_jobs[*job].push((queue.clone(), data));
            }
        }
        Ok(of_jobs)
    }

    /// Empty if there is neither parent nor child.
    pub async fn family(&self, queue: &QueueName, id: &JobId) -> Result<Family, QueueError> {
        let key = self.keys(queue).job_key(id.as_str());
        let mut pipe = redis::pipe();
        pipe.ignore_errors()
            .cmd("HMGET")
            .arg(&key)
            .arg(&["parentKey", "opts"]);
        // Counts first: a flow may have more children than anybody reads, and their results are
        // large.
        pipe.cmd("SCARD").arg(format!("{key}:dependencies"));
        pipe.cmd("HLEN").arg(format!("{key}:processed"));
        pipe.cmd("HLEN").arg(format!("{key}:failed"));
        pipe.cmd("ZCARD").arg(format!("{key}:unsuccessful"));
        pipe.cmd("SSCAN")
            .arg(format!("{key}:dependencies"))
            .arg(0)
            .arg("COUNT")
            .arg(MAX_CHILDREN);
        pipe.cmd("ZRANGE")
            .arg(format!("{key}:unsuccessful"))
            .arg(0)
            .arg(MAX_CHILDREN - 1);
        let replies: Vec<RedisResult<Value>> = pipe.query_async(&mut self.connection.get()).await?;
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Ok(Value::Nil));
        let fields: Vec<Option<Vec<u8>>> = read(next())?.unwrap_or_default();
        let mut fields = fields
            .into_iter()
            .map(|field| field.map(|field| text(&field)));
        let parent = fields.next().flatten().map(|key| self.without_prefix(&key));
        let opts = fields
            .next()
            .flatten()
            .and_then(|opts| JobOpts::parse(&opts).ok())
            .unwrap_or_default();
        let mut counts = [0_u64; 4];
        for count in &mut counts {
            *count = read(next())?.unwrap_or(0);
        }
        let (_, unfinished): (u64, Vec<Vec<u8>>) = read(next())?.unwrap_or_default();
        let unsuccessful: Vec<Vec<u8>> = read(next())?.unwrap_or_default();
        let mut children = BTreeMap::new();
        for part in ["processed", "failed"] {
            let state = if part == "processed" {
                "completed"
            } else {
                "failed"
            };
            let few = counts[if part == "processed" { 1 } else { 2 }] <= MAX_CHILDREN as u64;
            if few {
                let keys = redis::cmd("HKEYS")
                    .arg(format!("{key}:{part}"))
                    .query_async(&mut self.connection.get())
                    .await;
                let keys: Vec<Vec<u8>> = read(keys)?.unwrap_or_default();
                children.extend(
                    keys.iter()
                        .map(|key| (self.without_prefix(&text(key)), state)),
                );
            }
        }
        children.extend(
            unsuccessful
                .iter()
                .map(|key| (self.without_prefix(&text(key)), "failed")),
        );
        children.extend(
            unfinished
                .iter()
                .map(|key| (self.without_prefix(&text(key)), "unfinished")),
        );
        while children.len() > MAX_CHILDREN {
            children.pop_last();
        }
        let (correlation_id, platform) = (opts.trace.correlation_id, opts.trace.platform);
        Ok(Family {
            parent,
            children,
            children_count: counts.iter().sum(),
            correlation_id,
            platform,
        })
    }

    /// Turns `prefix:queue:id` into `queue:id`.
    fn without_prefix(&self, key: &str) -> String {
        let own = key
            .strip_prefix(self.config.prefix.as_str())
            .and_then(|rest| rest.strip_prefix(':'));
        own.unwrap_or(key).to_owned()
    }
}

//! Data and results as people may see them: opened, and without what the queue's manifest redacts.

use std::collections::BTreeMap;

use patchbay_model::job::JobKey;
use patchbay_model::{DataPath, QueueName};
use patchbay_store::BodyRow;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Bodies, Unopened};
use crate::plugins::Plugins;

/// What is shown.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The job's data.
    pub data: Option<Box<RawValue>>,
    /// What it returned.
    pub result: Option<Box<RawValue>>,
    /// Why neither is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

impl Shown {
    fn withheld(reason: impl Into<String>) -> Self {
        Self { data: None, result: None, withheld: Some(reason.into()) }
    }
}

/// Opens for one reader; what queues redact is asked once.
pub struct Reader<'a> {
    bodies: &'a Bodies,
    plugins: &'a Plugins,
    prefix: &'a str,
    /// Absent for a queue whose manifest nobody has.
    redact: BTreeMap<String, Option<Vec<DataPath>>>,
}

impl<'a> Reader<'a> {
    /// `prefix` is BullMQ's.
    pub fn new(bodies: &'a Bodies, plugins: &'a Plugins, prefix: &'a str) -> Self {
        Self { bodies, plugins, prefix, redact: BTreeMap::new() }
    }

    /// Fails only when Postgres does not answer.
    pub async fn show(&mut self, row: BodyRow) -> Result<Shown, patchbay_store::StoreError> {
        let (Ok(queue), Ok(id)) = (row.queue.parse::<QueueName>(), row.job_id.parse()) else {
            return Ok(Shown::withheld("the row is damaged"));
        };
        let redact = self.redact.entry(row.queue.clone()).or_insert_with(|| self.plugins.redacted(&queue));
        let Some(redact) = redact else {
            return Ok(Shown::withheld(format!(
                "no active plugin handles {queue}, so nothing says what of it may be shown"
            )));
        };
        let job = JobKey { prefix: self.prefix.to_owned(), queue, id, created_ms: row.job_created_ms.unsigned_abs() };
        let started = row.started.unsigned_abs();
        Ok(match self.bodies.open(&job, started, &row.sealed()).await {
            Ok(body) => Shown {
                data: redacted(body.data, redact),
                result: body.result.and_then(|result| redacted(result, redact)),
                withheld: None,
            },
            Err(Unopened::Store(error)) => return Err(error),
            Err(reason) => Shown::withheld(reason.to_string()),
        })
    }
}

/// As it is where nothing is redacted. What is no JSON has no paths, and is shown only where there are none.
fn redacted(text: String, redact: &[DataPath]) -> Option<Box<RawValue>> {
    if redact.is_empty() {
        let quoted = |text: &str| RawValue::from_string(Value::from(text).to_string()).ok();
        return serde_json::from_str(&text).ok().or_else(|| quoted(&text));
    }
    let mut value: Value = serde_json::from_str(&text).ok()?;
    redact.iter().for_each(|path| path.redact(&mut value));
    RawValue::from_string(value.to_string()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_redacted_is_not_shown_and_what_cannot_be_read_only_where_nothing_is() {
        let paths = ["a.phone".parse().expect("a path")];
        let shown =
            |text: &str, paths: &[DataPath]| redacted(text.to_owned(), paths).map(|value| value.get().to_owned());
        assert_eq!(shown(r#"{"a": {"phone": 1}}"#, &paths).as_deref(), Some(r#"{"a":{"phone":"[redacted]"}}"#));
        assert_eq!(shown("{\"a", &paths), None);
        assert_eq!(shown("{\"a", &[]).as_deref(), Some(r#""{\"a""#));
        assert_eq!(shown("12345678901234567890123", &[]).as_deref(), Some("12345678901234567890123"));
    }
}

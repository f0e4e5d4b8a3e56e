//! Opens data and results for readers, without what the queue's manifest redacts.

use std::collections::BTreeMap;

use patchbay_model::confidential::{REFUSAL, is_confidential};
use patchbay_model::job::JobKey;
use patchbay_model::{QueueName, Redaction};
use patchbay_queue::{Broker, QueueError};
use patchbay_store::{BodyRow, StoreError};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{SealedBodies, Unopened};
use crate::plugins::Plugins;

#[derive(Debug, Serialize)]
pub(crate) struct RedactedBody {
    pub data: Option<Box<RawValue>>,
    pub result: Option<Box<RawValue>>,
    /// Why neither is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withheld: Option<String>,
}

impl RedactedBody {
    fn withheld(reason: impl Into<String>) -> Self {
        Self {
            data: None,
            result: None,
            withheld: Some(reason.into()),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Opens bodies for one reader. Reads the redaction of each queue once.
pub(crate) struct Reader<'a> {
    bodies: &'a SealedBodies,
    plugins: &'a Plugins,
    queues: &'a Broker,
    /// Whether redacted values are shown, too.
    reveal: bool,
    /// `None` for a queue that no manifest names.
    redactions: BTreeMap<String, Option<Redaction>>,
}

impl<'a> Reader<'a> {
    /// With `reveal`, the caller must record who reads.
    pub(crate) fn new(
        bodies: &'a SealedBodies,
        plugins: &'a Plugins,
        queues: &'a Broker,
        reveal: bool,
    ) -> Self {
        Self {
            bodies,
            plugins,
            queues,
            reveal,
            redactions: BTreeMap::new(),
        }
    }

    /// Fails only when Postgres or Redis does not answer.
    pub(crate) async fn show(&mut self, row: BodyRow) -> Result<RedactedBody, BodyError> {
        let (Ok(queue), Ok(id)) = (row.queue.parse::<QueueName>(), row.job_id.parse()) else {
            return Ok(RedactedBody::withheld("the row is damaged"));
        };
        if is_confidential(&row.job_id) {
            return Ok(RedactedBody::withheld(REFUSAL));
        }
        let known = || {
            self.plugins
                .knows_redaction(&queue)
                .then(|| self.plugins.redaction(&queue))
        };
        let redaction = self
            .redactions
            .entry(row.queue.clone())
            .or_insert_with(known)
            .clone();
        let Some(redaction) = redaction.or_else(|| self.reveal.then(Redaction::default)) else {
            return Ok(RedactedBody::withheld(format!(
                "no plugin has ever handled {queue} here, so it is unknown what of its jobs may be shown"
            )));
        };
        let job = JobKey {
            prefix: self.queues.prefix().to_owned(),
            queue,
            id,
            created_ms: row.job_created_ms.unsigned_abs(),
        };
        let started = row.started.unsigned_abs();
        Ok(match self.bodies.open(&job, started, &row.sealed()).await {
            Ok(body) if self.reveal => RedactedBody {
                data: json(body.data),
                result: body.result.and_then(json),
                withheld: None,
            },
            Ok(body) => {
                // A parent sees its children's results. Their hidden values are known while Redis
                // has the children.
                let told = self
                    .queues
                    .children_data(&job.queue, &[job.id.as_str()])
                    .await?
                    .concat();
                let (data, mask) =
                    redaction.data_with_others(&body.data, self.plugins.hidden_values(&told));
                let result = body
                    .result
                    .map(|result| redaction.document(&result, &mask).text.into_owned());
                RedactedBody {
                    data: json(data.text.into_owned()),
                    result: result.and_then(json),
                    withheld: None,
                }
            }
            Err(Unopened::Store(error)) => return Err(error.into()),
            Err(reason) => RedactedBody::withheld(reason.to_string()),
        })
    }
}

/// Keeps valid JSON as it was written, and makes a JSON string of anything else.
fn json(text: String) -> Option<Box<RawValue>> {
    let quoted = |text: &str| RawValue::from_string(Value::from(text).to_string()).ok();
    serde_json::from_str(&text).ok().or_else(|| quoted(&text))
}

impl From<BodyError> for crate::Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Queue(error) => error.into(),
            BodyError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_shown_as_a_text() {
        let shown = |text: &str| json(text.to_owned()).map(|value| value.get().to_owned());
        assert_eq!(shown("{\"a").as_deref(), Some(r#""{\"a""#));
        assert_eq!(
            shown("12345678901234567890123").as_deref(),
            Some("12345678901234567890123")
        );
    }
}

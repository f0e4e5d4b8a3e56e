//! What became of each mail, for people: rows of `emails_sent`, the list of addresses that are gone,
//! and the trail `lead_email_log`.
//!
//! A job that sends only adds a job of [`QUEUE`], so a mail never waits for Postgres, and no row is
//! lost while it is away.

use chrono::{DateTime, SecondsFormat};
use patchbay_plugin::queue::{self, NewJob};
use patchbay_plugin::sql::{self, Statement};
use patchbay_plugin::{Failure, Job, Retry, Value, audit, json};
use serde::{Deserialize, Serialize};

use crate::database::{failed, number, optional, text};
use crate::suppression;

pub const QUEUE: &str = "mailLogQueue";
const TRAIL: &str = "lead_email_log";
/// Of the trail's schema.
const MAX_ERROR_CHARS: usize = 1_000;
const MAX_ID_CHARS: usize = 200;

/// What is known of a mail besides its recipients.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct About {
    /// The job's name.
    pub kind: String,
    pub subject: String,
    pub template: Option<TemplateRef>,
    pub lead_id: Option<String>,
    /// Who it is for, by id.
    pub recipient_id: Option<String>,
    pub sent_by: Option<String>,
}

/// A stored template, or one of the settings (without id and version).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TemplateRef {
    pub id: Option<String>,
    pub name: String,
    pub version: Option<i64>,
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    pub address: String,
    /// `sent`, `refused`, `suppressed`, `failed` or `unknown`, as in the table.
    pub status: String,
    pub code: Option<u16>,
    /// For example `5.1.1`.
    pub enhanced: Option<String>,
    pub reply: String,
}

/// The data of a job `record`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub message_id: String,
    pub job_id: String,
    pub platform: String,
    pub tried_at_ms: i64,
    /// The addresses of `outcomes`, for search.
    pub to: Vec<String>,
    pub outcomes: Vec<Outcome>,
    #[serde(flatten)]
    pub about: About,
}

/// Adds the job. `id` is the same when it is added again.
pub fn enqueue(id: &str, record: &Record) {
    let data = serde_json::to_value(record).unwrap_or_default();
    let mut job = NewJob::new(QUEUE, "record", &data);
    job.id = Some(id.to_owned());
    if let Err(error) = queue::enqueue(&[job]) {
        patchbay_plugin::warn!(
            "no row of emails_sent will tell of a mail: {}",
            error.message
        );
    }
}

/// Writes the rows; again is as once.
pub fn run(job: &Job) -> Result<Value, Failure> {
    let record: Record = job.parse()?;
    sql::batch(&statements(&record), &[]).map_err(failed)?;
    if let Some(entry) = entry(&record)
        && let Err(error) = audit::append(
            TRAIL,
            entry["status"].as_str().unwrap_or_default(),
            &entry.to_string(),
        )
    {
        if error.retryable {
            return Err(Failure::new(
                "unavailable",
                error.message,
                Retry::DeferMs(30_000),
            ));
        }
        // The rows are written; a trail that was not installed must not make every mail fail.
        patchbay_plugin::warn!("no entry in {TRAIL}: {}", error.message);
    }
    Ok(json!({ "rows": record.outcomes.len() }))
}

fn statements(record: &Record) -> Vec<Statement> {
    let at = DateTime::from_timestamp_millis(record.tried_at_ms).unwrap_or_default();
    let at = text(at.to_rfc3339_opts(SecondsFormat::Millis, true));
    let template = record.about.template.clone().unwrap_or_default();
    let mut all = Vec::new();
    for one in &record.outcomes {
        all.push(Statement {
            // What was sent stays sent, whatever comes late.
            text: "insert into public.emails_sent (message_id, to_address, status, reply_code, reply, kind, subject, template_id, \
                   template_version, lead_id, sent_by, platform, job_id, tried_at) \
                   values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
                   on conflict (message_id, to_address) do update set status = excluded.status, reply_code = excluded.reply_code, \
                   reply = excluded.reply, tried_at = excluded.tried_at \
                   where emails_sent.status <> 'sent' and emails_sent.tried_at <= excluded.tried_at"
                .into(),
            parameters: vec![
                text(record.message_id.as_str()),
                text(one.address.as_str()),
                text(one.status.as_str()),
                number(one.code.map(i64::from)),
                text(one.reply.as_str()),
                text(record.about.kind.as_str()),
                text(record.about.subject.as_str()),
                optional(template.id.as_deref().or(Some(template.name.as_str()).filter(|name| !name.is_empty()))),
                number(template.version),
                optional(record.about.lead_id.as_deref()),
                optional(record.about.sent_by.as_deref()),
                text(record.platform.as_str()),
                text(record.job_id.as_str()),
                at.clone(),
            ],
            expect_rows: None,
        });
        let Some(code) = one.code.filter(|code| {
            one.status == "refused" && suppression::is_nobody_there(*code, one.enhanced.as_deref())
        }) else {
            continue;
        };
        all.push(Statement {
            text: "insert into public.email_suppressions (address, reply_code, reply, first_at, last_at) values ($1, $2, $3, $4, $4) \
                   on conflict (address) do update set bounces = email_suppressions.bounces + 1, reply_code = excluded.reply_code, \
                   reply = excluded.reply, last_at = excluded.last_at where email_suppressions.last_at < excluded.last_at"
                .into(),
            parameters: vec![
                text(one.address.to_lowercase()),
                number(Some(i64::from(code))),
                text(one.reply.as_str()),
                at.clone(),
            ],
            expect_rows: None,
        });
    }
    all
}

/// The entry for a mail to a lead: sent when anybody got it. Ids only, never addresses.
fn entry(record: &Record) -> Option<Value> {
    let lead = record.about.lead_id.as_deref()?;
    let sent = record.outcomes.iter().any(|one| one.status == "sent");
    let error = (!sent).then(|| {
        let first = record.outcomes.first();
        let reply = first.map(|one| match one.code {
            // A server's words may repeat the address.
            Some(code) => format!("{}: {code}", one.status),
            None => one.status.clone(),
        });
        shortened(&reply.unwrap_or_default(), MAX_ERROR_CHARS)
    });
    let template = record.about.template.as_ref();
    Some(json!({
        "leadId": shortened(lead, MAX_ID_CHARS),
        "recipientId": shortened(record.about.recipient_id.as_deref().unwrap_or(lead), MAX_ID_CHARS),
        "status": if sent { "sent" } else { "failed" },
        "template": template.map(|template| shortened(&template.name, MAX_ID_CHARS)),
        "providerId": shortened(&record.message_id, MAX_ID_CHARS),
        "sentBy": record.about.sent_by.as_deref().map(|by| shortened(by, MAX_ID_CHARS)),
        "error": error,
    }))
}

fn shortened(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(statuses: &[(&str, u16, &str)]) -> Record {
        let outcomes = statuses
            .iter()
            .enumerate()
            .map(|(n, (status, code, enhanced))| Outcome {
                address: format!("P{n}@example.com"),
                status: (*status).into(),
                code: Some(*code),
                enhanced: Some((*enhanced).into()),
                reply: "no P0@example.com here".into(),
            });
        let outcomes: Vec<Outcome> = outcomes.collect();
        Record {
            message_id: "<a@example.com>".into(),
            job_id: "1".into(),
            platform: "default".into(),
            tried_at_ms: 1_700_000_000_000,
            to: outcomes.iter().map(|one| one.address.clone()).collect(),
            outcomes,
            about: About {
                kind: "send".into(),
                lead_id: Some("lead-1".into()),
                ..About::default()
            },
        }
    }

    #[test]
    fn a_record_is_one_row_for_each_recipient_and_one_more_for_each_that_is_gone() {
        let record = record(&[
            ("sent", 250, "2.0.0"),
            ("refused", 550, "5.1.1"),
            ("refused", 571, "5.7.1"),
            ("suppressed", 550, "5.1.1"),
        ]);
        let statements = statements(&record);
        let gone: Vec<&Statement> = statements
            .iter()
            .filter(|one| one.text.contains("into public.email_suppressions"))
            .collect();
        assert_eq!((statements.len(), gone.len()), (5, 1));
        assert!(
            matches!(&gone[0].parameters[0], patchbay_plugin::sql::Value::Text(address) if address == "p1@example.com")
        );
        let read: Record = patchbay_plugin::parse(&serde_json::to_string(&record).expect("JSON"))
            .expect("a record");
        assert_eq!(read, record);
    }

    #[test]
    fn the_entry_of_a_lead_fits_its_trail_and_names_nobody() {
        let pack = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../deploy/trails/lead_email_log.json"
        );
        let pack: Value =
            serde_json::from_str(&std::fs::read_to_string(pack).expect("a pack")).expect("JSON");
        let schema = jsonschema::validator_for(&pack["schema"]).expect("a schema");
        for (statuses, status) in [
            (&[("sent", 250, ""), ("refused", 550, "5.1.1")][..], "sent"),
            (&[("refused", 550, "5.1.1")], "failed"),
        ] {
            let entry = entry(&record(statuses)).expect("an entry");
            assert!(schema.is_valid(&entry), "{entry}");
            assert_eq!(entry["status"], status);
            assert!(
                !entry.to_string().to_lowercase().contains("p0@")
                    && !entry.to_string().contains("p1@"),
                "{entry}"
            );
        }
        let nobody = Record {
            about: About::default(),
            ..record(&[("sent", 250, "")])
        };
        assert_eq!(entry(&nobody), None);
    }
}

//! The last log lines of this process, in memory: for an incident bundle, when nobody kept standard
//! output.
//!
//! Keeps events of level info and above. Leaves out events of plugins, whose words are theirs, and
//! the spans around an event, which name jobs and paths. Texts are redacted by [`redact_own`] and
//! [`redact_foreign`].

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::redact::{redact_foreign, redact_own};

const MAX_LINES: usize = 10_000;
const MAX_BYTES: usize = 5 << 20;

/// Cheap to clone: all clones share one buffer.
#[derive(Clone, Default)]
pub struct RecentLines(Arc<Mutex<Buffer>>);

#[derive(Default)]
struct Buffer {
    lines: VecDeque<String>,
    bytes: usize,
}

impl RecentLines {
    /// One JSON document per line, the oldest first.
    pub fn text(&self) -> String {
        let kept = self.0.lock();
        kept.lines.iter().flat_map(|line| [line, "\n"]).collect()
    }

    fn keep(&self, line: String) {
        let mut kept = self.0.lock();
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.lines.len() > MAX_LINES || kept.bytes > MAX_BYTES {
            let Some(oldest) = kept.lines.pop_front() else {
                break;
            };
            kept.bytes -= oldest.len();
        }
    }
}

impl<S: Subscriber> Layer<S> for RecentLines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        if *metadata.level() > tracing::Level::INFO || metadata.target() == "guest" {
            return;
        }
        let quotes_plugins = metadata.target().starts_with("patchbay_capability");
        let mut fields = Fields {
            of: Map::new(),
            quotes_plugins,
        };
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        fields.of.insert("timestamp".into(), now.into());
        fields
            .of
            .insert("level".into(), metadata.level().as_str().into());
        fields.of.insert("target".into(), metadata.target().into());
        event.record(&mut fields);
        self.keep(Value::Object(fields.of).to_string());
    }
}

struct Fields {
    of: Map<String, Value>,
    /// Whether errors may quote a plugin, for example the path of a denied request.
    quotes_plugins: bool,
}

/// Fields that name a job or a person, or may: a panic's message may quote data. A producer chooses
/// a job's id, unless it is a number from BullMQ.
const NAMING: [&str; 4] = ["job", "name", "client", "panic"];

impl Fields {
    fn text(&mut self, field: &Field, text: &str) {
        let hidden =
            NAMING.contains(&field.name()) && !text.bytes().all(|byte| byte.is_ascii_digit());
        let text = match field.name() {
            _ if hidden => "…".to_owned(),
            "error" if self.quotes_plugins => redact_foreign(text),
            _ => redact_own(text),
        };
        self.of.insert(field.name().into(), text.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.of.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.of.insert(field.name().into(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.of.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.of.insert(field.name().into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn lines_of_the_host_are_kept_and_those_of_plugins_are_not() {
        let lines = RecentLines::default();
        tracing::subscriber::with_default(
            tracing_subscriber::registry().with(lines.clone()),
            || {
                tracing::info!(to = "asha@example.com", jobs = 3, job = %"asha", "settled");
                tracing::info!(target: "patchbay_capability::egress", error = "denied: GET x.example/asha/1", "failed");
                tracing::info!(target: "guest", "Asha has paid");
                tracing::debug!("too much");
            },
        );
        let text = lines.text();
        let kept: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(
            (kept.len(), &kept[1]["error"]),
            (2, &"denied: GET …".into())
        );
        let line = &kept[0];
        assert_eq!(
            (&line["message"], &line["to"], &line["jobs"]),
            (&"settled".into(), &"<address>".into(), &3.into())
        );
        assert_eq!(line["job"], "…");
    }

    #[test]
    fn the_oldest_lines_go() {
        let lines = RecentLines::default();
        (0..MAX_LINES + 5).for_each(|n| lines.keep(n.to_string()));
        assert_eq!(lines.text().lines().next(), Some("5"));
        lines.keep("x".repeat(MAX_BYTES));
        assert_eq!(lines.text().len(), MAX_BYTES + 1);
    }
}

//! The rows: calls, messages, and callbacks that belong to neither yet.
//!
//! A call of the plugin has one transaction; the ones that begin a call or message use it. Changes
//! are a batch that holds only for the version of the row that was read, and is otherwise tried
//! anew; entries of the trail are jobs of the same batch.

mod calls;
mod messages;
mod waiting;

use patchbay_plugin::queue::NewJob;
use patchbay_plugin::sql::{self, Value as Sql};
use patchbay_plugin::{Failure, Retry, Value, json};

use crate::vendor_time::{from_rfc3339, rfc3339};

pub use self::calls::{
    Begun, Call, Wanted, apply_to_call, begin_call, find_call, is_known, refuse_call,
    unsettled_calls,
};
pub use self::messages::{
    Sms, WantedSms, apply_to_sms, begin_sms, find_sms, move_sms, unsettled_sms,
};
pub use self::waiting::{events_to_apply, forget_events, keep_event, kept_events};

pub const QUEUE: &str = "exotelQueue";

/// How often a change is tried anew because somebody else has changed the row meanwhile.
const MAX_TRIES: u32 = 20;
/// Another number of rows than the batch expects.
const OTHER_ROWS: &str = "P0002";
/// The vendor's id stands in another row already.
const UNIQUE_VIOLATION: &str = "23505";

/// A failure of SQL, as one of the job or operation.
pub fn failed(error: sql::Error) -> Failure {
    let retry = if error.retryable || ["unavailable", "timeout"].contains(&error.code.as_str()) {
        Retry::Backoff
    } else {
        Retry::Never
    };
    let code = match retry {
        Retry::Backoff => "unavailable",
        _ => "database",
    };
    Failure::new(
        code,
        format!("database: {} ({})", error.message, error.code),
        retry,
    )
}

pub fn text(value: &str) -> Sql {
    Sql::Text(value.to_owned())
}

fn optional(value: Option<&str>) -> Sql {
    value.map_or(Sql::Null, text)
}

fn number(value: Option<i64>) -> Sql {
    value.map_or(Sql::Null, Sql::Int)
}

fn time(ms: Option<i64>) -> Sql {
    ms.map_or(Sql::Null, |ms| Sql::Text(rfc3339(ms)))
}

/// The cells of one row, from the left.
struct Cells(std::vec::IntoIter<Sql>);

impl Cells {
    fn text(&mut self) -> Option<String> {
        match self.0.next() {
            Some(Sql::Text(text)) => Some(text),
            Some(Sql::Int(number)) => Some(number.to_string()),
            _ => None,
        }
    }

    fn int(&mut self) -> Option<i64> {
        match self.0.next() {
            Some(Sql::Int(number)) => Some(number),
            _ => None,
        }
    }

    fn time(&mut self) -> Option<i64> {
        self.text().as_deref().and_then(from_rfc3339)
    }
}
/// An entry of the trail, as a job that the transaction adds: it is written once, and only if the
/// change is there.
pub fn trail(lead_id: &str, activity: &str, by: Option<&str>, new: &Value) -> NewJob {
    let data =
        json!({ "leadId": lead_id, "activityType": activity, "changedBy": by, "newValue": new });
    NewJob::new(QUEUE, "trail", &data)
}
/// Which row news belongs to.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    Row(&'a str),
    Sid(&'a str),
}

impl Key<'_> {
    fn condition(&self, sid_column: &str) -> (String, Sql) {
        match self {
            Self::Row(id) => ("id = $1".into(), text(id)),
            Self::Sid(sid) => (format!("{sid_column} = $1"), text(sid)),
        }
    }
}
fn contended() -> Failure {
    Failure::new(
        "unavailable",
        "the row changes all the time",
        Retry::Backoff,
    )
}
/// Rows of one reconcile job.
const MAX_RECONCILED: i64 = 100;

pub fn checked(table: &str, id: &str) -> Result<(), Failure> {
    sql::execute(
        &format!("update mas_crm.{table} set checked_at = now() where id = $1"),
        &[text(id)],
    )
    .map_err(failed)?;
    Ok(())
}

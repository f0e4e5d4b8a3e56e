//! A cursor in the order of the history. Its text is opaque to clients.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchCursor {
    pub(super) time: DateTime<Utc>,
    /// After this row of that time; absent: before that time.
    pub(super) row: Option<RowKey>,
    /// The width of the last window that was answered in time.
    pub(super) width_ms: i64,
}

/// Distinguishes rows of the same time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RowKey {
    pub(super) queue: String,
    pub(super) job_id: String,
    pub(super) job_created_ms: i64,
    pub(super) started: i32,
}

/// The text is not a cursor.
#[derive(Debug, thiserror::Error)]
#[error(
    "cursor: not valid. Use `nextCursor` of the page before, or leave it out for the first page"
)]
pub struct UnknownCursor;

type Plain = (i64, i64, Option<(String, String, i64, i32)>);

impl SearchCursor {
    pub(super) fn behind(
        time: DateTime<Utc>,
        queue: &str,
        job_id: &str,
        job_created_ms: i64,
        started: i32,
        width_ms: i64,
    ) -> Self {
        let row = RowKey {
            queue: queue.to_owned(),
            job_id: job_id.to_owned(),
            job_created_ms,
            started,
        };
        Self {
            time,
            row: Some(row),
            width_ms,
        }
    }

    pub(super) fn before(time: DateTime<Utc>, width_ms: i64) -> Self {
        Self {
            time,
            row: None,
            width_ms,
        }
    }

    pub(super) fn with_width(&self, width_ms: i64) -> Self {
        Self {
            width_ms,
            ..self.clone()
        }
    }
}

impl fmt::Display for SearchCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = self
            .row
            .clone()
            .map(|row| (row.queue, row.job_id, row.job_created_ms, row.started));
        let plain: Plain = (self.time.timestamp_micros(), self.width_ms, row);
        let json = serde_json::to_vec(&plain).map_err(|_| fmt::Error)?;
        f.write_str(&URL_SAFE_NO_PAD.encode(json))
    }
}

impl FromStr for SearchCursor {
    type Err = UnknownCursor;

    fn from_str(encoded: &str) -> Result<Self, UnknownCursor> {
        let json = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| UnknownCursor)?;
        let (micros, width_ms, row): Plain =
            serde_json::from_slice(&json).map_err(|_| UnknownCursor)?;
        // Only years that Postgres can hold.
        let range = 0..253_402_300_800_000_000;
        let time = range
            .contains(&micros)
            .then(|| DateTime::from_timestamp_micros(micros))
            .flatten();
        let row = row.map(|(queue, job_id, job_created_ms, started)| RowKey {
            queue,
            job_id,
            job_created_ms,
            started,
        });
        if row
            .as_ref()
            .is_some_and(|row| row.queue.contains('\0') || row.job_id.contains('\0'))
        {
            return Err(UnknownCursor);
        }
        Ok(Self {
            time: time.ok_or(UnknownCursor)?,
            row,
            width_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_way_through_a_client() {
        let time = DateTime::from_timestamp_micros(1_790_000_000_123_456).expect("a time");
        for place in [
            SearchCursor::before(time, 600_000),
            SearchCursor::behind(time, "q", "a \"b\" é", -1, 7, 1),
        ] {
            assert_eq!(
                place.to_string().parse::<SearchCursor>().expect("readable"),
                place
            );
        }
    }

    #[test]
    fn what_is_no_place_is_refused() {
        let encoded = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let texts = [
            "",
            "7",
            "!",
            &encoded("7"),
            &encoded("[1,2]"),
            &encoded("[-1,2,null]"),
        ];
        for text in texts
            .into_iter()
            .chain([encoded("[1,2,[\"\\u0000\",\"\",0,0]]").as_str()])
        {
            text.parse::<SearchCursor>().expect_err(text);
        }
    }
}

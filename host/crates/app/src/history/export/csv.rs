//! Writes comma-separated values (RFC 4180) that are safe to open: an apostrophe precedes a text
//! that a spreadsheet would take for a formula, and control characters, which a terminal would
//! obey, become replacement characters.
//!
//! The crate `csv` is not used: its writer has one quoting rule per file. Here texts are quoted,
//! but numbers and absent values are not.

use serde_json::Value;

use crate::csv_cell::cell;

/// Column names as in JSON. Those of bodies come last.
const COLUMNS: [&str; 21] = [
    "finishedAt",
    "startedAt",
    "queue",
    "jobId",
    "jobCreatedMs",
    "name",
    "started",
    "attempt",
    "outcome",
    "verdict",
    "code",
    "message",
    "plugin",
    "revision",
    "host",
    "correlationId",
    "source",
    "platform",
    "parent",
    "calls",
    "stack",
];
const OF_BODIES: [&str; 3] = ["data", "result", "withheld"];

pub(super) fn head(bodies: bool) -> String {
    columns(bodies).collect::<Vec<_>>().join(",") + "\r\n"
}

pub(super) fn line(out: &mut String, row: &Value, bodies: bool) {
    for (i, column) in columns(bodies).enumerate() {
        if i > 0 {
            out.push(',');
        }
        match &row[column] {
            Value::Null => {}
            Value::String(text) => cell(out, text),
            Value::Number(number) => out.push_str(&number.to_string()),
            other => cell(out, &other.to_string()),
        }
    }
    out.push_str("\r\n");
}

fn columns(bodies: bool) -> impl Iterator<Item = &'static str> {
    COLUMNS
        .into_iter()
        .chain(OF_BODIES.into_iter().filter(move |_| bodies))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_cell_is_a_formula_and_none_breaks_out_of_its_quotes() {
        for (text, expected) in [
            ("plain", "\"plain\""),
            ("=1+1", "\"'=1+1\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("-5 \"x\",\r\ny", "\"'-5 \"\"x\"\",\r\ny\""),
            ("\t=1", "\"'\t=1\""),
            ("\u{1b}[2J\u{7}", "\"\u{fffd}[2J\u{fffd}\""),
        ] {
            let mut out = String::new();
            cell(&mut out, text);
            assert_eq!(out, expected);
        }
        let mut out = String::new();
        line(
            &mut out,
            &json!({ "queue": "q", "started": -1, "calls": [] }),
            false,
        );
        assert_eq!(out.matches(',').count(), COLUMNS.len() - 1);
        assert!(out.contains(",-1,") && out.contains("\"[]\"") && out.ends_with("\r\n"));
        assert!(head(true).ends_with("stack,data,result,withheld\r\n"));
    }
}

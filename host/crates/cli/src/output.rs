//! Output of commands: text for people, JSON for scripts.

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::shell;
use serde::Serialize;

use super::client::ClientError;

/// Maximum padding of a column: longer cells must not move the other rows to the right.
const MAX_WIDTH: usize = 120;

#[derive(Debug, Clone, Copy)]
pub struct Output {
    pub json: bool,
}

impl Output {
    /// Prints one sentence, or one value.
    pub fn value(self, text: &str, value: &impl Serialize) {
        if self.json {
            self.print_json(value)
        } else {
            println!("{}", plain(text))
        }
    }

    /// Prints a table, or the values behind it.
    pub fn table(self, head: &[&str], rows: Vec<Vec<String>>, value: &impl Serialize) {
        if self.json {
            return self.print_json(value);
        }
        lines(head, &rows)
            .iter()
            .for_each(|line| println!("{line}"));
    }

    pub fn error(self, error: &anyhow::Error) {
        if self.json {
            let mut told = serde_json::json!({ "error": format!("{error:#}") });
            if let Some(ClientError::Refused { code, details, .. }) = error.downcast_ref() {
                told["code"] = code.as_str().into();
                told["details"] = details.clone().unwrap_or_default();
            }
            eprintln!("{told}");
        } else {
            eprintln!("error: {}", plain(&format!("{error:#}")));
        }
    }

    fn print_json(self, value: &impl Serialize) {
        println!(
            "{}",
            serde_json::to_string_pretty(value).unwrap_or_default()
        );
    }
}

/// In the format of the API.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn lines(head: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let head = head.iter().map(|text| (*text).to_owned()).collect();
    let cell = |text: &String| plain(text).replace('\n', "\\n").replace('\t', "\\t");
    let rows: Vec<Vec<String>> = std::iter::once(&head)
        .chain(rows)
        .map(|row: &Vec<String>| row.iter().map(cell).collect())
        .collect();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
    };
    let widths: Vec<usize> = (0..head.len())
        .map(|column| width(column).unwrap_or(0).min(MAX_WIDTH))
        .collect();
    let line = |row: &Vec<String>| {
        let line: String = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}  "))
            .collect();
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Escapes characters that steer the terminal or change the order of the text. Jobs, failures, logs
/// and audit trails contain text that plugins and producers wrote.
pub fn plain(text: &str) -> String {
    let steers = |c: char| shell::steers(c) && !['\n', '\t'].contains(&c);
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            shown.extend(c.escape_unicode())
        } else {
            shown.push(c)
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_shown_and_steers_nothing() {
        assert_eq!(
            plain("a\tb\n\u{1b}[2J\u{9b}1m\r\u{202e}ok"),
            "a\tb\n\\u{1b}[2J\\u{9b}1m\\u{d}\\u{202e}ok"
        );
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let long = "x".repeat(100_000);
        let shown = lines(
            &["A", "B"],
            &[
                row(["two\nlines", "1"]),
                row(["\u{1b}", "2"]),
                row([&long, "3"]),
            ],
        );
        assert_eq!(shown[1].trim_end_matches('1').trim_end(), "two\\nlines");
        assert!(
            shown[2].starts_with("\\u{1b} ") && shown[2].len() == MAX_WIDTH + 3,
            "{}",
            shown[2]
        );
        assert_eq!(shown[3], format!("{long}  3"));
    }
}

//! What commands print: text for people, JSON for scripts.

use serde::Serialize;

use super::client::ClientError;

#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    pub(super) json: bool,
}

impl Output {
    /// One sentence, or one value.
    pub(super) fn value(self, text: &str, value: &impl Serialize) {
        if self.json { self.print_json(value) } else { println!("{text}") }
    }

    /// A table, or the values behind it.
    pub(super) fn table(self, head: &[&str], rows: Vec<Vec<String>>, value: &impl Serialize) {
        if self.json {
            return self.print_json(value);
        }
        let head: Vec<String> = head.iter().map(|text| (*text).to_owned()).collect();
        let width = |column: usize| {
            let cells = rows.iter().chain(std::iter::once(&head)).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for row in std::iter::once(&head).chain(&rows) {
            let line: String = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
            println!("{}", line.trim_end());
        }
    }

    pub(super) fn error(self, error: &anyhow::Error) {
        if self.json {
            let mut told = serde_json::json!({ "error": format!("{error:#}") });
            if let Some(ClientError::Refused { code, details, .. }) = error.downcast_ref() {
                told["code"] = code.as_str().into();
                told["details"] = details.clone().unwrap_or_default();
            }
            eprintln!("{told}");
        } else {
            eprintln!("error: {error:#}");
        }
    }

    fn print_json(self, value: &impl Serialize) {
        println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
    }
}

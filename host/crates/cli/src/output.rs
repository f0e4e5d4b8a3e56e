//! Output of commands: tables and sentences for people, one JSON envelope for scripts.
//!
//! The envelope is the one of the API: `{"success":true,"data":…}` on standard output, with
//! `nextCursor` and `partial` where a list has more, and `{"success":false,"code","message"}` on
//! standard error. `docs/json-output.schema.json` describes it.

use std::io::IsTerminal;

use chrono::{DateTime, SecondsFormat, Utc};
use patchbay_model::shell;
use patchbay_model::words::lasted;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Maximum padding of a column where the width is not limited: longer cells must not move the
/// other rows to the right.
const MAX_WIDTH: usize = 120;
/// A column is not made narrower than this to fit a terminal.
const LEAST_WIDTH: usize = 12;
/// Between two columns.
const GAP: usize = 2;

/// How a command prints.
#[derive(Debug, Clone, Copy, Default)]
pub struct Output {
    /// JSON for scripts instead of text.
    pub json: bool,
    /// Every column of a table, and exact times.
    pub wide: bool,
    /// Only the first column of a table, and nothing after a change.
    pub quiet: bool,
    /// The command is repeated: JSON is printed as one line each time. Commands that start a long
    /// operation follow it.
    pub watch: bool,
}

/// More of a list.
#[derive(Debug, Default)]
pub struct More<'a> {
    /// Cursor of the next page.
    pub next_cursor: Option<&'a str>,
    /// The search reached its time limit.
    pub partial: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Success<'a> {
    success: bool,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

/// Why a command failed.
#[derive(Serialize)]
pub(super) struct Failure<'a> {
    /// Always false.
    pub(super) success: bool,
    /// Stable, in kebab-case.
    pub(super) code: &'a str,
    pub(super) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) details: Option<&'a serde_json::Value>,
}

impl Output {
    /// Prints what was asked for as text, or its value.
    pub fn value(self, text: &str, value: &impl Serialize) {
        if self.json {
            self.print_json(value, &More::default());
        } else {
            println!("{}", plain(text));
        }
    }

    /// Prints that something was done, or its value.
    pub fn done(self, text: &str, value: &impl Serialize) {
        if self.json || !self.quiet {
            self.value(text, value);
        }
    }

    /// As [`Self::done`]; `id` is what `--quiet` prints.
    pub fn made(self, id: &str, text: &str, value: &impl Serialize) {
        let text = if self.quiet { id } else { text };
        self.value(text, value);
    }

    /// Prints a table, or the values behind it.
    pub fn table(self, head: &[&str], rows: Vec<Vec<String>>, value: &impl Serialize) {
        self.list(head, &[], rows, value, &More::default());
    }

    /// As [`Self::table`]. Where there are no rows, `none` says so: a head alone looks like an answer
    /// that was cut.
    pub(super) fn table_or(
        self,
        none: &str,
        head: &[&str],
        rows: Vec<Vec<String>>,
        value: &impl Serialize,
    ) {
        let is_empty = rows.is_empty();
        self.table(head, rows, value);
        if is_empty {
            self.note(none);
        }
    }

    /// As [`Self::table`], but these first columns are never cut: a terminal that is too narrow gets
    /// one line per cell.
    pub fn table_keeping(
        self,
        whole: usize,
        head: &[&str],
        rows: Vec<Vec<String>>,
        value: &impl Serialize,
    ) {
        if self.json || self.quiet {
            return self.table(head, rows, value);
        }
        for line in lines_keeping(whole, head, &rows, terminal_width(), false) {
            println!("{line}");
        }
    }

    /// Prints a table, or the values behind it. The columns of `wide` come last in the rows, and
    /// are left out unless they are asked for.
    pub fn list(
        self,
        head: &[&str],
        wide: &[&str],
        mut rows: Vec<Vec<String>>,
        value: &impl Serialize,
        more: &More<'_>,
    ) {
        if self.json {
            return self.print_json(value, more);
        }
        let mut head: Vec<&str> = head.to_vec();
        if self.quiet {
            for row in rows.iter().filter_map(|row| row.first()) {
                println!("{}", plain(row).replace('\n', "\\n"));
            }
            return;
        }
        if self.wide {
            head.extend(wide);
        } else {
            rows.iter_mut().for_each(|row| row.truncate(head.len()));
        }
        for line in lines_keeping(1, &head, &rows, terminal_width(), !self.wide) {
            println!("{line}");
        }
    }

    /// Prints a remark for people on standard error, where no pipe takes it for a row.
    pub fn note(self, text: &str) {
        if !self.json && !self.quiet {
            eprintln!("{}", plain(text));
        }
    }

    /// A time in a table: how long ago it was, or with `-o wide` exactly when.
    pub fn when(self, at: DateTime<Utc>) -> String {
        if self.wide {
            time(at)
        } else {
            relative(at, Utc::now())
        }
    }

    /// Prints why a command failed: `text` for people, `failure` for scripts.
    pub(super) fn failure(self, text: &str, failure: &Failure<'_>) {
        if self.json {
            let text = serde_json::to_string(failure).unwrap_or_default();
            eprintln!("{}", inert(text));
        } else {
            eprintln!("error: {}", plain(text));
        }
    }

    fn print_json(self, value: &impl Serialize, more: &More<'_>) {
        // The value may be the text that the host sent: its numbers must stay as they are.
        let Ok(data) = to_raw_value(value) else {
            return;
        };
        let envelope = Success {
            success: true,
            data: &data,
            next_cursor: more.next_cursor,
            partial: more.partial,
        };
        let text = serde_json::to_string(&envelope).unwrap_or_default();
        let text = inert(text);
        println!("{}", if self.watch { text } else { indented(&text) });
    }
}

/// Levels of JSON that are indented; deeper ones would be mostly white space.
const MAX_INDENT: usize = 32;

/// JSON in which no character steers a terminal. Serde escapes control characters of ASCII only.
fn inert(json: String) -> String {
    if !json.chars().any(|c| !c.is_ascii() && shell::steers(c)) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    let mut units = [0; 2];
    for c in json.chars() {
        if !c.is_ascii() && shell::steers(c) {
            let units = c.encode_utf16(&mut units).iter();
            out.extend(units.map(|unit| format!("\\u{unit:04x}")));
        } else {
            out.push(c);
        }
    }
    out
}

/// JSON with line breaks; every value stays exactly as it was written.
pub(super) fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0, false, false);
    let mut chars = json.chars().peekable();
    while let Some(c) = chars.next() {
        if in_text {
            out.push(c);
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match c {
            c if c.is_ascii_whitespace() => {}
            '{' | '[' => {
                out.push(c);
                while chars.peek().is_some_and(char::is_ascii_whitespace) {
                    chars.next();
                }
                if let Some(end) = chars.next_if(|next| ['}', ']'].contains(next)) {
                    out.push(end);
                } else {
                    depth += 1;
                    new_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                new_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                new_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => {
                in_text = c == '"';
                out.push(c);
            }
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    if depth <= MAX_INDENT {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    }
}

/// In the format of the API.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// `12 s ago`, or `in 5 min`.
pub(super) fn relative(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match ((now - at).to_std(), (at - now).to_std()) {
        (Ok(ago), _) if ago.as_secs() == 0 => "now".into(),
        (Ok(ago), _) => format!("{} ago", lasted(ago)),
        (_, Ok(ahead)) if ahead.as_secs() == 0 => "now".into(),
        (_, Ok(ahead)) => format!("in {}", lasted(ahead)),
        _ => time(at),
    }
}

/// Columns of the terminal, or of `COLUMNS`; `None` where nothing limits the width.
pub(super) fn terminal_width() -> Option<usize> {
    let given = std::env::var("COLUMNS")
        .ok()
        .and_then(|text| text.parse().ok());
    given.filter(|columns| *columns > 0).or_else(|| {
        let stdout = std::io::stdout();
        let size = stdout
            .is_terminal()
            .then(|| rustix::termios::tcgetwinsize(&stdout).ok())
            .flatten()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    })
}

/// The text for a terminal, with at most this many columns; whole where nothing limits the width, as
/// in a pipe.
pub(super) fn shortened(text: &str, most: usize) -> String {
    match terminal_width() {
        Some(_) => cut(text, most),
        None => text.to_owned(),
    }
}

/// The first columns, `whole` of them, keep their width. `may_leave_out`: the least telling columns are
/// left out before a row gets one line per cell.
fn lines_keeping(
    whole: usize,
    head: &[&str],
    rows: &[Vec<String>],
    limit: Option<usize>,
    may_leave_out: bool,
) -> Vec<String> {
    let cell = |text: &str| plain(text).replace('\n', "\\n").replace('\t', "\\t");
    let rows: Vec<Vec<String>> = std::iter::once(head.iter().map(|text| cell(text)).collect())
        .chain(
            rows.iter()
                .map(|row| row.iter().map(|text| cell(text)).collect()),
        )
        .collect();
    let natural: Vec<usize> = (0..head.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.width()).max().unwrap_or(0)
        })
        .collect();
    let Some(limit) = limit else {
        let widths: Vec<usize> = natural
            .iter()
            .map(|width| (*width).min(MAX_WIDTH))
            .collect();
        return rows.iter().map(|row| line(row, &widths, false)).collect();
    };
    // Columns that say nothing in any row are left out, the last ones first; then the least telling.
    let empty = (0..natural.len())
        .rev()
        .filter(|column| is_empty(&rows, *column));
    let least_telling = LEAST_TELLING.iter().filter(|_| may_leave_out);
    let least_telling = least_telling.filter_map(|name| head.iter().position(|one| one == name));
    let mut leave_out: Vec<usize> = empty.collect();
    let others = least_telling.filter(|column| *column >= whole);
    for column in others {
        if !leave_out.contains(&column) {
            leave_out.push(column);
        }
    }
    let left_out = |count: usize| -> Vec<usize> {
        let kept = 0..natural.len();
        kept.filter(|column| !leave_out[..count].contains(column))
            .collect()
    };
    // Where nothing more can be left out, texts may become as narrow as other columns.
    let all = leave_out.len();
    let tries = (0..=all)
        .map(|count| (count, TEXT_WIDTH))
        .chain([(all, LEAST_WIDTH)]);
    for (count, text_width) in tries {
        let kept = left_out(count);
        let of = |column: &usize| {
            let least = match TEXTS.contains(&head[*column]) {
                true => text_width,
                false => LEAST_WIDTH,
            };
            (natural[*column], least)
        };
        let columns: Vec<(usize, usize)> = kept.iter().map(of).collect();
        let whole = kept.iter().filter(|column| **column < whole).count();
        if let Some(widths) = fitted(&columns, limit, whole) {
            let pick = |row: &Vec<String>| -> Vec<String> {
                let cells = kept.iter().filter_map(|column| row.get(*column));
                cells.cloned().collect()
            };
            let line = |row| line(&pick(row), &widths, true);
            return rows.iter().map(line).collect();
        }
    }
    records(&rows, limit)
}

/// Columns with sentences, of which the beginning says little.
const TEXTS: [&str; 4] = ["FAILURE", "MESSAGE", "LAST FAILURE", "SEARCH"];
/// They are not made narrower than this before other columns are left out.
const TEXT_WIDTH: usize = 32;
/// Columns that are left out where a table does not fit, in this order; `-o wide` has them all.
const LEAST_TELLING: [&str; 21] = [
    "ELSEWHERE",
    "REMOVED",
    "REVISION",
    "REVISIONS",
    "WHOSE",
    "REPAIRED",
    "MATCHED",
    "SKIPPED",
    "COUNT",
    "CREATED BY",
    "DESCRIPTION",
    "LAST RUN",
    "PRIORITIZED",
    "CHILDREN",
    "ROUTES",
    "WEBHOOKS",
    "REASON",
    "LAST SEEN",
    "BY",
    "CREATED",
    "WAITING",
];

/// Whether the column, which is not the first, says nothing in any row.
fn is_empty(rows: &[Vec<String>], column: usize) -> bool {
    let says = |cell: &String| !["", "0", "-"].contains(&cell.as_str());
    let mut cells = rows.iter().skip(1).filter_map(|row| row.get(column));
    column > 0 && !cells.any(says)
}

fn line(row: &[String], widths: &[usize], is_cut: bool) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        let cell = if is_cut {
            cut(cell, *width)
        } else {
            cell.clone()
        };
        let missing = width.saturating_sub(cell.width()) + GAP;
        line.push_str(&cell);
        line.extend(std::iter::repeat_n(' ', missing));
    }
    line.trim_end().to_owned()
}

/// Widths with which the table is at most `limit` wide, from natural and least widths. The first
/// columns, by which rows are named, keep their width: `whole` of them. `None` if columns would have
/// to be too narrow.
fn fitted(columns: &[(usize, usize)], limit: usize, whole: usize) -> Option<Vec<usize>> {
    let mut widths: Vec<usize> = columns.iter().map(|(natural, _)| *natural).collect();
    let gaps = GAP * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        let can_shrink = |column: &usize| widths[*column] > columns[*column].1;
        let shrinks = (whole..widths.len()).filter(can_shrink);
        let widest = shrinks.max_by_key(|column| widths[*column])?;
        widths[widest] -= 1;
    }
    Some(widths)
}

/// One line per cell, for terminals that are too narrow for a table.
fn records(rows: &[Vec<String>], limit: usize) -> Vec<String> {
    let Some((head, rows)) = rows.split_first() else {
        return Vec::new();
    };
    let label = head.iter().map(|name| name.width()).max().unwrap_or(0) + GAP;
    let mut lines = Vec::new();
    for row in rows {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        for (place, (name, cell)) in head.iter().zip(row).enumerate() {
            let mut rest = cell.as_str();
            let mut first = name.as_str();
            while !rest.is_empty() {
                let (part, after) = match place {
                    // The name of the row, which is copied from there.
                    0 => (rest, ""),
                    _ => broken(rest, limit.saturating_sub(label).max(LEAST_WIDTH)),
                };
                let pad = label.saturating_sub(first.width());
                lines.push(format!("{first}{}{part}", " ".repeat(pad)));
                (first, rest) = ("", after);
            }
        }
    }
    lines
}

/// Prints comma-separated values that are safe to open in a spreadsheet.
pub(super) fn csv<'a>(
    head: impl IntoIterator<Item = &'a str>,
    rows: impl IntoIterator<Item = Vec<String>>,
) -> Result<(), std::io::Error> {
    let write = || {
        let mut writer = csv::Writer::from_writer(std::io::stdout());
        writer.write_record(head)?;
        for row in rows {
            writer.write_record(row.iter().map(|cell| plain(&unexecuted(cell))))?;
        }
        Ok(writer.flush()?)
    };
    write().map_err(|error: csv::Error| match error.into_kind() {
        // Not wrapped: a reader that is gone is no failure.
        csv::ErrorKind::Io(error) => error,
        other => std::io::Error::other(format!("{other:?}")),
    })
}

/// A cell that no spreadsheet takes for a formula (OWASP, "CSV Injection").
fn unexecuted(cell: &str) -> String {
    match cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{cell}"),
        false => cell.to_owned(),
    }
}

/// The text, or its beginning with `…` behind it.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    format!("{}…", &text[..fitting(text, width.saturating_sub(1))])
}

/// A line of at most `width`, and the rest. It ends between two words; only a word that is longer
/// than a line is broken.
fn broken(text: &str, width: usize) -> (&str, &str) {
    let end = fitting(text, width);
    let (line, rest) = text.split_at(end);
    if rest.is_empty() || rest.starts_with(' ') || line.ends_with(' ') {
        return (line.trim_end(), rest.trim_start());
    }
    match line.trim_end().rfind(' ') {
        Some(space) if !line[..space].trim().is_empty() => {
            (line[..space].trim_end(), text[space..].trim_start())
        }
        _ => (line, rest),
    }
}

/// Length in bytes of the longest beginning that is at most `width` wide; at least one character.
fn fitting(text: &str, width: usize) -> usize {
    let mut taken = 0;
    for (at, c) in text.char_indices() {
        taken += c.width().unwrap_or(0);
        if taken > width && at > 0 {
            return at;
        }
    }
    text.len()
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
mod tests;

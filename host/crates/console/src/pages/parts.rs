//! What several pages show in the same way.

use chrono::{DateTime, Utc};
use http::StatusCode;
use maud::{Markup, html};

use crate::entry::Fields;
use crate::frame;
use crate::session::{Problem, Visit};
use crate::show;

/// What the page of a confirmation says when another name was typed.
pub(crate) const NOT_TYPED: &str =
    "Nothing was done: what you typed is not the name. Type it exactly as shown";

/// A moment as the API writes it where it is a text.
pub(crate) fn moment_of(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?;
    Some(at.with_timezone(&Utc))
}

/// How long ago such a moment is; a text that is no moment, as it is.
pub(crate) fn ago_of(visit: &Visit, text: &str) -> Markup {
    match moment_of(text) {
        Some(at) => show::ago(at, visit.now()),
        None => show::text(text),
    }
}

/// As [`show::ago`], of a moment that may be absent: then this is said.
pub(crate) fn ago_or(visit: &Visit, at: Option<DateTime<Utc>>, otherwise: &str) -> Markup {
    match at {
        Some(at) => show::ago(at, visit.now()),
        None => html! { span class="dim" { (otherwise) } },
    }
}

/// The beginning of a digest, which names it; all of it on pointing.
pub(crate) fn digest(whole: &str) -> Markup {
    html! { code title=(show::plain(whole)) { (show::text(&first_digits(whole))) } }
}

pub(crate) fn first_digits(whole: &str) -> String {
    whole.chars().take(12).collect()
}

/// A size in bytes, for people.
pub(crate) fn bytes(count: u64) -> String {
    let whole = |unit: u64| (count + unit / 2) / unit;
    match count {
        0..10_240 => show::counted(count, "byte"),
        10_240..10_485_760 => format!("{} KiB", show::number(whole(1 << 10))),
        _ => format!("{} MiB", show::number(whole(1 << 20))),
    }
}

/// What was typed cannot be sent to the API.
pub(crate) fn refused(visit: &Visit, message: impl Into<String>) -> Problem {
    visit.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", message)
}

/// Why something hidden is to be shown: it is recorded.
pub(crate) fn reveal_reason(visit: &Visit, fields: &Fields) -> Result<String, Problem> {
    let reason = fields.reason().map(str::to_owned);
    reason.ok_or_else(|| refused(visit, "Nothing was shown: say why, for the record"))
}

/// A form with a reason, and a button that does one thing.
pub(crate) fn with_reason(
    visit: &Visit,
    action: &str,
    id: &str,
    label: &str,
    is_required: bool,
) -> Markup {
    let content = html! {
        label for=(id) { "Reason" }
        input id=(id) name="reason" type="text" maxlength="500" autocomplete="off" required[is_required] placeholder="for the next operator";
        button type="submit" { (label) }
    };
    frame::form(visit, action, "bar", content)
}

/// Where the list goes on.
pub(crate) fn older(address: Option<String>, label: &str) -> Markup {
    html! {
        @if let Some(address) = address { nav class="pager" aria-label="Pages" { a href=(address) { (label) } } }
    }
}

/// A length of time as somebody types it, in milliseconds: `90 s`, `5m`, `36 h`, `2d`.
pub(crate) fn typed_length(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (count, unit) = text.split_at(digits);
    let ms: u64 = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    count.parse::<u64>().ok()?.checked_mul(ms)
}

/// Words between commas or white space, in their order.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(|c: char| c == ',' || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A choice of words, of which one is chosen; the first entry of each is what is sent.
pub(crate) fn choice(id: &str, name: &str, options: &[(&str, &str)], chosen: &str) -> Markup {
    html! {
        select id=(id) name=(name) {
            @for (value, label) in options {
                option value=(value) selected[*value == chosen] { (label) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_type_them() {
        assert_eq!(typed_length("90 s"), Some(90_000));
        assert_eq!(typed_length("5m"), Some(300_000));
        assert_eq!(typed_length(" 2d "), Some(172_800_000));
        for wrong in [
            "",
            "5",
            "s",
            "-1 s",
            "1.5 h",
            "99999999999999999999 d",
            "5 weeks",
        ] {
            assert_eq!(typed_length(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_have_a_unit() {
        assert_eq!(bytes(1), "1 byte");
        assert_eq!(bytes(20_480), "20 KiB");
        assert_eq!(bytes(11 << 20), "11 MiB");
    }

    #[test]
    fn words_may_stand_between_commas_and_white_space() {
        assert_eq!(words(" a,b\n c ,, "), ["a", "b", "c"]);
    }
}

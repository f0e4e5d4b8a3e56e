//! JSON with indents. Numbers, names and texts stay exactly as they were written.

use maud::Markup;

use super::text::{block, steers};

/// Deepest nesting that gets indents of its own.
const DEEPEST: usize = 64;

/// A document with indents; a text that is no JSON, as it is.
pub(crate) fn json(document: &str) -> Markup {
    match serde_json::from_str::<&serde_json::value::RawValue>(document) {
        Ok(_) => block(&indented(document)),
        Err(_) => block(document),
    }
}

/// As [`json`] shows it, for an editor: what would do something instead of being seen is escaped, which
/// changes no value. For valid JSON only.
pub(crate) fn editable(document: &str) -> String {
    let mut shown = String::with_capacity(document.len() * 2);
    for c in indented(document).chars() {
        if !steers(c) {
            shown.push(c);
            continue;
        }
        // Only within texts can such a character stand.
        for unit in c.encode_utf16(&mut [0; 2]) {
            shown.push_str(&format!("\\u{unit:04x}"));
        }
    }
    shown
}

/// Lays out valid JSON anew.
fn indented(document: &str) -> String {
    let mut shown = String::with_capacity(document.len() * 2);
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    let mut chars = document.chars().peekable();
    let line = |shown: &mut String, depth: usize| {
        shown.push('\n');
        for _ in 0..depth.min(DEEPEST) {
            shown.push_str("  ");
        }
    };
    while let Some(c) = chars.next() {
        if in_text {
            shown.push(c);
            (in_text, escaped) = match c {
                _ if escaped => (true, false),
                '\\' => (true, true),
                '"' => (false, false),
                _ => (true, false),
            };
            continue;
        }
        match c {
            '"' => {
                in_text = true;
                shown.push(c);
            }
            '{' | '[' => {
                shown.push(c);
                while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
                match chars.next_if(|c| matches!(c, '}' | ']')) {
                    Some(end) => shown.push(end),
                    None => {
                        depth += 1;
                        line(&mut shown, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut shown, depth);
                shown.push(c);
            }
            ',' => {
                shown.push(c);
                line(&mut shown, depth);
            }
            ':' => shown.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_gets_indents_and_keeps_its_numbers() {
        let shown = indented(r#"{"a":12345678901234567890123,"b":[1, 2],"c":{},"d":"{\"x\":1,}"}"#);
        assert_eq!(
            shown,
            "{\n  \"a\": 12345678901234567890123,\n  \"b\": [\n    1,\n    2\n  ],\n  \"c\": {},\n  \"d\": \"{\\\"x\\\":1,}\"\n}"
        );
    }

    #[test]
    fn an_editor_shows_what_steers_and_keeps_the_value() {
        let document = "{\"a\":\"\u{202e}x\u{e0041}\"}";
        let shown = editable(document);
        assert_eq!(shown, "{\n  \"a\": \"\\u202ex\\udb40\\udc41\"\n}");
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(read(&shown), read(document));
    }

    #[test]
    fn what_is_no_json_stays_as_it_is() {
        assert!(json("{oops").into_string().contains("{oops"));
        assert!(json("\"<b>\"").into_string().contains("&lt;b&gt;"));
    }
}

//! One form of a JSON document, whoever has written it.

use std::ops::Range;

use serde_json::Value;

/// Deeper documents are refused before.
const MAX_DEPTH: usize = 256;

/// The same document without insignificant spaces and with sorted keys: clients write the same
/// object in any order. Numbers and texts stay as they were written. Reads it once: its depth costs no time.
pub(super) fn of(document: &str) -> String {
    let mut writer = Writer {
        document,
        at: 0,
        written: String::with_capacity(document.len()),
    };
    match writer.value(0) {
        Some(()) => writer.written,
        None => document.trim().to_owned(),
    }
}

struct Writer<'d> {
    document: &'d str,
    at: usize,
    written: String,
}

impl Writer<'_> {
    /// Nothing where it is no JSON.
    fn value(&mut self, depth: usize) -> Option<()> {
        match self.next()? {
            _ if depth > MAX_DEPTH => None,
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => {
                let text = self.text()?;
                self.written.push_str(&Value::from(text).to_string());
                Some(())
            }
            _ => {
                let rest = &self.document[self.at..];
                let end = rest.find([',', ']', '}', ' ', '\n', '\r', '\t']);
                let word = &rest[..end.unwrap_or(rest.len())];
                self.written.push_str(word);
                self.at += word.len();
                (!word.is_empty()).then_some(())
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.written.push('{');
        let begin = self.written.len();
        let mut members: Vec<(String, Range<usize>)> = Vec::new();
        while self.next()? != b'}' {
            if !members.is_empty() {
                self.passed(b',')?;
                self.written.push(',');
                self.next()?;
            }
            let from = self.written.len();
            let name = self.text()?;
            self.written
                .push_str(&Value::from(name.as_str()).to_string());
            self.passed(b':')?;
            self.written.push(':');
            self.value(depth + 1)?;
            members.push((name, from..self.written.len()));
        }
        self.at += 1;
        if !members.is_sorted_by(|(a, _), (b, _)| a <= b) {
            members.sort_by(|(a, _), (b, _)| a.cmp(b));
            let sorted: Vec<&str> = members
                .iter()
                .map(|(_, range)| &self.written[range.clone()])
                .collect();
            let sorted = sorted.join(",");
            self.written.truncate(begin);
            self.written.push_str(&sorted);
        }
        self.written.push('}');
        Some(())
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.written.push('[');
        let mut is_first = true;
        while self.next()? != b']' {
            if !std::mem::take(&mut is_first) {
                self.passed(b',')?;
                self.written.push(',');
            }
            self.value(depth + 1)?;
        }
        self.at += 1;
        self.written.push(']');
        Some(())
    }

    /// The text that begins here.
    fn text(&mut self) -> Option<String> {
        let rest = self.document.get(self.at..)?;
        let mut is_escaped = false;
        let end = rest.bytes().enumerate().skip(1).find(|(_, byte)| {
            let was_escaped = std::mem::take(&mut is_escaped);
            is_escaped = !was_escaped && *byte == b'\\';
            !was_escaped && *byte == b'"'
        });
        let text = &rest[..=end?.0];
        self.at += text.len();
        serde_json::from_str(text).ok()
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        let rest = self.document.get(self.at..)?;
        let spaces = rest.len() - rest.trim_start().len();
        self.at += spaces;
        rest.as_bytes().get(spaces).copied()
    }

    fn passed(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then(|| self.at += 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::of as canonical;

    #[test]
    fn the_same_document_in_another_order_is_the_same_input_and_another_number_is_not() {
        let a =
            canonical(r#"{ "b": [1.0, {"y":"\u0041","x":null}], "a": 12345678901234567890.1 }"#);
        let b = canonical(r#"{"a":12345678901234567890.1,"b":[1.0,{"x":null,"y":"A"}]}"#);
        assert_eq!(a, b);
        for other in [
            r#"{"a":12345678901234567890.2,"b":[1.0,{"x":null,"y":"A"}]}"#,
            r#"{"a":12345678901234567890.1,"b":[1,{"x":null,"y":"A"}]}"#,
            r#"{"a":12345678901234567890.1,"b":[1.0,{"x":null,"y":"B"}]}"#,
        ] {
            assert_ne!(canonical(other), a, "{other}");
        }
    }

    #[test]
    fn a_document_is_read_once_however_deep_it_is() {
        let text = "x".repeat(1 << 20);
        let deep = format!(
            "{}\"{text}\"{}",
            r#"{"b":1,"a":"#.repeat(120),
            "}".repeat(120)
        );
        let began = Instant::now();
        let written = canonical(&deep);
        // Scanning it at each level took seconds.
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
        assert!(written.starts_with(r#"{"a":{"a":"#) && written.len() == deep.len());
    }

    #[test]
    fn what_is_no_document_stays_as_it_is() {
        for text in ["", "{", "{\"a\"", "{\"a\":1,,}", "[1", "\"\\\"", "[1 2]"] {
            assert_eq!(canonical(text), text);
        }
        for text in ["[]", "{}", "7", "null", r#""é\"\\""#, r#"[{},[1,"a"]]"#] {
            assert_eq!(canonical(&format!(" {text}\n")), text);
        }
        let deep = "[".repeat(1_000);
        assert_eq!(canonical(&deep), deep);
    }
}

//! One way to write a JSON document, so that the same input has the same fingerprint.

use std::ops::Range;

use serde_json::Value;

/// Nothing deeper is read: the host has refused it before.
const MAX_DEPTH: usize = 256;

/// The same document without insignificant spaces and with sorted keys: clients write the same
/// object in any order. Numbers and texts stay as they were written; of a name that comes twice, the
/// last one counts. It reads the document once, whatever its depth. A text that is no JSON stays as
/// it is.
pub(super) fn canonical(input: &str) -> String {
    let mut writer = Writer {
        text: input,
        at: 0,
        out: String::with_capacity(input.len()),
    };
    let is_whole = writer.value(0).is_some() && {
        writer.skip_spaces();
        writer.at == input.len()
    };
    match is_whole {
        true => writer.out,
        false => input.trim().to_owned(),
    }
}

/// `None` from its functions: this is no JSON.
struct Writer<'t> {
    text: &'t str,
    at: usize,
    out: String,
}

impl<'t> Writer<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\r' | b'\n') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        self.skip_spaces();
        (self.peek()? == wanted).then(|| self.at += 1)
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_spaces();
        match self.peek()? {
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => {
                let text = self.quoted()?;
                match serde_json::from_str::<String>(text) {
                    Ok(text) => self.out.push_str(&Value::from(text).to_string()),
                    Err(_) => self.out.push_str(text),
                }
                Some(())
            }
            _ => {
                let rest = &self.text[self.at..];
                let end = rest.find(|c: char| ",]} \t\r\n".contains(c));
                let scalar = &rest[..end.unwrap_or(rest.len())];
                self.at += scalar.len();
                self.out.push_str(scalar);
                (!scalar.is_empty()).then_some(())
            }
        }
    }

    fn list(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.out.push('[');
        self.skip_spaces();
        let mut is_first = true;
        while self.peek()? != b']' {
            if !std::mem::take(&mut is_first) {
                self.take(b',')?;
                self.out.push(',');
            }
            self.value(depth + 1)?;
            self.skip_spaces();
        }
        self.at += 1;
        self.out.push(']');
        Some(())
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        self.at += 1;
        self.out.push('{');
        let begin = self.out.len();
        let mut members: Vec<(String, Range<usize>)> = Vec::new();
        self.skip_spaces();
        while self.peek()? != b'}' {
            if !members.is_empty() {
                self.take(b',')?;
                self.out.push(',');
                self.skip_spaces();
            }
            let name: String = serde_json::from_str(self.quoted()?).ok()?;
            let start = self.out.len();
            self.out.push_str(&Value::from(name.as_str()).to_string());
            self.take(b':')?;
            self.out.push(':');
            self.value(depth + 1)?;
            members.push((name, start..self.out.len()));
            self.skip_spaces();
        }
        self.at += 1;
        if !members.is_sorted_by(|(a, _), (b, _)| a < b) {
            self.sort(begin, members);
        }
        self.out.push('}');
        Some(())
    }

    /// Writes the members from `begin` on again, by name.
    fn sort(&mut self, begin: usize, mut members: Vec<(String, Range<usize>)>) {
        let written = self.out.split_off(begin);
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (i, (name, range)) in members.iter().enumerate() {
            let is_last = members.get(i + 1).is_none_or(|(next, _)| next != name);
            if is_last {
                if self.out.len() > begin {
                    self.out.push(',');
                }
                self.out
                    .push_str(&written[range.start - begin..range.end - begin]);
            }
        }
    }

    /// A text with its quotes.
    fn quoted(&mut self) -> Option<&'t str> {
        let start = self.at;
        if self.peek()? != b'"' {
            return None;
        }
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.text.get(start..self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn empty_ones_repeated_names_and_what_is_no_json_are_written_too() {
        for (input, expected) in [
            (" { } ", "{}"),
            ("[ ]", "[]"),
            (r#"{"b":1,"a":2,"b":3}"#, r#"{"a":2,"b":3}"#),
            (
                r#"{"b":{"d":[],"c":""},"a":[{"z":1,"y":2}]}"#,
                r#"{"a":[{"y":2,"z":1}],"b":{"c":"","d":[]}}"#,
            ),
            (r#""a\"b\u00fc""#, r#""a\"bü""#),
            (r#"{"a":"\ud800"}"#, r#"{"a":"\ud800"}"#),
            ("", ""),
            (" {\"a\":", "{\"a\":"),
            ("{\"a\"}", "{\"a\"}"),
            ("\"\\", "\"\\"),
            ("[1,]", "[1,]"),
        ] {
            assert_eq!(canonical(input), expected, "{input}");
        }
    }

    #[test]
    fn a_deep_document_is_read_once() {
        let filler = "x".repeat(1 << 20);
        let deep = format!("{}\"{filler}\"{}", r#"{"a":"#.repeat(120), "}".repeat(120));
        let begun = std::time::Instant::now();
        assert_eq!(canonical(&deep), deep);
        assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    }
}

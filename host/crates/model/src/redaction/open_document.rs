//! JSON of which only the beginning is known.

/// The beginning of a JSON object or array up to its last complete value, closed; `None` for
/// any other text. It need not be JSON, if the text is not. So rules for names hold for a document that was cut, too, and half a value is gone.
pub fn closed(beginning: &str) -> Option<String> {
    if !beginning.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let (mut open, mut in_text, mut is_escaped) = (Vec::new(), false, false);
    let mut complete = None;
    for (at, byte) in beginning.bytes().enumerate() {
        if in_text {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' => {
                open.push(if byte == b'{' { '}' } else { ']' });
                complete = Some(at + 1);
            }
            b'}' | b']' => {
                if open.pop() != Some(char::from(byte)) {
                    return None;
                }
                complete = Some(at + 1);
                if open.is_empty() {
                    let is_all = beginning[at + 1..].trim().is_empty();
                    return is_all.then(|| beginning[..=at].to_owned());
                }
            }
            b',' => complete = Some(at),
            _ => {}
        }
    }
    // Whatever opens or closes is a place to end at, so what is open there is open at the end.
    let mut document = beginning[..complete?].to_owned();
    document.extend(open.iter().rev());
    Some(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_ends_with_its_last_complete_value() {
        for (beginning, expected) in [
            (
                r#"{"a":1,"b":[1,{"c":"x"},{"d"#,
                Some(r#"{"a":1,"b":[1,{"c":"x"},{}]}"#),
            ),
            (r#"{"a":1,"password":"hunt"#, Some(r#"{"a":1}"#)),
            (r#"{"a":"}\","#, Some("{}")),
            ("[1,2,3", Some("[1,2]")),
            ("[[[", Some("[[[]]]")),
            ("[1] ", Some("[1]")),
            ("[1] a line of a log", None),
            ("{]", None),
            ("text", None),
            ("\"text", None),
            ("", None),
        ] {
            assert_eq!(closed(beginning).as_deref(), expected, "{beginning}");
        }
    }
}

//! NUL characters, which neither Postgres nor C can hold in a text.

/// Whether a JSON document has a NUL in any of its texts or keys. There it can only be an escape.
pub fn in_json(document: &[u8]) -> bool {
    let mut rest = document;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        let escape = &rest[at + 1..];
        if escape.starts_with(b"u0000") {
            return true;
        }
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::in_json;

    #[test]
    fn an_escaped_nul_is_found_and_an_escaped_backslash_is_none() {
        for (document, expected) in [
            (r#"{"a\u0000":1}"#, true),
            (r#"["\\\u0000"]"#, true),
            (r#"["\\u0000"]"#, false),
            (r#"["\u00001"]"#, true),
            (r#"["\n", "\u0001", "u0000"]"#, false),
            (r"\", false),
        ] {
            assert_eq!(in_json(document.as_bytes()), expected, "{document}");
        }
    }
}

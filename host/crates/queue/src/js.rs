//! Converts values as JavaScript does where it expects another type, because BullMQ's worker reads
//! other producers' options that way.

use serde_json::Value;

/// `Number(value)`; `None` for `NaN`.
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Null => Some(0.0),
        Value::Bool(is) => Some(f64::from(u8::from(*is))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => number_of(text),
        // JavaScript converts an array to text, with its elements joined. A single element
        // therefore counts as itself.
        Value::Array(elements) => match elements.as_slice() {
            [] | [Value::Null] => Some(0.0),
            [Value::Bool(_)] => None,
            [element] => number(element),
            _ => None,
        },
        Value::Object(_) => None,
    }
}

fn number_of(text: &str) -> Option<f64> {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if let "Infinity" | "+Infinity" | "-Infinity" = text {
        return Some(if text.starts_with('-') {
            f64::NEG_INFINITY
        } else {
            f64::INFINITY
        });
    }
    let radix = |prefix: [&str; 2], radix| {
        let digits = prefix
            .into_iter()
            .find_map(|prefix| text.strip_prefix(prefix))?;
        u64::from_str_radix(digits, radix)
            .ok()
            .map(|number| number as f64)
    };
    if text.is_empty() {
        return Some(0.0);
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return None;
    }
    let prefixed = radix(["0x", "0X"], 16)
        .or_else(|| radix(["0o", "0O"], 8))
        .or_else(|| radix(["0b", "0B"], 2));
    // Excludes forms that only Rust reads, such as `+inf`.
    prefixed.or_else(|| text.parse().ok().filter(|number: &f64| number.is_finite()))
}

pub(crate) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64().is_some_and(|number| number != 0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// `parseInt(text)` of a time or a count, as BullMQ reads the numbers in a job's hash. `None` for
/// `NaN` and for negative numbers.
pub(crate) fn whole(text: &str) -> Option<u64> {
    let text = text.trim_start();
    let digits = text.strip_prefix('+').unwrap_or(text);
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_read_as_javascript_reads_them() {
        for (value, read) in [
            (json!("3"), Some(3.0)),
            (json!(" 2.5 "), Some(2.5)),
            (json!("-1"), Some(-1.0)),
            (json!("1e3"), Some(1_000.0)),
            (json!("0x10"), Some(16.0)),
            (json!(""), Some(0.0)),
            (json!(null), Some(0.0)),
            (json!(true), Some(1.0)),
            (json!("many"), None),
            (json!("3 times"), None),
            (json!("+inf"), None),
            (json!("nan"), None),
            (json!({}), None),
            (json!([1]), Some(1.0)),
            (json!([["2"]]), Some(2.0)),
            (json!([]), Some(0.0)),
            (json!([true]), None),
            (json!([1, 2]), None),
            (json!("Infinity"), Some(f64::INFINITY)),
            (json!("-Infinity"), Some(f64::NEG_INFINITY)),
            (json!("infinity"), None),
            (json!("\u{a0}2\u{feff}"), Some(2.0)),
        ] {
            assert_eq!(number(&value), read, "{value}");
        }
    }

    #[test]
    fn times_in_a_hash_are_read_up_to_what_is_no_digit() {
        assert_eq!(whole("1732845678123"), Some(1_732_845_678_123));
        assert_eq!(whole("1732845678123.5"), Some(1_732_845_678_123));
        assert_eq!(whole("1e+21"), Some(1));
        assert_eq!(whole("nan"), None);
        assert_eq!(whole("-5"), None);
        assert_eq!(whole(""), None);
    }

    #[test]
    fn truth_is_javascripts() {
        for falsy in [json!(null), json!(false), json!(0), json!(""), json!(-0.0)] {
            assert!(!is_true(&falsy), "{falsy}");
        }
        for truthy in [json!(true), json!(-1), json!("0"), json!([]), json!({})] {
            assert!(is_true(&truthy), "{truthy}");
        }
    }
}

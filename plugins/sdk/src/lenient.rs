//! What `JSON.parse` takes and serde_json does not.

use std::borrow::Cow;

/// How deep arrays and objects nest in it; of a text that is no JSON, some number.
pub(crate) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            _ if is_text => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// The same JSON with every escaped half of a surrogate pair that has no other half replaced by
/// U+FFFD, as UTF-8 encoders do: then serde_json reads what JavaScript's `JSON.parse` takes, but for
/// deep nesting.
pub fn whole_pairs(json: &str) -> Cow<'_, str> {
    let mut whole = String::new();
    let (mut kept, mut place) = (0, 0);
    while let Some(found) = json[place..].find('\\') {
        let at = place + found;
        // Two characters at least, and one escape at a time: an escaped backslash begins none.
        place = json[at..]
            .char_indices()
            .nth(2)
            .map_or(json.len(), |(next, _)| at + next);
        let Some(first) = unit(&json[at..]) else {
            continue;
        };
        let is_pair = (0xD800..0xDC00).contains(&first)
            && json
                .get(at + 6..)
                .and_then(unit)
                .is_some_and(|second| (0xDC00..0xE000).contains(&second));
        if is_pair {
            place = at + 12;
        } else if (0xD800..0xE000).contains(&first) {
            whole.push_str(&json[kept..at]);
            whole.push_str("\\ufffd");
            kept = at + 6;
            place = kept;
        }
    }
    if kept == 0 {
        return Cow::Borrowed(json);
    }
    whole.push_str(&json[kept..]);
    Cow::Owned(whole)
}

/// The UTF-16 code unit that a text begins with, as JSON escapes it: `\u00e9`.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    u16::from_str_radix(digits, 16).ok()
}

//! Patterns of Redis keys, as `SCAN MATCH` reads them: `*`, `?`, `[ab]`, and `\` before a character
//! that stands for itself.

/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 200;
/// Redis compares a key with a pattern in a time that grows with each `*` by the key's length.
pub const MAX_STARS: usize = 4;
/// Longest key that can be named whole, in bytes.
pub const MAX_KEY_BYTES: usize = 4_096;

/// Which keys are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPattern {
    /// One key: the pattern has no wildcard. It is looked up, not searched for.
    Key(Vec<u8>),
    /// All keys that match.
    Glob(Vec<u8>),
}

/// Why a pattern cannot be used. The text names the parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeyPattern {
    #[error("pattern: must not be empty. Leave it out to list all keys")]
    Empty,
    #[error("pattern: has {0} bytes; the limit is {MAX_PATTERN_BYTES}")]
    TooLong(usize),
    #[error("pattern: names a key of {0} bytes; the limit is {MAX_KEY_BYTES}")]
    KeyTooLong(usize),
    #[error("pattern: has {0} `*`; the limit is {MAX_STARS}")]
    TooManyStars(usize),
}

impl KeyPattern {
    pub fn new(pattern: &[u8]) -> Result<Self, InvalidKeyPattern> {
        if pattern.is_empty() {
            return Err(InvalidKeyPattern::Empty);
        }
        let (mut key, mut stars, mut is_glob) = (Vec::with_capacity(pattern.len()), 0, false);
        let mut bytes = pattern.iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'*' => stars += 1,
                b'?' | b'[' => is_glob = true,
                // At the end of a pattern it stands for itself.
                b'\\' => key.push(bytes.next().copied().unwrap_or(byte)),
                other => key.push(other),
            }
        }
        if stars == 0 && !is_glob {
            return match key.len() {
                0..=MAX_KEY_BYTES => Ok(Self::Key(key)),
                length => Err(InvalidKeyPattern::KeyTooLong(length)),
            };
        }
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(InvalidKeyPattern::TooLong(pattern.len()));
        }
        if stars > MAX_STARS {
            return Err(InvalidKeyPattern::TooManyStars(stars));
        }
        Ok(Self::Glob(pattern.to_vec()))
    }

    /// The pattern that means this key and no other.
    pub fn of_key(key: &[u8]) -> Vec<u8> {
        let mut pattern = Vec::with_capacity(key.len());
        for &byte in key {
            if b"*?[\\".contains(&byte) {
                pattern.push(b'\\');
            }
            pattern.push(byte);
        }
        pattern
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_without_a_wildcard_is_a_key() {
        let key = |text: &str| Ok(KeyPattern::Key(text.into()));
        let glob = |text: &str| Ok(KeyPattern::Glob(text.into()));
        for (pattern, expected) in [
            ("kpi:dashboard", key("kpi:dashboard")),
            (r"kpi\*", key("kpi*")),
            (r"a\\b]", key(r"a\b]")),
            (r"a\", key(r"a\")),
            ("kpi:*", glob("kpi:*")),
            ("kpi:?", glob("kpi:?")),
            ("[ab]", glob("[ab]")),
            (r"\**", glob(r"\**")),
            ("*a*b*c*", glob("*a*b*c*")),
            ("", Err(InvalidKeyPattern::Empty)),
            ("*****", Err(InvalidKeyPattern::TooManyStars(5))),
        ] {
            assert_eq!(KeyPattern::new(pattern.as_bytes()), expected, "{pattern}");
        }
        let long = "a".repeat(MAX_PATTERN_BYTES);
        assert!(KeyPattern::new(long.as_bytes()).is_ok());
        assert_eq!(
            KeyPattern::new(format!("{long}*").as_bytes()),
            Err(InvalidKeyPattern::TooLong(MAX_PATTERN_BYTES + 1))
        );
        assert_eq!(
            KeyPattern::new(&[b'a'; MAX_KEY_BYTES + 1]),
            Err(InvalidKeyPattern::KeyTooLong(MAX_KEY_BYTES + 1))
        );
    }

    proptest! {
        #[test]
        fn every_key_has_a_pattern_of_its_own(key in proptest::collection::vec(any::<u8>(), 1..50)) {
            prop_assert_eq!(KeyPattern::new(&KeyPattern::of_key(&key)), Ok(KeyPattern::Key(key)));
        }
    }
}

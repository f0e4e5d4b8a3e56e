//! Ids of jobs, which have neither `:` nor more than 256 bytes.

/// The same part for the same key, and another one for another key, whatever characters it has.
pub fn part(key: &str) -> String {
    let readable: String = key
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(60)
        .collect();
    // FNV-1a: for telling keys apart, not for secrecy.
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{readable}-{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_other_keys_differ_and_have_no_colon() {
        assert_ne!(part("a:b"), part("ab"));
        assert_eq!(part("a:b"), part("a:b"));
        assert!(!part("a:b").contains(':') && part(&"x".repeat(1_000)).len() < 80);
    }
}

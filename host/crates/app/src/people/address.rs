//! The one spelling of a mail address.

use patchbay_mailbox::Mailbox;

use crate::Error;

/// Longest address, in bytes (RFC 5321).
const MAX_BYTES: usize = 254;

/// The address in lower case, with its domain in ASCII. `None` if it is none, or if its local part
/// has other characters than printable ASCII, which could look like another address.
pub(super) fn norm(typed: &str) -> Option<String> {
    // Before anything else looks at it.
    if typed.len() > MAX_BYTES {
        return None;
    }
    let mailbox: Mailbox = typed.trim().parse().ok()?;
    let (local, domain) = (mailbox.address.local(), mailbox.address.domain());
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"\\<>()[],;:@".contains(&byte);
    let is_address = mailbox.name.is_none()
        && !local.is_empty()
        && local.bytes().all(is_plain)
        && !domain.starts_with('[')
        && domain.contains('.');
    is_address.then(|| format!("{local}@{domain}").to_ascii_lowercase())
}

/// The address of a request that must have one.
pub(super) fn required(email: Option<&str>) -> Result<(&str, String), Error> {
    let typed = email.map(str::trim).filter(|typed| !typed.is_empty());
    let Some(typed) = typed else {
        return Err(Error::invalid("Email is required"));
    };
    let norm = norm(typed).ok_or_else(|| Error::invalid("email: must be a mail address"))?;
    Ok((typed, norm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_address_become_one() {
        for typed in [
            "A.b+tag@Example.com",
            " a.b+tag@EXAMPLE.com ",
            "<a.b+TAG@example.com>",
        ] {
            assert_eq!(
                norm(typed).as_deref(),
                Some("a.b+tag@example.com"),
                "{typed}"
            );
        }
        assert_eq!(
            norm("a@bücher.example").as_deref(),
            Some("a@xn--bcher-kva.example")
        );
    }

    #[test]
    fn what_is_no_address_or_looks_like_another_is_refused() {
        let long = format!("{}@example.com", "a".repeat(250));
        let huge = "a".repeat(10 << 20);
        for typed in [
            "",
            "a",
            "@example.com",
            "a@",
            "a@localhost",
            "a@[127.0.0.1]",
            "\"a b\"@example.com",
            "а@example.com",
            "a\0@example.com",
            "a@example.com\r\nBcc: b@example.com",
            "Ada <a@example.com>",
            "a@example.com, b@example.com",
            &long,
            &huge,
        ] {
            assert_eq!(norm(typed), None, "{}", &typed[..typed.len().min(40)]);
        }
    }
}

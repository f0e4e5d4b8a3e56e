//! Parses mail addresses (RFC 5322 §3.4, RFC 6532) as people and programs write them: names,
//! quotes, comments, groups, international domains.
//!
//! The only parser of the host (configuration, alerts, envelopes of guests) and of the email
//! plugin, so that none of them accepts what another refuses. Its results are safe in SMTP commands
//! and headers: they have no control character, and their domain is ASCII.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// Longest address, in bytes (RFC 5321 §4.5.3.1.3: a path of 256, including its brackets).
const MAX_ADDRESS_BYTES: usize = 254;
/// Longest display name, in bytes: as a quoted string it fits a header line of 998 even if each
/// byte is escaped.
const MAX_NAME_BYTES: usize = 320;

/// An address without a name: `local@domain`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    /// Without quotes and escapes.
    local: String,
    /// ASCII in lower case, or a literal with its brackets.
    domain: String,
}

/// An address, perhaps with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    /// Decoded: without quotes and escapes. Never empty.
    pub name: Option<String>,
    pub address: Address,
}

/// Why a text is not an address. The message continues the text or its field ("to: …").
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("is not a mail address")]
    NoAddress,
    #[error("contains a control character")]
    Control,
    #[error("has a quote, bracket or comment that is not closed")]
    Open,
    #[error("has a domain that is not valid")]
    Domain,
    #[error("is longer than {MAX_ADDRESS_BYTES} bytes")]
    TooLong,
    #[error("has a name longer than {MAX_NAME_BYTES} bytes")]
    LongName,
    #[error("has no address")]
    Nobody,
    #[error("has several addresses; only one is allowed")]
    Several,
}

impl Address {
    /// The part before the `@`, without quotes and escapes.
    pub fn local(&self) -> &str {
        &self.local
    }

    /// ASCII in lower case (international domains: `xn--`), or a literal such as `[192.0.2.1]`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// All spellings of the same mailbox, except for letter case: domain in ASCII and Unicode,
    /// local part with and without quotes. The first one is what [`fmt::Display`] writes.
    pub fn spellings(&self) -> Vec<String> {
        let (unicode, _) =
            Uts46::new().to_unicode(self.domain.as_bytes(), AsciiDenyList::URL, Hyphens::Allow);
        let mut locals = [quoted(&self.local), self.local.clone()];
        if is_dot_atom(&self.local) {
            locals.reverse();
        }
        let domains = [&*self.domain, &*unicode];
        let domains = &domains[..if unicode == self.domain { 1 } else { 2 }];
        domains
            .iter()
            .flat_map(|domain| locals.iter().map(move |local| format!("{local}@{domain}")))
            .collect()
    }

    /// Whether every server accepts it. A local part that is not ASCII needs SMTPUTF8 (RFC 6531); a
    /// domain never does.
    pub fn is_ascii(&self) -> bool {
        self.local.is_ascii()
    }

    /// The same mailbox. Local parts differ by case in theory only (RFC 5321 §2.4).
    pub fn is_same(&self, other: &Self) -> bool {
        self.domain == other.domain && self.local.eq_ignore_ascii_case(&other.local)
    }
}

/// As in SMTP and headers: the local part is quoted where necessary.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_dot_atom(&self.local) {
            return write!(f, "{}@{}", self.local, self.domain);
        }
        write!(f, "{}@{}", quoted(&self.local), self.domain)
    }
}

fn quoted(local: &str) -> String {
    format!("\"{}\"", local.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Accepts `local@domain` and nothing else.
impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        refuse_controls(text)?;
        address(text)
    }
}

/// Accepts exactly one: `a@b`, `Name <a@b>`, `"Last, First" <a@b>`.
impl FromStr for Mailbox {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let mut all = parse_list(text)?;
        match (all.pop(), all.is_empty()) {
            (Some(one), true) => Ok(one),
            (Some(_), false) => Err(AddressError::Several),
            (None, _) => Err(AddressError::Nobody),
        }
    }
}

/// All mailboxes of a list, in order: `a@b, "Last, First" <c@d>, Team: e@f, g@h;`. Empty entries
/// are skipped; an empty list is not an error.
pub fn parse_list(text: &str) -> Result<Vec<Mailbox>, AddressError> {
    refuse_controls(text)?;
    let mut scanner = Scanner { rest: text };
    let mut boxes = Vec::new();
    let mut in_group = false;
    loop {
        let entry = scanner.entry()?;
        let end = scanner.take();
        match end {
            Some(':') if !in_group && entry.angle.is_none() && !entry.bare.contains('@') => {
                in_group = true
            }
            None | Some(',' | ';') => {
                if !entry.is_empty() {
                    boxes.push(entry.mailbox()?);
                }
                match end {
                    Some(';') if in_group => in_group = false,
                    Some(';') => return Err(AddressError::NoAddress),
                    None if in_group => return Err(AddressError::Open),
                    None => return Ok(boxes),
                    Some(_) => {}
                }
            }
            Some(_) => return Err(AddressError::NoAddress),
        }
    }
}

/// A domain in its ASCII form, or a literal such as `[192.0.2.1]`; nothing if the text is neither.
pub fn domain_to_ascii(text: &str) -> Option<String> {
    if let Some(literal) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let is_ip = match literal.split_once(':') {
            Some((tag, v6)) => tag.eq_ignore_ascii_case("IPv6") && v6.parse::<Ipv6Addr>().is_ok(),
            None => literal.parse::<Ipv4Addr>().is_ok(),
        };
        return is_ip.then(|| text.to_owned());
    }
    let ascii = Uts46::new()
        .to_ascii(
            text.as_bytes(),
            AsciiDenyList::URL,
            Hyphens::Allow,
            DnsLength::Verify,
        )
        .ok()?;
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    ascii
        .split('.')
        .all(|label| !label.is_empty() && label.bytes().all(plain))
        .then(|| ascii.into_owned())
}

/// Also refuses line breaks that only Unicode has: some readers end a line there.
fn refuse_controls(text: &str) -> Result<(), AddressError> {
    let is_control =
        |c: char| (c.is_control() && c != '\t') || matches!(c, '\u{2028}' | '\u{2029}');
    if text.chars().any(is_control) {
        Err(AddressError::Control)
    } else {
        Ok(())
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

/// The text between two separators.
#[derive(Default)]
struct Entry {
    /// As written, without comments: an address, or the name before an address in brackets.
    bare: String,
    /// The same, without quotes and escapes.
    words: String,
    angle: Option<String>,
    comment: Option<String>,
}

impl Scanner<'_> {
    fn take(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    /// Reads up to a separator, which is not consumed.
    fn entry(&mut self) -> Result<Entry, AddressError> {
        let mut entry = Entry::default();
        while let Some(next) = self.rest.chars().next() {
            match next {
                ',' | ';' | ':' => break,
                '(' => {
                    let comment = self.comment()?;
                    entry.comment.get_or_insert(comment);
                    // A comment separates as a space does.
                    entry.push(' ', ' ');
                }
                '<' if entry.angle.is_none() => {
                    self.take();
                    entry.angle = Some(self.angle()?);
                }
                _ if entry.angle.is_some() && !next.is_whitespace() => {
                    return Err(AddressError::NoAddress);
                }
                '"' => {
                    let (raw, text) = self.quoted()?;
                    entry.bare.push_str(&raw);
                    entry.words.push_str(&text);
                }
                '[' => {
                    let end = self.rest.find(']').ok_or(AddressError::Open)?;
                    entry.bare.push_str(&self.rest[..=end]);
                    entry.words.push_str(&self.rest[..=end]);
                    self.rest = &self.rest[end + 1..];
                }
                '<' | '>' | ')' | ']' | '\\' => return Err(AddressError::NoAddress),
                c => {
                    self.take();
                    entry.push(c, c);
                }
            }
        }
        Ok(entry)
    }

    /// The text with its quotes, and without them.
    fn quoted(&mut self) -> Result<(String, String), AddressError> {
        let (mut raw, mut text) = (String::from("\""), String::new());
        self.take();
        loop {
            let c = self.take().ok_or(AddressError::Open)?;
            raw.push(c);
            match c {
                '"' => return Ok((raw, text)),
                '\\' => {
                    let escaped = self.take().ok_or(AddressError::Open)?;
                    raw.push(escaped);
                    text.push(escaped);
                }
                c => text.push(c),
            }
        }
    }

    /// Comments may be nested.
    fn comment(&mut self) -> Result<String, AddressError> {
        let (mut text, mut depth) = (String::new(), 0_usize);
        loop {
            match self.take().ok_or(AddressError::Open)? {
                '(' => depth += 1,
                ')' => depth -= 1,
                '\\' => text.push(self.take().ok_or(AddressError::Open)?),
                c => text.push(c),
            }
            if depth == 0 {
                return Ok(text);
            }
        }
    }

    /// Reads the text between `<` and `>`, without comments.
    fn angle(&mut self) -> Result<String, AddressError> {
        let mut text = String::new();
        loop {
            match self.rest.chars().next().ok_or(AddressError::Open)? {
                '>' => {
                    self.take();
                    return Ok(text);
                }
                '"' => text.push_str(&self.quoted()?.0),
                '(' => {
                    self.comment()?;
                }
                c => {
                    self.take();
                    text.push(c);
                }
            }
        }
    }
}

impl Entry {
    fn push(&mut self, bare: char, word: char) {
        self.bare.push(bare);
        self.words.push(word);
    }

    fn is_empty(&self) -> bool {
        self.angle.is_none() && self.bare.trim().is_empty()
    }

    fn mailbox(self) -> Result<Mailbox, AddressError> {
        let (address, name) = match &self.angle {
            Some(angle) => (address(angle.trim())?, Some(self.words)),
            None => (address(self.bare.trim())?, None),
        };
        let tidy = |name: String| name.split_whitespace().collect::<Vec<_>>().join(" ");
        // `a@b (Name)` is the form before RFC 822; nodemailer reads it so.
        let name = name
            .map(tidy)
            .filter(|name| !name.is_empty())
            .or_else(|| self.comment.map(tidy));
        let name = name.filter(|name| !name.is_empty());
        if name
            .as_ref()
            .is_some_and(|name| name.len() > MAX_NAME_BYTES)
        {
            return Err(AddressError::LongName);
        }
        Ok(Mailbox { name, address })
    }
}

fn address(text: &str) -> Result<Address, AddressError> {
    // The last `@`: an earlier one can only be within quotes, which are checked below.
    let (local, domain) = text.rsplit_once('@').ok_or(AddressError::NoAddress)?;
    let local = if local.starts_with('"') {
        let mut scanner = Scanner { rest: local };
        let (_, text) = scanner.quoted()?;
        if !scanner.rest.is_empty() {
            return Err(AddressError::NoAddress);
        }
        text
    } else {
        // Extra dots are common at some providers; `Display` quotes them (RFC 5321).
        if !local.chars().all(|c| c == '.' || is_atom(c)) {
            return Err(AddressError::NoAddress);
        }
        local.to_owned()
    };
    if local.is_empty() || domain.is_empty() {
        return Err(AddressError::NoAddress);
    }
    let domain = domain_to_ascii(domain).ok_or(AddressError::Domain)?;
    let address = Address { local, domain };
    if address.to_string().len() > MAX_ADDRESS_BYTES {
        Err(AddressError::TooLong)
    } else {
        Ok(address)
    }
}

/// `atext` of RFC 5322 and RFC 6532.
fn is_atom(c: char) -> bool {
    c.is_ascii_alphanumeric()
        || "!#$%&'*+-/=?^_`{|}~".contains(c)
        || (!c.is_ascii() && !c.is_whitespace())
}

fn is_dot_atom(text: &str) -> bool {
    text.split('.')
        .all(|part| !part.is_empty() && part.chars().all(is_atom))
}

#[cfg(test)]
mod tests;

//! Mail addresses as producers write them.

use patchbay_plugin::Failure;
use serde::Deserialize;

/// Most recipients of one mail over SMTP at Gmail.
const MAX_RECIPIENTS: usize = 100;

/// An address, perhaps with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mailbox {
    pub name: Option<String>,
    pub address: String,
}

/// One text, several in one text, or an array.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Addresses {
    One(String),
    Many(Vec<String>),
}

impl Mailbox {
    /// `a@b` or `Name <a@b>`. Never a line break: that would be the start of another header.
    pub fn parse(field: &str, text: &str) -> Result<Self, Failure> {
        let invalid = |reason: &str| Failure::invalid_input(field, reason);
        if text.chars().any(char::is_control) {
            return Err(invalid("contains a control character"));
        }
        let (name, address) = match text.trim().strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
            Some((name, address)) => (name.trim().trim_matches('"').trim(), address.trim()),
            None => ("", text.trim()),
        };
        let plausible = address.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && !domain.is_empty()
                && !domain.contains('@')
                && !address.contains([' ', '<', '>', ',', ';'])
        });
        if !plausible {
            return Err(invalid("is not a mail address"));
        }
        let name = Some(name.to_owned()).filter(|name| !name.is_empty());
        Ok(Self { name, address: address.to_owned() })
    }

    pub fn domain(&self) -> &str {
        self.address.rsplit('@').next().unwrap_or_default()
    }
}

impl Addresses {
    /// All of them, none twice.
    pub fn parse(&self, field: &str) -> Result<Vec<Mailbox>, Failure> {
        let texts: Vec<(String, &str)> = match self {
            Self::One(text) => split(text).into_iter().map(|part| (field.to_owned(), part)).collect(),
            Self::Many(list) => {
                list.iter().enumerate().map(|(i, text)| (format!("{field}[{i}]"), text.as_str())).collect()
            }
        };
        let mut boxes: Vec<Mailbox> = Vec::with_capacity(texts.len());
        for (field, text) in texts {
            let one = Mailbox::parse(&field, text)?;
            if !boxes.iter().any(|known| known.address.eq_ignore_ascii_case(&one.address)) {
                boxes.push(one);
            }
        }
        if boxes.is_empty() {
            return Err(Failure::invalid_input(field, "names nobody"));
        }
        if boxes.len() > MAX_RECIPIENTS {
            return Err(Failure::invalid_input(field, "has more than 100 addresses; make several jobs"));
        }
        Ok(boxes)
    }
}

/// At commas outside of quotes.
fn split(text: &str) -> Vec<&str> {
    let mut quoted = false;
    text.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
    .filter(|part| !part.trim().is_empty())
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form_and_named_when_wrong() {
        let all = Addresses::One("a@x.org, \"Last, First\" <b@x.org>, A@X.org".into()).parse("to").expect("addresses");
        assert_eq!(all.len(), 2, "the same address once");
        assert_eq!(all[1], Mailbox { name: Some("Last, First".into()), address: "b@x.org".into() });
        let wrong = Addresses::Many(vec!["a@x.org".into(), "nobody".into()]).parse("cc").expect_err("wrong");
        assert_eq!(wrong.message, "cc[1]: is not a mail address");
        assert!(Addresses::One("a@x.org\r\nBcc: evil@x.org".into()).parse("to").is_err());
        assert!(Addresses::Many(vec![]).parse("to").is_err());
    }
}

//! Mail addresses as producers write them: read by the host's own parser, so that what is taken
//! here is taken there.

use patchbay_mailbox::{Mailbox, parse_list};
use patchbay_plugin::Failure;
use serde::Deserialize;

/// Most recipients of one mail over SMTP at Gmail.
const MAX_RECIPIENTS: usize = 100;

/// One text, several in one text, or an array of such texts.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Addresses {
    One(String),
    Many(Vec<String>),
}

/// Exactly one.
pub fn one(field: &str, text: &str) -> Result<Mailbox, Failure> {
    text.parse()
        .map_err(|error: patchbay_mailbox::AddressError| {
            Failure::invalid_input(field, &error.to_string())
        })
}

impl Addresses {
    /// All of them, none twice.
    pub fn parse(&self, field: &str) -> Result<Vec<Mailbox>, Failure> {
        let read = |field: &str, text: &str| {
            parse_list(text).map_err(|error| Failure::invalid_input(field, &error.to_string()))
        };
        let all = match self {
            Self::One(text) => read(field, text)?,
            Self::Many(list) => {
                let lists = list
                    .iter()
                    .enumerate()
                    .map(|(i, text)| read(&format!("{field}[{i}]"), text));
                lists.collect::<Result<Vec<_>, _>>()?.concat()
            }
        };
        let mut boxes: Vec<Mailbox> = Vec::with_capacity(all.len());
        for one in all {
            if !boxes
                .iter()
                .any(|known| known.address.is_same(&one.address))
            {
                boxes.push(one);
            }
        }
        if boxes.is_empty() {
            return Err(Failure::invalid_input(field, "has no address"));
        }
        if boxes.len() > MAX_RECIPIENTS {
            return Err(Failure::invalid_input(
                field,
                "has more than 100 addresses; make several jobs",
            ));
        }
        Ok(boxes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_every_form_and_named_when_wrong() {
        let all = Addresses::One("a@x.org, \"Last, First\" <b@x.org>, A@X.org".into())
            .parse("to")
            .expect("addresses");
        assert_eq!(all.len(), 2, "the same address once");
        assert_eq!(
            (all[1].name.as_deref(), all[1].address.to_string().as_str()),
            (Some("Last, First"), "b@x.org")
        );
        let wrong = Addresses::Many(vec!["a@x.org".into(), "nobody".into()])
            .parse("cc")
            .expect_err("wrong");
        assert_eq!(wrong.message, "cc[1]: is not a mail address");
        assert!(
            Addresses::One("a@x.org\r\nBcc: evil@x.org".into())
                .parse("to")
                .is_err()
        );
        assert!(Addresses::Many(vec![]).parse("to").is_err());
        let group =
            Addresses::Many(vec!["Team: a@x.org, b@x.org;".into(), "c@x.org".into()]).parse("to");
        assert_eq!(group.expect("addresses").len(), 3);
        assert_eq!(
            one("from", "a@x.org, b@x.org").expect_err("two").message,
            "from: has several addresses; only one is allowed"
        );
    }
}

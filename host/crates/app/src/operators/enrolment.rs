//! Links with which somebody sets password and second factor.

use std::time::Duration;

use patchbay_api::operators as api;
use patchbay_store::{EnrolLink, Enrolment, LinkPurpose, NewLink, OperatorState};
use rand::RngExt;
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::refusals::Refused;
use super::{OperatorParts, Operators, new_secret};
use crate::error::{Error, Kind};
use crate::people::passwords::check_new;
use crate::people::tokens::{code_mac, token_hash};
use crate::people::{Visitor, within};

/// How long a link can be used.
pub(super) const LINK_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// Scanners of repositories and mails know a link by it.
pub(super) const LINK_PREFIX: &str = "pbe_";
/// Least characters of an operator's password.
const LEAST_PASSWORD: usize = 12;
const RECOVERY_CODES: usize = 10;
/// What recovery codes are hashed for.
pub(super) const RECOVERY: &str = "operator-recovery";
/// Without those that look alike: 32 letters, so a code of ten has 50 random bits.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

impl Operators {
    /// Shows what a link is for, with the second factor to set up.
    pub async fn begin_enrolment(
        &self,
        visitor: &Visitor,
        body: api::Link,
    ) -> Result<api::EnrolmentOffer, Error> {
        let parts = &*self.0;
        let (hash, link) = parts.link(visitor, body.link).await?;
        if link.totp.is_none() {
            let totp = parts.new_totp().await?;
            within(parts.store.offer_totp(&hash, &totp)).await?;
        }
        let link = within(parts.store.operator_link(&hash)).await?;
        let Some((link, salt)) =
            link.and_then(|mut link| link.totp.take().map(|salt| (link, salt)))
        else {
            return Err(unusable());
        };
        let shown = parts.shown_totp(&salt, &link.operator.name).await?;
        Ok(api::EnrolmentOffer {
            name: link.operator.name.clone(),
            role: link.operator.role,
            is_reset: link.purpose == LinkPurpose::Reset,
            totp_secret: shown.secret.to_string(),
            totp_uri: shown.uri.to_string(),
            needs_totp: parts.config.require_totp,
        })
    }

    /// Uses a link: sets the password and, confirmed by a code, the second factor.
    pub async fn complete_enrolment(
        &self,
        visitor: &Visitor,
        body: api::EnrolmentCompletion,
    ) -> Result<api::Enrolled, Error> {
        let parts = &*self.0;
        let (hash, link) = parts.link(visitor, body.link).await?;
        let Some(password) = body.password.map(Zeroizing::new) else {
            return Err(Error::invalid("password is required"));
        };
        let operator = &link.operator;
        let own = operator.email.as_deref().unwrap_or(&operator.name);
        check_new(&password, "password", LEAST_PASSWORD, own)?;
        let code = body.totp.as_ref().and_then(api::Digits::text);
        let totp = match (code, &link.totp) {
            (Some(code), Some(salt)) => {
                let step = parts.totp_step(salt, &code).await?.ok_or_else(|| {
                    Error::invalid(
                        "totp: the code is wrong. Type the one that the authenticator shows now; if it stays wrong, compare the clocks of both machines",
                    )
                })?;
                Some((salt, step))
            }
            (Some(_), None) => {
                return Err(Error::invalid(
                    "totp: ask for the second factor first (POST /api/admin/enrolment/begin)",
                ));
            }
            (None, _) if parts.config.require_totp => {
                return Err(Error::invalid(
                    "totp: the code of the authenticator is required (operators.require_totp)",
                ));
            }
            (None, _) => None,
        };
        let password_hash = parts
            .passwords()
            .await?
            .hash_with_argon2id(password)
            .await?;
        let codes: Vec<Zeroizing<String>> = match totp {
            Some(_) => (0..RECOVERY_CODES).map(|_| recovery_code()).collect(),
            None => Vec::new(),
        };
        let mut macs = Vec::new();
        for code in &codes {
            let plain = code.replace('-', "");
            macs.push(code_mac(&parts.sealed, RECOVERY, &operator.id.to_string(), &plain).await?);
        }
        let enrolment = Enrolment {
            token_hash: &hash,
            password_hash: &password_hash,
            totp,
            recovery_macs: &macs,
        };
        let enrolled = within(parts.store.enrol_operator(&enrolment)).await?;
        let Some(row) = enrolled else {
            return Err(unusable());
        };
        parts.changed(row.id);
        let details =
            json!({ "secondFactor": totp.is_some(), "reset": link.purpose == LinkPurpose::Reset });
        parts
            .note(visitor, &row.name, "operator.enrol", &row.name, &details)
            .await?;
        Ok(api::Enrolled {
            name: row.name,
            role: row.role,
            recovery_codes: codes.iter().map(|code| code.to_string()).collect(),
        })
    }
}

impl OperatorParts {
    /// Makes a link for somebody, and returns its text.
    pub(super) async fn new_link(
        &self,
        operator: Uuid,
        state: OperatorState,
    ) -> Result<Zeroizing<String>, Error> {
        let (text, token_hash) = new_link_text();
        let link = NewLink {
            token_hash,
            operator,
            purpose: match state {
                OperatorState::Invited => LinkPurpose::Enrol,
                OperatorState::Active | OperatorState::Disabled => LinkPurpose::Reset,
            },
            lasts: LINK_LIFE,
        };
        within(self.store.add_operator_link(&link)).await?;
        Ok(text)
    }

    /// A link that can be used. Whoever tries many waits.
    async fn link(
        &self,
        visitor: &Visitor,
        text: Option<String>,
    ) -> Result<([u8; 32], EnrolLink), Error> {
        self.admit(visitor).await?;
        let Some(text) = text.map(Zeroizing::new) else {
            return Err(Error::invalid("link is required"));
        };
        let key = format!("link\0{}", visitor.network);
        self.attempts.begin(&key).await?;
        let hash = token_hash(text.trim());
        match within(self.store.operator_link(&hash)).await? {
            Some(link) => {
                self.attempts.passed(&key).await;
                Ok((hash, link))
            }
            None => {
                self.attempts.failed(&key).await;
                self.refusals.note(Refused::login(visitor.address));
                Err(unusable())
            }
        }
    }
}

/// A link's text, and its hash.
pub(super) fn new_link_text() -> (Zeroizing<String>, [u8; 32]) {
    let (secret, _) = new_secret();
    let text = Zeroizing::new(format!("{LINK_PREFIX}{}", *secret));
    let hash = token_hash(&text);
    (text, hash)
}

fn unusable() -> Error {
    Error::new(
        Kind::NotFound,
        "not-found",
        "This link is not valid: it was used, it is older than 24 hours, or a newer one was made. Ask an owner for another one: \
         patchbay operator link NAME",
    )
}

fn recovery_code() -> Zeroizing<String> {
    let mut random = rand::rng();
    let mut letters = |count: usize| -> String {
        (0..count)
            .map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())]))
            .collect()
    };
    format!("{}-{}", letters(5), letters(5)).into()
}

/// A recovery code as it is hashed; `None` for a text that is none.
pub(super) fn normal_code(typed: &str) -> Option<Zeroizing<String>> {
    let plain: Zeroizing<String> = typed
        .chars()
        .filter(|c| !c.is_whitespace() && *c != '-')
        .map(|c| c.to_ascii_lowercase())
        .collect::<String>()
        .into();
    let is_code = plain.len() == 10 && plain.bytes().all(|byte| LETTERS.contains(&byte));
    is_code.then_some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_code_is_read_however_it_is_typed() {
        let code = recovery_code();
        assert_eq!((code.len(), code.find('-')), (11, Some(5)));
        let plain = code.replace('-', "");
        for typed in [code.to_uppercase(), plain.clone(), format!(" {} ", *code)] {
            assert_eq!(
                normal_code(&typed).map(|code| code.to_string()),
                Some(plain.clone())
            );
        }
        for odd in ["", "abcde-fghi", "abcde-fghi0", "abcde-fghi\u{e4}"] {
            assert!(normal_code(odd).is_none(), "{odd}");
        }
    }

    #[test]
    fn a_link_is_known_by_its_prefix() {
        let (text, hash) = new_link_text();
        assert!(
            text.starts_with(LINK_PREFIX) && text.len() == 47,
            "{}",
            text.len()
        );
        assert_eq!(hash, token_hash(&text));
    }
}

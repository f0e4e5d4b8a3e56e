//! One-time codes: sending them, and comparing what somebody types.

use std::time::Duration;

use patchbay_store::{CodePurpose, CodeRow, NewCode, Replaces};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::tokens::code_mac;
use super::{PeopleParts, Visitor, within};
use crate::error::Error;
use crate::limits::Class;

/// Codes that one network may have sent to one address.
const SENT_TO_ONE: Class = Class {
    name: "codes",
    what: "codes were sent to this address",
    count: 3,
    window: Duration::from_secs(3_600),
};
/// And that all networks may.
const SENT_IN_ALL: Class = Class {
    name: "codes-of-address",
    what: "codes were sent to this address",
    count: 10,
    window: Duration::from_secs(3_600),
};

/// Codes that one network may have sent, to whatever addresses: nobody fills the mailboxes of others.
const SENT_BY_ONE: Class = Class {
    name: "codes-of-network",
    what: "codes were sent for this network",
    count: 30,
    window: Duration::from_secs(3_600),
};

/// What came of a code that somebody typed.
pub(super) enum Typed {
    Right(RightCode),
    /// It was right, but has ended.
    Ended,
    Wrong,
}

/// A right code, and all that were sent to its address and not used.
pub(super) struct RightCode {
    pub(super) code: CodeRow,
    sent: Vec<CodeRow>,
}

impl PeopleParts {
    /// Whether one more code may be sent to this address.
    pub(super) async fn admit_code(&self, visitor: &Visitor, norm: &str) -> Result<(), Error> {
        let key = format!("{norm}\0{}", visitor.network);
        self.take_of_network(&SENT_BY_ONE, visitor).await?;
        self.limits.take(&SENT_TO_ONE, &key).await?;
        self.limits.take(&SENT_IN_ALL, norm).await?;
        Ok(())
    }

    pub(super) async fn mac(
        &self,
        purpose: CodePurpose,
        norm: &str,
        code: &str,
    ) -> Result<[u8; 32], Error> {
        code_mac(&self.sealed, purpose.as_str(), norm, code).await
    }

    /// A code that is sent to this address.
    pub(super) async fn new_code<'a>(
        &self,
        purpose: CodePurpose,
        norm: &'a str,
        code: &str,
        visitor: &'a Visitor,
        valid_for: Duration,
    ) -> Result<NewCode<'a>, Error> {
        Ok(NewCode {
            purpose,
            email_norm: norm,
            code_mac: self.mac(purpose, norm, code).await?,
            password_hash: None,
            network: &visitor.network,
            browser_hash: visitor.browser.as_deref().map(browser_hash),
            valid_for,
            replaces: Replaces::OfNetwork,
        })
    }

    /// Compares what somebody typed with the codes that are valid. Each try counts before it is
    /// looked at.
    pub(super) async fn compare_code(
        &self,
        purpose: CodePurpose,
        norm: &str,
        typed: &str,
        visitor: &Visitor,
        window: Duration,
    ) -> Result<Typed, Error> {
        let counted = self
            .store
            .count_code_try(purpose, norm, &visitor.network, window);
        let is_too_many = within(counted).await?;
        let mac = self.mac(purpose, norm, typed.trim()).await?;
        let codes = within(self.store.codes(purpose, norm)).await?;
        let mut found = None;
        for code in &codes {
            if bool::from(code.code_mac.ct_eq(&mac)) {
                found = Some(code.clone());
            }
        }
        Ok(match found {
            Some(_) if is_too_many => Typed::Wrong,
            Some(code) if code.is_expired => Typed::Ended,
            Some(code) => Typed::Right(RightCode { code, sent: codes }),
            None => Typed::Wrong,
        })
    }
}

impl RightCode {
    /// The password of the signup that was made from here. Whoever reads the mails is the owner; which of
    /// several signups is the owner's, a cookie of that signup tells, alone and whichever code was typed.
    /// Without a cookie the network tells, as long as nobody else there has chosen another password for
    /// this address: behind a proxy that nobody knows, everybody is in one network.
    pub(super) fn password_from_here(&self, visitor: &Visitor) -> Option<&str> {
        if let Some(own) = visitor.browser.as_deref().map(browser_hash) {
            let mut sent = self.sent.iter();
            let from_here = sent.find(|code| {
                let browser = code.browser_hash.as_deref();
                !code.is_expired && browser.is_some_and(|browser| bool::from(browser.ct_eq(&own)))
            });
            return from_here?.password_hash.as_deref();
        }
        let chosen = self.sent.iter().filter(|code| is_signup_of(code, visitor));
        let is_of_network = self.code.network == visitor.network;
        let password = self.code.password_hash.as_deref();
        password.filter(|_| is_of_network && chosen.count() == 1)
    }
}

/// Whether somebody of this network has chosen a password with it.
pub(super) fn is_signup_of(code: &CodeRow, visitor: &Visitor) -> bool {
    code.password_hash.is_some() && code.network == visitor.network
}

/// Of the value of a cookie.
pub(super) fn browser_hash(value: &str) -> [u8; 32] {
    Sha256::digest(value.as_bytes()).into()
}

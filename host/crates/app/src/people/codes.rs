//! One-time codes: sending them, and comparing what somebody types.

use std::time::Duration;

use patchbay_store::{CodePurpose, CodeRow, NewCode};
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

/// What came of a code that somebody typed.
pub(super) enum Typed {
    Right(CodeRow),
    /// It was right, but has ended.
    Ended,
    Wrong,
}

impl PeopleParts {
    /// Whether one more code may be sent to this address.
    pub(super) async fn admit_code(&self, visitor: &Visitor, norm: &str) -> Result<(), Error> {
        let key = format!("{norm}\0{}", visitor.network);
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
        for code in codes {
            if bool::from(code.code_mac.ct_eq(&mac)) {
                found = Some(code);
            }
        }
        Ok(match found {
            Some(_) if is_too_many => Typed::Wrong,
            Some(code) if code.is_expired => Typed::Ended,
            Some(code) => Typed::Right(code),
            None => Typed::Wrong,
        })
    }
}

/// Whether a code was asked for from here: by the network or the browser that types it.
pub(super) fn is_from_here(code: &CodeRow, visitor: &Visitor) -> bool {
    let same_browser = code
        .browser_hash
        .as_deref()
        .zip(visitor.browser.as_deref().map(browser_hash))
        .is_some_and(|(stored, shown)| bool::from(stored.ct_eq(&shown)));
    same_browser || code.network == visitor.network
}

/// Of the value of a cookie.
pub(super) fn browser_hash(value: &str) -> [u8; 32] {
    Sha256::digest(value.as_bytes()).into()
}

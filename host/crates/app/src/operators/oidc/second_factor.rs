//! The second factor of this host, after the provider has said who somebody is: where the provider
//! is not required to report one.

use std::time::Duration;

use patchbay_store::OperatorRow;
use serde_json::json;

use super::{Arrived, LOGIN_LIFE, MAX_TEXT, SsoParts, not_signed_in, unknown_login};
use crate::error::Error;
use crate::limits::Class;
use crate::people::tokens::token_hash;
use crate::people::{Visitor, forbidden, within};

/// Codes that may be typed in one login. It ends long before there are more.
const OF_ONE_LOGIN: Class = Class {
    name: "oidc-codes",
    what: "codes were typed in this login",
    count: 10,
    window: Duration::from_secs(24 * 3_600),
};

impl SsoParts {
    pub(super) fn needs_code(&self) -> bool {
        self.config.require_amr.is_empty() && self.operators.config.require_totp
    }

    /// Lets this login wait for a code, and returns how the browser is asked for it. Somebody who has
    /// no second factor gets one to set up.
    pub(super) async fn ask_for_code(
        &self,
        state_hash: &[u8; 32],
        row: &OperatorRow,
    ) -> Result<Error, Error> {
        let parts = &self.operators;
        let offered = match &row.totp {
            Some(_) => None,
            None => Some(parts.new_totp().await?),
        };
        let waits = parts
            .store
            .await_code(state_hash, row.id, offered.as_ref(), LOGIN_LIFE);
        within(waits).await?;
        let Some(offered) = &offered else {
            let message = format!(
                "{}: type the code that your authenticator shows now",
                row.name
            );
            return Ok(asks(&message, json!({ "name": row.name })));
        };
        let shown = parts.shown_totp(offered, &row.name).await?;
        let message = format!(
            "{}: you have no second factor yet. Enter the key into an authenticator, then type the code that it shows",
            row.name
        );
        let details = json!({
            "name": row.name, "totpSecret": *shown.secret, "totpUri": *shown.uri,
        });
        Ok(asks(&message, details))
    }

    /// Ends the login of this browser that waits for a code.
    pub(super) async fn type_code(
        &self,
        visitor: &Visitor,
        browser: Option<&str>,
        code: &str,
    ) -> Result<Arrived, Error> {
        let parts = &self.operators;
        let browser = browser.filter(|browser| browser.len() <= MAX_TEXT);
        let Some(browser) = browser else {
            return Err(unknown_login());
        };
        let browser_hash = token_hash(browser);
        let waiting = parts.store.waiting_sign_in(&browser_hash);
        let Some(waiting) = within(waiting).await? else {
            return Err(unknown_login());
        };
        let row = &waiting.operator;
        let Some(salt) = row.totp.as_ref().or(waiting.offered.as_ref()) else {
            return Err(unknown_login());
        };
        // The same counts as those of a login with a password: who guesses codes cannot change the door.
        let _turns = parts.turns(&row.name, visitor).await?;
        let attempt = parts.attempts.begin_login(&row.name, visitor).await?;
        let begun = match &row.totp {
            Some(_) => self.begin_code(visitor, row, &waiting.state_hash).await,
            None => Ok(None),
        };
        let tried = match begun {
            Ok(tried) => tried,
            Err(refused) => {
                parts.attempts.login_left(&attempt).await;
                return Err(refused);
            }
        };
        let is_right = match parts.totp_step(salt, code).await? {
            None => false,
            Some(step) if row.totp.is_some() => {
                within(parts.store.spend_operator_step(row.id, step)).await?
            }
            Some(step) => within(parts.store.set_first_totp(row.id, salt, step)).await?,
        };
        parts.code_tried(tried, is_right).await;
        if !is_right {
            parts.attempts.login_failed(&attempt).await;
            let message = "The code is wrong, or was used. Type the one that the authenticator shows now; if it stays wrong, compare the clocks of \
                           both machines";
            return Err(asks(message, json!({ "name": row.name, "isWrong": true })));
        }
        parts.attempts.login_passed(&attempt).await;
        if row.totp.is_none() {
            let details = json!({ "secondFactor": true });
            parts
                .note(visitor, &row.name, "operator.enrol", &row.name, &details)
                .await?;
        }
        if !within(parts.store.finish_sign_in(&waiting.state_hash)).await? {
            return Err(unknown_login());
        }
        let session = Some(self.open(visitor, row).await?);
        Ok(Arrived {
            return_to: waiting.return_to,
            session,
        })
    }

    /// Counts a try: of the operator, and of this login, which ends with the last one.
    async fn begin_code(
        &self,
        visitor: &Visitor,
        row: &OperatorRow,
        state_hash: &[u8; 32],
    ) -> Result<Option<String>, Error> {
        let parts = &self.operators;
        let tried = parts.begin_code(row, visitor).await?;
        let key = hex::encode(state_hash);
        let taken = parts.limits.take_if_possible(&OF_ONE_LOGIN, &key).await;
        if taken.is_err() {
            parts.code_tried(tried, false).await;
            within(parts.store.finish_sign_in(state_hash)).await?;
            return Err(not_signed_in("Too many codes were typed"));
        }
        Ok(tried)
    }
}

/// Whether the error says that a code was wrong, and not only that one is needed.
pub(super) fn is_wrong_code(error: &Error) -> bool {
    let details = error.details.as_ref();
    error.code == "second-factor" && details.is_some_and(|details| details["isWrong"] == true)
}

fn asks(message: &str, details: serde_json::Value) -> Error {
    forbidden("second-factor", message).with_details(details)
}

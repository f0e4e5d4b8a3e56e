//! The second factor of this host, after the provider has said who somebody is: where the provider
//! is not required to report one.

use patchbay_store::OperatorRow;
use serde_json::json;

use super::{Arrived, LOGIN_LIFE, MAX_TEXT, SsoParts, unknown_login};
use crate::error::Error;
use crate::people::tokens::token_hash;
use crate::people::{Visitor, forbidden, within};

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
        // The same as that of a login with a password: who guesses codes cannot change the door.
        let key = format!("{}\0{}", row.name, visitor.network);
        let _turn = parts.logins.take(&key).await?;
        parts.attempts.begin(&key).await?;
        let Some(salt) = row.totp.as_ref().or(waiting.offered.as_ref()) else {
            return Err(unknown_login());
        };
        let is_right = match parts.totp_step(salt, code).await? {
            None => false,
            Some(step) if row.totp.is_some() => {
                within(parts.store.spend_operator_step(row.id, step)).await?
            }
            Some(step) => within(parts.store.set_first_totp(row.id, salt, step)).await?,
        };
        if !is_right {
            parts.attempts.failed(&key).await;
            let message = "The code is wrong, or was used. Type the one that the authenticator shows now; if it stays wrong, compare the clocks of \
                           both machines";
            return Err(asks(message, json!({ "name": row.name, "isWrong": true })));
        }
        parts.attempts.passed(&key).await;
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
}

fn asks(message: &str, details: serde_json::Value) -> Error {
    forbidden("second-factor", message).with_details(details)
}

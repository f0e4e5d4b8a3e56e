//! Passwords: a new one by a code, or instead of the present one.

use patchbay_api::people as api;
use patchbay_store::{CodePurpose, UserKey};
use zeroize::Zeroizing;

use super::codes::Typed;
use super::config::{REFRESH_LIFE, RESET_CODE_LIFE, TRIES_FOR};
use super::login::OF_ONE_ACCOUNT;
use super::passwords::{MAX_BYTES, Verdict, check_new};
use super::tokens::code;
use super::{People, PeopleParts, Principal, Visitor, address, mails, plain, within};
use crate::error::Error;

const NEUTRAL: &str = "If an account with this email exists, a password reset code has been sent";

impl People {
    /// Mails a code to set a new password. The answer never tells whether there is an account.
    pub async fn forgot_password(
        &self,
        visitor: &Visitor,
        body: api::ForgotPassword,
    ) -> Result<api::Plain, Error> {
        let parts = self.parts()?;
        parts.steps.hold(parts.forgot_password(visitor, body)).await
    }

    /// Sets a new password by a code, and ends every session.
    pub async fn reset_password(
        &self,
        visitor: &Visitor,
        body: api::ResetPassword,
    ) -> Result<api::Plain, Error> {
        let parts = self.parts()?;
        parts
            .steps
            .hold_refusals(parts.reset_password(visitor, body))
            .await
    }

    /// Replaces the password of the account, ends its other sessions and continues this one.
    pub async fn change_password(
        &self,
        visitor: &Visitor,
        who: &Principal,
        body: api::ChangePassword,
    ) -> Result<api::Issued, Error> {
        let parts = self.parts()?;
        parts.admit(visitor).await?;
        let (Some(current), Some(new)) = (
            body.current_password.map(Zeroizing::new),
            body.new_password.map(Zeroizing::new),
        ) else {
            return Err(Error::invalid(
                "Current password and new password are required",
            ));
        };
        if who.is_master {
            return Err(super::forbidden("forbidden", "Access denied"));
        }
        if who.user.password.is_none() {
            let message = "This account has no password: it logs in with Google. To set one, use the forgotten-password form";
            return Err(Error::invalid(message));
        }
        let Some(session) = who.session else {
            return Err(Error::invalid("Log in again, then change the password"));
        };
        check_new(
            &new,
            "newPassword",
            parts.config.password_min,
            &who.user.email,
        )?;
        parts.compare_current(visitor, who, current).await?;
        let hash = parts.passwords.hash(new).await?;
        let table = parts.table().await?;
        let mail = mails::password_changed(visitor, &who.user.email);
        let (refresh, refresh_hash) = super::tokens::refresh_token();
        let next = (refresh_hash, REFRESH_LIFE);
        let changed = parts
            .store
            .change_password(table, &who.user, &hash, session, next, &mail);
        let Some(user) = within(changed).await? else {
            return Err(Error::conflict(
                "The account has changed meanwhile; try again",
            ));
        };
        parts.mails.notify_one();
        parts.user_changed(&user.id);
        parts
            .issued(
                "Password changed successfully",
                &user,
                session,
                Some(refresh),
            )
            .await
    }
}

impl PeopleParts {
    async fn forgot_password(
        &self,
        visitor: &Visitor,
        body: api::ForgotPassword,
    ) -> Result<api::Plain, Error> {
        let parts = self;
        parts.admit(visitor).await?;
        let (typed, norm) = address::required(body.email.as_deref())?;
        parts.admit_code(visitor, &norm).await?;
        let table = parts.table().await?;
        let key = UserKey::Email { typed, norm: &norm };
        let user = within(parts.store.find_user(table, key)).await?;
        let otp = code();
        let new = parts
            .new_code(CodePurpose::Reset, &norm, &otp, visitor, RESET_CODE_LIFE)
            .await?;
        match user.filter(|user| !user.is_blocked()) {
            Some(user) => {
                let mail = mails::reset_code(visitor, &user.email, &otp);
                within(parts.store.send_code(&new, &user.id, &mail)).await?;
                parts.mails.notify_one();
            }
            // The same work for nobody.
            None => within(parts.store.as_if_a_code_was_sent(&new)).await?,
        }
        Ok(plain(NEUTRAL))
    }

    async fn reset_password(
        &self,
        visitor: &Visitor,
        body: api::ResetPassword,
    ) -> Result<api::Plain, Error> {
        let parts = self;
        parts.admit(visitor).await?;
        let typed = body.reset_token.as_ref().and_then(api::Digits::text);
        let (Some(email), Some(typed), Some(password)) = (
            body.email.as_deref(),
            typed,
            body.new_password.map(Zeroizing::new),
        ) else {
            return Err(Error::invalid(
                "Email, reset token and new password are required",
            ));
        };
        let (_, norm) = address::required(Some(email))?;
        check_new(&password, "newPassword", parts.config.password_min, &norm)?;
        let purpose = CodePurpose::Reset;
        let compared = parts
            .compare_code(purpose, &norm, &typed, visitor, TRIES_FOR)
            .await?;
        let code = match compared {
            Typed::Right(right) => right.code,
            Typed::Ended => return Err(reset_failed("Reset token has expired")),
            Typed::Wrong => return Err(reset_failed("Invalid reset token")),
        };
        let hash = parts.passwords.hash(password).await?;
        let table = parts.table().await?;
        let mail = mails::password_changed(visitor, &norm);
        let changed =
            parts
                .store
                .reset_password(table, &norm, code.id, &code.user_id, &hash, &mail);
        let Some(user) = within(changed).await? else {
            return Err(reset_failed("Invalid reset token"));
        };
        parts.mails.notify_one();
        parts.user_changed(&user.id);
        Ok(plain("Password reset successfully"))
    }

    /// A wrong current password counts as a failed login.
    async fn compare_current(
        &self,
        visitor: &Visitor,
        who: &Principal,
        current: Zeroizing<String>,
    ) -> Result<(), Error> {
        let wrong = || Error::invalid("Current password is incorrect");
        if current.len() > MAX_BYTES {
            return Err(wrong());
        }
        let account = format!("{}\0{}", who.user.id, visitor.network);
        self.limits
            .wait_after_failures(&OF_ONE_ACCOUNT, &account)
            .await?;
        let hash = who.user.password.clone();
        match self.passwords.verify(current, hash).await? {
            Verdict::Wrong => {
                self.limits.failed(&OF_ONE_ACCOUNT, &account).await?;
                Err(wrong())
            }
            _ => self.limits.forgive(&OF_ONE_ACCOUNT, &account).await,
        }
    }
}

fn reset_failed(why: &str) -> Error {
    Error::invalid(format!("Password reset failed: {why}"))
}

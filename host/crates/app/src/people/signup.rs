//! Signing up: an unverified account and a code by mail, then the code.

use patchbay_api::people as api;
use patchbay_store::{CodePurpose, CodeRow, NewSignup, Replaces, SessionMethod, UserKey, UserRow};
use serde_json::{Map, Value};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::codes::{Typed, is_signup_of};
use super::config::{SIGNUP_CODE_LIFE, TRIES_FOR};
use super::passwords::{Verdict, busy, check_new};
use super::tokens::{code, refresh_token};
use super::{People, PeopleParts, Visitor, address, mails, plain, within};
use crate::error::Error;
use crate::login_meters::{LoginKind, LoginMethod};

const SENT: &str = "OTP sent to your email";
const MAX_DEVICE_INFO: usize = 2_000;
/// Signups of one address at the same time that overtake one before it gives up.
const MOST_OVERTAKEN: usize = 5;

impl People {
    /// Makes an unverified account, and mails a code. The answer is the same for an address that
    /// has an account.
    pub async fn sign_up(&self, visitor: &Visitor, body: api::SignUp) -> Result<api::Plain, Error> {
        let parts = self.parts()?;
        parts.steps.hold(parts.sign_up(visitor, body)).await
    }

    /// Verifies an account by its code, and logs it in.
    pub async fn verify_otp(
        &self,
        visitor: &Visitor,
        body: api::VerifyOtp,
    ) -> Result<api::Issued, Error> {
        let parts = self.parts()?;
        let result = parts
            .steps
            .hold_refusals(parts.verify_otp(visitor, body))
            .await;
        parts
            .noticed
            .logins
            .count(LoginKind::User, LoginMethod::Otp, &result);
        result
    }
}

impl PeopleParts {
    async fn sign_up(&self, visitor: &Visitor, body: api::SignUp) -> Result<api::Plain, Error> {
        let parts = self;
        parts.admit(visitor).await?;
        let (_, norm) = address::required(body.email.as_deref())?;
        let Some(password) = body.password.map(Zeroizing::new) else {
            return Err(Error::invalid("Password is required"));
        };
        check_new(&password, "password", parts.config.password_min, &norm)?;
        let device = body.device_info.as_ref().map(Value::to_string);
        if device
            .as_ref()
            .is_some_and(|device| device.len() > MAX_DEVICE_INFO)
        {
            return Err(Error::invalid(format!(
                "deviceInfo: must have at most {MAX_DEVICE_INFO} bytes"
            )));
        }
        if parts.config.reveal_accounts {
            let table = parts.table().await?;
            let key = UserKey::Email {
                typed: &norm,
                norm: &norm,
            };
            let user = within(parts.store.find_user(table, key)).await?;
            if user.is_some_and(|user| user.is_verified) {
                return Err(Error::invalid("Sign up failed: User already exists"));
            }
        }
        parts.admit_code(visitor, &norm).await?;
        let hash = parts.passwords.hash(password.clone()).await?;
        for _ in 0..MOST_OVERTAKEN {
            let sent = within(parts.store.codes(CodePurpose::Signup, &norm)).await?;
            let replaced = parts.same_signup(visitor, &sent, &password).await?;
            let begun = parts.begin_signup(visitor, &norm, &hash, device.clone(), &sent, replaced);
            if begun.await? {
                return Ok(plain(SENT));
            }
        }
        Err(busy())
    }

    async fn verify_otp(
        &self,
        visitor: &Visitor,
        body: api::VerifyOtp,
    ) -> Result<api::Issued, Error> {
        let parts = self;
        parts.admit(visitor).await?;
        let (typed, norm) = address::required(body.email.as_deref())?;
        let Some(otp) = body.otp.as_ref().and_then(api::Digits::text) else {
            return Err(Error::invalid("otp: must be the code of the mail"));
        };
        let table = parts.table().await?;
        if parts.config.reveal_accounts {
            let key = UserKey::Email { typed, norm: &norm };
            if within(parts.store.find_user(table, key)).await?.is_none() {
                return Err(Error::not_found("User not found"));
            }
        }
        let purpose = CodePurpose::Signup;
        let compared = parts.compare_code(purpose, &norm, &otp, visitor, TRIES_FOR);
        let Typed::Right(right) = compared.await? else {
            return Err(invalid_otp());
        };
        // Somebody else who signed up with this address does not get to choose its password.
        let (code, password) = (&right.code, right.password_from_here(visitor));
        let (refresh, hash) = refresh_token();
        let session = parts.new_session(visitor, SessionMethod::Otp, hash);
        let verified =
            parts
                .store
                .verify_signup(table, &norm, code.id, &code.user_id, password, &session);
        let Some(user) = within(verified).await? else {
            return Err(invalid_otp());
        };
        parts.user_changed(&user.id);
        parts.note_login(visitor, &user, "login").await?;
        parts
            .issued(
                "OTP verified successfully",
                &user,
                session.id,
                Some(refresh),
            )
            .await
    }

    /// The last signup of this network for the address, if it was with the same password. The same work
    /// is done where there is none.
    async fn same_signup(
        &self,
        visitor: &Visitor,
        sent: &[CodeRow],
        password: &Zeroizing<String>,
    ) -> Result<Option<Uuid>, Error> {
        let last = sent.iter().rfind(|code| is_signup_of(code, visitor));
        let hash = last.and_then(|code| code.password_hash.clone());
        let verdict = self.passwords.verify(password.clone(), hash).await?;
        Ok(last
            .filter(|_| verdict != Verdict::Wrong)
            .map(|code| code.id))
    }

    /// `sent`: the codes of this address. False if there are others meanwhile.
    async fn begin_signup(
        &self,
        visitor: &Visitor,
        norm: &str,
        hash: &str,
        device: Option<String>,
        sent: &[CodeRow],
        replaced: Option<Uuid>,
    ) -> Result<bool, Error> {
        let table = self.table().await?;
        let otp = code();
        let mut new = self
            .new_code(CodePurpose::Signup, norm, &otp, visitor, SIGNUP_CODE_LIFE)
            .await?;
        new.password_hash = Some(hash);
        new.replaces = Replaces::Only(replaced);
        let known: Vec<Uuid> = sent.iter().map(|code| code.id).collect();
        let mut values: Map<String, Value> = Map::new();
        values.insert("role".into(), table.spelling("role", "user").into());
        values.insert("stage".into(), table.stage(1).into());
        values.insert("isVerified".into(), "false".into());
        values.insert("isProfileComplete".into(), "false".into());
        let texts = [
            ("deviceInfo", device),
            (
                "ipAddress",
                visitor.address.map(|address| address.to_string()),
            ),
            ("userAgent", visitor.user_agent().map(str::to_owned)),
        ];
        for (column, text) in texts {
            if let Some(text) = text {
                values.insert(column.into(), text.into());
            }
        }
        let (mail, exists) = (
            mails::signup_code(visitor, norm, &otp),
            mails::account_exists(visitor, norm),
        );
        let signup = NewSignup {
            code: new,
            known: &known,
            values: &values,
            mail: &mail,
            mail_if_verified: &exists,
        };
        let is_begun = within(self.store.sign_up(table, &signup)).await?;
        self.mails.notify_one();
        Ok(is_begun)
    }

    /// A new code for an account that tries to log in before it is verified.
    pub(super) async fn send_signup_code(
        &self,
        visitor: &Visitor,
        norm: &str,
        user: &UserRow,
    ) -> Result<(), Error> {
        self.admit_code(visitor, norm).await?;
        let otp = code();
        let new = self
            .new_code(CodePurpose::Signup, norm, &otp, visitor, SIGNUP_CODE_LIFE)
            .await?;
        let mail = mails::signup_code(visitor, norm, &otp);
        within(self.store.send_code(&new, &user.id, &mail)).await?;
        self.mails.notify_one();
        Ok(())
    }
}

/// For a wrong code, one that has ended or was used, and an unknown address.
fn invalid_otp() -> Error {
    Error::invalid("Invalid OTP")
}

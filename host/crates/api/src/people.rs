//! Accounts of API clients: logging in and out under `/api/auth`, in the shapes of the previous
//! backend, and what operators do with accounts.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::answer::{Data, List, Whole};
use crate::body::{Credentials, Json, NoBody};
use crate::operation::NoQuery;
use crate::{operations, path_params};

path_params! {
    /// A session of the account that asks.
    SessionPath {
        /// Id of the session
        session: String,
    }
}

path_params! {
    /// An account.
    AccountPath {
        /// Id or mail address of the account
        account: String,
    }
}

operations! {
    /// Sign up: makes an unverified account and mails a code. The answer is the same for an address
    /// that has an account.
    AuthSignup = "auth.signup": POST "/api/auth/signup" ((), NoQuery, Credentials<SignUp>) -> Whole<Plain>,
        Guest, Changes, audit "auth.signup", errors [];
    /// Verify an account with the code of the mail, and log in.
    AuthVerifyOtp = "auth.verify_otp": POST "/api/auth/verify-otp" ((), NoQuery, Credentials<VerifyOtp>) -> Whole<Issued>,
        Guest, Changes, audit "auth.verify-otp", errors [404 "`not-found`: no account has this address; only with `people.reveal_accounts`"];
    /// Complete the profile of the account, the last step of a signup.
    AuthCompleteProfile = "auth.complete_profile": POST "/api/auth/complete-profile" ((), NoQuery, Credentials<CompleteProfile>) -> Whole<Profiled>,
        User, Changes, audit "auth.complete-profile", errors [404 "`not-found`: the account is gone"];
    /// Log in with address and password.
    AuthLogin = "auth.login": POST "/api/auth/login" ((), NoQuery, Credentials<LogIn>) -> Whole<Issued>,
        Guest, Changes, audit "auth.login", errors [
            401 "`invalid-credentials`: no account has this address and password",
            403 "`blocked`, `not-verified` or `forbidden`: the password is right, but the account may not log in (here)",
        ];
    /// Log in with an ID token of Google. Off by default.
    AuthGoogle = "auth.google": POST "/api/auth/google" ((), NoQuery, Credentials<GoogleLogIn>) -> Whole<Issued>,
        Guest, Changes, audit "auth.google", errors [
            403 "`blocked` or `forbidden`: the account may not log in (here)",
            404 "`not-found`: login with Google is off",
        ];
    /// Exchange a refresh token, which is used up, for a new access token and a new refresh token. A
    /// refresh token that was used before ends its session.
    AuthRefresh = "auth.refresh": POST "/api/auth/refresh" ((), NoQuery, Credentials<RefreshToken>) -> Whole<Issued>,
        Guest, Changes, audit "auth.refresh", errors [401 "`invalid-token`: the refresh token is unknown, used or expired, or its session has ended"];
    /// Log out: ends the session of the access token (also of one that has expired) or of the refresh
    /// token.
    AuthLogout = "auth.logout": POST "/api/auth/logout" ((), NoQuery, Credentials<RefreshToken>) -> Whole<Plain>,
        Guest, Changes, audit "auth.logout", errors [401 "`token-missing` or `invalid-token`"];
    /// Log out everywhere: ends every session of the account.
    AuthLogoutAll = "auth.logout_all": POST "/api/auth/logout-all" ((), NoQuery, Credentials<RefreshToken>) -> Whole<Plain>,
        Guest, Changes, audit "auth.logout-all", errors [401 "`token-missing` or `invalid-token`"];
    /// List the account's open sessions, the one used last first.
    AuthSessions = "auth.sessions": GET "/api/auth/sessions" ((), NoQuery, NoBody) -> Whole<Sessions>,
        User, Reads, errors [];
    /// End one session of the account.
    AuthEndSession = "auth.end_session": DELETE "/api/auth/sessions/{session}" (SessionPath, NoQuery, NoBody) -> Whole<Plain>,
        User, Changes, audit "auth.end-session", errors [404 "`not-found`: the account has no such open session"];
    /// Ask for a code to set a new password. The answer never tells whether there is an account.
    AuthForgotPassword = "auth.forgot_password": POST "/api/auth/forgot-password" ((), NoQuery, Credentials<ForgotPassword>) -> Whole<Plain>,
        Guest, Changes, audit "auth.forgot-password", errors [];
    /// Set a new password with the code of the mail. Ends every session.
    AuthResetPassword = "auth.reset_password": POST "/api/auth/reset-password" ((), NoQuery, Credentials<ResetPassword>) -> Whole<Plain>,
        Guest, Changes, audit "auth.reset-password", errors [];
    /// Change the password. Ends the account's other sessions; this one gets new tokens.
    AuthChangePassword = "auth.change_password": POST "/api/auth/change-password" ((), NoQuery, Credentials<ChangePassword>) -> Whole<Issued>,
        User, Changes, audit "auth.change-password", errors [
            403 "`forbidden`: a session of the emergency login",
            409 "`conflict`: the account has changed meanwhile",
        ];
    /// Log in to any account in an emergency, for 15 minutes. Off by default; every use is recorded.
    AuthMasterLogin = "auth.master_login": POST "/api/auth/master-login" ((), NoQuery, Credentials<MasterLogIn>) -> Whole<Issued>,
        Guest, Changes, audit "auth.master-login", errors [
            401 "`invalid-credentials`: password, code or account is wrong, or the code was used",
            403 "`blocked`: the account is blocked",
            404 "`not-found`: the emergency login is off",
        ];
    /// Show the account that asks.
    PeopleProfile = "people.profile": GET "/api/users/profile" ((), NoQuery, NoBody) -> Whole<Profile>,
        User, Reads, errors [];
    /// List accounts, sorted by id.
    PeopleList = "people.list": GET "/api/admin/people" ((), PeopleQuery, NoBody) -> List<Account>,
        Operator, Reads, errors [404 "`accounts-off`: this host serves no accounts"];
    /// Show an account with its open sessions.
    PeopleShow = "people.show": GET "/api/admin/people/{account}" (AccountPath, NoQuery, NoBody) -> Data<AccountDetails>,
        Operator, Reads, errors [404 "`not-found` or `accounts-off`: there is no such account"];
    /// Block an account: its sessions end, and it cannot log in.
    PeopleBlock = "people.block": POST "/api/admin/people/{account}/block" (AccountPath, NoQuery, NoBody) -> Data<Account>,
        Operator, Changes, audit "person.block", errors [404 "`not-found` or `accounts-off`: there is no such account"];
    /// Let a blocked account log in again.
    PeopleUnblock = "people.unblock": POST "/api/admin/people/{account}/unblock" (AccountPath, NoQuery, NoBody) -> Data<Account>,
        Operator, Changes, audit "person.unblock", errors [
            404 "`not-found` or `accounts-off`: there is no such account",
            409 "`conflict`: the table's own column blocks it",
        ];
    /// End every session of an account.
    PeopleEndSessions = "people.end_sessions": DELETE "/api/admin/people/{account}/sessions" (AccountPath, NoQuery, NoBody) -> Data<SessionsEnded>,
        Operator, Changes, audit "person.end-sessions", errors [404 "`not-found` or `accounts-off`: there is no such account"];
    /// Give an account another role. Its next request has it.
    PeopleSetRole = "people.set_role": PUT "/api/admin/people/{account}/role" (AccountPath, NoQuery, Json<RoleChange>) -> Data<Account>,
        Owner, Changes, audit "person.set-role", errors [404 "`not-found` or `accounts-off`: there is no such account"];
}

/// Address and password of a new account.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignUp {
    /// Mail address.
    #[serde(default)]
    #[schema(required)]
    pub email: Option<String>,
    /// At least `people.password_min` characters (8 unless configured), at most 1,024 bytes.
    #[serde(default)]
    #[schema(required)]
    pub password: Option<String>,
    /// Anything that the client tells of its device; kept as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub device_info: Option<Value>,
}

/// Digits, as a text or as a number.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Digits {
    /// With leading zeros.
    Text(String),
    /// Leading zeros are added.
    Number(u32),
}

impl Digits {
    /// The digits; `None` for a text that is no code.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Text(text) => {
                let text = text.trim();
                let is_code = text.len() <= 16 && !text.is_empty();
                (is_code && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.to_owned())
            }
            Self::Number(number) => Some(format!("{number:06}")),
        }
    }
}

/// The code of a signup's mail.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct VerifyOtp {
    /// Mail address.
    #[serde(default)]
    #[schema(required)]
    pub email: Option<String>,
    /// Six digits; valid for 10 minutes.
    #[serde(default)]
    #[schema(required)]
    pub otp: Option<Digits>,
}

/// The profile of an account. Absent fields stay as they are.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CompleteProfile {
    /// At most 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<String>,
    /// At most 20 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// At most 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profession: Option<String>,
    /// At most 255 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Address of a picture; at most 2,048 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_photo: Option<String>,
}

/// Address and password.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct LogIn {
    /// Mail address.
    #[serde(default)]
    #[schema(required)]
    pub email: Option<String>,
    /// The password.
    #[serde(default)]
    #[schema(required)]
    pub password: Option<String>,
}

/// An ID token of Google.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GoogleLogIn {
    /// As Google's sign-in gives it to the client.
    #[serde(default)]
    #[schema(required)]
    pub id_token: Option<String>,
}

/// A refresh token. Absent where a cookie holds it, and, to log out, where there is an access token.
#[derive(Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RefreshToken {
    /// As the last login or refresh gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
}

/// Whose password is forgotten.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct ForgotPassword {
    /// Mail address.
    #[serde(default)]
    #[schema(required)]
    pub email: Option<String>,
}

/// A new password, and the code that allows it.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResetPassword {
    /// Mail address.
    #[serde(default)]
    #[schema(required)]
    pub email: Option<String>,
    /// Six digits; valid for 15 minutes.
    #[serde(default)]
    #[schema(required)]
    pub reset_token: Option<Digits>,
    /// As at the signup.
    #[serde(default)]
    #[schema(required)]
    pub new_password: Option<String>,
}

/// The present password, and the next one.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangePassword {
    /// The present password.
    #[serde(default)]
    #[schema(required)]
    pub current_password: Option<String>,
    /// As at the signup.
    #[serde(default)]
    #[schema(required)]
    pub new_password: Option<String>,
}

/// The emergency login.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MasterLogIn {
    /// Mail address of the account.
    #[serde(default)]
    #[schema(required)]
    pub email: Option<String>,
    /// The installation's password.
    #[serde(default)]
    #[schema(required)]
    pub master_password: Option<String>,
    /// The present code of the installation's TOTP (RFC 6238). Each is valid once.
    #[serde(default)]
    #[schema(required)]
    pub totp: Option<Digits>,
}

/// Done.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Plain {
    /// Always true.
    pub success: bool,
    /// What was done.
    pub message: String,
}

/// A login.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Issued {
    /// Always true.
    pub success: bool,
    /// What was done.
    pub message: String,
    /// Access token: `Authorization: Bearer TOKEN`.
    pub token: String,
    /// Valid once, for 7 days. Absent after an emergency login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_token: Option<String>,
    /// Life of the access token, in seconds.
    pub expires_in: u64,
    /// The account.
    pub user: UserSummary,
}

/// An account in short.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UserSummary {
    /// Id of the account.
    pub id: String,
    /// Mail address.
    pub email: String,
    /// Full name; null until the profile is complete.
    pub name: Option<String>,
    /// Address of a picture.
    pub image: Option<String>,
}

/// The profile is complete.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Profiled {
    /// Always true.
    pub success: bool,
    /// What was done.
    pub message: String,
    /// An access token with the new facts; absent for a token of the previous backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

/// Open sessions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Sessions {
    /// Always true.
    pub success: bool,
    /// The sessions; at most 200.
    pub data: Vec<Session>,
}

/// An open session.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Id of the session.
    pub id: Uuid,
    /// Whether the request belongs to it.
    pub is_current: bool,
    /// Where the account logged in.
    pub platform: String,
    /// `password`, `otp`, `google` or `master`.
    pub method: String,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_seen_at: DateTime<Utc>,
    /// When it ends at the latest.
    pub ends_at: DateTime<Utc>,
    /// Address of the client that logged in.
    pub address: Option<String>,
    /// Program of the client that logged in.
    pub user_agent: Option<String>,
}

/// The account that asks.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// Always true.
    pub success: bool,
    /// The account.
    pub data: ProfileData,
}

/// An account as its owner sees it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileData {
    /// Id of the account.
    pub id: String,
    /// Mail address.
    pub email: String,
    /// Its role.
    pub role: String,
    /// Full name.
    pub full_name: Option<String>,
    /// Phone number.
    pub phone: Option<String>,
    /// Profession.
    pub profession: Option<String>,
    /// Field of work.
    pub domain: Option<String>,
    /// Address of a picture.
    pub profile_photo: Option<String>,
    /// Whether its mail address is verified.
    pub is_verified: bool,
    /// Whether its profile is complete.
    pub is_profile_complete: bool,
    /// 1 signed up, 2 verified, 3 profile complete.
    pub stage: u8,
}

/// Which accounts to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct PeopleQuery {
    /// Part of the address or of the name, in any case.
    pub text: Option<String>,
    /// Only accounts with this role.
    pub role: Option<String>,
    /// Only accounts that operators have blocked, or only others.
    pub blocked: Option<bool>,
    /// `nextCursor` of the page before.
    pub cursor: Option<String>,
    /// Accounts per page, 1 to 200; default 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u16>,
}

/// An account as operators see it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// Id of the account.
    pub id: String,
    /// Mail address.
    pub email: String,
    /// Its role, as it is stored.
    pub role: String,
    /// Whether the role is one of the ten; with another one the account has no rights.
    pub has_known_role: bool,
    /// Full name.
    pub name: Option<String>,
    /// Whether its mail address is verified.
    pub is_verified: bool,
    /// 1 signed up, 2 verified, 3 profile complete.
    pub stage: u8,
    /// Whether it can log in with a password.
    pub has_password: bool,
    /// Whether it may not log in.
    pub is_blocked: bool,
    /// When an operator blocked it.
    pub blocked_at: Option<DateTime<Utc>>,
    /// Who blocked it.
    pub blocked_by: Option<String>,
    /// Why it was blocked.
    pub block_reason: Option<String>,
    /// Only in the answer of a change: nothing has changed, because it was so already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
}

/// An account with its open sessions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AccountDetails {
    /// The account.
    pub account: Account,
    /// Its open sessions, the one used last first; at most 200.
    pub sessions: Vec<Session>,
}

/// Sessions that were ended.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SessionsEnded {
    /// How many were open.
    pub ended: u64,
}

/// Another role.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleChange {
    /// One of the ten roles, for example `finance`.
    pub role: String,
}

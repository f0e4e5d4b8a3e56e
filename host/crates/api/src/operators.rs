//! Operators: logging in and out, links to set a password, what owners do with operators, and tokens
//! of programs.

use chrono::{DateTime, Utc};
use patchbay_model::operator::OperatorRole;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::answer::{Data, List};
use crate::body::{Credentials, Json, NoBody};
use crate::operation::NoQuery;
pub use crate::people::Digits;
use crate::{operations, path_params};

path_params! {
    /// An operator.
    OperatorPath {
        /// Name of the operator
        operator: String,
    }
}

path_params! {
    /// A token of a program.
    TokenPath {
        /// Id of the token (the 8 characters after `pbt_`); for a token of one's own, also its name
        token: String,
    }
}

operations! {
    /// Log in as an operator. The session is a cookie. Every refusal looks the same.
    OperatorSessionOpen = "operator_session.open": POST "/api/admin/session" ((), NoQuery, Credentials<OperatorLogIn>) -> Data<OpenedOperatorSession>,
        Anyone, Changes, audit "operator.login", errors [
            401 "`invalid-credentials`: name, password or code is wrong, or the code was used",
            403 "`forbidden`: a second factor is needed, and this operator has none; or the page is of another site",
        ];
    /// Show who the request comes from, and what that one may do.
    OperatorSessionShow = "operator_session.show": GET "/api/admin/session" ((), NoQuery, NoBody) -> Data<CurrentOperator>,
        Viewer, Reads, errors [];
    /// Log out: end the session of this request.
    OperatorSessionEnd = "operator_session.end": DELETE "/api/admin/session" ((), NoQuery, NoBody) -> Data<LoggedOut>,
        Viewer, Changes, audit "operator.logout", errors [409 "`conflict`: the request belongs to no session"];
    /// Show what a link is for, with the second factor to set up. The link can be used afterwards.
    OperatorEnrolmentBegin = "operator_enrolment.begin": POST "/api/admin/enrolment/begin" ((), NoQuery, Credentials<Link>) -> Data<EnrolmentOffer>,
        Anyone, Changes, audit "operator.enrolment-begin", errors [
            404 "`not-found`: the link was used, is too old, or was replaced",
            409 "`no-vault-key`: this host has no master key, which seals second factors",
        ];
    /// Use a link: set the password and the second factor, confirmed by a code. Shows the recovery
    /// codes once.
    OperatorEnrolmentComplete = "operator_enrolment.complete": POST "/api/admin/enrolment/complete"
        ((), NoQuery, Credentials<EnrolmentCompletion>) -> Data<Enrolled>,
        Anyone, Changes, audit "operator.enrol", errors [
            404 "`not-found`: the link was used, is too old, or was replaced",
            409 "`no-vault-key`: this host has no master key, which seals second factors",
        ];
    /// List every operator, by name.
    OperatorsList = "operators.list": GET "/api/admin/operators" ((), NoQuery, NoBody) -> List<OperatorView>,
        Owner, Reads, errors [];
    /// Show an operator with the open sessions.
    OperatorsShow = "operators.show": GET "/api/admin/operators/{operator}" (OperatorPath, NoQuery, NoBody) -> Data<OperatorDetails>,
        Owner, Reads, errors [404 "there is no such operator"];
    /// Create an operator. The answer has the link, valid once for 24 hours, with which that person
    /// sets password and second factor.
    OperatorsCreate = "operators.create": POST "/api/admin/operators" ((), NoQuery, Json<NewOperator>) -> Data<InvitedOperator>,
        Owner, Changes, audit "operator.create", errors [409 "`conflict`: the name is taken, for ever; `no-vault-key`: no master key, so nobody could use the link"];
    /// Give an operator another role. The next request has it. The last active owner stays one.
    OperatorsSetRole = "operators.set_role": PUT "/api/admin/operators/{operator}/role"
        (OperatorPath, NoQuery, Json<OperatorRoleChange>) -> Data<OperatorView>,
        Owner, Changes, audit "operator.set-role", errors [409 "`conflict`: the last active owner, or the role comes from single sign-on"];
    /// Set whether an operator may see data, results and logs of jobs.
    OperatorsSetData = "operators.set_data": PUT "/api/admin/operators/{operator}/data"
        (OperatorPath, NoQuery, Json<OperatorDataChange>) -> Data<OperatorView>,
        Owner, Changes, audit "operator.set-data", errors [409 "`conflict`: the right comes from single sign-on"];
    /// Disable an operator: sessions, tokens and links end at once. The last active owner stays.
    OperatorsDisable = "operators.disable": POST "/api/admin/operators/{operator}/disable" (OperatorPath, NoQuery, NoBody) -> Data<OperatorView>,
        Owner, Changes, audit "operator.disable", errors [409 "`conflict`: the last active owner"];
    /// Let a disabled operator log in again. Tokens stay revoked.
    OperatorsEnable = "operators.enable": POST "/api/admin/operators/{operator}/enable" (OperatorPath, NoQuery, NoBody) -> Data<OperatorView>,
        Owner, Changes, audit "operator.enable", errors [];
    /// Make a link with which an operator sets another password and second factor. The links before
    /// it end.
    OperatorsLink = "operators.link": POST "/api/admin/operators/{operator}/link" (OperatorPath, NoQuery, NoBody) -> Data<InvitedOperator>,
        Owner, Changes, audit "operator.link", errors [409 "`conflict`: the operator is disabled; `no-vault-key`: no master key, so nobody could use the link"];
    /// End every session of an operator.
    OperatorsEndSessions = "operators.end_sessions": DELETE "/api/admin/operators/{operator}/sessions"
        (OperatorPath, NoQuery, NoBody) -> Data<OperatorSessionsEnded>,
        Owner, Changes, audit "operator.end-sessions", errors [];
    /// List tokens that can be used: those of the caller; for an owner also others'.
    OperatorTokensList = "operator_tokens.list": GET "/api/admin/tokens" ((), TokensQuery, NoBody) -> List<OperatorToken>,
        Viewer, Reads, errors [403 "`forbidden`: tokens of others need the role owner", 404 "`not-found`: there is no such operator"];
    /// Create a token of the caller, for a program. The answer has the secret, once.
    OperatorTokensCreate = "operator_tokens.create": POST "/api/admin/tokens" ((), NoQuery, Json<NewToken>) -> Data<CreatedToken>,
        Viewer, Changes, audit "operator-token.create", errors [
            403 "`forbidden`: a token belongs to an operator who has logged in",
            409 "`conflict`: there is a token of this name",
        ];
    /// Revoke a token at once; an owner also others', by their id.
    OperatorTokensRevoke = "operator_tokens.revoke": DELETE "/api/admin/tokens/{token}" (TokenPath, NoQuery, NoBody) -> Data<OperatorToken>,
        Viewer, Changes, audit "operator-token.revoke", errors [404 "there is no such token"];
    /// Show what the login of the configuration (admin.username) opens.
    OperatorBasicShow = "operator_basic.show": GET "/api/admin/basic" ((), NoQuery, NoBody) -> Data<BasicLogin>,
        Viewer, Reads, errors [];
    /// Set what the login of the configuration opens: `on` (everything), `board` (only Bull Board and
    /// metrics) or `off`.
    OperatorBasicSet = "operator_basic.set": PUT "/api/admin/basic" ((), NoQuery, Json<BasicChange>) -> Data<BasicLogin>,
        Owner, Changes, audit "operator.basic", errors [409 "`conflict`: no owner with a second factor has signed in yet"];
}

/// Groups of operations, for scopes of tokens.
pub fn token_groups() -> Vec<String> {
    let mut groups: Vec<String> = crate::operations()
        .filter(|operation| operation.access.role().is_some())
        .map(|operation| operation.group())
        .collect();
    groups.push(patchbay_model::operator::EVERY_GROUP.to_owned());
    groups.sort();
    groups.dedup();
    groups
}

/// Name, password, and the second factor.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorLogIn {
    /// Name of the operator.
    #[serde(default)]
    #[schema(required)]
    pub name: Option<String>,
    /// The password.
    #[serde(default)]
    #[schema(required)]
    pub password: Option<String>,
    /// The present code of the authenticator. Each is valid once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totp: Option<Digits>,
    /// A recovery code in its place. Each is valid once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_code: Option<String>,
}

/// A session that has begun. Its cookie is in the header `Set-Cookie`.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenedOperatorSession {
    /// Name of the operator.
    pub name: String,
    /// The role.
    pub role: OperatorRole,
    /// Whether data, results and logs of jobs may be seen.
    pub may_see_data: bool,
    /// When the session ends at the latest.
    pub ends_at: DateTime<Utc>,
}

/// Who a request comes from.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CurrentOperator {
    /// The name that is recorded.
    pub name: String,
    /// The role.
    pub role: OperatorRole,
    /// Whether data, results and logs of jobs may be seen.
    pub may_see_data: bool,
    /// `session`, `token`, or `basic` for the login of the configuration.
    pub credential: String,
    /// Name of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What the token opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scopes: Option<Vec<String>>,
}

/// A session that was ended.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct LoggedOut {
    /// Name of the operator.
    pub name: String,
}

/// A link, as whoever created or recovered an operator got it.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// `pbe_` and 43 characters.
    #[serde(default)]
    #[schema(required)]
    pub link: Option<String>,
}

/// What a link is for.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnrolmentOffer {
    /// Name of the operator.
    pub name: String,
    /// The role.
    pub role: OperatorRole,
    /// Whether the operator had a password before.
    pub is_reset: bool,
    /// Secret of the second factor in base32, for an authenticator.
    pub totp_secret: String,
    /// The same as `otpauth://…`, for a QR code.
    pub totp_uri: String,
    /// Whether the second factor must be set.
    pub needs_totp: bool,
}

/// What a link sets.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct EnrolmentCompletion {
    /// The link.
    #[serde(default)]
    #[schema(required)]
    pub link: Option<String>,
    /// At least 12 characters, at most 1,024 bytes.
    #[serde(default)]
    #[schema(required)]
    pub password: Option<String>,
    /// The code that the authenticator shows now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totp: Option<Digits>,
}

/// An operator who can log in now.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// Name of the operator.
    pub name: String,
    /// The role.
    pub role: OperatorRole,
    /// Codes that take the place of the second factor, each once. They are never shown again.
    pub recovery_codes: Vec<String>,
}

/// An operator.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorView {
    /// The name that is recorded.
    pub name: String,
    /// Mail address.
    pub email: Option<String>,
    /// The role.
    pub role: OperatorRole,
    /// Whether data, results and logs of jobs may be seen.
    pub may_see_data: bool,
    /// `invited`, `active` or `disabled`.
    pub state: String,
    /// `local`, or `oidc` for single sign-on.
    pub source: String,
    /// Whether a second factor is set.
    pub has_second_factor: bool,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// Who created it.
    pub created_by: String,
    /// When the last session began.
    pub last_login_at: Option<DateTime<Utc>>,
    /// Only in the answer of a change: nothing has changed, because it was so already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
}

/// An operator with open sessions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorDetails {
    /// The operator.
    pub operator: OperatorView,
    /// Recovery codes that were not used.
    pub recovery_codes_left: u32,
    /// Tokens that can be used.
    pub tokens: u32,
    /// Open sessions, the one used last first.
    pub sessions: Vec<OperatorSession>,
}

/// An open session.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorSession {
    /// Id of the session.
    pub id: Uuid,
    /// `password`, `recovery-code` or `oidc`.
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

/// A new operator.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewOperator {
    /// 1 to 63 characters of `a-z`, `0-9`, dot, underscore and hyphen, beginning with a letter. It
    /// is recorded of everything that this person does, and never used again for another.
    pub name: String,
    /// Mail address, for people to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The role.
    pub role: OperatorRole,
    /// Whether data, results and logs of jobs may be seen; absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_see_data: Option<bool>,
}

/// An operator, with a link to set password and second factor.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct InvitedOperator {
    /// The operator.
    pub operator: OperatorView,
    /// Valid once. It is never shown again.
    pub link: String,
    /// How long the link can be used, in seconds.
    pub valid_for_seconds: u64,
}

/// Another role.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OperatorRoleChange {
    /// The role.
    pub role: OperatorRole,
}

/// Whether data of jobs may be seen.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorDataChange {
    /// True: data, results and logs of jobs are shown.
    pub may_see_data: bool,
}

/// Sessions that were ended.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct OperatorSessionsEnded {
    /// How many were open.
    pub ended: u64,
}

/// Which tokens to list.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct TokensQuery {
    /// Only those of this operator; for an owner.
    pub operator: Option<String>,
    /// Those of every operator; for an owner.
    pub all: Option<bool>,
}

/// A new token.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewToken {
    /// What it is for; unique among the caller's tokens.
    pub name: String,
    /// At most the caller's; absent: the caller's, but not owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OperatorRole>,
    /// Whether it may see data of jobs; absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub may_see_data: Option<bool>,
    /// What it opens, for example `queues:read`, `plugins:write` or `owner:secrets`.
    pub scopes: Vec<String>,
    /// Networks it may come from, for example `10.0.0.0/8`; empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// Days until it expires; absent: 90. At most `operators.token_max_days`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u16>,
}

/// A token, without its secret.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorToken {
    /// The 8 characters after `pbt_`.
    pub id: String,
    /// What it is for.
    pub name: String,
    /// Whose it is. It can do no more than that operator can now.
    pub operator: String,
    /// Its role.
    pub role: OperatorRole,
    /// Whether it may see data of jobs.
    pub may_see_data: bool,
    /// What it opens.
    pub scopes: Vec<String>,
    /// Networks it may come from; empty: any.
    pub networks: Vec<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Only in the answer of a change: nothing has changed, because it was so already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
}

/// A token that was created.
#[derive(Serialize, Deserialize, ToSchema)]
pub struct CreatedToken {
    /// What the program sends: `Authorization: Bearer SECRET`. It is never shown again.
    pub secret: String,
    /// The token.
    pub token: OperatorToken,
}

/// What the login of the configuration opens.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BasicLogin {
    /// `on`: everything, as an owner. `board`: Bull Board and metrics. `off`: nothing.
    pub mode: String,
    /// Active owners.
    pub owners: u32,
    /// Active owners who have signed in.
    pub owners_signed_in: u32,
    /// Only in the answer of a change: nothing has changed, because it was so already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
}

/// What the login of the configuration should open.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BasicChange {
    /// `on`, `board` or `off`.
    pub mode: String,
}

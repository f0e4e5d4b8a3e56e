//! Routes of accounts: `/api/auth`, the profile, and what operators do with accounts.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use patchbay_api::answer::Page;
use patchbay_api::people::*;
use patchbay_app::people::People;
use patchbay_app::{Caller, Error};
use serde::Serialize;

use crate::cookies::{self, CookiePolicy};
use crate::error::ApiError;

use crate::routes::{Ask, Routes};
use crate::user_login::{From, SignedIn, access_token};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add_raw::<AuthSignup, _>(sign_up)
        .add_raw::<AuthVerifyOtp, _>(verify_otp)
        .add_raw::<AuthCompleteProfile, _>(complete_profile)
        .add_raw::<AuthLogin, _>(log_in)
        .add_raw::<AuthGoogle, _>(google)
        .add_raw::<AuthRefresh, _>(refresh)
        .add_raw::<AuthLogout, _>(log_out)
        .add_raw::<AuthLogoutAll, _>(log_out_everywhere)
        .add_raw::<AuthSessions, _>(sessions)
        .add_raw::<AuthEndSession, _>(end_session)
        .add_raw::<AuthForgotPassword, _>(forgot_password)
        .add_raw::<AuthResetPassword, _>(reset_password)
        .add_raw::<AuthChangePassword, _>(change_password)
        .add_raw::<AuthMasterLogin, _>(master_login)
        .add_raw::<PeopleProfile, _>(profile)
        .add::<PeopleList, _>(list)
        .add::<PeopleShow, _>(show)
        .add::<PeopleBlock, _>(block)
        .add::<PeopleUnblock, _>(unblock)
        .add::<PeopleEndSessions, _>(end_sessions)
        .add::<PeopleSetRole, _>(set_role)
}

fn answered<T: Serialize>(result: Result<T, Error>) -> Response {
    match result {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// The answer of a login, with cookies where they are configured.
fn issued(policy: CookiePolicy, result: Result<Issued, Error>) -> Response {
    match result {
        Ok(issued) => {
            let set = policy.of_login(&issued.token, issued.refresh_token.as_deref());
            cookies::with(axum::Json(issued).into_response(), set)
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// The answer of a logout.
fn forgotten(policy: CookiePolicy, result: Result<Plain, Error>) -> Response {
    match result {
        Ok(done) => cookies::with(axum::Json(done).into_response(), policy.of_logout()),
        Err(error) => ApiError::from(error).into_response(),
    }
}

async fn sign_up(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(mut visitor): From,
    ask: Ask<AuthSignup>,
) -> Response {
    // By this cookie the code may also be typed on another network.
    let browser = uuid::Uuid::new_v4().to_string();
    visitor.browser = Some(browser.clone());
    match people.sign_up(&visitor, ask.body.0).await {
        Ok(done) => {
            let set = policy.of_signup(&browser);
            cookies::with(axum::Json(done).into_response(), set)
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

async fn verify_otp(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(visitor): From,
    ask: Ask<AuthVerifyOtp>,
) -> Response {
    issued(policy, people.verify_otp(&visitor, ask.body.0).await)
}

async fn complete_profile(
    State(people): State<People>,
    SignedIn(who): SignedIn,
    ask: Ask<AuthCompleteProfile>,
) -> Response {
    answered(people.complete_profile(&who, ask.body.0).await)
}

async fn log_in(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(visitor): From,
    ask: Ask<AuthLogin>,
) -> Response {
    issued(policy, people.log_in(&visitor, ask.body.0).await)
}

async fn google(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(visitor): From,
    ask: Ask<AuthGoogle>,
) -> Response {
    issued(policy, people.google(&visitor, ask.body.0).await)
}

async fn refresh(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(visitor): From,
    headers: HeaderMap,
    ask: Ask<AuthRefresh>,
) -> Response {
    let token = refresh_token(&headers, ask.body.0).unwrap_or_default();
    issued(policy, people.refresh(&visitor, &token).await)
}

async fn log_out(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(visitor): From,
    headers: HeaderMap,
    ask: Ask<AuthLogout>,
) -> Response {
    let (access, refresh) = (access_token(&headers), refresh_token(&headers, ask.body.0));
    let ended = people.log_out(&visitor, access.as_deref(), refresh.as_deref());
    forgotten(policy, ended.await)
}

async fn log_out_everywhere(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(visitor): From,
    headers: HeaderMap,
    ask: Ask<AuthLogoutAll>,
) -> Response {
    let (access, refresh) = (access_token(&headers), refresh_token(&headers, ask.body.0));
    let ended = people.log_out_everywhere(&visitor, access.as_deref(), refresh.as_deref());
    forgotten(policy, ended.await)
}

/// Of the body, or else of the cookie.
fn refresh_token(headers: &HeaderMap, body: RefreshToken) -> Option<String> {
    body.refresh_token
        .or_else(|| cookies::agreeing(headers, &[cookies::REFRESH]))
}

async fn sessions(
    State(people): State<People>,
    SignedIn(who): SignedIn,
    _ask: Ask<AuthSessions>,
) -> Response {
    answered(people.sessions(&who).await)
}

async fn end_session(
    State(people): State<People>,
    From(visitor): From,
    SignedIn(who): SignedIn,
    ask: Ask<AuthEndSession>,
) -> Response {
    answered(people.end_session(&visitor, &who, &ask.path.session).await)
}

async fn forgot_password(
    State(people): State<People>,
    From(visitor): From,
    ask: Ask<AuthForgotPassword>,
) -> Response {
    answered(people.forgot_password(&visitor, ask.body.0).await)
}

async fn reset_password(
    State(people): State<People>,
    From(visitor): From,
    ask: Ask<AuthResetPassword>,
) -> Response {
    answered(people.reset_password(&visitor, ask.body.0).await)
}

async fn change_password(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(visitor): From,
    SignedIn(who): SignedIn,
    ask: Ask<AuthChangePassword>,
) -> Response {
    let changed = people.change_password(&visitor, &who, ask.body.0);
    issued(policy, changed.await)
}

async fn master_login(
    State(people): State<People>,
    State(policy): State<CookiePolicy>,
    From(visitor): From,
    ask: Ask<AuthMasterLogin>,
) -> Response {
    issued(policy, people.master_login(&visitor, ask.body.0).await)
}

async fn profile(
    State(people): State<People>,
    SignedIn(who): SignedIn,
    _ask: Ask<PeopleProfile>,
) -> Response {
    answered(people.profile(&who))
}

async fn list(people: People, _: Caller, ask: Ask<PeopleList>) -> Result<Page<Account>, Error> {
    people.list(ask.query).await
}

async fn show(people: People, _: Caller, ask: Ask<PeopleShow>) -> Result<AccountDetails, Error> {
    people.show(&ask.path.account).await
}

async fn block(people: People, who: Caller, ask: Ask<PeopleBlock>) -> Result<Account, Error> {
    people.block(&who, &ask.path.account).await
}

async fn unblock(people: People, who: Caller, ask: Ask<PeopleUnblock>) -> Result<Account, Error> {
    people.unblock(&who, &ask.path.account).await
}

async fn end_sessions(
    people: People,
    who: Caller,
    ask: Ask<PeopleEndSessions>,
) -> Result<SessionsEnded, Error> {
    people.end_sessions(&who, &ask.path.account).await
}

async fn set_role(people: People, who: Caller, ask: Ask<PeopleSetRole>) -> Result<Account, Error> {
    people.set_role(&who, &ask.path.account, ask.body.0).await
}

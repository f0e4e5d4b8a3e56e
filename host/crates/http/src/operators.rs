//! Routes of operators: logging in and out, links, what owners do with operators, and tokens.

use std::net::Ipv4Addr;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, HeaderValue};
use patchbay_api::answer::Success;
use patchbay_api::operators::*;
use patchbay_app::operators::Operators;
use patchbay_app::{Caller, Error};
use serde::Serialize;

use crate::AppState;
use crate::cookies;
use crate::error::ApiError;
use crate::routes::{Ask, CallerExtractor, Routes};
use crate::user_login::From;

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add_raw::<OperatorSessionOpen, _>(log_in)
        .add::<OperatorSessionShow, _>(who_am_i)
        .add_raw::<OperatorSessionEnd, _>(log_out)
        .add_raw::<OperatorEnrolmentBegin, _>(begin_enrolment)
        .add_raw::<OperatorEnrolmentComplete, _>(complete_enrolment)
        .add::<OperatorsList, _>(list)
        .add::<OperatorsShow, _>(show)
        .add::<OperatorsCreate, _>(create)
        .add::<OperatorsSetRole, _>(set_role)
        .add::<OperatorsSetData, _>(set_data)
        .add::<OperatorsDisable, _>(disable)
        .add::<OperatorsEnable, _>(enable)
        .add::<OperatorsLink, _>(link)
        .add::<OperatorsEndSessions, _>(end_sessions)
        .add::<OperatorTokensList, _>(tokens)
        .add::<OperatorTokensCreate, _>(create_token)
        .add::<OperatorTokensRevoke, _>(revoke_token)
        .add::<OperatorBasicShow, _>(show_basic)
        .add::<OperatorBasicSet, _>(set_basic)
}

/// An answer that holds a secret, and that nobody keeps.
fn answered<T: Serialize>(result: Result<T, Error>) -> Response {
    match result {
        Ok(data) => {
            let mut response = axum::Json(Success::from(data)).into_response();
            response
                .headers_mut()
                .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

async fn log_in(
    State(state): State<AppState>,
    From(visitor): From,
    ask: Ask<OperatorSessionOpen>,
) -> Response {
    let opened = state.app.operators.log_in(&visitor, ask.body.0).await;
    let (row, session) = match opened {
        Ok(opened) => opened,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let client = visitor.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let name = cookies::operator_name(state.is_https, client);
    let set = cookies::of_operator(name, Some(&session.secret));
    let answer = OpenedOperatorSession {
        name: row.name,
        role: row.role,
        may_see_data: row.may_see_data,
        ends_at: session.ends_at,
    };
    cookies::with(answered(Ok(answer)), vec![set])
}

async fn log_out(
    State(state): State<AppState>,
    From(visitor): From,
    CallerExtractor(who): CallerExtractor,
    _ask: Ask<OperatorSessionEnd>,
) -> Response {
    let ended = state.app.operators.log_out(&who).await;
    let is_ended = ended.is_ok();
    let response = answered(ended);
    if !is_ended {
        return response;
    }
    let client = visitor.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let name = cookies::operator_name(state.is_https, client);
    cookies::with(response, vec![cookies::of_operator(name, None)])
}

async fn begin_enrolment(
    State(operators): State<Operators>,
    From(visitor): From,
    ask: Ask<OperatorEnrolmentBegin>,
) -> Response {
    answered(operators.begin_enrolment(&visitor, ask.body.0).await)
}

async fn complete_enrolment(
    State(operators): State<Operators>,
    From(visitor): From,
    ask: Ask<OperatorEnrolmentComplete>,
) -> Response {
    answered(operators.complete_enrolment(&visitor, ask.body.0).await)
}

async fn who_am_i(
    operators: Operators,
    who: Caller,
    _: Ask<OperatorSessionShow>,
) -> Result<CurrentOperator, Error> {
    Ok(operators.whoami(&who.operator))
}

async fn list(
    operators: Operators,
    _: Caller,
    _: Ask<OperatorsList>,
) -> Result<Vec<OperatorView>, Error> {
    operators.list().await
}

async fn show(
    operators: Operators,
    _: Caller,
    ask: Ask<OperatorsShow>,
) -> Result<OperatorDetails, Error> {
    operators.show(&ask.path.operator).await
}

async fn create(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorsCreate>,
) -> Result<InvitedOperator, Error> {
    operators.create(&who, ask.body.0).await
}

async fn set_role(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorsSetRole>,
) -> Result<OperatorView, Error> {
    operators
        .set_role(&who, &ask.path.operator, ask.body.0)
        .await
}

async fn set_data(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorsSetData>,
) -> Result<OperatorView, Error> {
    operators
        .set_data(&who, &ask.path.operator, ask.body.0)
        .await
}

async fn disable(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorsDisable>,
) -> Result<OperatorView, Error> {
    operators.disable(&who, &ask.path.operator).await
}

async fn enable(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorsEnable>,
) -> Result<OperatorView, Error> {
    operators.enable(&who, &ask.path.operator).await
}

async fn link(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorsLink>,
) -> Result<InvitedOperator, Error> {
    operators.link(&who, &ask.path.operator).await
}

async fn end_sessions(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorsEndSessions>,
) -> Result<OperatorSessionsEnded, Error> {
    operators.end_sessions(&who, &ask.path.operator).await
}

async fn tokens(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorTokensList>,
) -> Result<Vec<OperatorToken>, Error> {
    operators.tokens(&who, ask.query).await
}

async fn create_token(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorTokensCreate>,
) -> Result<CreatedToken, Error> {
    operators.create_token(&who, ask.body.0).await
}

async fn revoke_token(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorTokensRevoke>,
) -> Result<OperatorToken, Error> {
    operators.revoke_token(&who, &ask.path.token).await
}

async fn show_basic(
    operators: Operators,
    _: Caller,
    _: Ask<OperatorBasicShow>,
) -> Result<BasicLogin, Error> {
    operators.show_basic().await
}

async fn set_basic(
    operators: Operators,
    who: Caller,
    ask: Ask<OperatorBasicSet>,
) -> Result<BasicLogin, Error> {
    operators.set_basic(&who, ask.body.0).await
}

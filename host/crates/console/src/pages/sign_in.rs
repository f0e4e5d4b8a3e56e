//! Signing in with name, password and code, by single sign-on, or with the shared login; signing out.

use axum::Router;
use axum::extract::Query;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::SET_COOKIE;
use maud::html;
use patchbay_api::body::{Credentials, NoBody};
use patchbay_api::oidc::OidcStart;
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::operators::{
    Digits, OperatorLogIn, OperatorSessionEnd, OperatorSessionOpen, OperatorSessionShow,
};
use patchbay_api::path::with_query;
use serde::Deserialize;

use crate::Site;
use crate::entry::{Anyone, Posted, PostedByAnyone, asked_for_credentials};
use crate::frame::{self, Head, Section, address, local};
use crate::session::{Problem, Visit};
use crate::show;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["sign-in"]), get(ask).post(sign_in))
        .route(&address(&["sign-out"]), post(sign_out))
        .route(&address(&["shared-login"]), get(shared_login))
}

#[derive(Deserialize)]
struct Way {
    /// Where somebody wanted to go.
    #[serde(default)]
    to: String,
}

async fn ask(Anyone(visit): Anyone, Query(way): Query<Way>) -> Response {
    let back = local(&way.to);
    // Whoever is signed in already goes on.
    let asked = visit.ask::<OperatorSessionShow>((), NoQuery {}, NoBody);
    if visit.has_credential() && asked.await.is_ok() {
        return frame::sent_on(&back);
    }
    page(&visit, &back, "", None)
}

fn page(visit: &Visit, back: &str, name: &str, refused: Option<&Problem>) -> Response {
    let config = &visit.site().config;
    let fields = html! {
        input type="hidden" name="to" value=(back);
        p {
            label for="name" { "Name" }
            input id="name" name="name" type="text" value=(name) required autocomplete="username" autocapitalize="none" spellcheck="false" maxlength="63";
        }
        p {
            label for="password" { "Password" }
            input id="password" name="password" type="password" required autocomplete="current-password";
        }
        p {
            label for="code" { "Code of the authenticator, or a recovery code" }
            input id="code" name="code" type="text" autocomplete="one-time-code" autocapitalize="none" spellcheck="false" maxlength="40"
                aria-describedby="code-about";
            span class="dim" id="code-about" { "Leave it empty if no second factor is set up for you." }
        }
        div class="actions" { button type="submit" class="primary" { "Sign in" } }
    };
    let main = html! {
        section class="card narrow" aria-label="Sign in" {
            @if let Some(refused) = refused {
                div class="problem" role="alert" { p { (show::text(&refused.message)) } }
            }
            (frame::form(visit, &address(&["sign-in"]), "stack", fields))
            @if config.has_single_sign_on {
                p { a class="button" href=(with_query(OidcStart::OPERATION.path, [("return_to", back)])) { "Sign in with single sign-on" } }
            }
            @if config.has_shared_login {
                p { a href=(address(&["shared-login"])) { "Use the shared login of the configuration" } }
            }
        }
    };
    let mut response = frame::page(visit, &Head::new(Section::Elsewhere, "Sign in"), main);
    if let Some(refused) = refused {
        *response.status_mut() = refused.status;
    }
    response
}

async fn sign_in(PostedByAnyone { visit, fields }: PostedByAnyone) -> Response {
    let back = local(fields.raw("to"));
    let name = fields.raw("name").trim().to_owned();
    let code = fields.text("code").map(str::to_owned);
    let is_totp = |code: &String| code.chars().all(|c| c.is_ascii_digit() || c == ' ');
    let (totp, recovery_code) = match code {
        Some(code) if is_totp(&code) => (Some(Digits::Text(code.replace(' ', ""))), None),
        other => (None, other),
    };
    let body = OperatorLogIn {
        name: Some(name.clone()),
        password: Some(fields.raw("password").to_owned()),
        totp,
        recovery_code,
    };
    let opened = visit.ask_with_headers::<OperatorSessionOpen>((), NoQuery {}, Credentials(body));
    match opened.await {
        Ok((_, headers)) => {
            let mut response = frame::sent_on(&back);
            for cookie in headers.get_all(SET_COOKIE) {
                response.headers_mut().append(SET_COOKIE, cookie.clone());
            }
            response
        }
        Err(refused) => page(&visit, &back, &name, Some(&refused)),
    }
}

async fn sign_out(Posted { visit, .. }: Posted) -> Result<Response, Problem> {
    let ended = visit.ask_with_headers::<OperatorSessionEnd>((), NoQuery {}, NoBody);
    let (_, headers) = ended.await?;
    let mut response = frame::sent_on(&address(&["sign-in"]));
    for cookie in headers.get_all(SET_COOKIE) {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    Ok(response)
}

/// Makes the browser ask for name and password itself, which it then sends with every request below
/// this address.
async fn shared_login(Anyone(visit): Anyone) -> Response {
    if !visit.site().config.has_shared_login {
        let message = "There is no shared login on this host: sign in with a name of your own";
        let problem = visit.problem(StatusCode::NOT_FOUND, "not-found", message);
        return problem.into_response();
    }
    if visit.has_authorization() {
        let asked = visit.ask::<OperatorSessionShow>((), NoQuery {}, NoBody);
        match asked.await {
            Ok(_) => return frame::sent_on(&address(&["overview"])),
            Err(problem) if problem.status != StatusCode::UNAUTHORIZED => {
                return problem.into_response();
            }
            Err(_) => {}
        }
    }
    let message = "Name and password of the shared login (admin.username) are needed. The browser asks for them";
    let problem = visit.problem(StatusCode::UNAUTHORIZED, "unauthorized", message);
    asked_for_credentials(problem.into_response())
}

//! Tokens of programs: what each opens, until when, and making one. A secret is shown once.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::operators::{
    NewToken, OperatorToken, OperatorTokensCreate, OperatorTokensList, OperatorTokensRevoke,
    OperatorsList, TokenPath, TokensQuery, token_groups,
};
use patchbay_api::path::unescaped;

use super::operators::{pages, role};
use super::parts::{ago_or, choice, words};
use crate::entry::{Posted, whole};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router
        .route(&address(&["tokens"]), get(list).post(create))
        .route(&below_root("tokens/{token}/revoke"), post(revoke))
}

async fn list(visit: Visit) -> Result<Response, Problem> {
    // An owner sees those of everybody.
    let query = TokensQuery {
        operator: None,
        all: visit.may::<OperatorsList>().then_some(true),
    };
    let tokens = visit.ask::<OperatorTokensList>((), query, NoBody).await?;
    let is_person = visit.who().is_some_and(|who| who.credential == "session");
    let main = html! {
        (pages(&visit, "tokens"))
        p { "A token is for a program. It can do no more than the operator whose it is, and what its scopes open." }
        @if tokens.is_empty() { (frame::empty("No token.", html! { "Programs that use the API, such as a deploy, have a token each." })) }
        @else { (table(&visit, &tokens)) }
        @if is_person { (maker(&visit)) }
        @else { p class="dim" { "To make a token, sign in with a name of your own: a token belongs to a person." } }
    };
    let head = Head::new(Section::People, "Tokens of programs");
    Ok(frame::page(&visit, &head, main))
}

fn table(visit: &Visit, tokens: &[OperatorToken]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Tokens" {
            table {
                thead { tr { th scope="col" { "Token" } th scope="col" { "Of" } th scope="col" { "Opens" } th scope="col" { "Expires" } th scope="col" { "Last used" } th scope="col" { "Change" } } }
                tbody {
                    @for token in tokens {
                        tr {
                            th scope="row" { (show::text(&token.name)) br; code class="dim" { "pbt_" (show::text(&token.id)) "…" } }
                            td { (show::text(&token.operator)) br; span class="dim" { "as " (token.role) @if token.may_see_data { ", sees data" } } }
                            td class="wide" { (show::text(&token.scopes.join(", "))) @if !token.networks.is_empty() { br; span class="dim" { "from " (show::text(&token.networks.join(", "))) } } }
                            td { @if token.revoked_at.is_some() { (show::state("revoked")) } @else { (show::ago(token.expires_at, visit.now())) } }
                            td { (ago_or(visit, token.last_used_at, "never")) }
                            td { @if token.revoked_at.is_none() { (frame::button(visit, &address(&["tokens", &token.id, "revoke"]), "Revoke", &[])) } }
                        }
                    }
                }
            }
        }
    }
}

fn maker(visit: &Visit) -> Markup {
    let mine = visit
        .who()
        .map_or("viewer".to_owned(), |who| who.role.to_string());
    let roles: Vec<(&str, &str)> = ["viewer", "operator", "owner"]
        .into_iter()
        .take_while(|role| *role != "owner" || mine == "owner")
        .filter(|role| *role != "operator" || mine != "viewer")
        .map(|role| (role, role))
        .collect();
    let content = html! {
        p {
            label for="token-name" { "What it is for" }
            input id="token-name" name="name" type="text" required maxlength="100" autocomplete="off" placeholder="deploy";
        }
        p {
            label for="scopes" { "Scopes, as queues:read or plugins:write" }
            input id="scopes" name="scopes" type="text" required maxlength="1000" autocomplete="off" spellcheck="false" aria-describedby="scopes-about";
            br; span class="dim" id="scopes-about" { "GROUP:read or GROUP:write; owner:GROUP for what only owners may. Groups: " (token_groups().join(", ")) "." }
        }
        p {
            label for="role" { "Role, at most yours" }
            (choice("role", "role", &roles, if mine == "viewer" { "viewer" } else { "operator" }))
        }
        @if visit.may_see_data() { p { label class="check" { input id="data" name="data" type="checkbox" value="on"; " May see data of jobs" } } }
        p {
            label for="networks" { "Only from these networks, as 10.0.0.0/8 (empty: from anywhere)" }
            input id="networks" name="networks" type="text" maxlength="1000" autocomplete="off" spellcheck="false";
        }
        p {
            label for="days" { "Days until it expires" }
            input id="days" name="days" type="number" min="1" max="3650" value="90";
        }
        p {
            label for="token-reason" { "Reason, for the record" }
            input id="token-reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        div class="actions" { button type="submit" { "Make the token" } }
    };
    html! {
        details class="card" {
            summary { "New token" }
            (frame::form(visit, &address(&["tokens"]), "stack", content))
        }
    }
}

async fn create(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["tokens"]));
    let body = Json(NewToken {
        name: fields.text("name").unwrap_or_default().to_owned(),
        role: Some(role(&visit, &fields).map_err(back)?),
        may_see_data: fields.is_on("data").then_some(true),
        scopes: words(fields.raw("scopes")),
        networks: words(fields.raw("networks")),
        days: whole(&visit, &fields, "days", "Days").map_err(back)?,
    });
    let done = visit.change::<OperatorTokensCreate>((), NoQuery {}, body, fields.reason());
    let made = done.await.map_err(back)?;
    let main = html! {
        section class="card" aria-label="The token" {
            p { strong { "This secret is shown only now." } " Keep it where the program finds it." }
            pre id="secret" tabindex="0" { (show::text(&made.secret)) }
            div class="actions" { button type="button" data-copy="secret" hidden { "Copy" } }
            p { "The program sends it in the header " code { "Authorization: Bearer …" } ", until " (show::moment(made.token.expires_at)) "." }
        }
        div class="actions" { a class="button" href=(address(&["tokens"])) { "Done" } }
    };
    let path = [(address(&["tokens"]), "Tokens of programs")];
    let title = format!("Token {}", made.token.name);
    let head = Head::new(Section::People, &title).below(&path);
    Ok(frame::page(&visit, &head, main))
}

async fn revoke(
    Path(token): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let path = TokenPath {
        token: unescaped(&token).to_owned(),
    };
    let done = visit.change::<OperatorTokensRevoke>(path, NoQuery {}, NoBody, fields.reason());
    let token = done
        .await
        .map_err(|problem| problem.back(address(&["tokens"])))?;
    let text = format!(
        "Revoked the token {} of {}, for good.",
        token.name, token.operator
    );
    Ok(visit.done(&address(&["tokens"]), &Notice::new(text)))
}

//! Operators: who may do what here, and the links with which they set password and second factor.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::NoQuery;
use patchbay_api::operators::{
    BasicChange, BasicLogin, InvitedOperator, NewOperator, OperatorBasicSet, OperatorBasicShow,
    OperatorDataChange, OperatorDetails, OperatorPath, OperatorRoleChange, OperatorView,
    OperatorsCreate, OperatorsDisable, OperatorsEnable, OperatorsEndSessions, OperatorsLink,
    OperatorsList, OperatorsSetData, OperatorsSetRole, OperatorsShow,
};
use patchbay_api::path::unescaped;
use patchbay_model::operator::OperatorRole;

use super::parts::{ago_or, choice, refused, with_reason};
use crate::entry::{Fields, Posted};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("operators/{{operator}}{rest}"));
    router
        .route(&address(&["operators"]), get(list).post(create))
        .route(&address(&["operators-basic"]), post(set_basic))
        .route(&of(""), get(operator))
        .route(&of("/role"), post(set_role))
        .route(&of("/data"), post(set_data))
        .route(&of("/disable"), post(disable))
        .route(&of("/enable"), post(enable))
        .route(&of("/link"), post(link))
        .route(&of("/end-sessions"), post(end_sessions))
}

/// The pages of this section that somebody may open, of which one is shown.
pub(crate) fn pages(visit: &Visit, shown: &str) -> Markup {
    let pages = [
        ("tokens", "Tokens", true),
        ("operators", "Operators", visit.may::<OperatorsList>()),
        (
            "people",
            "Accounts",
            visit.may::<patchbay_api::people::PeopleList>(),
        ),
        ("vendor-keys", "Vendor keys", true),
    ];
    html! {
        nav class="tabs" aria-label="Pages of people and tokens" {
            ul {
                @for (place, label, _) in pages.into_iter().filter(|(_, _, may)| *may) {
                    li { a href=(address(&[place])) aria-current=[(place == shown).then_some("page")] { (label) } }
                }
            }
        }
    }
}

const ROLES: [(&str, &str); 3] = [
    ("viewer", "viewer: sees"),
    ("operator", "operator: runs queues and plugins"),
    ("owner", "owner: gives rights, deletes for good"),
];

pub(crate) fn role(visit: &Visit, fields: &Fields) -> Result<OperatorRole, Problem> {
    let found = OperatorRole::ALL
        .into_iter()
        .find(|role| role.to_string() == fields.raw("role"));
    found.ok_or_else(|| {
        refused(
            visit,
            "Nothing was done: the roles are viewer, operator and owner",
        )
    })
}

fn path_of(name: &str) -> OperatorPath {
    OperatorPath {
        operator: name.to_owned(),
    }
}

fn page_of(name: &str) -> String {
    address(&["operators", name])
}

async fn list(visit: Visit) -> Result<Response, Problem> {
    visit.require::<OperatorsList>()?;
    let (operators, basic) = tokio::join!(
        visit.ask::<OperatorsList>((), NoQuery {}, NoBody),
        visit.ask::<OperatorBasicShow>((), NoQuery {}, NoBody),
    );
    let operators = operators?;
    let main = html! {
        (pages(&visit, "operators"))
        (table(&visit, &operators))
        @if visit.may::<OperatorsCreate>() { (inviter(&visit)) }
        @if let Ok(basic) = &basic { (shared_login(&visit, basic)) }
    };
    let head = Head::new(Section::People, "Operators");
    Ok(frame::page(&visit, &head, main))
}

fn table(visit: &Visit, operators: &[OperatorView]) -> Markup {
    html! {
        @if operators.is_empty() { (frame::empty("No operator yet.", html! { "Only the shared login of the configuration opens the console. Invite people: then each action has a name." })) }
        @else {
            div class="table" tabindex="0" role="group" aria-label="Operators" {
                table class="rows" {
                    thead { tr { th scope="col" { "Operator" } th scope="col" { "Role" } th scope="col" { "Sees data" } th scope="col" { "State" } th scope="col" { "Second factor" } th scope="col" { "Last signed in" } } }
                    tbody {
                        @for one in operators {
                            tr data-href=(page_of(&one.name)) {
                                th scope="row" { a href=(page_of(&one.name)) { (show::text(&one.name)) } @if let Some(email) = &one.email { br; span class="dim" { (show::text(email)) } } }
                                td { (one.role) }
                                td { @if one.may_see_data { "yes" } @else { span class="dim" { "no" } } }
                                td { (show::state(&one.state)) @if one.source == "oidc" { " " span class="dim" { "single sign-on" } } }
                                td { @if one.has_second_factor { "set" } @else { (show::state("not set")) } }
                                td { (ago_or(visit, one.last_login_at, "never")) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn inviter(visit: &Visit) -> Markup {
    let content = html! {
        p {
            label for="new-name" { "Name" }
            input id="new-name" name="name" type="text" required maxlength="63" autocomplete="off" autocapitalize="none" spellcheck="false" aria-describedby="new-name-about";
            br; span class="dim" id="new-name-about" { "Small letters, digits, . _ and -, beginning with a letter. It stands beside everything that this person does, and is never used for another." }
        }
        p {
            label for="email" { "Mail address, for people to read (may stay empty)" }
            input id="email" name="email" type="text" inputmode="email" maxlength="254" autocomplete="off";
        }
        p {
            label for="role" { "Role" }
            (choice("role", "role", &ROLES, "viewer"))
        }
        p { label class="check" { input id="data" name="data" type="checkbox" value="on"; " May see data, results and logs of jobs" } }
        p {
            label for="new-reason" { "Reason, for the record" }
            input id="new-reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        div class="actions" { button type="submit" { "Invite" } }
    };
    html! {
        details class="card" {
            summary { "Invite an operator" }
            p { "You get a link, which is shown once. Pass it on: that person opens it and sets a password and a second factor." }
            (frame::form(visit, &address(&["operators"]), "stack", content))
        }
    }
}

fn shared_login(visit: &Visit, basic: &BasicLogin) -> Markup {
    let content = html! {
        label for="mode" { "Opens" }
        (choice("mode", "mode", &[("on", "everything"), ("board", "only Bull Board and metrics"), ("off", "nothing")], &basic.mode))
        label for="basic-reason" { "Reason" }
        input id="basic-reason" name="reason" type="text" maxlength="500" autocomplete="off";
        button type="submit" { "Set" }
    };
    html! {
        section class="card" aria-labelledby="basic" {
            h2 id="basic" { "The shared login of the configuration" }
            p { "It opens " strong { @match basic.mode.as_str() { "on" => { "everything, as an owner" } "board" => { "only Bull Board and metrics" } _ => { "nothing" } } } ". "
                (show::number(basic.owners_signed_in)) " of " (show::counted(basic.owners, "active owner")) " signed in." }
            @if visit.may::<OperatorBasicSet>() { (frame::form(visit, &address(&["operators-basic"]), "bar", content)) }
        }
    }
}

async fn set_basic(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let body = Json(BasicChange {
        mode: fields.raw("mode").to_owned(),
    });
    let done = visit.change::<OperatorBasicSet>((), NoQuery {}, body, fields.reason());
    let basic = done
        .await
        .map_err(|problem| problem.back(address(&["operators"])))?;
    let text = match basic.already {
        true => "Nothing has changed: it was so already.".to_owned(),
        false => format!("The shared login is set to {}.", basic.mode),
    };
    Ok(visit.done(&address(&["operators"]), &Notice::new(text)))
}

/// Shows a link, once: it is in no address, and no later page has it.
fn invited(visit: &Visit, invited: &InvitedOperator) -> Response {
    let name = &invited.operator.name;
    let main = html! {
        section class="card" aria-label="The link" {
            p { strong { "This link is shown only now." } " Give it to " (show::text(name)) " over a way that you trust. It is valid once, for " (show::length(invited.valid_for_seconds * 1000)) "." }
            pre id="secret" tabindex="0" { (show::text(&invited.link)) }
            div class="actions" { button type="button" data-copy="secret" hidden { "Copy" } }
            p { "With it, that person runs:" }
            pre tabindex="0" { "patchbay operator enrol " (show::text(&invited.link)) }
        }
        div class="actions" { a class="button" href=(page_of(name)) { "Done" } }
    };
    let path = [(address(&["operators"]), "Operators")];
    let title = format!("Link for {name}");
    let head = Head::new(Section::People, &title).below(&path);
    frame::page(visit, &head, main)
}

async fn create(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["operators"]));
    let body = Json(NewOperator {
        name: fields.text("name").unwrap_or_default().to_owned(),
        email: fields.text("email").map(str::to_owned),
        role: role(&visit, &fields).map_err(back)?,
        may_see_data: Some(fields.is_on("data")),
    });
    let done = visit.change::<OperatorsCreate>((), NoQuery {}, body, fields.reason());
    let made = done.await.map_err(back)?;
    Ok(invited(&visit, &made))
}

async fn operator(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    visit.require::<OperatorsShow>()?;
    let details = visit.ask::<OperatorsShow>(path_of(&name), NoQuery {}, NoBody);
    let details = details
        .await
        .map_err(|problem| problem.back(address(&["operators"])))?;
    let main = html! {
        (facts(&visit, &details))
        (actions(&visit, &details.operator))
        (sessions(&visit, &details))
    };
    let path = [(address(&["operators"]), "Operators")];
    let head = Head::new(Section::People, &name).below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn facts(visit: &Visit, details: &OperatorDetails) -> Markup {
    let one = &details.operator;
    html! {
        dl class="facts" {
            dt { "State" } dd { (show::state(&one.state)) @if one.source == "oidc" { " by single sign-on, which gives role and rights" } }
            dt { "Role" } dd { (one.role) }
            dt { "Sees data of jobs" } dd { @if one.may_see_data { "yes" } @else { "no" } }
            @if let Some(email) = &one.email { dt { "Mail" } dd { (show::text(email)) } }
            dt { "Second factor" } dd { @if one.has_second_factor { "set, " (show::counted(details.recovery_codes_left, "recovery code")) " left" } @else { (show::state("not set")) } }
            dt { "Tokens" } dd { (show::number(details.tokens)) }
            dt { "Made" } dd { (show::ago(one.created_at, visit.now())) " by " (show::text(&one.created_by)) }
            dt { "Last signed in" } dd { (ago_or(visit, one.last_login_at, "never")) }
        }
    }
}

fn actions(visit: &Visit, one: &OperatorView) -> Markup {
    let action = |what: &str| address(&["operators", &one.name, what]);
    let is_local = one.source != "oidc";
    let role = html! {
        label for="role" { "Role" }
        (choice("role", "role", &ROLES, &one.role.to_string()))
        button type="submit" { "Set the role" }
    };
    html! {
        @if visit.may::<OperatorsSetRole>() && is_local {
            (frame::form(visit, &action("role"), "bar", role))
        }
        div class="actions" role="group" aria-label="Actions" {
            @if visit.may::<OperatorsSetData>() && is_local {
                @if one.may_see_data { (frame::button(visit, &action("data"), "Hide data of jobs from them", &[])) }
                @else { (frame::button(visit, &action("data"), "Let them see data of jobs", &[("data", "on")])) }
            }
            @if visit.may::<OperatorsLink>() && is_local && one.state != "disabled" { (frame::button(visit, &action("link"), "Link for another password and second factor", &[])) }
            @if visit.may::<OperatorsEndSessions>() { (frame::button(visit, &action("end-sessions"), "End every session", &[])) }
            @if visit.may::<OperatorsEnable>() && one.state == "disabled" { (frame::button(visit, &action("enable"), "Enable", &[])) }
        }
        @if visit.may::<OperatorsDisable>() && one.state != "disabled" {
            (with_reason(visit, &action("disable"), "disable-reason", "Disable", false))
        }
    }
}

fn sessions(visit: &Visit, details: &OperatorDetails) -> Markup {
    html! {
        section aria-labelledby="sessions" {
            h2 id="sessions" { "Open sessions" }
            @if details.sessions.is_empty() { p class="dim" { "None." } }
            @else {
                div class="table" tabindex="0" role="group" aria-labelledby="sessions" {
                    table {
                        thead { tr { th scope="col" { "Began" } th scope="col" { "Last used" } th scope="col" { "By" } th scope="col" { "From" } th scope="col" { "Program" } } }
                        tbody {
                            @for session in &details.sessions {
                                tr {
                                    td { (show::ago(session.created_at, visit.now())) }
                                    td { (show::ago(session.last_seen_at, visit.now())) }
                                    td { (show::text(&session.method)) }
                                    td { @match &session.address { Some(address) => { (show::text(address)) } None => { (show::unknown()) } } }
                                    td class="message" { @match &session.user_agent { Some(agent) => { (show::short(agent, 100)) } None => { (show::unknown()) } } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// After a change of an operator.
fn done(visit: &Visit, one: &OperatorView, did: &str) -> Response {
    let text = match one.already {
        true => "Nothing has changed: it was so already.".to_owned(),
        false => format!("{did}. The next request has it."),
    };
    visit.done(&page_of(&one.name), &Notice::new(text))
}

async fn set_role(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(page_of(&name));
    let role = role(&visit, &fields).map_err(back)?;
    let body = Json(OperatorRoleChange { role });
    let asked = visit.change::<OperatorsSetRole>(path_of(&name), NoQuery {}, body, fields.reason());
    let one = asked.await.map_err(back)?;
    Ok(done(&visit, &one, &format!("{name} has the role {role}")))
}

async fn set_data(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let body = Json(OperatorDataChange {
        may_see_data: fields.is_on("data"),
    });
    let asked = visit.change::<OperatorsSetData>(path_of(&name), NoQuery {}, body, fields.reason());
    let one = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    let did = match one.may_see_data {
        true => format!("{name} may see data of jobs"),
        false => format!("{name} may not see data of jobs"),
    };
    Ok(done(&visit, &one, &did))
}

async fn disable(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let asked =
        visit.change::<OperatorsDisable>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let one = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    let notice = match one.already {
        true => Notice::new("Nothing has changed: it was so already."),
        false => Notice::new(format!(
            "{name} is disabled: sessions, tokens and links have ended."
        ))
        .undo("Enable", address(&["operators", &name, "enable"])),
    };
    Ok(visit.done(&page_of(&name), &notice))
}

async fn enable(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let asked =
        visit.change::<OperatorsEnable>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let one = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    let did = format!("{name} may sign in again; tokens stay revoked");
    Ok(done(&visit, &one, &did))
}

async fn link(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let asked = visit.change::<OperatorsLink>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let made = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    Ok(invited(&visit, &made))
}

async fn end_sessions(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let asked =
        visit.change::<OperatorsEndSessions>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let ended = asked
        .await
        .map_err(|problem| problem.back(page_of(&name)))?;
    let ended = show::counted(ended.ended, "session");
    let notice = Notice::new(format!("Ended {ended} of {name}."));
    Ok(visit.done(&page_of(&name), &notice))
}

//! The secrets of a plugin: which have a value, how old it is, and setting one. No page shows a value.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use maud::{Markup, html};
use patchbay_api::body::{NoBody, SecretJson};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use patchbay_api::secrets::{
    NewValue, Rotation, Secret, SecretPath, SecretText, SecretVersion, SecretsList, SecretsRemove,
    SecretsRotate, SecretsSet,
};
use zeroize::Zeroizing;

use super::parts::{NOT_TYPED, ago_or, refused, typed_length};
use super::plugin::{page_of, parts, path_of};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("plugin/{{name}}/secrets{rest}"));
    router
        .route(&of(""), get(secrets))
        .route(&of("/{secret}"), get(ask_set).post(set))
        .route(&of("/{secret}/remove"), get(ask_remove).post(remove))
        .route(&below_root("plugin/{name}/set-secret"), post(set_another))
}

fn list_of(name: &str) -> String {
    address(&["plugin", name, "secrets"])
}

fn place(name: &str, secret: &str) -> String {
    address(&["plugin", name, "secrets", secret])
}

async fn secrets(visit: Visit, Path(name): Path<String>) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let secrets = visit.ask_shared::<SecretsList>(path_of(&name), NoQuery {});
    let secrets = secrets
        .await
        .map_err(|problem| problem.back(address(&["plugins"])))?;
    let another = html! {
        label for="secret" { "Another secret" }
        input id="secret" name="secret" type="text" required maxlength="100" autocomplete="off" spellcheck="false" placeholder="SMTP_PASSWORD";
        button type="submit" { "Set a value…" }
    };
    let main = html! {
        (parts(&name, "secrets"))
        p { "A value is set and never shown. A new one holds from the next call on, without a restart." }
        div id="secrets" data-live {
            @if secrets.is_empty() { (frame::empty("It asks for no secret, and the vault holds none.", html! { "Secrets are named in the manifest: " code { "[[secrets]]" } "." })) }
            @else { (table(&visit, &name, &secrets)) }
        }
        @if visit.may::<SecretsSet>() { (frame::form(&visit, &address(&["plugin", &name, "set-secret"]), "bar", another)) }
    };
    let path = [
        (address(&["plugins"]), "Plugins"),
        (page_of(&name), name.as_str()),
    ];
    let title = format!("Secrets of {name}");
    let head = Head::new(Section::Plugins, &title).below(&path).live();
    Ok(frame::page(&visit, &head, main))
}

fn table(visit: &Visit, name: &str, secrets: &[Secret]) -> Markup {
    html! {
        div class="table" tabindex="0" role="group" aria-label="Secrets" {
            table class="rows" {
                thead { tr {
                    th scope="col" { "Secret" }
                    th scope="col" { "Value" }
                    th scope="col" { "Set" }
                    th scope="col" { "Last used" }
                    @if visit.may::<SecretsSet>() { th scope="col" { "Change" } }
                } }
                tbody { @for secret in secrets { (row(visit, name, secret)) } }
            }
        }
    }
}

fn row(visit: &Visit, name: &str, secret: &Secret) -> Markup {
    let newest = secret.versions.first();
    html! {
        tr {
            th scope="row" { code { (show::text(&secret.name)) } @if !secret.asked { br; span class="dim" { "not asked for by the present revision" } } }
            td class="message" {
                @match secret.source.as_str() {
                    "vault" => { (show::state("set")) }
                    "environment" => { (show::state("set")) " in the environment of this host" }
                    _ => { (show::state("missing")) @if secret.asked { " What needs it fails." } }
                }
                @for version in &secret.versions { (warnings(version)) }
                @if secret.versions.len() > 1 { " " span class="dim" { (show::counted(secret.versions.len() as u64 - 1, "earlier version")) " still valid" } }
            }
            td { @match newest { Some(version) => { (show::ago(version.set_at, visit.now())) " by " (show::text(&version.set_by)) } None => { (show::unknown()) } } }
            td { @match newest { Some(version) => { (ago_or(visit, version.last_used_at, "never")) } None => { (show::unknown()) } } }
            @if visit.may::<SecretsSet>() {
                td {
                    a class="button" href=(place(name, &secret.name)) { "Set a value…" } " "
                    @if !secret.versions.is_empty() && visit.may::<SecretsRemove>() { a class="button danger" href=(address(&["plugin", name, "secrets", &secret.name, "remove"])) { "Remove…" } }
                }
            }
        }
    }
}

fn warnings(version: &SecretVersion) -> Markup {
    html! {
        @if let Some(unreadable) = &version.unreadable { " " (show::state("critical")) " version " (version.version) ": " (show::text(unreadable)) }
        @if let Some(ends) = version.ends_at { " " span class="dim" { "Version " (version.version) " ends " (show::moment(ends)) "." } }
    }
}

/// The name comes from a form: the page of the value has it in its address.
async fn set_another(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let secret = fields.text("secret").unwrap_or_default();
    let is_name = !secret.is_empty()
        && secret.len() <= 100
        && secret
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if !is_name {
        let message = "Nothing was done: a secret's name has capital letters, digits and _ only, such as SMTP_PASSWORD";
        return Err(refused(&visit, message).back(list_of(&name)));
    }
    Ok(frame::sent_on(&place(&name, secret)))
}

async fn ask_set(
    visit: Visit,
    Path((name, secret)): Path<(String, String)>,
) -> Result<Response, Problem> {
    visit.require::<SecretsSet>()?;
    let (name, secret) = (unescaped(&name).to_owned(), unescaped(&secret).to_owned());
    let secrets = visit.ask::<SecretsList>(path_of(&name), NoQuery {}, NoBody);
    let secrets = secrets
        .await
        .map_err(|problem| problem.back(list_of(&name)))?;
    let known = secrets.iter().find(|one| one.name == secret);
    let has_value = known.is_some_and(|known| !known.versions.is_empty());
    let content = html! {
        p {
            label for="value" { "New value" }
            input id="value" name="value" type="password" required autocomplete="new-password" spellcheck="false" maxlength="65536";
        }
        @if has_value {
            p {
                label for="overlap" { "How long the present value stays valid, such as 1 h (empty: it ends at once)" }
                input id="overlap" name="overlap" type="text" maxlength="20" autocomplete="off";
            }
        }
        p {
            label for="reason" { "Reason, for the record" }
            input id="reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        div class="actions" {
            button type="submit" class="primary" { "Set the value" }
            a class="button" href=(list_of(&name)) { "Cancel" }
        }
    };
    let main = html! {
        section class="card" aria-label="New value" {
            p { "For " strong { (show::text(&name)) } ". The value is kept sealed, and no page, log or answer shows it." }
            @if let Some(known) = known && let Some(version) = known.versions.first() {
                p class="dim" { "Version " (version.version) " was set " (show::ago(version.set_at, visit.now())) " by " (show::text(&version.set_by)) ", last used: " (ago_or(&visit, version.last_used_at, "never")) "." }
            }
            @if known.is_none_or(|known| !known.asked) { p { (show::state("warning")) " The present revision asks for no secret of this name." } }
            (frame::form(&visit, &place(&name, &secret), "stack", content))
        }
    };
    let path = [
        (address(&["plugins"]), "Plugins"),
        (page_of(&name), name.as_str()),
        (list_of(&name), "Secrets"),
    ];
    let head = Head::new(Section::Plugins, &secret).below(&path);
    Ok(frame::page(&visit, &head, main))
}

async fn set(
    Path((name, secret)): Path<(String, String)>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let (name, secret) = (unescaped(&name).to_owned(), unescaped(&secret).to_owned());
    let back = |problem: Problem| problem.back(place(&name, &secret));
    let value = SecretText(Zeroizing::new(fields.raw("value").to_owned()));
    let path = SecretPath {
        name: name.clone(),
        secret: secret.clone(),
    };
    let reason = fields.reason();
    let done = match fields.text("overlap") {
        None => {
            let body = SecretJson(NewValue { value });
            visit
                .change::<SecretsSet>(path, NoQuery {}, body, reason)
                .await
        }
        Some(typed) => {
            let Some(overlap_ms) = typed_length(typed) else {
                let message = "Nothing was done: a length of time has a unit, such as 90 s, 5 min, 36 h or 2 d";
                return Err(back(refused(&visit, message)));
            };
            let body = SecretJson(Rotation { value, overlap_ms });
            visit
                .change::<SecretsRotate>(path, NoQuery {}, body, reason)
                .await
        }
    };
    let done = done.map_err(back)?;
    let version = done.versions.first().map_or(1, |version| version.version);
    let notice = Notice::new(format!(
        "{secret} of {name} has version {version} now. It holds from the next call on. Jobs that failed meanwhile: retry them under Dead letters."
    ));
    Ok(visit.done(&list_of(&name), &notice))
}

async fn ask_remove(
    visit: Visit,
    Path((name, secret)): Path<(String, String)>,
) -> Result<Response, Problem> {
    visit.require::<SecretsRemove>()?;
    Ok(remove_page(
        &visit,
        unescaped(&name),
        unescaped(&secret),
        None,
    ))
}

fn remove_page(visit: &Visit, name: &str, secret: &str, refused: Option<&str>) -> Response {
    let about = html! { p { "Secret " strong { (show::text(secret)) } " of " strong { (show::text(name)) } ". What needs it fails from the next call on." } };
    let confirm = Confirm {
        section: Section::Plugins,
        title: "Remove the secret",
        operation: const { &SecretsRemove::OPERATION },
        name: secret,
        about,
        fields: frame::nothing(),
        action: &address(&["plugin", name, "secrets", secret, "remove"]),
        back: &list_of(name),
        refused,
    };
    confirm::page(visit, confirm)
}

async fn remove(
    Path((name, secret)): Path<(String, String)>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let (name, secret) = (unescaped(&name).to_owned(), unescaped(&secret).to_owned());
    if !is_typed(&fields, &secret) {
        return Ok(remove_page(&visit, &name, &secret, Some(NOT_TYPED)));
    }
    let path = SecretPath {
        name: name.clone(),
        secret: secret.clone(),
    };
    let done = visit.destroy::<SecretsRemove>(path, NoQuery {}, NoBody, fields.reason());
    done.await.map_err(|problem| problem.back(list_of(&name)))?;
    let notice = Notice::new(format!("Removed {secret} of {name}."));
    Ok(visit.done(&list_of(&name), &notice))
}

//! What is done with one plugin: activating a revision, rolling back, deactivating, releasing, and
//! deleting a revision.

use axum::Router;
use axum::extract::Path;
use axum::response::Response;
use axum::routing::{get, post};
use maud::html;
use patchbay_api::body::{Json, NoBody};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;
use patchbay_api::plugins::{
    Activate, Activated, GrantView, PluginsActivate, PluginsDeactivate, PluginsDelete,
    PluginsGrant, PluginsGrants, PluginsRelease, PluginsRollback, PluginsStatus, Release,
    RevisionPath,
};

use super::parts::{NOT_TYPED, digest, first_digits, refused};
use super::plugin::{changes, difference, page_of, path_of};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let of = |rest: &str| below_root(&format!("plugin/{{name}}{rest}"));
    router
        .route(&of("/activate/{digest}"), get(ask_activate).post(activate))
        .route(&of("/rollback"), post(rollback))
        .route(&of("/deactivate"), post(deactivate))
        .route(&of("/release"), post(release))
        .route(&of("/delete/{digest}"), get(ask_delete).post(delete))
}

async fn ask_activate(
    visit: Visit,
    Path((name, wanted)): Path<(String, String)>,
) -> Result<Response, Problem> {
    visit.require::<PluginsActivate>()?;
    let (name, wanted) = (unescaped(&name).to_owned(), unescaped(&wanted).to_owned());
    let back = |problem: Problem| problem.back(page_of(&name));
    let (status, grants) = tokio::join!(
        visit.ask::<PluginsStatus>(path_of(&name), NoQuery {}, NoBody),
        visit.ask::<PluginsGrants>(path_of(&name), NoQuery {}, NoBody),
    );
    let (status, grants) = (status.map_err(back)?, grants.map_err(back)?);
    let found = status
        .revisions
        .iter()
        .find(|revision| revision.digest == wanted);
    let Some(revision) = found else {
        let message = format!("{name} has no revision {wanted}");
        return Err(back(visit.problem(
            http::StatusCode::NOT_FOUND,
            "not-found",
            message,
        )));
    };
    let difference = match &status.active {
        Some(active) if *active != wanted => Some(
            difference(&visit, &name, active, &wanted)
                .await
                .map_err(back)?,
        ),
        _ => None,
    };
    let is_newest = status.revisions.first().map(|first| &first.digest) == Some(&wanted);
    let missing: Vec<&GrantView> = grants
        .iter()
        .filter(|grant| is_newest && grant.asked_by_newest && grant.granted_by.is_none())
        .collect();
    let content = html! {
        p {
            label for="reason" { "Reason, for the record" }
            input id="reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        @if visit.may::<PluginsGrant>() {
            p { label class="check" { input id="grant" name="grant" type="checkbox" value="on"; " Also grant everything that it asks for and that is not granted" } }
        }
        div class="actions" {
            button type="submit" class="primary" { "Activate " (show::text(&revision.version)) }
            a class="button" href=(page_of(&name)) { "Cancel" }
        }
    };
    let main = html! {
        section class="card" aria-label="What will happen" {
            p { "Revision " (show::text(&revision.version)) " " (digest(&revision.digest)) " will take calls on every host. Running calls finish on the previous one. You can roll back." }
            @if !missing.is_empty() {
                p { (show::state("warning")) " It asks for " (show::counted(missing.len() as u64, "right")) " that nobody has granted; without them it is refused:" }
                ul { @for grant in &missing { li { code { (show::text(grant.ask.as_str())) } } } }
                @if !visit.may::<PluginsGrant>() { p { "An owner can grant them." } }
            }
            (frame::form(&visit, &address(&["plugin", &name, "activate", &wanted]), "stack", content))
        }
        @if let Some(difference) = &difference {
            section aria-labelledby="changes" { h2 id="changes" { "What changes against the active one" } (changes(difference)) }
        }
    };
    let path = [
        (address(&["plugins"]), "Plugins"),
        (page_of(&name), name.as_str()),
    ];
    let head = Head::new(Section::Plugins, "Activate a revision").below(&path);
    Ok(frame::page(&visit, &head, main))
}

/// What an activation did, with the way back.
fn activated(visit: &Visit, name: &str, done: &Activated) -> Response {
    let mut text = match done.changed {
        true => format!("{name} {} takes calls now.", done.version),
        false => format!(
            "Nothing has changed: {name} {} was active already.",
            done.version
        ),
    };
    if !done.newly_granted.is_empty() {
        let count = show::counted(done.newly_granted.len() as u64, "right");
        text.push_str(&format!(" Granted {count}."));
    }
    let late = done.hosts.iter().filter(|host| !host.is_current).count();
    if late > 0 {
        text.push_str(&format!(
            " {late} of {} hosts do not run it yet.",
            done.hosts.len()
        ));
    }
    if !done.secrets_without_value.is_empty() {
        let names = done.secrets_without_value.join(", ");
        text.push_str(&format!(" Secrets without a value: {names}."));
    }
    let mut notice = Notice::new(text);
    if let Some(previous) = done.previous.as_ref().filter(|_| done.changed) {
        let undo = address(&["plugin", name, "activate", &previous.to_string()]);
        notice = notice.undo("Activate the previous revision again", undo);
    }
    visit.done(&page_of(name), &notice)
}

async fn activate(
    Path((name, wanted)): Path<(String, String)>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let body = Json(Activate {
        digest: unescaped(&wanted).to_owned(),
        grant: fields.is_on("grant"),
    });
    let done = visit.change::<PluginsActivate>(path_of(&name), NoQuery {}, body, fields.reason());
    let done = done.await.map_err(|problem| problem.back(page_of(&name)))?;
    Ok(activated(&visit, &name, &done))
}

async fn rollback(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let done = visit.change::<PluginsRollback>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    let done = done.await.map_err(|problem| problem.back(page_of(&name)))?;
    Ok(activated(&visit, &name, &done))
}

async fn deactivate(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(page_of(&name));
    let status = visit.ask::<PluginsStatus>(path_of(&name), NoQuery {}, NoBody);
    let active = status.await.map_err(back)?.active;
    let done =
        visit.change::<PluginsDeactivate>(path_of(&name), NoQuery {}, NoBody, fields.reason());
    done.await.map_err(back)?;
    let mut notice = Notice::new(format!("{name} is not active. Its queues wait."));
    if let Some(active) = active {
        let undo = address(&["plugin", &name, "activate", &active]);
        notice = notice.undo("Activate it again", undo);
    }
    Ok(visit.done(&page_of(&name), &notice))
}

async fn release(
    Path(name): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let name = unescaped(&name).to_owned();
    let back = |problem: Problem| problem.back(page_of(&name));
    let Some(reason) = fields.reason() else {
        let message = "Nothing was done: say why it may run again, for the next operator";
        return Err(back(refused(&visit, message)));
    };
    let body = Json(Release {
        reason: reason.to_owned(),
    });
    let done = visit.change::<PluginsRelease>(path_of(&name), NoQuery {}, body, None);
    let done = done.await.map_err(back)?;
    let revision = first_digits(&done.digest.to_string());
    let notice = Notice::new(format!(
        "{name} is released with revision {revision}. Its jobs continue where they were."
    ));
    Ok(visit.done(&page_of(&name), &notice))
}

async fn ask_delete(
    visit: Visit,
    Path((name, digest)): Path<(String, String)>,
) -> Result<Response, Problem> {
    visit.require::<PluginsDelete>()?;
    delete_page(&visit, unescaped(&name), unescaped(&digest), None).await
}

async fn delete_page(
    visit: &Visit,
    name: &str,
    digest: &str,
    refused: Option<&str>,
) -> Result<Response, Problem> {
    let back = page_of(name);
    let status = visit.ask::<PluginsStatus>(path_of(name), NoQuery {}, NoBody);
    let status = status.await.map_err(|problem| problem.back(back.clone()))?;
    let found = status
        .revisions
        .iter()
        .find(|revision| revision.digest == digest);
    let about = html! {
        @if let Some(revision) = found {
            p { "Revision " strong { (show::text(&revision.version)) } " of " strong { (show::text(name)) } ", pushed by " (show::text(&revision.created_by)) ", with "
                (show::counted(revision.attempts, "attempt")) " in the history. The attempts stay. To have it again, push its file." }
        } @else { p { "This revision is not known any more." } }
    };
    let first = first_digits(digest);
    let confirm = Confirm {
        section: Section::Plugins,
        title: "Delete the revision",
        operation: const { &PluginsDelete::OPERATION },
        name: &first,
        about,
        fields: frame::nothing(),
        action: &address(&["plugin", name, "delete", digest]),
        back: &back,
        refused,
    };
    Ok(confirm::page(visit, confirm))
}

async fn delete(
    Path((name, digest)): Path<(String, String)>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let (name, digest) = (unescaped(&name).to_owned(), unescaped(&digest).to_owned());
    if !is_typed(&fields, &first_digits(&digest)) {
        return delete_page(&visit, &name, &digest, Some(NOT_TYPED)).await;
    }
    let path = RevisionPath {
        name: name.clone(),
        digest: digest.clone(),
    };
    let done = visit.destroy::<PluginsDelete>(path, NoQuery {}, NoBody, fields.reason());
    done.await.map_err(|problem| problem.back(page_of(&name)))?;
    let notice = Notice::new(format!(
        "Deleted revision {} of {name}.",
        first_digits(&digest)
    ));
    Ok(visit.done(&page_of(&name), &notice))
}

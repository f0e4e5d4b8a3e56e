//! Many requests of the inbox at once: what is meant, then exactly those, a part at a time.

use axum::Router;
use axum::extract::{Path, Query};
use axum::response::Response;
use axum::routing::get;
use maud::{Markup, html};
use patchbay_api::body::Json;
use patchbay_api::inbox_many::{
    InboxEraseMany, InboxMany, InboxManyAnswer, InboxPreview, InboxProgress, InboxReplayMany,
    InboxVerifyMany,
};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_api::path::unescaped;

use super::inbox::{self, Which, since, some};
use super::parts::{NOT_TYPED, refused};
use crate::confirm::{self, Confirm, is_typed};
use crate::entry::Posted;
use crate::frame::{self, Head, Section, address, address_with, below_root};
use crate::session::{Problem, Visit};
use crate::{Site, show};

/// Most parts that one press of a button handles; the page then says how to go on.
const PARTS: usize = 20;

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router.route(&below_root("inbox-many/{what}"), get(preview).post(handle))
}

/// What is done to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Verify,
    Replay,
    Erase,
}

impl What {
    fn of(visit: &Visit, word: &str) -> Result<Self, Problem> {
        match unescaped(word) {
            "verify" => Ok(Self::Verify),
            "replay" => Ok(Self::Replay),
            "erase" => Ok(Self::Erase),
            _ => {
                let message = "Requests can be verified, replayed or erased";
                let problem = visit.problem(http::StatusCode::NOT_FOUND, "not-found", message);
                Err(problem.back(address(&["inbox"])))
            }
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Verify => "verify",
            Self::Replay => "replay",
            Self::Erase => "erase",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Verify => "Verify requests",
            Self::Replay => "Replay requests",
            Self::Erase => "Erase requests",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Verify => {
                "They are judged again, at their original time, by the active revision and today's secrets."
            }
            Self::Replay => "They are judged again, and their jobs are added.",
            Self::Erase => "Their content is erased. Their events stay known.",
        }
    }

    async fn ask(
        self,
        visit: &Visit,
        many: InboxMany,
        reason: Option<&str>,
    ) -> Result<InboxManyAnswer, Problem> {
        let body = Json(many);
        match self {
            Self::Verify => {
                visit
                    .change::<InboxVerifyMany>((), NoQuery {}, body, reason)
                    .await
            }
            Self::Replay => {
                visit
                    .change::<InboxReplayMany>((), NoQuery {}, body, reason)
                    .await
            }
            Self::Erase => {
                visit
                    .destroy::<InboxEraseMany>((), NoQuery {}, body, reason)
                    .await
            }
        }
    }

    fn require(self, visit: &Visit) -> Result<(), Problem> {
        match self {
            Self::Verify => visit.require::<InboxVerifyMany>(),
            Self::Replay => visit.require::<InboxReplayMany>(),
            Self::Erase => visit.require::<InboxEraseMany>(),
        }
    }
}

fn many(which: &Which) -> InboxMany {
    InboxMany {
        webhook: some(&which.webhook),
        state: which.state(),
        code: some(&which.code),
        kind: some(&which.kind),
        after: since(&which.after),
        before: since(&which.before),
        ..InboxMany::default()
    }
}

async fn preview(
    visit: Visit,
    Path(word): Path<String>,
    Query(which): Query<Which>,
) -> Result<Response, Problem> {
    let what = What::of(&visit, &word)?;
    what.require(&visit)?;
    let back = address_with(&["inbox"], &which.pairs());
    let mut asked = many(&which);
    // The preview's token holds what is done, too.
    asked.apply = what == What::Verify && which.is_more();
    asked.again = what == What::Replay && which.is_more();
    let answer = match what {
        // A preview destroys nothing, and is not confirmed yet.
        What::Erase => {
            visit
                .ask::<InboxEraseMany>((), NoQuery {}, Json(asked))
                .await
        }
        _ => what.ask(&visit, asked, None).await,
    };
    let preview = answer
        .map_err(|problem| problem.back(back.clone()))?
        .preview
        .unwrap_or_default();
    let other = other(what, &which);
    Ok(preview_page(&visit, what, &preview, &back, other, None))
}

/// The preview of the other kind: where it is, and what it is called.
fn other(what: What, which: &Which) -> Option<(String, &'static str)> {
    let label = match (what, which.is_more()) {
        (What::Erase, _) => return None,
        (What::Verify, false) => "Also accept those that are the vendor's, and add their jobs",
        (What::Verify, true) => "Only look: change nothing",
        (What::Replay, false) => {
            "Also those whose jobs were added before: effects may then happen twice"
        }
        (What::Replay, true) => "Only those whose jobs were not added yet",
    };
    let mut query = which.pairs();
    query.extend((!which.is_more()).then_some(("more", "on")));
    Some((address_with(&["inbox-many", what.word()], &query), label))
}

fn preview_page(
    visit: &Visit,
    what: What,
    preview: &InboxPreview,
    back: &str,
    other: Option<(String, &'static str)>,
    refused: Option<&str>,
) -> Response {
    let Some(token) = preview.token.as_deref() else {
        let main = html! {
            (frame::empty("No request matches.", html! { a href=(back) { "Back to the inbox" } }))
            @if let Some((place, label)) = &other { p { a href=(place) { (label) } } }
        };
        let path = [(back.to_owned(), "Inbox")];
        let head = Head::new(Section::Inbox, what.title()).below(&path);
        return frame::page(visit, &head, main);
    };
    let about = html! {
        p { (what.about()) " " strong { (show::counted(preview.total, "request")) } @if preview.completed > 0 { ", of which " (show::number(preview.completed)) " have a completed job" } ":" }
        ul { @for group in &preview.groups { li { (show::counted(group.count, "request")) " " (show::state(group.state.as_str())) " of " (show::text(&group.webhook)) } } }
    };
    let total = preview.total.to_string();
    let action = address(&["inbox-many", what.word()]);
    let hidden = html! {
        input type="hidden" name="token" value=(token);
        input type="hidden" name="total" value=(total);
        input type="hidden" name="back" value=(back);
    };
    if what == What::Erase {
        let confirm = Confirm {
            section: Section::Inbox,
            title: what.title(),
            operation: const { &InboxEraseMany::OPERATION },
            name: &total,
            about,
            fields: hidden,
            action: &action,
            back,
            refused,
        };
        return confirm::page(visit, confirm);
    }
    let content = html! {
        (hidden)
        p {
            label for="reason" { "Reason, for the record (no personal data)" }
            input id="reason" name="reason" type="text" maxlength="500" autocomplete="off";
        }
        div class="actions" {
            button type="submit" class="primary" { (what.title()) ": " (show::number(preview.total)) }
            a class="button" href=(back) { "Cancel" }
        }
    };
    let main = html! {
        section class="card" aria-label="What will happen" {
            (about)
            @if let Some((place, label)) = &other { p { a href=(place) { (label) } } }
            (frame::form(visit, &action, "stack", content))
        }
        @if !preview.samples.is_empty() {
            section aria-labelledby="samples" { h2 id="samples" { "The oldest of them" } (inbox::table(visit, &preview.samples)) }
        }
    };
    let path = [(back.to_owned(), "Inbox")];
    let head = Head::new(Section::Inbox, what.title()).below(&path);
    frame::page(visit, &head, main)
}

async fn handle(
    Path(word): Path<String>,
    Posted { visit, fields }: Posted,
) -> Result<Response, Problem> {
    let what = What::of(&visit, &word)?;
    let back = frame::local(fields.raw("back"));
    let Some(token) = fields.text("token") else {
        let message = "Nothing was done: look at the preview first";
        return Err(refused(&visit, message).back(back));
    };
    if what == What::Erase && !is_typed(&fields, fields.raw("total")) {
        let preview = InboxPreview {
            total: fields.raw("total").parse().unwrap_or_default(),
            token: Some(token.to_owned()),
            ..InboxPreview::default()
        };
        return Ok(preview_page(
            &visit,
            what,
            &preview,
            &back,
            None,
            Some(NOT_TYPED),
        ));
    }
    let mut sum = InboxProgress::default();
    let mut cursor = fields.text("cursor").map(str::to_owned);
    for _ in 0..PARTS {
        let part = InboxMany {
            token: Some(token.to_owned()),
            cursor: cursor.take(),
            ..InboxMany::default()
        };
        let answer = what.ask(&visit, part, fields.reason()).await;
        let answer = answer.map_err(|mut problem| {
            if sum.handled > 0 {
                let done = show::counted(sum.handled, "request");
                problem.message = format!("{done} were handled before this. {}", problem.message);
            }
            problem.back(back.clone())
        })?;
        add(&mut sum, answer.progress.unwrap_or_default());
        cursor = answer.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    let rest = html! {
        @for name in ["token", "total", "back", "reason"] {
            @if fields.is_on(name) { input type="hidden" name=(name) value=(fields.raw(name)); }
        }
        @if what == What::Erase { input type="hidden" name="confirm" value=(fields.raw("confirm")); }
        @if let Some(cursor) = &cursor { input type="hidden" name="cursor" value=(cursor); }
        button type="submit" class="primary" { "Go on with the rest" }
    };
    let main = html! {
        (progress(&sum))
        @if cursor.is_some() {
            p { "This is a part of them." }
            (frame::form(&visit, &address(&["inbox-many", what.word()]), "bar", rest))
        }
        div class="actions" { a class="button" href=(back) { "Back to the inbox" } }
    };
    let path = [(back.clone(), "Inbox")];
    let title = format!("{}: done", what.title());
    let head = Head::new(Section::Inbox, &title).below(&path);
    Ok(frame::page(&visit, &head, main))
}

fn add(sum: &mut InboxProgress, part: InboxProgress) {
    sum.handled += part.handled;
    sum.accepted += part.accepted;
    sum.repeats += part.repeats;
    sum.rejected += part.rejected;
    sum.deferred += part.deferred;
    sum.erased += part.erased;
    sum.skipped += part.skipped;
    for reason in part.reasons {
        let known = sum
            .reasons
            .iter_mut()
            .find(|known| known.result == reason.result && known.reason == reason.reason);
        match known {
            Some(known) => known.count += reason.count,
            None => sum.reasons.push(reason),
        }
    }
}

fn progress(sum: &InboxProgress) -> Markup {
    let figures = [
        ("Handled", sum.handled),
        ("Accepted", sum.accepted),
        ("Repeats", sum.repeats),
        ("Rejected", sum.rejected),
        ("Deferred", sum.deferred),
        ("Erased", sum.erased),
        ("Left as they were", sum.skipped),
    ];
    html! {
        ul class="figures" {
            @for (name, count) in figures.iter().filter(|(name, count)| *count > 0 || *name == "Handled") {
                li { div { span class="figure" { (show::number(*count)) } span { (name) } } }
            }
        }
        @if !sum.reasons.is_empty() {
            h2 { "Why" }
            ul { @for reason in &sum.reasons { li { (show::state(&reason.result)) " " (show::counted(reason.count, "request")) ": " (show::text(&reason.reason)) } } }
        }
    }
}

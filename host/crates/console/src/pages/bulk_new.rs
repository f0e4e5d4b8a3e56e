//! A bulk operation before it begins: which jobs, what is done to each, what that would do.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::Query;
use axum::response::Response;
use axum::routing::get;
use http::StatusCode;
use maud::{Markup, html};
use patchbay_api::body::Json;
use patchbay_api::bulk::{
    BulkBegin, BulkBegun, BulkIdentity, BulkKind, BulkPreview, BulkReplacement, BulkRequest,
    BulkSample, BulkSource,
};
use patchbay_api::operation::NoQuery;
use patchbay_model::filter::Filter;
use patchbay_model::job::JobState;
use serde_json::value::RawValue;

use super::bulk::{kind as words, page_of};
use super::queue::state_of;
use crate::entry::{Fields, Posted, whole};
use crate::form_token::Notice;
use crate::frame::{self, Head, Section, address, below_root};
use crate::qualifiers::{Wanted, is_plain};
use crate::session::{Problem, Visit};
use crate::{Site, show};

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    router.route(&below_root("bulk-new"), get(ask).post(typed))
}

/// What somebody has chosen so far, as it was typed.
struct Draft {
    kind: BulkKind,
    /// The jobs, without their state.
    jobs: String,
    state: JobState,
    source: BulkSource,
    key: BulkIdentity,
    changes: String,
    first: Option<u32>,
    reason: Option<String>,
}

const STATES: [JobState; 5] = [
    JobState::Failed,
    JobState::Completed,
    JobState::Delayed,
    JobState::Waiting,
    JobState::Prioritized,
];

fn kind_of(word: &str) -> BulkKind {
    let known = BulkKind::ALL.into_iter().find(|kind| kind.as_str() == word);
    known.unwrap_or(BulkKind::Retry)
}

impl Draft {
    /// Of an address, which holds no personal data.
    fn of_pairs(visit: &Visit, pairs: &[(String, String)]) -> Self {
        let value = |name: &str| {
            let found = pairs.iter().find(|(named, _)| named == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let mut wanted = Wanted::default();
        for (name, value) in pairs.iter().filter(|(name, _)| is_plain(name)) {
            wanted.add(name, value, visit.now());
        }
        let state = wanted.state.take();
        Self {
            kind: kind_of(value("kind")),
            jobs: wanted.typed(),
            state: state
                .as_deref()
                .and_then(state_of)
                .unwrap_or(JobState::Failed),
            source: match value("source") {
                "history" => BulkSource::History,
                _ => BulkSource::Live,
            },
            key: BulkIdentity::Keep,
            changes: String::new(),
            first: value("first").parse().ok(),
            reason: None,
        }
    }

    fn of_form(visit: &Visit, fields: &Fields) -> Result<Self, Problem> {
        Ok(Self {
            kind: kind_of(fields.raw("kind")),
            jobs: fields.raw("jobs").trim().to_owned(),
            state: state_of(fields.raw("state")).unwrap_or(JobState::Failed),
            source: match fields.raw("source") {
                "history" => BulkSource::History,
                _ => BulkSource::Live,
            },
            key: match fields.raw("key") {
                "new" => BulkIdentity::New,
                _ => BulkIdentity::Keep,
            },
            changes: fields.raw("changes").to_owned(),
            first: whole(visit, fields, "first", "First jobs")?,
            reason: fields.reason().map(str::to_owned),
        })
    }

    fn request(&self, visit: &Visit, everything: bool) -> Result<BulkRequest, Problem> {
        let refuse = |message: String| {
            visit.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid-input", message)
        };
        let wanted = Wanted::read(&self.jobs, visit.now());
        let filter =
            Filter::from_pairs(wanted.pairs()).map_err(|error| refuse(error.to_string()))?;
        let mut request = BulkRequest::new(self.kind);
        request.everything = everything && filter == Filter::default();
        request.filter = filter;
        request.state = Some(self.state);
        request.source = self.source;
        request.key = (self.kind == BulkKind::EnqueueAgain).then_some(self.key);
        if self.kind == BulkKind::EditAndRetry {
            let changes = changes(&self.changes).map_err(refuse)?;
            (request.set, request.replace, request.unset) = changes;
        }
        Ok(request)
    }
}

type Changes = (
    BTreeMap<String, Box<RawValue>>,
    Vec<BulkReplacement>,
    Vec<String>,
);

/// Reads the changes of an edit, one a line.
fn changes(typed: &str) -> Result<Changes, String> {
    let (mut set, mut replace, mut unset) = (BTreeMap::new(), Vec::new(), Vec::new());
    let text = |json: &str, line: &str| -> Result<String, String> {
        serde_json::from_str(json.trim())
            .map_err(|_| format!("{line}: a text to replace stands in quotes"))
    };
    for line in typed.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if let Some(path) = line.strip_prefix("- ") {
            unset.push(path.trim().to_owned());
        } else if let Some((path, rest)) = line.split_once(" ~ ") {
            let (find, with) = rest
                .split_once(" -> ")
                .ok_or_else(|| format!("{line}: write: path ~ \"old\" -> \"new\""))?;
            replace.push(BulkReplacement {
                path: path.trim().to_owned(),
                find: text(find, line)?,
                with: text(with, line)?,
            });
        } else if let Some((path, value)) = line.split_once(" = ") {
            let value = RawValue::from_string(value.trim().to_owned())
                .map_err(|error| format!("{line}: the value is no JSON: {error}"))?;
            if set.insert(path.trim().to_owned(), value).is_some() {
                return Err(format!("{line}: the path is set twice"));
            }
        } else {
            return Err(format!(
                "{line}: write one change a line: path = JSON, path ~ \"old\" -> \"new\", or - path"
            ));
        }
    }
    Ok((set, replace, unset))
}

async fn ask(
    visit: Visit,
    Query(pairs): Query<Vec<(String, String)>>,
) -> Result<Response, Problem> {
    let draft = Draft::of_pairs(&visit, &pairs);
    // Without a filter nobody has chosen anything yet.
    let is_chosen = !draft.jobs.is_empty() && draft.kind != BulkKind::EditAndRetry;
    let preview = match is_chosen && visit.may::<BulkBegin>() {
        true => Some(preview(&visit, &draft, false).await),
        false => None,
    };
    Ok(page(&visit, &draft, preview))
}

async fn typed(Posted { visit, fields }: Posted) -> Result<Response, Problem> {
    let back = |problem: Problem| problem.back(address(&["bulk-new"]));
    let draft = Draft::of_form(&visit, &fields).map_err(back)?;
    if fields.raw("do") != "begin" {
        let preview = preview(&visit, &draft, fields.is_on("everything")).await;
        return Ok(page(&visit, &draft, Some(preview)));
    }
    match begin(&visit, &draft, fields.is_on("everything")).await {
        Ok(id) => {
            let text = match draft.first {
                Some(first) => format!(
                    "Begun. It pauses after the first {}; then look at them, and go on or cancel.",
                    show::counted(first, "job")
                ),
                None => "Begun.".to_owned(),
            };
            Ok(visit.done(&page_of(id), &Notice::new(text)))
        }
        Err(problem) => Ok(page(&visit, &draft, Some(Err(problem)))),
    }
}

async fn preview(visit: &Visit, draft: &Draft, everything: bool) -> Result<BulkPreview, Problem> {
    let mut request = draft.request(visit, everything)?;
    request.dry_run = true;
    let asked = visit.ask::<BulkBegin>((), NoQuery {}, Json(request));
    match asked.await? {
        BulkBegun::Preview(preview) => Ok(preview),
        BulkBegun::Bulk(_) => {
            let message = "The host began the operation instead of showing what it would do";
            Err(visit.problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", message))
        }
    }
}

async fn begin(visit: &Visit, draft: &Draft, everything: bool) -> Result<i64, Problem> {
    let mut request = draft.request(visit, everything)?;
    request.first = draft.first;
    request.reason.clone_from(&draft.reason);
    // The preview has shown what is changed, and the button says how many.
    let asked = visit.destroy::<BulkBegin>((), NoQuery {}, Json(request), None);
    match asked.await? {
        BulkBegun::Bulk(bulk) => Ok(bulk.id),
        BulkBegun::Preview(_) => {
            let message = "The host showed what the operation would do instead of beginning it";
            Err(visit.problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", message))
        }
    }
}

fn page(visit: &Visit, draft: &Draft, preview: Option<Result<BulkPreview, Problem>>) -> Response {
    let (preview, problem) = match preview {
        Some(Ok(preview)) => (Some(preview), None),
        Some(Err(problem)) => (None, Some(problem)),
        None => (None, None),
    };
    let main = html! {
        @if !visit.may::<BulkBegin>() { p { (show::state("warning")) " Your role may look at bulk operations, not begin one." } }
        @if let Some(problem) = &problem {
            div class="problem" role="alert" {
                p { (show::text(&problem.message)) }
                p class="dim" { "Nothing was done. Code " code { (show::text(&problem.code)) } }
            }
        }
        (frame::form(visit, &address(&["bulk-new"]), "stack card", fields(draft)))
        @if let Some(preview) = &preview { (previewed(visit, draft, preview)) }
    };
    let path = [(address(&["bulk"]), "Bulk operations")];
    let title = format!(
        "{}: which jobs, and what that would do",
        words(draft.kind.as_str())
    );
    let mut response = frame::page(visit, &Head::new(Section::Bulk, &title).below(&path), main);
    if let Some(problem) = problem {
        *response.status_mut() = problem.status;
    }
    response
}

fn choice(name: &str, label: &str, options: &[(&str, &str)], chosen: &str) -> Markup {
    html! {
        p {
            label for=(name) { (label) }
            select id=(name) name=(name) {
                @for (value, text) in options { option value=(value) selected[*value == chosen] { (text) } }
            }
        }
    }
}

fn source_word(source: BulkSource) -> &'static str {
    match source {
        BulkSource::Live => "live",
        BulkSource::History => "history",
    }
}

fn key_word(key: BulkIdentity) -> &'static str {
    match key {
        BulkIdentity::Keep => "keep",
        BulkIdentity::New => "new",
    }
}

fn fields(draft: &Draft) -> Markup {
    let kinds = BulkKind::ALL.map(|kind| (kind.as_str(), words(kind.as_str())));
    let names = STATES.map(|state| state.to_string());
    let states: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), name.as_str()))
        .collect();
    html! {
        (choice("kind", "What is done to each job", &kinds, draft.kind.as_str()))
        p {
            label for="jobs" { "Which jobs" }
            input id="jobs" name="jobs" type="text" value=(draft.jobs) autocomplete="off" spellcheck="false" aria-describedby="jobs-about";
            span class="dim" id="jobs-about" { "Such as " code { "queue:emailQueue code:smtp-451 since:2h" } ". All of it must hold." }
        }
        (choice("state", "In which state", &states, &draft.state.to_string()))
        (choice("source", "Where they are looked for", &[("live", "In Redis"), ("history", "In the history, also what Redis has forgotten")], source_word(draft.source)))
        @if draft.kind == BulkKind::EnqueueAgain {
            (choice("key", "Effects that the job already had", &[("keep", "are not repeated: the same idempotency key"), ("new", "happen again: a new key")], key_word(draft.key)))
        }
        @if draft.kind == BulkKind::EditAndRetry {
            p {
                label for="changes" { "Changes of the data, one a line" }
                textarea id="changes" name="changes" rows="4" spellcheck="false" aria-describedby="changes-about" { "\n" (draft.changes) }
                span class="dim" id="changes-about" { code { "lead.id = 7" } ", " code { "to ~ \"old.example\" -> \"new.example\"" } ", or " code { "- note" } " to take something out" }
            }
        }
        @if draft.jobs.is_empty() {
            p { label class="check" { input type="checkbox" name="everything" value="on"; "Every job in that state, of every queue" } }
        }
        div class="actions" { button type="submit" name="do" value="preview" { "Show what it would do" } }
    }
}

fn previewed(visit: &Visit, draft: &Draft, preview: &BulkPreview) -> Markup {
    let least = if preview.complete { "" } else { "at least " };
    let count = show::counted(preview.matched, "job");
    let begin = html! {
        input type="hidden" name="kind" value=(draft.kind.as_str());
        input type="hidden" name="jobs" value=(draft.jobs);
        input type="hidden" name="state" value=(draft.state);
        input type="hidden" name="source" value=(source_word(draft.source));
        input type="hidden" name="key" value=(key_word(draft.key));
        input type="hidden" name="changes" value=(draft.changes);
        @if draft.jobs.is_empty() { input type="hidden" name="everything" value="on"; }
        p {
            label for="first" { "Pause after the first jobs (empty: all at once)" }
            input id="first" name="first" type="number" min="1" value=(draft.first.map(|first| first.to_string()).unwrap_or_default());
        }
        p {
            label for="reason" { "Reason, for the record (no personal data)" }
            input id="reason" name="reason" type="text" maxlength="500" autocomplete="off" value=(draft.reason.as_deref().unwrap_or_default());
        }
        div class="actions" { button type="submit" name="do" value="begin" class="primary" { (words(draft.kind.as_str())) ": " (least) (count) } }
    };
    html! {
        section class="card" aria-labelledby="preview" {
            h2 id="preview" { @if preview.matched == 0 && preview.complete { "No job matches" } @else { "It would take " (least) (count) } }
            @if let Some(edit) = &preview.edit {
                p { (show::number(edit.examined)) " looked at: " (show::number(edit.unchanged)) " would be retried with the data that they have, and "
                    (show::number(edit.refused)) " would be left as they are." }
            }
            @if draft.kind == BulkKind::Remove { p { "It can be undone for an hour after its end." } }
            @if !preview.sample.is_empty() { (sample(&preview.sample)) }
            @if preview.matched > 0 || !preview.complete { (frame::form(visit, &address(&["bulk-new"]), "stack", begin)) }
        }
    }
}

fn sample(jobs: &[BulkSample]) -> Markup {
    html! {
        p class="dim" { "Some of them:" }
        div class="table" tabindex="0" role="group" aria-label="Some of the jobs" {
            table {
                thead { tr { th scope="col" { "Job" } th scope="col" { "Name" } th scope="col" { "State" } th scope="col" { "Failure, changes" } } }
                tbody {
                    @for job in jobs {
                        tr {
                            th scope="row" { a href=(address(&["job", &job.queue, &job.id])) { (show::text(&job.queue)) " " (show::short(&job.id, 40)) } }
                            td { (show::short(&job.name, 60)) }
                            td { (show::state(&job.state)) }
                            td class="message" {
                                @if let Some(refused) = &job.refused { (show::state("skipped")) " " (show::text(refused)) " " }
                                @if let Some(failure) = &job.failure { (show::short(failure, 160)) }
                                @for change in &job.changes {
                                    div { code { (show::short(&change.path, 80)) } ": "
                                        @match &change.before { Some(value) => { code { (show::short(value.get(), 120)) } } None => { span class="dim" { "absent" } } }
                                        " → "
                                        @match &change.after { Some(value) => { code { (show::short(value.get(), 120)) } } None => { span class="dim" { "absent" } } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_one_a_line_and_keep_their_numbers() {
        let typed = "lead.id = 12345678901234567890\n\n to ~ \"a -> b\" -> \"c\" \n- note";
        let refused = changes(typed).expect_err("the first arrow divides");
        assert!(refused.contains("in quotes"), "{refused}");
        let (set, replace, unset) =
            changes("lead.id = 12345678901234567890\nto ~ \"old\" -> \"new\"\n- note")
                .expect("changes");
        assert_eq!(set["lead.id"].get(), "12345678901234567890");
        assert_eq!(
            (replace[0].find.as_str(), replace[0].with.as_str()),
            ("old", "new")
        );
        assert_eq!(unset, ["note"]);
        for bad in ["lead.id", "a = {", "a ~ \"b\"", "a = 1\na = 2"] {
            assert!(changes(bad).is_err(), "{bad}");
        }
    }
}

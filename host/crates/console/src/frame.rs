//! What is around every page: head, navigation, notice, and the page of an error.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, LOCATION, SET_COOKIE};
use http::{HeaderValue, StatusCode};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use patchbay_api::path::{api_path, with_query};
use sha2::{Digest, Sha256};

use crate::form_token::{Notice, TOKEN, forget_notice};
use crate::session::{Problem, Visit};
use crate::{ROOT, assets, show};

/// What pages may load and where forms may go: this host only. No script and no style stands in a
/// page itself.
pub(crate) const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The sections of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Section {
    Overview,
    Queues,
    DeadLetters,
    Search,
    Bulk,
    Plugins,
    Schedules,
    Alerts,
    Inbox,
    Activity,
    People,
    Host,
    /// None of them: signing in.
    Elsewhere,
}

/// What the navigation shows: a section, its name, its address below the root, and the key that
/// leads there after `g`.
pub(crate) const SECTIONS: &[(Section, &str, &str, &str)] = &[
    (Section::Overview, "Overview", "overview", "o"),
    (Section::Queues, "Queues", "queues", "q"),
    (Section::DeadLetters, "Dead letters", "dead-letters", "d"),
    (Section::Search, "Search", "search", "s"),
    (Section::Bulk, "Bulk operations", "bulk", "b"),
    (Section::Plugins, "Plugins", "plugins", "p"),
    (Section::Schedules, "Schedules", "schedules", "c"),
    (Section::Alerts, "Alerts", "alerts", "l"),
    (Section::Inbox, "Inbox", "inbox", "i"),
    (Section::Activity, "Activity", "activity", "w"),
    (Section::People, "People and tokens", "tokens", "t"),
    (Section::Host, "Hosts", "host", "h"),
];

/// What a page is.
pub(crate) struct Head<'a> {
    pub(crate) section: Section,
    /// Of the window, and the heading of the page.
    pub(crate) title: &'a str,
    /// Where it belongs: addresses and names, from the outside inwards.
    pub(crate) path: &'a [(String, &'a str)],
    /// How often the script asks for what changes, in seconds; 0: never.
    pub(crate) refresh_s: u8,
}

impl<'a> Head<'a> {
    pub(crate) fn new(section: Section, title: &'a str) -> Self {
        Self {
            section,
            title,
            path: &[],
            refresh_s: 0,
        }
    }

    pub(crate) fn below(mut self, path: &'a [(String, &'a str)]) -> Self {
        self.path = path;
        self
    }

    /// What has `data-live` follows the host every few seconds.
    pub(crate) fn live(mut self) -> Self {
        self.refresh_s = 3;
        self
    }
}

/// The address of a place in the console. Names may contain anything.
pub(crate) fn address(segments: &[&str]) -> String {
    format!("{ROOT}/{}", api_path(segments))
}

/// The address with a query, which must hold no personal data: addresses are kept by browsers,
/// proxies and logs.
pub(crate) fn address_with(segments: &[&str], query: &[(&str, &str)]) -> String {
    with_query(&address(segments), query)
}

/// The template of a route below the root, for the router.
pub(crate) fn below_root(template: &str) -> String {
    format!("{ROOT}/{template}")
}

/// Where somebody signs in, to go on to this address of the console.
pub(crate) fn sign_in_address(back: &str) -> String {
    match back.is_empty() {
        true => address(&["sign-in"]),
        false => address_with(&["sign-in"], &[("to", back)]),
    }
}

/// Only an address of the console itself, however a browser reads it; else the first page.
pub(crate) fn local(asked: &str) -> String {
    let is_plain = asked.len() <= 2_000
        && asked
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !asked.contains("//")
        && !asked.split(['/', '?', '#']).any(|part| {
            matches!(
                part.to_ascii_lowercase().replace("%2e", ".").as_str(),
                "." | ".."
            )
        });
    let is_below = asked
        .strip_prefix(ROOT)
        .is_some_and(|rest| rest.starts_with('/'));
    match is_plain && is_below {
        true => asked.to_owned(),
        false => address(&["overview"]),
    }
}

/// Sends the browser to another page.
pub(crate) fn sent_on(address: &str) -> Response {
    match HeaderValue::from_str(address) {
        Ok(address) => (StatusCode::SEE_OTHER, [(LOCATION, address)]).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

impl Visit {
    /// After an action: to this page, which says what was done.
    pub(crate) fn done(&self, address: &str, notice: &Notice) -> Response {
        let mut response = sent_on(address);
        if let Some(set) = self.secret().tell(notice, self.cookies()) {
            response.headers_mut().append(SET_COOKIE, set);
        }
        response
    }
}

/// A form that this console accepts: it posts to an address of the console.
pub(crate) fn form(visit: &Visit, action: &str, class: &str, content: Markup) -> Markup {
    html! {
        form method="post" action=(action) class=(class) {
            input type="hidden" name=(TOKEN) value=(visit.token());
            (content)
        }
    }
}

/// A button that does one thing at once, with further fields.
pub(crate) fn button(visit: &Visit, action: &str, label: &str, fields: &[(&str, &str)]) -> Markup {
    let content = html! {
        @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
        button type="submit" { (label) }
    };
    form(visit, action, "inline", content)
}

/// A whole page.
pub(crate) fn page(visit: &Visit, head: &Head<'_>, main: Markup) -> Response {
    respond(visit, head, main, StatusCode::OK)
}

fn respond(visit: &Visit, head: &Head<'_>, main: Markup, status: StatusCode) -> Response {
    if visit.is_refresh() && status.is_success() {
        return part(main);
    }
    let body = document(visit, head, &main).into_string();
    let mut response = (
        status,
        [(CONTENT_TYPE, HTML), (CONTENT_SECURITY_POLICY, POLICY)],
        body,
    )
        .into_response();
    let set = [
        visit
            .secret()
            .is_new
            .then(|| visit.secret().set(visit.cookies()))
            .flatten(),
        visit.notice().and_then(|_| forget_notice(visit.cookies())),
    ];
    for cookie in set.into_iter().flatten() {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

/// What the script asks for: the content alone, with a tag by which it knows what it has.
fn part(main: Markup) -> Response {
    let text = main.into_string();
    let tag = hex::encode(&Sha256::digest(text.as_bytes())[..8]);
    let headers = [
        (CONTENT_TYPE, HTML),
        (
            ETAG,
            HeaderValue::from_str(&format!("\"{tag}\""))
                .unwrap_or(HeaderValue::from_static("\"\"")),
        ),
        (CONTENT_SECURITY_POLICY, POLICY),
    ];
    (headers, text).into_response()
}

fn document(visit: &Visit, head: &Head<'_>, main: &Markup) -> Markup {
    let title = show::plain(head.title);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Patchbay" }
                link rel="icon" href=(assets::icon());
                link rel="stylesheet" href=(assets::style());
                script src=(assets::script()) defer {}
            }
            body data-refresh=(head.refresh_s) data-sign-in=(sign_in_address("")) {
                a class="skip" href="#main" { "Skip to the content" }
                @if visit.who().is_some() { (banner(visit, head)) }
                main id="main" tabindex="-1" {
                    @if !head.path.is_empty() { (crumbs(head)) }
                    div class="title" {
                        h1 { (show::text(head.title)) }
                        @if head.refresh_s > 0 {
                            p class="as-of" id="as-of" { "As of " (show::clock(visit.now())) }
                        }
                    }
                    @if let Some(notice) = visit.notice() { (told(visit, notice)) }
                    (main)
                }
                @if visit.who().is_some() { (shortcuts()) }
            }
        }
    }
}

fn banner(visit: &Visit, head: &Head<'_>) -> Markup {
    html! {
        header class="banner" {
            a class="brand" href=(address(&["overview"])) { "Patchbay" }
            nav aria-label="Sections" {
                ul {
                    @for (section, name, place, key) in SECTIONS {
                        li {
                            a href=(address(&[place])) data-go=(key)
                                aria-current=[(*section == head.section).then_some("page")] { (name) }
                        }
                    }
                    li { a href="/api/docs" data-go="a" { "API" } }
                }
            }
            (find(visit))
            @if let Some(who) = visit.who() {
                div class="who" {
                    span { (show::text(&who.name)) " " span class="dim" { "(" (who.role) ")" } }
                    @if who.credential == "session" {
                        (button(visit, &address(&["sign-out"]), "Sign out", &[]))
                    }
                }
            }
        }
    }
}

/// The search of every page. It is posted, because what is searched may be personal.
fn find(visit: &Visit) -> Markup {
    let content = html! {
        label class="hidden" for="find" { "Search jobs" }
        input id="find" name="q" type="search" placeholder="Search jobs ( / )" autocomplete="off";
        button type="submit" class="hidden" { "Search" }
    };
    form(visit, &address(&["search"]), "find", content)
}

fn crumbs(head: &Head<'_>) -> Markup {
    html! {
        nav class="crumbs" aria-label="Where this page belongs" {
            ol {
                @for (place, name) in head.path {
                    li { a href=(place) { (show::text(name)) } }
                }
            }
        }
    }
}

fn told(visit: &Visit, notice: &Notice) -> Markup {
    html! {
        div class="notice" role="status" {
            p { (show::text(&notice.text)) }
            @if let Some((label, action)) = &notice.undo { (button(visit, action, label, &[])) }
        }
    }
}

fn shortcuts() -> Markup {
    let keys: [(&str, &str); 6] = [
        ("/", "Search"),
        ("j or k", "Next or previous row"),
        ("Enter", "Open the row"),
        ("r", "Retry, where the page or the row has that button"),
        ("?", "This list"),
        ("Esc", "Close, or leave a field"),
    ];
    html! {
        dialog id="shortcuts" aria-labelledby="shortcuts-title" {
            h2 id="shortcuts-title" { "Keys" }
            dl {
                @for (key, what) in keys { dt { kbd { (key) } } dd { (what) } }
                @for (_, name, _, key) in SECTIONS {
                    dt { kbd { "g " (key) } } dd { (name) }
                }
                dt { kbd { "g a" } } dd { "API" }
            }
            form method="dialog" { button type="submit" { "Close" } }
        }
        footer class="foot" { p { "Press " kbd { "?" } " for the keys of this console." } }
    }
}

/// Text that has been escaped already.
pub(crate) fn nothing() -> Markup {
    PreEscaped(String::new())
}

/// What is said where a list is empty: what that means, and what to do.
pub(crate) fn empty(what: &str, next: Markup) -> Markup {
    html! { div class="empty" { p { strong { (what) } } p { (next) } } }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let title = match status {
            StatusCode::NOT_FOUND => "Not found",
            StatusCode::FORBIDDEN => "Not allowed",
            StatusCode::UNAUTHORIZED => "Not signed in",
            StatusCode::SERVICE_UNAVAILABLE => "Not available now",
            StatusCode::TOO_MANY_REQUESTS => "Too many requests",
            status if status.is_server_error() => "The host has failed",
            _ => "Not done",
        };
        let back = self.back.clone();
        let main = html! {
            div class="problem" role="alert" {
                p { (show::text(&self.message)) }
                @if let Some(details) = &self.details { (show::json(&details.to_string())) }
                p class="dim" { "Code " code { (show::text(&self.code)) } ", status " (status.as_u16()) }
            }
            div class="actions" {
                @if let Some(back) = &back { a class="button" href=(back) { "Go back" } }
                a class="button" href=(address(&["overview"])) { "Overview" }
                @if self.visit.who().is_none() { a class="button" href=(sign_in_address("")) { "Sign in" } }
            }
        };
        respond(
            &self.visit,
            &Head::new(Section::Elsewhere, title),
            main,
            status,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_console_are_gone_back_to() {
        for asked in [
            "/admin/queues/queue/emailQueue?state=failed",
            "/admin/queues/job/a%2Fb/1",
        ] {
            assert_eq!(local(asked), asked);
        }
        for asked in [
            "",
            "/",
            "//evil.example",
            "/admin/queues//evil.example",
            "https://evil.example/admin/queues/",
            "/admin/queues/../../api/x",
            "/admin/queues/%2e%2E/x",
            "/admin/queuesevil",
            "/\\evil.example",
            "/admin/queues/\\evil",
            "/admin/queues/a b",
            "/admin/queues/\r\nset-cookie: a=b",
            "javascript:alert(1)",
        ] {
            assert_eq!(local(asked), "/admin/queues/overview", "{asked}");
        }
    }

    #[test]
    fn no_two_sections_have_the_same_key_or_address() {
        let mut keys: Vec<_> = SECTIONS.iter().map(|(_, _, _, key)| key).collect();
        let mut places: Vec<_> = SECTIONS.iter().map(|(_, _, place, _)| place).collect();
        keys.push(&"a");
        let (all, total) = (keys.len(), places.len());
        keys.sort_unstable();
        keys.dedup();
        places.sort_unstable();
        places.dedup();
        assert_eq!((keys.len(), places.len()), (all, total));
    }
}

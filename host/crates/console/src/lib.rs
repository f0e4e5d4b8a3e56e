//! The console: pages at `/admin/queues` for operators, made of the API's answers.
//!
//! It is a client of the API inside the process: every page and every action asks operations of the
//! table (`patchbay_api`) of the API's own router, with the credential of the person at the browser.
//! So who may do what, what is hidden, what is recorded and every limit are those of the API, and
//! nothing here can do what the API cannot.
//!
//! # To add a page
//!
//! Write `pages/NAME.rs` with `pub(crate) fn routes(router: Router<Site>) -> Router<Site>`, and name
//! it in `pages/mod.rs`. A page is a handler that takes a [`session::Visit`], asks with
//! `visit.ask::<E>(path, query, body)` (or `ask_shared` for what many open consoles look at), and
//! returns `Ok(frame::page(&visit, &Head { … }, html! { … }))`. What changes by itself stands in an
//! element with `id` and `data-live`. A page that the navigation names has a row in
//! `frame::SECTIONS`. Texts of others (data, messages, names) go through `show::text`, times through
//! `show::ago`, numbers through `show::number`.
//!
//! # To add an action
//!
//! A form made by `frame::form` (it has the token against other sites' forms) posts to an address of
//! the console. Its handler takes an [`entry::Posted`], which is only made when the token is right,
//! calls `visit.change::<E>(path, query, body, reason)` and returns `visit.done(address, notice)`. Show
//! a button only where `visit.may::<E>()`. What an operation destroys for good (`Effect::Destroys`) is
//! confirmed on a page of its own: `confirm::page`, and `visit.destroy::<E>` once the name was typed.

mod assets;
mod confirm;
mod entry;
mod form_token;
mod frame;
mod pages;
mod qualifiers;
mod send_body;
mod session;
mod shared_reads;
mod show;

use std::sync::Arc;

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use http::Extensions;

use shared_reads::SharedReads;

/// Where the console is.
pub const ROOT: &str = "/admin/queues";

/// What the HTTP server gives the console.
pub struct Config {
    /// The routes of the API, with what guards each of them.
    pub api: Router,
    /// What a request to the API gets of the request that a page came with: its trace, and the
    /// address of the client.
    pub carried: fn(&Extensions) -> Extensions,
    /// The name of the cookie with an operator's session, for this client.
    pub session_cookie: Arc<dyn Fn(&Extensions) -> &'static str + Send + Sync>,
    /// Whether single sign-on is configured.
    pub has_single_sign_on: bool,
    /// Whether there is a shared login.
    pub has_shared_login: bool,
}

/// What all pages share. The router clones it with each request, so it is one pointer.
#[derive(Clone)]
pub(crate) struct Site(Arc<Parts>);

impl std::ops::Deref for Site {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) shared: SharedReads,
}

/// The pages, their actions and their files.
pub fn router<S: Clone + Send + Sync + 'static>(config: Config) -> Router<S> {
    let site = Site(Arc::new(Parts {
        config,
        shared: SharedReads::default(),
    }));
    let home = async || Redirect::to(&pages::home());
    let router = Router::new()
        .route(ROOT, get(home))
        .route(&format!("{ROOT}/"), get(home))
        .route(
            &format!("{ROOT}/assets/{{hash}}/{{name}}"),
            get(assets::file),
        );
    pages::routes(router).with_state(site)
}

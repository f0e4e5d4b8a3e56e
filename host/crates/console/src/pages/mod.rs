//! The pages, one file per domain.

mod bulk;
mod bulk_new;
mod dead_letters;
mod events;
mod found;
mod job;
mod job_actions;
mod overview;
mod queue;
mod queue_actions;
mod queues;
mod saved_searches;
mod search;
mod sign_in;

use axum::Router;

use crate::{Site, frame};

/// The first page.
pub(crate) fn home() -> String {
    frame::address(&["overview"])
}

pub(crate) fn routes(router: Router<Site>) -> Router<Site> {
    let router = sign_in::routes(router);
    let router = overview::routes(router);
    let router = queues::routes(router);
    let router = queue::routes(router);
    let router = queue_actions::routes(router);
    let router = job::routes(router);
    let router = job_actions::routes(router);
    let router = dead_letters::routes(router);
    let router = search::routes(router);
    let router = saved_searches::routes(router);
    let router = bulk_new::routes(router);
    bulk::routes(router)
}

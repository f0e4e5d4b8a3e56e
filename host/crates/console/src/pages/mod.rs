//! The pages, one file per domain.

mod overview;
mod queues;
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
    queues::routes(router)
}

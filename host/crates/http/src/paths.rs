//! Refuses paths that other readers, such as a proxy, may take for another path.
//!
//! Routes are matched by the path as it was sent, so an encoded slash or letter never meets a fixed
//! part of a route. What is left are places for names, where a dot segment or a backslash would be
//! taken for a name. Names that look so are sent in another form (see `patchbay_api::path`).

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;

use crate::not_found;
use crate::plugin_routes::Lookup;

pub(super) async fn refuse_ambiguous(request: Request, next: Next) -> Response {
    // A path that a plugin could have is answered with the reason.
    let is_answered = request.extensions().get::<Lookup>().is_some();
    if is_ambiguous(request.uri().path()) && !is_answered {
        return not_found(request).await;
    }
    next.run(request).await
}

fn is_ambiguous(path: &str) -> bool {
    path.contains('\\') || path.contains("//") || path.split('/').any(is_dot_segment)
}

fn is_dot_segment(segment: &str) -> bool {
    // At most `..`, each dot encoded.
    segment.len() <= 6
        && [".", ".."].contains(&segment.replace("%2e", ".").replace("%2E", ".").as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_reader_may_resolve_is_refused_and_names_are_not() {
        for path in [
            "//api/admin/queues",
            "/api//admin",
            "/api/admin/queues/../plugins",
            "/api/admin/queues/%2e%2e/pause",
            "/api/admin/queues/.%2E/pause",
            "/api/admin/queues/%2E",
            "/api/admin/queues/a\\b",
            "/.",
        ] {
            assert!(is_ambiguous(path), "{path}");
        }
        for path in [
            "/",
            "/api/admin/queues/~../pause",
            "/api/admin/queues/a%2Fb/pause",
            "/api/admin/queues/.../pause",
            "/api/admin/queues/%2e%2e%2e",
            "/api/admin/queues/a%5Cb",
        ] {
            assert!(!is_ambiguous(path), "{path}");
        }
    }
}

//! The wire format between a host and its clients: operations, requests, answers, paths and
//! headers. The server, the command line and the console share it.

#![warn(missing_docs)]

pub mod activity;
pub mod alerts;
pub mod answer;
pub mod attempts;
pub mod audit;
pub mod body;
pub mod breakers;
pub mod bulk;
pub mod dead_letters;
pub mod errors;
pub mod flows;
pub mod headers;
pub mod health;
pub mod history;
pub mod inbox;
pub mod inbox_many;
pub mod incident;
pub mod jobs;
pub mod keys;
pub mod oidc;
pub mod operation;
pub mod operators;
pub mod path;
pub mod people;
pub mod plugin_calls;
pub mod plugins;
pub mod queues;
pub mod redis_keys;
pub mod reveal;
pub mod routes;
pub mod schedules;
pub mod searches;
pub mod secrets;
pub mod sql;
pub mod status;
pub mod timeline;
pub mod trails;
pub mod vendor_keys;

use operation::Operation;

/// Every operation, in the order of the domains.
pub fn operations() -> impl Iterator<Item = &'static Operation> {
    [
        queues::OPERATIONS,
        schedules::OPERATIONS,
        alerts::OPERATIONS,
        secrets::OPERATIONS,
        audit::OPERATIONS,
        breakers::OPERATIONS,
        plugins::OPERATIONS,
        plugin_calls::OPERATIONS,
        routes::OPERATIONS,
        inbox::OPERATIONS,
        inbox_many::OPERATIONS,
        sql::OPERATIONS,
        incident::OPERATIONS,
        health::OPERATIONS,
        jobs::OPERATIONS,
        timeline::OPERATIONS,
        flows::OPERATIONS,
        dead_letters::OPERATIONS,
        bulk::OPERATIONS,
        history::OPERATIONS,
        searches::OPERATIONS,
        activity::OPERATIONS,
        status::OPERATIONS,
        redis_keys::OPERATIONS,
        people::OPERATIONS,
        vendor_keys::OPERATIONS,
        keys::OPERATIONS,
        operators::OPERATIONS,
        oidc::OPERATIONS,
        trails::OPERATIONS,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_operation_has_an_id_a_path_and_a_sentence_of_its_own() {
        let (mut ids, mut routes) = (HashSet::new(), HashSet::new());
        for operation in operations() {
            let is_id = operation.id.split('.').count() == 2
                && operation
                    .id
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'.');
            assert!(is_id && ids.insert(operation.id), "{}", operation.id);
            assert!(
                routes.insert(format!("{:?} {}", operation.method, operation.path)),
                "{} twice",
                operation.path
            );
            assert!(operation.about.trim().ends_with('.'), "{}", operation.id);
        }
    }
}

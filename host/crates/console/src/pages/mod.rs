//! The pages, one file per domain.

mod accounts;
mod activity;
mod alert_rules;
mod alerts;
mod audit;
mod breakers;
mod bulk;
mod bulk_new;
mod dead_letters;
mod events;
mod found;
mod grants;
mod host;
mod inbox;
mod inbox_many;
mod job;
mod job_actions;
mod job_scheduler;
mod operators;
mod overview;
mod parts;
mod plugin;
mod plugin_actions;
mod plugin_routes;
mod plugins;
mod queue;
mod queue_actions;
mod queues;
mod saved_searches;
mod schedule;
mod schedule_form;
mod schedule_parts;
mod schedules;
mod search;
mod secrets;
mod settings;
mod sign_in;
mod tokens;
mod vendor_keys;
mod webhooks;

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
    let router = accounts::routes(router);
    let router = activity::routes(router);
    let router = alerts::routes(router);
    let router = audit::routes(router);
    let router = breakers::routes(router);
    let router = grants::routes(router);
    let router = host::routes(router);
    let router = inbox::routes(router);
    let router = inbox_many::routes(router);
    let router = operators::routes(router);
    let router = plugin::routes(router);
    let router = plugin_routes::routes(router);
    let router = plugins::routes(router);
    let router = schedule::routes(router);
    let router = schedule_form::routes(router);
    let router = schedules::routes(router);
    let router = secrets::routes(router);
    let router = settings::routes(router);
    let router = tokens::routes(router);
    let router = vendor_keys::routes(router);
    let router = webhooks::routes(router);
    let router = alert_rules::routes(router);
    let router = job_scheduler::routes(router);
    let router = plugin_actions::routes(router);
    bulk::routes(router)
}

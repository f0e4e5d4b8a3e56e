//! Routes as operators see them.

use std::sync::Arc;

use patchbay_api::routes::{RouteDetails, RouteRateView, RouteView};
use patchbay_model::manifest::RouteSpec;

use super::Routes;
use crate::error::Error;
use crate::nearest::suggesting;
use crate::plugins::{Route, Ungranted};

impl Routes {
    /// Every route of the active plugins on this host, by plugin; those that are not granted after
    /// the others.
    pub fn list(&self) -> Vec<RouteView> {
        let table = self.table();
        let mut views: Vec<RouteView> = table.routes().iter().map(|route| view(route)).collect();
        views.extend(table.ungranted().iter().map(ungranted));
        views.sort_by(|a, b| a.plugin.cmp(&b.plugin));
        views
    }

    /// One route, by its name on this host.
    pub fn show(&self, name: &str) -> Result<RouteDetails, Error> {
        let table = self.table();
        let named = |route: &&Arc<Route>| route.name() == name;
        if let Some(route) = table.routes().iter().find(named) {
            return Ok(details(view(route), &route.spec));
        }
        let mut waiting = table.ungranted().iter();
        if let Some(route) = waiting.find(|route| route.name() == name) {
            return Ok(details(ungranted(route), &route.spec));
        }
        let names: Vec<String> = self.list().into_iter().map(|view| view.route).collect();
        let message =
            format!("No active plugin has the route {name} on this host. See: patchbay route list");
        let message = suggesting(message, name, names.iter().map(String::as_str));
        Err(Error::not_found(message))
    }
}

fn view(route: &Route) -> RouteView {
    let spec = &route.spec;
    RouteView {
        route: route.name(),
        plugin: route.plugin.to_string(),
        method: spec.method.as_str().to_owned(),
        path: spec.path.to_string(),
        access: spec.guard().to_string(),
        operation: spec.operation.clone(),
        revision: route.digest.to_string(),
        state: route.runner.state().to_owned(),
        reason: route.runner.reason(),
    }
}

/// It answers 404 until somebody grants it.
fn ungranted(route: &Ungranted) -> RouteView {
    let spec = &route.spec;
    RouteView {
        route: route.name(),
        plugin: route.plugin.to_string(),
        method: spec.method.as_str().to_owned(),
        path: spec.path.to_string(),
        access: spec.guard().to_string(),
        operation: spec.operation.clone(),
        revision: route.digest.to_string(),
        state: "not granted".to_owned(),
        reason: Some(format!(
            "It answers 404. To serve it: patchbay plugin grant {} \"{}\"",
            route.plugin,
            route.ask.as_str()
        )),
    }
}

fn details(route: RouteView, spec: &RouteSpec) -> RouteDetails {
    let rate = spec.rate();
    RouteDetails {
        route,
        success_status: spec.success_status,
        statuses: spec.statuses.clone(),
        produces: spec.produces.clone(),
        request_headers: spec.request_headers.clone(),
        response_headers: spec.response_headers.clone(),
        max_body_bytes: spec.max_body_bytes,
        deadline_ms: spec.deadline_ms,
        max_concurrency: spec.max_concurrency,
        rate: RouteRateView {
            max: rate.max,
            per_ms: rate.per_ms,
            by: rate.by.as_str().to_owned(),
        },
        body_type: spec.body_type.as_str().to_owned(),
        idempotency: spec.idempotency().as_str().to_owned(),
        cache: spec.cache.map(|cache| cache.to_string()),
        cors: spec.cors.as_str().to_owned(),
        audit: spec.audit().map(|(action, _)| action),
        input: spec.input.clone(),
        output: spec.output.clone(),
    }
}

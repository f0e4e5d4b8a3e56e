//! Routes as operators see them.

use std::sync::Arc;

use patchbay_api::routes::{RouteDetails, RouteRateView, RouteView};

use super::Routes;
use crate::error::Error;
use crate::nearest::suggesting;
use crate::plugins::Route;

impl Routes {
    /// Every route that this host serves, by plugin and then as in its manifest.
    pub fn list(&self) -> Vec<RouteView> {
        self.table()
            .routes()
            .iter()
            .map(|route| view(route))
            .collect()
    }

    /// One route, by its name on this host.
    pub fn show(&self, name: &str) -> Result<RouteDetails, Error> {
        let table = self.table();
        let named = |route: &&Arc<Route>| route.name() == name;
        if let Some(route) = table.routes().iter().find(named) {
            return Ok(details(route));
        }
        let names: Vec<String> = table.routes().iter().map(|route| route.name()).collect();
        let message =
            format!("No plugin serves the route {name} on this host. See: patchbay route list");
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
    }
}

fn details(route: &Route) -> RouteDetails {
    let spec = &route.spec;
    let rate = spec.rate();
    RouteDetails {
        route: view(route),
        reason: route.runner.reason(),
        success_status: spec.success_status,
        statuses: spec.statuses.clone(),
        produces: spec.produces.clone(),
        request_headers: spec.request_headers.clone(),
        response_headers: spec.response_headers.clone(),
        max_body_bytes: spec.max_body_bytes,
        deadline_ms: spec.deadline_ms,
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

//! HTTP: the only entrance for operators, probes and API clients.
//!
//! This crate owns routing, envelopes, identity and request ids. It decides nothing: a handler
//! calls one use case of [`patchbay_app`], and every error leaves through `error::ApiError`.

mod activity;
mod alerts;
mod anonymous;
mod api_docs;
mod audit;
mod body_timeout;
mod breakers;
mod bulk;
mod client_address;
mod console;
mod cookies;
mod cors;
mod credential_headers;
mod cross_site;
mod dead_letters;
mod error;
mod flows;
mod form_body;
mod framing;
mod health;
mod history;
mod host_header;
mod inbox;
mod incident;
mod job_data;
mod jobs;
mod json_body;
mod keys;
mod login_limiter;
mod measure;
mod merged_document;
mod metrics;
mod oidc;
mod open_connections;
mod openapi;
mod operator_guard;
mod operator_login;
mod operators;
mod own_key;
mod paths;
mod people;
mod plugin_calls;
mod plugin_routes;
mod plugins;
mod queues;
mod quotas;
mod redis_keys;
mod request_id;
mod request_span;
mod route_listing;
mod route_request;
mod routes;
mod run_to_end;
mod schedules;
mod searches;
mod secrets;
mod security_headers;
mod server;
mod sign_in_pages;
mod status;
mod tls;
mod user_login;
mod vendor_keys;
mod vendor_login;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, FromRef, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use patchbay_app::limits::{ANONYMOUS, Class};
use patchbay_app::service::Service;
use patchbay_app::{App, Parts};
use patchbay_telemetry::metrics::RequestMeters;
use patchbay_telemetry::traces::Traces;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::warn;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use cookies::CookiePolicy;
pub use own_key::OwnKey;

use self::routes::Routes;
use anonymous::Anonymous;
use cors::Cors;
use merged_document::MergedDocument;
use metrics::MetricsPage;
use operator_login::BasicLogin;
use security_headers::IsHttps;
use server::Server;
pub use server::{HttpLimits, bind};
use tls::CertificateWatch;
pub use tls::{Pair, Tls, TlsError, TlsFiles};

/// Maximum body of an ordinary request. Job data is limited to 1 MiB; the rest is for the envelope.
const MAX_BODY_BYTES: usize = 2 << 20;

/// The state shared by all handlers. The router clones it several times per request, so it is one
/// pointer.
#[derive(Clone)]
pub(crate) struct AppState(Arc<Shared>);

impl std::ops::Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What [`AppState`] points to.
pub(crate) struct Shared {
    pub(crate) traces: Traces,
    /// The content of `/metrics`.
    pub(crate) metrics: Arc<MetricsPage>,
    /// The login of the configuration.
    pub(crate) basic: Option<Arc<BasicLogin>>,
    pub(crate) own_key: Option<OwnKey>,
    /// Whether clients reach this host by HTTPS.
    pub(crate) is_https: bool,
    /// Limits whoever has not logged in.
    pub(crate) anonymous: Anonymous,
    /// Platform of requests without `x-platform`.
    pub(crate) default_platform: Arc<str>,
    pub(crate) max_component_bytes: usize,
    /// Running operations of operators; they continue when their client disconnects.
    pub(crate) operations: TaskTracker,
    pub(crate) app: App,
    pub(crate) cookies: CookiePolicy,
}

/// Lets handlers extract the use cases of one domain, and nothing else of the state.
macro_rules! domains {
    ($($field:ident: $domain:ty),+ $(,)?) => {
        $(impl FromRef<AppState> for $domain {
            fn from_ref(state: &AppState) -> Self {
                state.app.$field.clone()
            }
        })+
    };
}

domains! {
    queues: patchbay_app::queues::Queues,
    schedules: patchbay_app::schedules::Schedules,
    alerts: patchbay_app::alerts::Alerts,
    secrets: patchbay_app::secrets::Secrets,
    audit: patchbay_app::audit::Audit,
    breakers: patchbay_app::breakers::Breakers,
    plugins: patchbay_app::plugin_administration::PluginAdministration,
    routes: patchbay_app::routes::Routes,
    inbox: patchbay_app::inbox::Inbox,
    incident: patchbay_app::incident::Incident,
    health: patchbay_app::health::HealthCheck,
    jobs: patchbay_app::jobs::Jobs,
    flows: patchbay_app::flows::Flows,
    dead_letters: patchbay_app::dead_letters::DeadLetters,
    bulk: patchbay_app::bulk::BulkOperations,
    history: patchbay_app::history::History,
    searches: patchbay_app::searches::Searches,
    activity: patchbay_app::activity::ActivityLog,
    status: patchbay_app::status::Status,
    redis_keys: patchbay_app::redis_keys::RedisKeys,
    people: patchbay_app::people::People,
    operators: patchbay_app::operators::Operators,
    sso: patchbay_app::operators::oidc::SingleSignOn,
    keys: patchbay_app::people::Keys,
    vendor_keys: patchbay_app::vendor_keys::VendorKeys,
}

impl FromRef<AppState> for CookiePolicy {
    fn from_ref(state: &AppState) -> Self {
        state.cookies
    }
}

fn routes(state: &AppState) -> Routes {
    let routes = Routes::new(state);
    let routes = queues::routes(routes);
    let routes = schedules::routes(routes);
    let routes = alerts::routes(routes);
    let routes = secrets::routes(routes);
    let routes = audit::routes(routes);
    let routes = breakers::routes(routes);
    let routes = plugins::routes(routes);
    let routes = plugin_calls::routes(routes);
    let routes = route_listing::routes(routes);
    let routes = inbox::routes(routes);
    let routes = incident::routes(routes);
    let routes = health::routes(routes);
    let routes = jobs::routes(routes);
    let routes = flows::routes(routes);
    let routes = dead_letters::routes(routes);
    let routes = bulk::routes(routes);
    let routes = history::routes(routes);
    let routes = searches::routes(routes);
    let routes = activity::routes(routes);
    let routes = status::routes(routes);
    let routes = redis_keys::routes(routes);
    let routes = people::routes(routes);
    let routes = operators::routes(routes);
    let routes = oidc::routes(routes);
    let routes = vendor_keys::routes(routes);
    let routes = keys::routes(routes);
    metrics::routes(routes)
}

fn api_router(state: &AppState) -> OpenApiRouter<AppState> {
    OpenApiRouter::with_openapi(openapi::Api::openapi()).merge(routes(state).finish())
}

/// What operators configure of HTTP.
pub struct HttpConfig {
    pub limits: HttpLimits,
    /// Requests without a login per network and minute; `None`: not limited.
    pub anonymous_per_minute: Option<u32>,
    /// Other origins whose pages may call operations for users.
    pub cors_origins: Vec<String>,
    /// Whether clients reach this host by HTTPS.
    pub is_https: bool,
    /// Name and password that open /api/admin without an operator's own name.
    pub operator: Option<(String, String)>,
    /// A key of the program that runs this host, which opens everything: see [`OwnKey`].
    pub own_key: Option<OwnKey>,
    /// Whether /metrics asks for the operator's credentials.
    pub metrics_need_operator: bool,
    /// Of requests that name none.
    pub default_platform: Arc<str>,
    /// Largest component file.
    pub max_component_bytes: usize,
    pub cookies: CookiePolicy,
    /// Platforms that requests may name; empty: any.
    pub platforms: Arc<[String]>,
}

/// Serves the use cases of these parts.
pub fn server(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    parts: &Parts,
    config: HttpConfig,
) -> Arc<dyn Service> {
    if config.operator.is_none() {
        warn!(
            "no shared login is configured: only operators with a name of their own use /api/admin and, unless metrics.require_operator is false, /metrics. To make the first one, set BULL_BOARD_USERNAME and BULL_BOARD_PASSWORD"
        );
    }
    let state = AppState(Arc::new(Shared {
        traces: parts.traces.clone(),
        metrics: Arc::new(MetricsPage {
            exposition: Arc::clone(&parts.exposition),
            needs_operator: config.metrics_need_operator,
        }),
        basic: config
            .operator
            .map(|(name, password)| Arc::new(BasicLogin::new(&name, &password))),
        own_key: config.own_key,
        is_https: config.is_https,
        anonymous: Anonymous {
            limits: parts.limits.clone(),
            class: config
                .anonymous_per_minute
                .map(|count| Arc::new(anonymous_class(count))),
        },
        default_platform: config.default_platform,
        max_component_bytes: config.max_component_bytes,
        operations: parts.operations.clone(),
        app: App::new(parts),
        cookies: config.cookies,
    }));
    if let Some(tls) = &tls {
        parts.http.set_certificate(tls.standing());
    }
    let cors = Cors::new(&config.cors_origins, patchbay_api::operations());
    let platforms = request_id::Platforms {
        default: Arc::clone(&state.default_platform),
        known: config.platforms,
    };
    let meters = Arc::clone(&parts.requests);
    let router = router(
        state,
        meters,
        &config.limits,
        platforms,
        cors,
        IsHttps(config.is_https),
    );
    Arc::new(Server::new(
        listener,
        tls,
        router,
        config.limits,
        parts.operations.clone(),
        Arc::clone(&parts.http),
    ))
}

/// Follows the files of the certificate, where this host serves HTTPS.
pub fn certificate_watch(tls: Option<Arc<Tls>>, parts: &Parts) -> Option<Arc<dyn Service>> {
    let standing = Arc::clone(&parts.http);
    tls.map(|tls| Arc::new(CertificateWatch { tls, standing }) as _)
}

fn anonymous_class(count: u32) -> Class {
    Class {
        name: ANONYMOUS,
        what: "requests from this network",
        count,
        window: Duration::from_secs(60),
    }
}

/// The whole service, counted in `requests`.
fn router(
    state: AppState,
    requests: Arc<RequestMeters>,
    limits: &HttpLimits,
    platforms: request_id::Platforms,
    cors: Cors,
    is_https: IsHttps,
) -> Router {
    let (router, document) = api_router(&state).split_for_parts();
    let console = console::router(&state, router.clone());
    let document = Arc::new(MergedDocument::new(openapi::complete(&document)));
    let served = state.app.routes.clone();
    let document = move || async move {
        let text = document.with(&served.table());
        ([("content-type", "application/json")], text.to_string())
    };
    let limited = middleware::from_fn_with_state(state.anonymous.clone(), anonymous::limit);
    let guard = Arc::new(cross_site::Guard {
        allowed: Arc::clone(&limits.allowed_origins),
        cors: cors.clone(),
        recorded: cross_site::RecordedReads::new(patchbay_api::operations()),
    });
    // The outermost comes first. One layer for the router: it boxes each of its layers, and copies
    // them with each request.
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(platforms, request_id::trace))
        .layer(middleware::from_fn_with_state(
            state.clone(),
            plugin_routes::look_up,
        ))
        .layer(middleware::from_fn_with_state(requests, measure::count))
        .layer(middleware::from_fn_with_state(
            is_https,
            security_headers::add,
        ))
        .layer(middleware::from_fn(quotas::tell))
        .layer(middleware::from_fn_with_state(cors.clone(), cors::answer))
        .layer(CatchPanicLayer::custom(|_| {
            tracing::error!("a request failed because of a fault of the host: its message and backtrace are in the line before");
            error::ApiError::internal().into_response()
        }))
        .layer(middleware::from_fn(framing::refuse_two_lengths))
        .layer(middleware::from_fn(host_header::require_one))
        .layer(middleware::from_fn(credential_headers::refuse_repeated))
        .layer(middleware::from_fn(paths::refuse_ambiguous))
        .layer(middleware::from_fn_with_state(
            guard,
            cross_site::refuse,
        ))
        .layer(middleware::from_fn_with_state(
            limits.body_timeout,
            body_timeout::read_in_time,
        ))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    router
        .route("/api/openapi.json", get(document).layer(limited.clone()))
        .merge(api_docs::router().layer(limited))
        .merge(console)
        .fallback(plugin_routes::answer)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(layers)
        .with_state(state)
}

/// In the format of the previous backend, because clients match on it, with a code like all errors.
async fn not_found(request: Request) -> Response {
    let body = json!({
        "success": false,
        "code": "route-not-found",
        "message": "Route not found",
        "path": request.uri().path(),
    });
    (http::StatusCode::NOT_FOUND, Json(body)).into_response()
}

async fn method_not_allowed() -> error::ApiError {
    error::ApiError::new(
        http::StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "This path does not serve that method",
    )
}

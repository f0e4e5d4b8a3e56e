//! Routes made from the table of operations. The compiler checks that a handler has the method,
//! path, request and answer of its operation's row.

use std::pin::Pin;

use axum::extract::{FromRef, FromRequest, FromRequestParts, Query, RawPathParams, Request};
use axum::handler::Handler;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use http::Uri;
use http::request::Parts;
use patchbay_api::answer::{Answer, AnyJson, Data, List, Nothing, Success, Whole};
use patchbay_api::body::{
    AnyDocument, Body, Credentials, ExpectedForm, Json, NoBody, Object, SecretJson,
};
use patchbay_api::operation::{
    Access, Effect, Endpoint, JobData, Method, Operation, PathParams, Query as _,
};
use patchbay_api::path::unescaped;
use patchbay_app::Caller;
use patchbay_app::actions::Confirmation;
use patchbay_app::operators::Operator;
use patchbay_model::job::Trace;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::path::{
    HttpMethod, OperationBuilder, Parameter, ParameterBuilder, ParameterIn, PathItem, Paths,
};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{ContentBuilder, RefOr, Required, ResponseBuilder, ResponsesBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::AppState;
use crate::client_address::ClientAddress;
use crate::error::ApiError;
use crate::{
    anonymous, form_body, job_data, json_body, operator_guard, request_span, run_to_end,
    user_login, vendor_login,
};

/// The request of an operation.
pub(crate) struct Ask<E: Endpoint> {
    pub(crate) path: E::Path,
    pub(crate) query: E::Query,
    pub(crate) body: E::Body,
    intent: Intent,
}

/// Longest reason, in characters.
const MAX_REASON: usize = 500;

/// What every operation that changes something takes in its query, beside its own parameters.
#[derive(Default)]
struct Intent {
    reason: Option<String>,
    confirm: Option<String>,
}

impl Intent {
    /// Takes the parameters out of the query.
    fn take(parts: &mut Parts) -> Result<Self, ApiError> {
        let mut intent = Self::default();
        let Some(query) = parts.uri.query() else {
            return Ok(intent);
        };
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        let (own, rest): (Vec<&str>, Vec<&str>) = query
            .split('&')
            .partition(|pair| ["reason", "confirm"].contains(&name(pair).as_str()));
        if own.is_empty() {
            return Ok(intent);
        }
        for (name, value) in url::form_urlencoded::parse(own.join("&").as_bytes()) {
            let place = if name == "reason" {
                &mut intent.reason
            } else {
                &mut intent.confirm
            };
            // A name may begin or end with white space.
            let value = match &*name {
                "reason" => value.trim().to_owned(),
                _ => value.into_owned(),
            };
            if place.replace(value).is_some() {
                return Err(ApiError::invalid(format!(
                    "{name}: given twice in the query; give it once"
                )));
            }
        }
        intent.reason = intent.reason.filter(|reason| !reason.is_empty());
        let is_bad = |reason: &String| reason.chars().count() > MAX_REASON || reason.contains('\0');
        if intent.reason.as_ref().is_some_and(is_bad) {
            return Err(ApiError::invalid(format!(
                "reason: must have at most {MAX_REASON} characters and no NUL character"
            )));
        }
        let rest = match rest.is_empty() {
            true => parts.uri.path().to_owned(),
            false => format!("{}?{}", parts.uri.path(), rest.join("&")),
        };
        let unread = || {
            ApiError::invalid(
                "The part of the URL after ? cannot be read. Percent-encode special characters",
            )
        };
        let mut uri = std::mem::take(&mut parts.uri).into_parts();
        uri.path_and_query = Some(rest.parse().map_err(|_| unread())?);
        parts.uri = Uri::from_parts(uri).map_err(|_| unread())?;
        Ok(intent)
    }

    /// The caller, with what the query says. An operation is confirmed by the last name in its
    /// path, or by `all` where its path has none.
    fn told(self, mut who: Caller, segments: &[String]) -> Result<Caller, ApiError> {
        let expected = segments.last().map_or("all", String::as_str);
        who.reason = self.reason;
        who.confirmation = match self.confirm {
            None => Confirmation::Missing {
                expected: expected.to_owned(),
            },
            Some(confirm) if confirm == expected => Confirmation::Given,
            Some(_) => {
                let message = format!(
                    "Nothing was done: confirm is not the name that this request is about. Use confirm={expected}"
                );
                return Err(ApiError::invalid(message));
            }
        };
        Ok(who)
    }
}

/// How a body of this kind is read.
pub(crate) trait ReadBody: Body {
    fn read(
        request: Request,
        state: &AppState,
    ) -> impl Future<Output = Result<Self, ApiError>> + Send;
}

impl ReadBody for NoBody {
    async fn read(_request: Request, _state: &AppState) -> Result<Self, ApiError> {
        Ok(Self)
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> ReadBody for Json<T> {
    async fn read(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let Object(document) = json_body::read::<Object<T>>(request, state).await?;
        Ok(Self(document))
    }
}

impl<T: ToSchema + ExpectedForm + Serialize + DeserializeOwned + Send + 'static> ReadBody
    for SecretJson<T>
{
    async fn read(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let document = json_body::read::<Object<T>>(request, state).await;
        // The message of serde would quote the document, which contains a secret.
        document
            .map(|Object(document)| Self(document))
            .map_err(|unread| {
                let is_large = unread.status() == http::StatusCode::PAYLOAD_TOO_LARGE;
                let code = if is_large {
                    "too-large"
                } else {
                    "invalid-input"
                };
                ApiError::new(
                    unread.status(),
                    code,
                    format!("The body is not {}", T::FORM),
                )
            })
    }
}

/// Largest document with credentials, in bytes.
const MAX_CREDENTIALS: usize = 16 << 10;

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> ReadBody for Credentials<T> {
    async fn read(request: Request, _state: &AppState) -> Result<Self, ApiError> {
        let kind = request.headers().get(http::header::CONTENT_TYPE).cloned();
        let takes_forms = form_body::is_allowed(&request);
        let read = axum::body::to_bytes(request.into_body(), MAX_CREDENTIALS).await;
        let mut bytes = read.map_err(|error| ApiError::of_body(&error, MAX_CREDENTIALS))?;
        let kind = kind
            .as_ref()
            .and_then(|kind| kind.to_str().ok()?.split(';').next())
            .map(|kind| kind.trim().to_ascii_lowercase());
        if bytes.is_empty() {
            bytes = axum::body::Bytes::from_static(b"{}");
        } else if takes_forms && kind.as_deref() == Some(form_body::TYPE) {
            bytes = form_body::as_json(&bytes)?.into();
        } else if kind.as_deref() != Some("application/json") {
            let message = "The body must be JSON: send it with Content-Type: application/json";
            let status = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Err(ApiError::new(status, "invalid-input", message));
        }
        // The message of serde would quote the document.
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let document: Result<Object<T>, _> = serde_path_to_error::deserialize(&mut reader);
        match document {
            Ok(Object(document)) if reader.end().is_ok() => Ok(Self(document)),
            Err(error) if error.inner().is_data() && error.path().iter().len() > 0 => {
                let path = error.path().to_string();
                Err(ApiError::invalid(format!("{path}: has the wrong type")))
            }
            _ => Err(ApiError::invalid("The body is not a JSON object")),
        }
    }
}

impl ReadBody for AnyDocument {
    async fn read(request: Request, state: &AppState) -> Result<Self, ApiError> {
        Ok(Self(json_body::read(request, state).await?))
    }
}

impl<E: Endpoint<Body: ReadBody>> FromRequest<AppState> for Ask<E> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let is_for_operators = E::OPERATION.access.is_for_operators();
        let intent = match E::OPERATION.may_change() && is_for_operators {
            true => Intent::take(&mut parts)?,
            false => Intent::default(),
        };
        let path = read_path::<E>(&mut parts, state).await?;
        if E::OPERATION.may_change() && is_for_operators && E::Query::parameters().is_empty() {
            refuse_unknown_parameters(&parts)?;
        }
        let Query(query) = Query::from_request_parts(&mut parts, state).await?;
        let body = E::Body::read(Request::from_parts(parts, body), state).await?;
        Ok(Self {
            path,
            query,
            body,
            intent,
        })
    }
}

/// For an operation that changes something and has no parameters of its own: a misspelt `dryRun`
/// or `reason` must not go unnoticed.
fn refuse_unknown_parameters(parts: &Parts) -> Result<(), ApiError> {
    let query = parts.uri.query().unwrap_or_default();
    match url::form_urlencoded::parse(query.as_bytes()).next() {
        Some((name, _)) => Err(ApiError::invalid(format!(
            "{name}: this request does not take this parameter; reason and confirm are the ones it may take"
        ))),
        None => Ok(()),
    }
}

async fn read_path<E: Endpoint>(parts: &mut Parts, state: &AppState) -> Result<E::Path, ApiError> {
    let takes_rest = E::OPERATION.takes_rest();
    let params = RawPathParams::from_request_parts(parts, state)
        .await
        .map_err(|_| {
            ApiError::invalid(match takes_rest {
                true => "The path has characters that are not UTF-8. Write the name in base64, with encoding=base64 in the query",
                false => "The path has characters that are not UTF-8. Percent-encode names as UTF-8",
            })
        })?;
    let name = |segment: &str| match takes_rest {
        true => segment.to_owned(),
        false => unescaped(segment).to_owned(),
    };
    let segments: Vec<String> = params.iter().map(|(_, segment)| name(segment)).collect();
    E::Path::from_segments(&segments)
        .ok_or_else(|| ApiError::invalid("The number in the path must be a whole number"))
}

impl FromRequestParts<AppState> for CallerExtractor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, ApiError> {
        // The guard of every operator route sets it.
        let Some(operator) = parts.extensions.get::<Operator>().cloned() else {
            return Err(ApiError::internal());
        };
        let trace = parts.extensions.get::<Trace>().cloned().unwrap_or_default();
        let from = parts.extensions.get();
        Ok(Self(Caller {
            actor: operator.name.to_string(),
            operator,
            trace,
            from: from.map(|ClientAddress(address)| *address),
            reason: None,
            confirmation: Confirmation::Given,
        }))
    }
}

/// The caller, as identified by the middlewares.
pub(crate) struct CallerExtractor(pub(crate) Caller);

/// How an answer of this kind is written.
pub(crate) trait WriteAnswer: Answer {
    /// What the handler returns.
    type Reply: Serialize + Send;
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> WriteAnswer for Data<T> {
    type Reply = Success<T>;
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> WriteAnswer for List<T> {
    type Reply = Success<Vec<T>>;
}

impl WriteAnswer for Nothing {
    type Reply = Success<()>;
}

impl WriteAnswer for AnyJson {
    type Reply = Success<Value>;
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> WriteAnswer for Whole<T> {
    type Reply = T;
}

/// The handler of an operation: takes its use cases, the caller and the request, and returns the
/// answer of the row. Implemented by functions of three arguments.
pub(crate) trait Translate<E: Endpoint, M>: Clone + Send + Sync + 'static {
    fn translate(
        self,
        state: AppState,
        who: Caller,
        ask: Ask<E>,
    ) -> Pin<Box<dyn Future<Output = Response> + Send>>;
}

impl<E, D, R, F, Fut> Translate<E, (D, R)> for F
where
    E: Endpoint<Answer: WriteAnswer>,
    D: FromRef<AppState> + Send + 'static,
    R: Into<<E::Answer as WriteAnswer>::Reply>,
    F: FnOnce(D, Caller, Ask<E>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<R, patchbay_app::Error>> + Send + 'static,
{
    fn translate(
        self,
        state: AppState,
        who: Caller,
        ask: Ask<E>,
    ) -> Pin<Box<dyn Future<Output = Response> + Send>> {
        Box::pin(async move {
            let may_see_data = who.operator.may_see_data;
            match self(D::from_ref(&state), who, ask).await {
                Ok(reply) => {
                    let reply: <E::Answer as WriteAnswer>::Reply = reply.into();
                    answered(reply, E::OPERATION.data, may_see_data)
                }
                Err(error) => ApiError::from(error).into_response(),
            }
        })
    }
}

/// The answer, without data of jobs for whoever may not see it.
fn answered(reply: impl Serialize, data: JobData, may_see_data: bool) -> Response {
    let JobData::Shown(members) = data else {
        return axum::Json(reply).into_response();
    };
    if may_see_data {
        return axum::Json(reply).into_response();
    }
    match serde_json::to_value(reply) {
        Ok(mut answer) => {
            // Every envelope has its content there.
            job_data::hide(&mut answer["data"], members);
            axum::Json(answer).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            ApiError::internal().into_response()
        }
    }
}

/// Routes, with their part of the OpenAPI document.
pub(crate) struct Routes {
    router: OpenApiRouter<AppState>,
    state: AppState,
    served: Vec<&'static str>,
}

impl Routes {
    pub(crate) fn new(state: &AppState) -> Self {
        Self {
            router: OpenApiRouter::new(),
            state: state.clone(),
            served: Vec::new(),
        }
    }

    /// Adds an operation for operators.
    pub(crate) fn add<E: Endpoint<Body: ReadBody>, M: 'static>(
        self,
        handler: impl Translate<E, M>,
    ) -> Self {
        self.mount::<E, _>(
            async move |CallerExtractor(who): CallerExtractor,
                        axum::extract::State(state): axum::extract::State<AppState>,
                        mut ask: Ask<E>| {
                let intent = std::mem::take(&mut ask.intent);
                match intent.told(who, &ask.path.segments()) {
                    Ok(who) => handler.translate(state, who, ask).await,
                    Err(refused) => refused.into_response(),
                }
            },
        )
    }

    /// Adds an operation whose answer has no envelope, or for others than operators.
    pub(crate) fn add_raw<E: Endpoint, T: 'static>(
        self,
        handler: impl Handler<T, AppState>,
    ) -> Self {
        let hides = matches!(E::OPERATION.data, JobData::Shown(members) if !members.is_empty());
        assert!(
            !hides,
            "{}: nothing hides the data in its answer",
            E::OPERATION.id
        );
        self.mount::<E, T>(handler)
    }

    fn mount<E: Endpoint, T: 'static>(mut self, handler: impl Handler<T, AppState>) -> Self {
        let operation = const { &E::OPERATION };
        let (filter, _) = method_of(operation.method);
        let mut route: MethodRouter<AppState> = on(filter, handler);
        if operation.may_change() {
            route = route.layer(middleware::from_fn_with_state(
                self.state.clone(),
                run_to_end::run,
            ));
        }
        if operation.access.is_limited_by_network() {
            let anonymous = self.state.anonymous.clone();
            route = route.layer(middleware::from_fn_with_state(anonymous, anonymous::limit));
        }
        let guarded = (self.state.clone(), operation);
        if matches!(
            operation.access,
            Access::Viewer | Access::Operator | Access::Owner
        ) {
            // Only for operators: nobody else may cause this host to send spans.
            route = route
                .layer(middleware::from_fn_with_state(
                    self.state.clone(),
                    request_span::open,
                ))
                .layer(middleware::from_fn_with_state(
                    guarded.clone(),
                    operator_guard::require,
                ));
        }
        if operation.access.is_for_admins() {
            route = route.layer(middleware::from_fn_with_state(
                guarded.clone(),
                user_login::require_admin_or_operator,
            ));
        }
        if operation.access == Access::User {
            route = route.layer(middleware::from_fn_with_state(
                self.state.clone(),
                user_login::require,
            ));
        }
        if operation.access == Access::Vendor {
            route = route.layer(middleware::from_fn_with_state(
                self.state.clone(),
                vendor_login::require,
            ));
        }
        if operation.access == Access::ViewerByDefault && self.state.metrics.needs_operator {
            route = route.layer(middleware::from_fn_with_state(
                guarded,
                operator_guard::require,
            ));
        }
        let (schemas, paths) = document::<E>();
        if operation.takes_rest() {
            // The router and the document write such a path differently.
            self.router = self.router.route(operation.path, route);
            let document = self.router.get_openapi_mut();
            document.paths.paths.extend(paths.paths);
            let components = document.components.get_or_insert_default();
            components.schemas.extend(schemas);
        } else {
            self.router = self.router.routes((schemas, paths, route));
        }
        self.served.push(operation.id);
        self
    }

    /// Returns the router; fails if an operation of the table has no handler.
    pub(crate) fn finish(self) -> OpenApiRouter<AppState> {
        let missing: Vec<&str> = patchbay_api::operations()
            .map(|operation| operation.id)
            .filter(|id| !self.served.contains(id))
            .collect();
        assert!(missing.is_empty(), "nobody serves {missing:?}");
        self.router
    }
}

fn method_of(method: Method) -> (MethodFilter, HttpMethod) {
    match method {
        Method::GET => (MethodFilter::GET, HttpMethod::Get),
        Method::POST => (MethodFilter::POST, HttpMethod::Post),
        Method::PUT => (MethodFilter::PUT, HttpMethod::Put),
        Method::PATCH => (MethodFilter::PATCH, HttpMethod::Patch),
        Method::DELETE => (MethodFilter::DELETE, HttpMethod::Delete),
    }
}

/// The ways to say who somebody is, of which one is needed.
fn schemes(access: Access) -> &'static [&'static str] {
    match access {
        Access::Anyone | Access::Guest | Access::Probe => &[],
        Access::User => &["user", "userCookie"],
        Access::Vendor => &["vendor", "vendorBearer"],
        Access::AdminOrViewer | Access::AdminOrOperator | Access::AdminOrOwner => &[
            "user",
            "userCookie",
            "operator",
            "operatorToken",
            "operatorSession",
        ],
        Access::Viewer | Access::Operator | Access::Owner | Access::ViewerByDefault => {
            &["operator", "operatorToken", "operatorSession"]
        }
    }
}

/// `reason` and `confirm`, where the operation takes them.
fn intent_parameters<E: Endpoint>() -> Vec<Parameter> {
    let parameter = |name: &str, about: String, schema: ObjectBuilder| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Query)
            .description(Some(about))
            .schema(Some(schema.schema_type(Type::String).build()))
            .build()
    };
    let mut parameters = Vec::new();
    let takes_reason = E::Query::parameters()
        .iter()
        .any(|own| own.name == "reason");
    if E::OPERATION.may_change() && E::OPERATION.access.is_for_operators() && !takes_reason {
        let about = "Why, for the record of who did what; no personal data.".to_owned();
        let schema = ObjectBuilder::new().max_length(Some(MAX_REASON));
        parameters.push(parameter("reason", about, schema));
    }
    if let Effect::Destroys(consequence) = E::OPERATION.effect {
        let expected = match E::Path::PLACES.last() {
            Some((name, _)) => format!("`{name}` of the path"),
            None => "`all`".to_owned(),
        };
        let about = format!(
            "Confirms that this {consequence}: must be {expected}. Without it the answer is 428, except for a dry run."
        );
        parameters.push(parameter("confirm", about, ObjectBuilder::new()));
    }
    parameters
}

type Documented = (Vec<(String, RefOr<utoipa::openapi::Schema>)>, Paths);

/// The part of the OpenAPI document for one operation; `openapi` adds what holds for all.
fn document<E: Endpoint>() -> Documented {
    let operation: &Operation = &E::OPERATION;
    let mut schemas = Vec::new();
    let about = operation.about.trim();
    let mut builder = OperationBuilder::new()
        .operation_id(Some(operation.id))
        .tag(operation.domain())
        .summary(Some(about));
    for ((name, about), schema) in E::Path::PLACES.iter().zip(E::Path::schemas()) {
        let place = ParameterBuilder::new()
            .name(*name)
            .parameter_in(ParameterIn::Path)
            .required(Required::True);
        builder = builder.parameter(
            place
                .description(Some(about.trim()))
                .schema(Some(schema))
                .build(),
        );
    }
    for parameter in E::Query::parameters() {
        builder = builder.parameter(parameter);
    }
    for parameter in intent_parameters::<E>() {
        builder = builder.parameter(parameter);
    }
    for header in E::Body::headers() {
        builder = builder.parameter(header);
    }
    let mut body = E::Body::request_body(&mut schemas);
    if let Some(body) = body
        .as_mut()
        .filter(|_| !form_body::is_read_at(operation.path))
    {
        body.content.remove(form_body::TYPE);
    }
    builder = builder.request_body(body);
    let mut responses =
        ResponsesBuilder::new().response(E::Answer::STATUS, E::Answer::response(&mut schemas));
    for (status, meaning) in operation.errors {
        let mut response = ResponseBuilder::new().description(*meaning);
        if let Some(schema) = E::Answer::failure(*status, &mut schemas) {
            response = response.content(
                "application/json",
                ContentBuilder::new().schema(Some(schema)).build(),
            );
        }
        responses = responses.response(status.to_string(), response.build());
    }
    if matches!(operation.effect, Effect::Destroys(_)) {
        let about =
            "`not-confirmed`: the request destroys something, and the query does not confirm that";
        let response = ResponseBuilder::new().description(about);
        responses = responses.response("428", response.build());
    }
    if let Some(response) = E::Answer::otherwise() {
        responses = responses.response("default", response);
    }
    builder = builder.responses(responses.build());
    for scheme in schemes(operation.access) {
        builder = builder.security(SecurityRequirement::new(
            *scheme,
            std::iter::empty::<String>(),
        ));
    }
    if operation.access == Access::ViewerByDefault {
        builder = builder.security(SecurityRequirement::default());
    }
    let effect = match operation.effect {
        Effect::Reads => "reads",
        Effect::Changes => "changes",
        Effect::Destroys(_) | Effect::DestroysNamed(_) => "destroys",
    };
    let data = match operation.data {
        JobData::None => "none",
        JobData::Shown(_) => "shown",
        JobData::Needed | JobData::NeededUnless(..) => "needed",
    };
    let extensions = ExtensionsBuilder::new()
        .add("x-patchbay-effect", json!(effect))
        .add("x-patchbay-role", json!(operation.access.role()))
        .add("x-patchbay-data", json!(data))
        .add(
            "x-patchbay-audit",
            // What accounts do is recorded in audit trails, not as actions of operators.
            json!(
                operation
                    .audit
                    .filter(|_| operation.access.is_for_operators())
            ),
        );
    let built = builder.extensions(Some(extensions.build())).build();
    let (_, method) = method_of(operation.method);
    let mut paths = Paths::new();
    paths.paths.insert(
        operation.path.replace("{*", "{"),
        PathItem::new(method, built),
    );
    (schemas, paths)
}

//! Calls of plugin operations over the API.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{Content, ContentBuilder, RefOr, Required, Response, ResponseBuilder};
use utoipa::{PartialSchema, ToSchema};

use crate::answer::{Answer, ErrorBody, Schemas, reference};
use crate::body::{Body, json_body};
use crate::operation::NoQuery;
use crate::operations;
use crate::plugins::PluginPath;

operations! {
    /// Call an operation of a plugin's active revision. The header `x-patchbay-answer` is the kind
    /// of answer: `json` (in the usual envelope), `bytes` (with their content type), `relay` (the
    /// answer of another server with its status; `range` is passed on) or `empty`. Nothing is
    /// retried.
    PluginsCall = "plugins.call": POST "/api/admin/plugins/{name}/call" (PluginPath, NoQuery, CallRequest) -> PluginAnswer,
        Operator, Changes, audit "plugin.call", data Needed, errors [
            204 "an empty answer",
            400 "not JSON, or the plugin answers `invalid-input`",
            403 "the plugin answers `forbidden`",
            404 "there is no plugin of that name, or the plugin answers `not-found`, for example because it has no such operation",
            409 "`inactive`; `no-operations`: the active revision has none; or the plugin answers `conflict`",
            413 "the input is larger than 1 MiB",
            429 "the plugin answers `rate-limited`",
            500 "`trapped`, `memory-limit`, `invalid-result`, `relay-denied`, or another code of the plugin",
            502 "`bad-credentials` or `upstream`: a failure of the plugin or of the relayed server",
            503 "`quarantined`, `breaker-open`, `unavailable`, `host-fault`; `retry-after` says when",
            504 "`deadline`",
        ];
}

/// A call of a plugin operation.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Name of an operation that the plugin has.
    pub operation: String,
    /// Any JSON, passed to the plugin unchanged; `{}` if absent.
    #[schema(value_type = Option<Value>)]
    pub input: Option<Box<RawValue>>,
}

/// A call together with its request headers.
#[derive(Debug)]
pub struct CallRequest {
    /// The call.
    pub call: Call,
    /// Passed to the plugin; a new key is made if absent.
    pub idempotency_key: Option<String>,
    /// Header `range`, passed on when the answer is relayed.
    pub range: Option<Vec<u8>>,
}

impl Body for CallRequest {
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody> {
        Some(json_body(reference::<Call>(schemas)))
    }

    fn headers() -> Vec<Parameter> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(255))
            .build();
        let key = ParameterBuilder::new()
            .name("idempotency-key")
            .parameter_in(ParameterIn::Header)
            .required(Required::False);
        vec![
            key.description(Some("given to the plugin; otherwise a new one is made"))
                .schema(Some(text))
                .build(),
        ]
    }
}

fn any() -> Content {
    ContentBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
        .build()
}

/// The answer of a plugin, with any content.
#[derive(Debug)]
pub enum PluginAnswer {}

impl Answer for PluginAnswer {
    type Data = Value;

    fn response(_schemas: &mut Schemas) -> Response {
        let json = ContentBuilder::new().schema(Some(Value::schema())).build();
        let about =
            "The answer; `x-patchbay-status` is the status that the plugin chose, if it did";
        ResponseBuilder::new()
            .description(about)
            .content("application/json", json)
            .content("*/*", any())
            .build()
    }

    fn otherwise() -> Option<Response> {
        let about = "With `x-patchbay-answer: relay`, the status and content that the other server answered with";
        Some(
            ResponseBuilder::new()
                .description(about)
                .content("*/*", any())
                .build(),
        )
    }

    fn failure(status: u16, schemas: &mut Schemas) -> Option<RefOr<Schema>> {
        (status != 204).then(|| reference::<ErrorBody>(schemas))
    }
}

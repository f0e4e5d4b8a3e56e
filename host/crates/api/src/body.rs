//! Request bodies: their types, and how the OpenAPI document describes them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Required};

use crate::answer::{Media, Schemas, reference};

/// The body of a request.
pub trait Body: Send + Sized + 'static {
    /// The body for the OpenAPI document; `None` if there is none.
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody>;
    /// Request headers that belong to the body.
    fn headers() -> Vec<Parameter> {
        Vec::new()
    }
}

/// No body. A body that is sent anyway is ignored.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBody;

/// A JSON document.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

/// A JSON document that contains a secret. If it does not match, the error describes the expected
/// form and never quotes the document.
pub struct SecretJson<T>(pub T);

/// The expected form of a body, for error messages.
pub trait ExpectedForm {
    /// For example `{"value": TEXT}`.
    const FORM: &'static str;
}

/// A JSON document without a fixed schema, kept exactly as it was sent.
#[derive(Debug)]
pub struct AnyDocument(pub Box<serde_json::value::RawValue>);

/// A file in the body.
#[derive(Debug)]
pub struct Upload<M>(pub Vec<u8>, pub std::marker::PhantomData<M>);

impl Body for NoBody {
    fn request_body(_schemas: &mut Schemas) -> Option<RequestBody> {
        None
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> Body for Json<T> {
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody> {
        let content = ContentBuilder::new().schema(Some(reference::<T>(schemas))).build();
        Some(RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True)).build())
    }
}

impl<T: ToSchema + ExpectedForm + Serialize + DeserializeOwned + Send + 'static> Body for SecretJson<T> {
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody> {
        Json::<T>::request_body(schemas)
    }
}

impl Body for AnyDocument {
    fn request_body(_schemas: &mut Schemas) -> Option<RequestBody> {
        let content =
            ContentBuilder::new().schema(Some(<serde_json::Value as utoipa::PartialSchema>::schema())).build();
        Some(RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True)).build())
    }
}

impl<M: Media + Send> Body for Upload<M> {
    fn request_body(_schemas: &mut Schemas) -> Option<RequestBody> {
        let content =
            ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String).build())).build();
        Some(RequestBodyBuilder::new().content(M::TYPE, content).required(Some(Required::True)).build())
    }
}

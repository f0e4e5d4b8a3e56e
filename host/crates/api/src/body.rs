//! Request bodies: their types, and how the OpenAPI document describes them.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::request_body::{RequestBody, RequestBodyBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{ContentBuilder, RefOr, Required};

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

/// How clients of the previous backend also send credentials; read under `/api/auth` only.
pub const FORM: &str = "application/x-www-form-urlencoded";

/// No body. A body that is sent anyway is ignored.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoBody;

/// A JSON document.
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

/// A JSON document that contains a secret. If it does not match, the error describes the expected
/// form and never quotes the document.
pub struct SecretJson<T>(pub T);

/// A JSON document of an API client that may contain credentials, or a form (see [`FORM`]). Errors
/// never quote it, and are always 400. An absent body is an empty document.
pub struct Credentials<T>(pub T);

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
pub struct Upload<M>(pub Vec<u8>, pub PhantomData<M>);

/// A struct that is read from a JSON object only. By itself serde takes a list of its values, too,
/// which no document promises.
#[derive(Debug)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// For a field that is a struct: see [`Object`].
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// For one that may be absent or null.
pub fn object_or_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Option::<Object<T>>::deserialize(deserializer).map(|object| object.map(|Object(value)| value))
}

/// For a list of them.
pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Vec::<Object<T>>::deserialize(deserializer)
        .map(|objects| objects.into_iter().map(|Object(value)| value).collect())
}

/// A required body of JSON with this schema.
pub(crate) fn json_body(schema: impl Into<RefOr<Schema>>) -> RequestBody {
    RequestBodyBuilder::new()
        .content(
            "application/json",
            ContentBuilder::new().schema(Some(schema)).build(),
        )
        .required(Some(Required::True))
        .build()
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> Body for Credentials<T> {
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody> {
        let mut body = json_body(reference::<T>(schemas));
        let json = body.content.get("application/json").cloned();
        body.content
            .extend(json.map(|json| (FORM.to_owned(), json)));
        // An absent body is an empty document.
        body.required = Some(Required::False);
        Some(body)
    }
}

impl Body for NoBody {
    fn request_body(_schemas: &mut Schemas) -> Option<RequestBody> {
        None
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + Send + 'static> Body for Json<T> {
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody> {
        Some(json_body(reference::<T>(schemas)))
    }
}

impl<T: ToSchema + ExpectedForm + Serialize + DeserializeOwned + Send + 'static> Body
    for SecretJson<T>
{
    fn request_body(schemas: &mut Schemas) -> Option<RequestBody> {
        Json::<T>::request_body(schemas)
    }
}

impl Body for AnyDocument {
    fn request_body(_schemas: &mut Schemas) -> Option<RequestBody> {
        Some(json_body(
            <serde_json::Value as utoipa::PartialSchema>::schema(),
        ))
    }
}

impl<M: Media + Send> Body for Upload<M> {
    fn request_body(_schemas: &mut Schemas) -> Option<RequestBody> {
        let content = ContentBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
            .build();
        Some(
            RequestBodyBuilder::new()
                .content(M::TYPE, content)
                .required(Some(Required::True))
                .build(),
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        data: Box<RawValue>,
        #[serde(default, deserialize_with = "object_or_null")]
        inner: Option<Inner>,
        #[serde(default, deserialize_with = "objects")]
        list: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    struct Inner {
        n: u32,
    }

    fn read(text: &str) -> Result<Outer, String> {
        serde_json::from_str::<Object<Outer>>(text)
            .map(|Object(outer)| outer)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn objects_are_read_whole_and_lists_are_none() {
        let outer = read(r#"{"data": {"a" : 1.0}, "inner": {"n": 1}, "list": [{"n": 2}]}"#)
            .expect("an object");
        assert_eq!(
            (outer.data.get(), outer.inner.map(|inner| inner.n)),
            (r#"{"a" : 1.0}"#, Some(1))
        );
        assert_eq!(
            outer.list.iter().map(|inner| inner.n).collect::<Vec<_>>(),
            [2]
        );
        assert!(read(r#"{"data": 1, "inner": null}"#).is_ok_and(|outer| outer.inner.is_none()));
        for list in [
            "[1]",
            "[1, null, []]",
            r#"{"data": 1, "inner": [1]}"#,
            r#"{"data": 1, "list": [[1]]}"#,
        ] {
            let error = read(list).expect_err("no object");
            assert!(
                error.contains("invalid type: sequence, expected an object"),
                "{error}"
            );
        }
        assert!(
            read(r#"{"data": 1, "other": 1}"#)
                .is_err_and(|error| error.contains("unknown field `other`"))
        );
    }
}

//! The envelopes of successes and errors, and the kinds of answers that an operation can have.

use std::borrow::Cow;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// Named schemas that an OpenAPI document must include.
pub type Schemas = Vec<(String, RefOr<Schema>)>;

/// The envelope of every success.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Success<T> {
    /// Always true.
    pub success: bool,
    /// The answer of the operation.
    pub data: T,
    /// Only in lists with more pages: the value of `cursor` for the next page.
    #[serde(
        rename = "nextCursor",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    pub next_cursor: Option<String>,
    /// The list is not complete. With `nextCursor`: the search reached its time limit before the
    /// page was full, and the cursor may lead to more results, or to none. Without: a part of it
    /// could not be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// The envelope of every error.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Always false.
    pub success: bool,
    /// Stable error code in kebab-case.
    pub code: Cow<'static, str>,
    /// Text for people; includes what to do next if that is known.
    pub message: String,
    /// Machine-readable details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// One page of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// Items of this page.
    pub items: Vec<T>,
    /// Cursor of the next page.
    pub next_cursor: Option<String>,
    /// See [`Success::partial`].
    pub partial: bool,
}

impl<T> From<T> for Success<T> {
    fn from(data: T) -> Self {
        Self {
            success: true,
            data,
            next_cursor: None,
            partial: false,
        }
    }
}

impl<T> From<Page<T>> for Success<Vec<T>> {
    fn from(page: Page<T>) -> Self {
        Self {
            success: true,
            data: page.items,
            next_cursor: page.next_cursor,
            partial: page.partial,
        }
    }
}

/// The answer of a successful operation.
pub trait Answer: 'static {
    /// `data` of the envelope; the whole answer if there is no envelope.
    type Data;
    /// The status of a success.
    const STATUS: &'static str = "200";
    /// The response of a success, for the OpenAPI document.
    fn response(schemas: &mut Schemas) -> Response;
    /// Schema of an error with this status; `None` if the error has no fixed schema.
    fn failure(_status: u16, schemas: &mut Schemas) -> Option<RefOr<Schema>> {
        Some(reference::<ErrorBody>(schemas))
    }
    /// The response of every status that is not named; absent where each is.
    fn otherwise() -> Option<Response> {
        None
    }
}

/// `T` in the envelope.
#[derive(Debug)]
pub struct Data<T>(PhantomData<T>);

/// A list of `T` in the envelope, complete or page by page.
#[derive(Debug)]
pub struct List<T>(PhantomData<T>);

/// `null` in the envelope.
#[derive(Debug)]
pub enum Nothing {}

/// JSON without a fixed schema in the envelope.
#[derive(Debug)]
pub enum AnyJson {}

/// A file or text without an envelope. `M` is its [`Media`].
#[derive(Debug)]
pub struct File<M>(PhantomData<M>);

/// `T` without an envelope, also where the status is 503.
#[derive(Debug)]
pub struct Bare<T>(PhantomData<T>);

/// `T` as the whole answer of a success, with `success` among its own fields: for the shapes of the
/// previous backend that have more beside `data`, or no `data`.
#[derive(Debug)]
pub struct Whole<T>(PhantomData<T>);

/// The content type of a file.
pub trait Media: 'static {
    /// For example `application/gzip`.
    const TYPE: &'static str;
    /// What the file contains, for the OpenAPI document.
    const ABOUT: &'static str;
    /// Further types that it may have on request.
    const OTHERS: &'static [&'static str] = &[];
}

/// A reference to the schema of `T`, which is added to `schemas`; for a text, the schema itself.
pub fn reference<T: ToSchema>(schemas: &mut Schemas) -> RefOr<Schema> {
    let name = T::name();
    if name == String::name() {
        return T::schema();
    }
    schemas.push((name.to_string(), T::schema()));
    T::schemas(schemas);
    Ref::from_schema_name(name).into()
}

fn envelope(data: impl Into<RefOr<Schema>>, goes_on: bool) -> Response {
    let text = |about: &str| {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some(about))
    };
    let flag = |about: &str| {
        ObjectBuilder::new()
            .schema_type(Type::Boolean)
            .description(Some(about))
    };
    let mut object = ObjectBuilder::new()
        .property("success", flag("Always true."))
        .required("success")
        .property("data", data)
        .required("data");
    if goes_on {
        object = object
            .property(
                "nextCursor",
                text("Only if there is another page: the value of `cursor` for it."),
            )
            .property(
                "partial",
                flag("The search reached its time limit before the page was full."),
            );
    }
    let content = ContentBuilder::new().schema(Some(object.build())).build();
    ResponseBuilder::new()
        .description("Done")
        .content("application/json", content)
        .build()
}

impl<T: ToSchema + Serialize + DeserializeOwned + 'static> Answer for Data<T> {
    type Data = T;

    fn response(schemas: &mut Schemas) -> Response {
        envelope(reference::<T>(schemas), false)
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + 'static> Answer for List<T> {
    type Data = Vec<T>;

    fn response(schemas: &mut Schemas) -> Response {
        envelope(
            ArrayBuilder::new().items(reference::<T>(schemas)).build(),
            true,
        )
    }
}

impl Answer for Nothing {
    type Data = ();

    fn response(_schemas: &mut Schemas) -> Response {
        envelope(ObjectBuilder::new().schema_type(Type::Null).build(), false)
    }
}

impl Answer for AnyJson {
    type Data = Value;

    fn response(_schemas: &mut Schemas) -> Response {
        envelope(
            ObjectBuilder::new()
                .schema_type(SchemaType::AnyValue)
                .description(Some("Any JSON."))
                .build(),
            false,
        )
    }
}

impl<M: Media> Answer for File<M> {
    type Data = Vec<u8>;

    fn response(_schemas: &mut Schemas) -> Response {
        let content = ContentBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).build()))
            .build();
        let types = [M::TYPE].into_iter().chain(M::OTHERS.iter().copied());
        types
            .fold(
                ResponseBuilder::new().description(M::ABOUT),
                |response, kind| response.content(kind, content.clone()),
            )
            .build()
    }
}

impl<T: ToSchema + Serialize + DeserializeOwned + 'static> Answer for Whole<T> {
    type Data = T;

    fn response(schemas: &mut Schemas) -> Response {
        let content = ContentBuilder::new()
            .schema(Some(reference::<T>(schemas)))
            .build();
        ResponseBuilder::new()
            .description("Done")
            .content("application/json", content)
            .build()
    }
}

impl<T: Media + ToSchema + Serialize + DeserializeOwned + 'static> Answer for Bare<T> {
    type Data = T;

    fn response(schemas: &mut Schemas) -> Response {
        let content = ContentBuilder::new()
            .schema(Some(reference::<T>(schemas)))
            .build();
        ResponseBuilder::new()
            .description(T::ABOUT)
            .content(T::TYPE, content)
            .build()
    }

    fn failure(status: u16, schemas: &mut Schemas) -> Option<RefOr<Schema>> {
        (status == 503).then(|| reference::<T>(schemas))
    }
}

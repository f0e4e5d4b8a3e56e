//! Answers: the envelope of every success and of every error, and what an operation may answer.

use std::borrow::Cow;
use std::marker::PhantomData;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, SchemaType, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

/// Named schemas that a document must hold.
pub type Schemas = Vec<(String, RefOr<Schema>)>;

/// The envelope of every success.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Success<T> {
    /// Always true.
    pub success: bool,
    /// The answer.
    pub data: T,
    /// Of a list that goes on: `cursor` of the request for its next page.
    #[serde(rename = "nextCursor", default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
    /// A search ended before its page was full because it takes only so long: there may be more behind `nextCursor`, or nothing at all.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

/// The envelope of every error.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Always false.
    pub success: bool,
    /// Stable, kebab-case.
    pub code: Cow<'static, str>,
    /// For people; says what to do next where that is known.
    pub message: String,
    /// Machine-readable detail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// A part of a list.
#[derive(Debug)]
pub struct Page<T> {
    /// The part.
    pub items: Vec<T>,
    /// Where the next part begins.
    pub next_cursor: Option<String>,
    /// See [`Success::partial`].
    pub partial: bool,
}

impl<T> From<T> for Success<T> {
    fn from(data: T) -> Self {
        Self { success: true, data, next_cursor: None, partial: false }
    }
}

impl<T> From<Page<T>> for Success<Vec<T>> {
    fn from(page: Page<T>) -> Self {
        Self { success: true, data: page.items, next_cursor: page.next_cursor, partial: page.partial }
    }
}

/// What comes back from an operation that is done.
pub trait Answer: 'static {
    /// `data` of the envelope; the whole answer where there is no envelope.
    type Data;
    /// The response of status 200, for the document.
    fn response(schemas: &mut Schemas) -> Response;
    /// What an error of this status holds; absent where that has no fixed form.
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

/// A list of `T` in the envelope, in one part or page by page.
#[derive(Debug)]
pub struct List<T>(PhantomData<T>);

/// `null` in the envelope.
#[derive(Debug)]
pub enum Nothing {}

/// A document of no fixed form in the envelope.
#[derive(Debug)]
pub enum AnyJson {}

/// A file, or a text, without an envelope; the type is a [`Media`].
#[derive(Debug)]
pub struct File<M>(PhantomData<M>);

/// `T` without an envelope, also where the status is 503.
#[derive(Debug)]
pub struct Bare<T>(PhantomData<T>);

/// What a file's content type is.
pub trait Media: 'static {
    /// For example `application/gzip`.
    const TYPE: &'static str;
    /// What it holds.
    const ABOUT: &'static str;
    /// Further types that it may have on request.
    const OTHERS: &'static [&'static str] = &[];
}

/// A reference to `T`'s schema, which is put to the others; the schema itself of a text.
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
    let text = |about: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(about));
    let flag = |about: &str| ObjectBuilder::new().schema_type(Type::Boolean).description(Some(about));
    let mut object = ObjectBuilder::new()
        .property("success", flag("Always true."))
        .required("success")
        .property("data", data)
        .required("data");
    if goes_on {
        object = object
            .property("nextCursor", text("Where the list goes on: `cursor` of the request for its next page."))
            .property("partial", flag("A search ended before its page was full, because it takes only so long."));
    }
    let content = ContentBuilder::new().schema(Some(object.build())).build();
    ResponseBuilder::new().description("Done").content("application/json", content).build()
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
        envelope(ArrayBuilder::new().items(reference::<T>(schemas)).build(), true)
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
        envelope(ObjectBuilder::new().schema_type(SchemaType::AnyValue).description(Some("Any JSON.")).build(), false)
    }
}

impl<M: Media> Answer for File<M> {
    type Data = Vec<u8>;

    fn response(_schemas: &mut Schemas) -> Response {
        let content =
            ContentBuilder::new().schema(Some(ObjectBuilder::new().schema_type(Type::String).build())).build();
        let types = [M::TYPE].into_iter().chain(M::OTHERS.iter().copied());
        types
            .fold(ResponseBuilder::new().description(M::ABOUT), |response, kind| {
                response.content(kind, content.clone())
            })
            .build()
    }
}

impl<T: Media + ToSchema + Serialize + DeserializeOwned + 'static> Answer for Bare<T> {
    type Data = T;

    fn response(schemas: &mut Schemas) -> Response {
        let content = ContentBuilder::new().schema(Some(reference::<T>(schemas))).build();
        ResponseBuilder::new().description(T::ABOUT).content(T::TYPE, content).build()
    }

    fn failure(status: u16, schemas: &mut Schemas) -> Option<RefOr<Schema>> {
        (status == 503).then(|| reference::<T>(schemas))
    }
}

//! What an operation of the API is: one row per operation, from which the router, the OpenAPI document and the command line are made.

use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::IntoParams;
#[doc(hidden)]
pub use utoipa::PartialSchema;
use utoipa::openapi::path::Parameter;
#[doc(hidden)]
pub use utoipa::openapi::{RefOr, Schema};

use crate::answer::Answer;
use crate::body::Body;

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Unique, for example `queues.pause`: the domain and what is done. The operation id of the OpenAPI document.
    pub id: &'static str,
    /// How it is asked.
    pub method: Method,
    /// Where, from the root, with `{names}` in places.
    pub path: &'static str,
    /// One sentence for people, as in the document.
    pub about: &'static str,
    /// Who may.
    pub access: Access,
    /// What it does to what is there.
    pub effect: Effect,
    /// The name under which it is recorded; absent where nothing is.
    pub audit: Option<&'static str>,
    /// Statuses of its own, beside those that follow from access, path and body, each with what it means.
    pub errors: &'static [(u16, &'static str)],
}

impl Operation {
    /// The part of the id before the point, with spaces: `dead letters`.
    pub fn domain(&self) -> String {
        self.id.split('.').next().unwrap_or_default().replace('_', " ")
    }

    /// Whether something may be different afterwards.
    pub fn may_change(&self) -> bool {
        !matches!(self.effect, Effect::Reads)
    }
}

/// An HTTP method.
#[allow(missing_docs)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    GET,
    POST,
    PUT,
    PATCH,
    DELETE,
}

/// Who may ask for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Without a login.
    Anyone,
    /// Operators.
    Operator,
    /// Operators, unless the configuration opens it to anyone.
    OperatorByDefault,
}

/// What an operation does to what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Reads,
    /// It can be changed back.
    Changes,
    /// It takes away what nobody can bring back; the clause says what: `forgets every job that waits`.
    Destroys(&'static str),
}

/// A row with the types of what is asked and answered.
pub trait Endpoint: Send + Sync + 'static {
    /// The row.
    const OPERATION: Operation;
    /// What stands in the path's places.
    type Path: PathParams;
    /// The query.
    type Query: Query;
    /// The body of the request.
    type Body: Body;
    /// What comes back when it is done.
    type Answer: Answer;
}

/// What stands in a path's places.
pub trait PathParams: Sized + Send + Sync + 'static {
    /// The places, in their order, each with what it means.
    const PLACES: &'static [(&'static str, &'static str)];
    /// What may stand at each place.
    fn schemas() -> Vec<RefOr<Schema>>;
    /// From the segments at the places; nothing where one cannot be read.
    fn from_segments(segments: &[String]) -> Option<Self>;
    /// What is to stand there.
    fn segments(&self) -> Vec<String>;
}

/// No places.
impl PathParams for () {
    const PLACES: &'static [(&'static str, &'static str)] = &[];

    fn schemas() -> Vec<RefOr<Schema>> {
        Vec::new()
    }

    fn from_segments(_segments: &[String]) -> Option<Self> {
        Some(())
    }

    fn segments(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Defines what stands in a path's places, in their order.
#[macro_export]
macro_rules! path_params {
    ($(#[doc = $about:literal])* $name:ident { $(#[doc = $field_about:literal] $field:ident: $type:ty),+ $(,)? }) => {
        $(#[doc = $about])*
        #[derive(Debug, Clone)]
        pub struct $name { $(#[doc = $field_about] pub $field: $type),+ }

        impl $crate::operation::PathParams for $name {
            const PLACES: &'static [(&'static str, &'static str)] = &[$((stringify!($field), $field_about)),+];

            fn schemas() -> Vec<$crate::operation::RefOr<$crate::operation::Schema>> {
                vec![$(<$type as $crate::operation::PartialSchema>::schema()),+]
            }

            fn from_segments(segments: &[String]) -> Option<Self> {
                let mut segments = segments.iter();
                Some(Self { $($field: segments.next()?.parse::<$type>().ok()?),+ })
            }

            fn segments(&self) -> Vec<String> {
                vec![$(self.$field.to_string()),+]
            }
        }
    };
}

/// A query.
pub trait Query: Serialize + DeserializeOwned + Send + 'static {
    /// Its parameters, for the document.
    fn parameters() -> Vec<Parameter>;
}

impl<T: IntoParams + Serialize + DeserializeOwned + Send + 'static> Query for T {
    fn parameters() -> Vec<Parameter> {
        T::into_params(|| Some(utoipa::openapi::path::ParameterIn::Query))
    }
}

/// No query; what stands there all the same is not looked at.
#[derive(Debug, Default, Clone, Copy, serde::Serialize, serde::Deserialize, IntoParams)]
pub struct NoQuery {}

/// Rows of one domain, and a type for each. See the module of any domain for the form.
#[macro_export]
macro_rules! operations {
    ($(
        $(#[doc = $about:literal])+
        $name:ident = $id:literal: $method:ident $path:literal ($places:ty, $query:ty, $body:ty) -> $answer:ty,
        $access:ident, $effect:expr, $(audit $audit:literal,)? errors [$($status:literal $meaning:literal),* $(,)?];
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Debug)]
            pub enum $name {}

            impl $crate::operation::Endpoint for $name {
                const OPERATION: $crate::operation::Operation = {
                    #[allow(unused_imports)]
                    use $crate::operation::Effect::*;
                    let operation = $crate::operation::Operation {
                        id: $id,
                        method: $crate::operation::Method::$method,
                        path: $path,
                        about: concat!($($about),+),
                        access: $crate::operation::Access::$access,
                        effect: $effect,
                        audit: [$(Some($audit),)? None][0],
                        errors: &[$(($status, $meaning)),*],
                    };
                    $crate::operation::check(&operation, <$places as $crate::operation::PathParams>::PLACES);
                    operation
                };
                type Path = $places;
                type Query = $query;
                type Body = $body;
                type Answer = $answer;
            }
        )+

        /// The rows of this domain.
        pub const OPERATIONS: &[$crate::operation::Operation] = &[$(<$name as $crate::operation::Endpoint>::OPERATION),+];
    };
}

/// Fails to compile for a row that contradicts itself.
#[doc(hidden)]
pub const fn check(operation: &Operation, places: &[(&str, &str)]) {
    let reads = matches!(operation.effect, Effect::Reads);
    assert!(reads || operation.audit.is_some(), "an operation that changes something is recorded");
    assert!(!reads || matches!(operation.method, Method::GET | Method::POST), "only GET and POST can read");
    let (path, mut at, mut place) = (operation.path.as_bytes(), 0, 0);
    while at < path.len() {
        if path[at] == b'{' {
            assert!(place < places.len(), "the path has a place more than its type");
            let name = places[place].0.as_bytes();
            let mut letter = 0;
            while letter < name.len() {
                assert!(path[at + 1 + letter] == name[letter], "a place of the path has another name in its type");
                letter += 1;
            }
            assert!(path[at + 1 + letter] == b'}', "a place of the path has another name in its type");
            place += 1;
        }
        at += 1;
    }
    assert!(place == places.len(), "the type has a place more than the path");
}

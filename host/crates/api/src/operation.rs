//! Operations of the API: one row per operation. The router, the OpenAPI document and the command
//! line are made from these rows.

use patchbay_model::operator::OperatorRole;
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

/// One operation of the API: a row of the table of operations.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Unique, as `domain.verb`: for example `queues.pause`. Also the operation id of the OpenAPI
    /// document.
    pub id: &'static str,
    /// HTTP method.
    pub method: Method,
    /// Path from the root, with parameters as `{name}`. As `{*name}`, the last one takes the rest
    /// of the path with its slashes, and only as it is: without the escapes of [`crate::path`].
    pub path: &'static str,
    /// Summary in one or more sentences, for the OpenAPI document.
    pub about: &'static str,
    /// Who may call it.
    pub access: Access,
    /// What it has to do with data of jobs.
    pub data: JobData,
    /// Whether it reads, changes or destroys state.
    pub effect: Effect,
    /// The name under which each use is recorded; `None` if nothing is recorded.
    pub audit: Option<&'static str>,
    /// Statuses specific to this operation, each with its meaning. Those that follow from access,
    /// path and body are not listed.
    pub errors: &'static [(u16, &'static str)],
}

impl Operation {
    /// The part of the id before the dot, with spaces: `dead letters`.
    pub fn domain(&self) -> String {
        self.id
            .split('.')
            .next()
            .unwrap_or_default()
            .replace('_', " ")
    }

    /// The group of operations that a scope of a token names: `queues` also for jobs and flows.
    pub fn group(&self) -> String {
        let domain = self.id.split('.').next().unwrap_or_default();
        let group = match domain {
            "alert_rules" | "alert_silences" => "alerts",
            "audit_trails" | "audit_retention" => "audit",
            "flows" | "jobs" => "queues",
            "searches" => "history",
            "webhooks" => "inbox",
            _ if domain.starts_with("operator") => "operators",
            other => other,
        };
        group.replace('_', "-")
    }

    /// Whether it only tells who the caller is: every token may ask that.
    pub fn is_about_caller(&self) -> bool {
        self.id == "operator_session.show"
    }

    /// Whether the last parameter takes the rest of the path.
    pub fn takes_rest(&self) -> bool {
        self.path.contains("{*")
    }

    /// Whether the operation can change state.
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

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone, without a login. Requests are limited by their network.
    Anyone,
    /// Anyone, without a login and without a limit: probes ask often, and an answer must not depend
    /// on Redis.
    Probe,
    /// Anyone who wants to become an account: to sign up or log in.
    Guest,
    /// An account of an API client, with an access token.
    User,
    /// A program of a vendor, with an API key.
    Vendor,
    /// Every operator, and accounts with the role admin.
    AdminOrViewer,
    /// Operators with this role or a higher one, and accounts with the role admin.
    AdminOrOperator,
    /// Owners, and accounts with the role admin.
    AdminOrOwner,
    /// Every operator: it shows.
    Viewer,
    /// Operators with this role or a higher one: it runs queues, or replaces plugins within the
    /// rights that they have.
    Operator,
    /// Owners: it gives rights, or deletes for good.
    Owner,
    /// Every operator, unless the configuration opens it to anyone.
    ViewerByDefault,
}

impl Access {
    /// The least role of an operator who may call it; `None` where operators are not asked for.
    pub const fn role(self) -> Option<OperatorRole> {
        match self {
            Self::Anyone | Self::Probe | Self::Guest | Self::User | Self::Vendor => None,
            Self::Viewer | Self::AdminOrViewer | Self::ViewerByDefault => {
                Some(OperatorRole::Viewer)
            }
            Self::Operator | Self::AdminOrOperator => Some(OperatorRole::Operator),
            Self::Owner | Self::AdminOrOwner => Some(OperatorRole::Owner),
        }
    }

    /// Whether accounts with the role admin may call it, too.
    pub const fn is_for_admins(self) -> bool {
        matches!(
            self,
            Self::AdminOrViewer | Self::AdminOrOperator | Self::AdminOrOwner
        )
    }

    /// Whether a login is needed, or is by default.
    pub const fn needs_login(self) -> bool {
        !matches!(self, Self::Anyone | Self::Guest | Self::Probe)
    }

    /// Whether requests count against the limit of their network.
    pub const fn is_limited_by_network(self) -> bool {
        matches!(self, Self::Anyone | Self::Guest)
    }

    /// Whether pages of the origins in `http.cors_origins` may call it. Never where an operator's
    /// rights suffice: such a page could then do whatever its reader may.
    pub const fn is_for_users(self) -> bool {
        matches!(self, Self::Guest | Self::User)
    }

    /// Whether operators call it: it is recorded as an action, and takes a reason.
    pub const fn is_for_operators(self) -> bool {
        self.role().is_some()
    }
}

/// What an operation has to do with data, results and logs of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobData {
    /// Nothing.
    None,
    /// Its answer may show some. Whoever may not see data gets the answer without it, and no answer
    /// at all where the request asks for data: by a reveal, with bodies, or by values of data. The
    /// names are the members of the answer that hold data, at any depth.
    Shown(&'static [&'static str]),
    /// It is about nothing else: whoever may not see data is refused.
    Needed,
    /// As `Needed`, unless this parameter of the query has one of these values.
    NeededUnless(&'static str, &'static [&'static str]),
}

/// How an operation affects state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing.
    Reads,
    /// Makes a change that can be reverted.
    Changes,
    /// Destroys something that cannot be restored; the clause says what: `removes every waiting job
    /// of the queue`. Its caller must confirm it with the query parameter `confirm`.
    Destroys(&'static str),
    /// As `Destroys`, but only the one thing that the path names. Its name is the confirmation:
    /// clients of the previous backend send no other.
    DestroysNamed(&'static str),
}

/// A row together with the types of its request and answer.
pub trait Endpoint: Send + Sync + 'static {
    /// The row of this operation.
    const OPERATION: Operation;
    /// The path parameters.
    type Path: PathParams;
    /// The query parameters.
    type Query: Query;
    /// The body of the request.
    type Body: Body;
    /// The answer on success.
    type Answer: Answer;
}

/// Path parameters.
pub trait PathParams: Sized + Send + Sync + 'static {
    /// Name and description of each parameter, in their order.
    const PLACES: &'static [(&'static str, &'static str)];
    /// The schema of each parameter, in their order.
    fn schemas() -> Vec<RefOr<Schema>>;
    /// Parses the path segments of the parameters; `None` if one of them is invalid.
    fn from_segments(segments: &[String]) -> Option<Self>;
    /// The path segments of the parameters, in their order.
    fn segments(&self) -> Vec<String>;
}

/// A path without parameters.
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

/// Defines path parameters, in their order.
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

/// Query parameters.
pub trait Query: Serialize + DeserializeOwned + Send + 'static {
    /// The parameters, for the OpenAPI document.
    fn parameters() -> Vec<Parameter>;
}

impl<T: IntoParams + Serialize + DeserializeOwned + Send + 'static> Query for T {
    fn parameters() -> Vec<Parameter> {
        T::into_params(|| Some(utoipa::openapi::path::ParameterIn::Query))
    }
}

/// No query parameters. A request that only reads ignores any that are sent; one that changes
/// something refuses them.
#[derive(Debug, Default, Clone, Copy, serde::Serialize, serde::Deserialize, IntoParams)]
pub struct NoQuery {}

/// Defines the operations of one domain, with a type for each. Every domain module shows the form.
#[macro_export]
macro_rules! operations {
    ($(
        $(#[doc = $about:literal])+
        $name:ident = $id:literal: $method:ident $path:literal ($places:ty, $query:ty, $body:ty) -> $answer:ty,
        $access:ident, $effect:expr, $(audit $audit:literal,)? $(data $data:expr,)? errors [$($status:literal $meaning:literal),* $(,)?];
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Debug)]
            pub enum $name {}

            impl $crate::operation::Endpoint for $name {
                const OPERATION: $crate::operation::Operation = {
                    #[allow(unused_imports)]
                    use $crate::operation::Effect::*;
                    #[allow(unused_imports)]
                    use $crate::operation::JobData::{Needed, NeededUnless, Shown};
                    let operation = $crate::operation::Operation {
                        id: $id,
                        method: $crate::operation::Method::$method,
                        path: $path,
                        about: concat!($($about),+),
                        access: $crate::operation::Access::$access,
                        data: [$($data,)? $crate::operation::JobData::None][0],
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

        /// The operations of this domain.
        pub const OPERATIONS: &[$crate::operation::Operation] = &[$(<$name as $crate::operation::Endpoint>::OPERATION),+];
    };
}

/// Fails to compile if a row contradicts itself.
#[doc(hidden)]
pub const fn check(operation: &Operation, places: &[(&str, &str)]) {
    let reads = matches!(operation.effect, Effect::Reads);
    assert!(
        reads || operation.audit.is_some(),
        "an operation that changes something is recorded"
    );
    assert!(
        !reads || matches!(operation.method, Method::GET | Method::POST),
        "only GET and POST can read"
    );
    assert!(
        matches!(operation.data, JobData::None) || operation.access.is_for_operators(),
        "only operators see data of jobs"
    );
    let (path, mut at, mut place) = (operation.path.as_bytes(), 0, 0);
    while at < path.len() {
        if path[at] == b'{' {
            assert!(
                place < places.len(),
                "the path has a place more than its type"
            );
            let name = places[place].0.as_bytes();
            let mut letter = 0;
            if path[at + 1] == b'*' {
                at += 1;
            }
            while letter < name.len() {
                assert!(
                    path[at + 1 + letter] == name[letter],
                    "a place of the path has another name in its type"
                );
                letter += 1;
            }
            assert!(
                path[at + 1 + letter] == b'}',
                "a place of the path has another name in its type"
            );
            place += 1;
        }
        at += 1;
    }
    assert!(
        place == places.len(),
        "the type has a place more than the path"
    );
}

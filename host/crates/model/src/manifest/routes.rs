//! `[[routes]]`: HTTP requests that an operation of the plugin answers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Manifest, ManifestError, RoutePath, invalid};
use crate::operation;
use crate::role::Role;

const MAX_ROUTES: usize = 200;
const MAX_UNAVAILABLE_BYTES: usize = 16 << 10;
/// Parts of an operation's input.
const INPUT: [&str; 3] = ["path", "query", "body"];

/// A method and path, and the operation that answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The host answers HEAD and OPTIONS itself.
    pub method: HttpMethod,
    /// Under `/api/`.
    pub path: RoutePath,
    /// Who may call the route. At least one, since a forgotten guard must not open a route.
    pub roles: Vec<Role>,
    /// Name of the operation, as in `patchbay plugin call`.
    pub operation: String,
    /// JSON Schema of `{"path":{..},"query":{..},"body":..}`: a path in plugin.toml, the document
    /// itself when packed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Value>,
    /// The answer while the plugin is unavailable; default 503 in the usual envelope.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_unavailable: Option<UnavailableSpec>,
}

/// A method of routes and webhooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl HttpMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// The answer while the plugin is unavailable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnavailableSpec {
    /// 200 to 599.
    pub status: u16,
    /// Any JSON, sent unchanged.
    pub body: Value,
}

impl Manifest {
    pub(super) fn check_routes(&self) -> Result<(), ManifestError> {
        if self.routes.len() > MAX_ROUTES {
            return Err(invalid(
                "routes",
                format!("{} routes; the limit is {MAX_ROUTES}", self.routes.len()),
            ));
        }
        for (i, route) in self.routes.iter().enumerate() {
            route
                .check()
                .map_err(|(field, reason)| invalid(format!("routes[{i}].{field}"), reason))?;
        }
        Ok(())
    }

    pub(super) fn input_schemas(&self) -> impl Iterator<Item = (String, &Value)> {
        let inputs = self.routes.iter().enumerate();
        inputs.filter_map(|(i, route)| Some((format!("routes[{i}].input"), route.input.as_ref()?)))
    }
}

impl RouteSpec {
    /// The error names the field that is wrong, and what to write.
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.roles.is_empty() {
            return Err(("roles", "name at least one role".into()));
        }
        let mut roles = BTreeSet::new();
        if !self.roles.iter().all(|role| roles.insert(role)) {
            return Err(("roles", "a role is named twice".into()));
        }
        if !operation::is_name(&self.operation) {
            let reason = format!(
                "must be 1 to {} letters, digits and - _ . :",
                operation::MAX_NAME
            );
            return Err(("operation", reason));
        }
        if let Some(schema) = &self.input {
            self.check_input(schema)
                .map_err(|reason| ("input", reason))?;
        }
        if let Some(answer) = &self.when_unavailable {
            if !(200..=599).contains(&answer.status) {
                return Err((
                    "when_unavailable.status",
                    format!("must be from 200 to 599, not {}", answer.status),
                ));
            }
            let bytes = answer.body.to_string().len();
            if bytes > MAX_UNAVAILABLE_BYTES {
                let reason = format!("{bytes} bytes; the limit is {MAX_UNAVAILABLE_BYTES}");
                return Err(("when_unavailable.body", reason));
            }
        }
        Ok(())
    }

    /// The schema may describe only parts of the input and path parameters that exist. Where it
    /// describes `path`, it must require every parameter.
    fn check_input(&self, schema: &Value) -> Result<(), String> {
        let properties = |schema: &Value| -> Vec<String> {
            schema["properties"]
                .as_object()
                .into_iter()
                .flat_map(|names| names.keys().cloned())
                .collect()
        };
        if let Some(unknown) = properties(schema)
            .iter()
            .find(|name| !INPUT.contains(&name.as_str()))
        {
            return Err(format!(
                "describes {unknown:?}; an input has only path, query and body"
            ));
        }
        let Some(path) = schema["properties"]
            .get("path")
            .filter(|path| path.is_object())
        else {
            return Ok(());
        };
        let parameters: Vec<&str> = self.path.parameters().collect();
        if let Some(unknown) = properties(path)
            .iter()
            .find(|name| !parameters.contains(&name.as_str()))
        {
            return Err(format!(
                "describes path.{unknown}, and {} has no {{{unknown}}}",
                self.path
            ));
        }
        let required: Vec<&str> = path["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        match parameters.iter().find(|name| !required.contains(name)) {
            Some(missing) => Err(format!(
                "must list {missing:?} in the \"required\" of path: {} has it",
                self.path
            )),
            None => Ok(()),
        }
    }
}

//! Credentials that the host puts into a request on the guest's behalf.
//!
//! A guest may not set what a rule's `auth` fills in: with two values, the server would decide
//! which one counts.

use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use patchbay_model::capability::HttpError;
use patchbay_model::manifest::EgressAuth;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, HeaderValue};
use url::form_urlencoded;

use super::request::Outgoing;
use crate::secrets::SecretValue;

const FORM: &str = "application/x-www-form-urlencoded";

/// What the name of a field of the call's credential begins with where secrets are looked up; no
/// secret's name has such a character.
const FIELD: &str = "field:";

/// The field of the call's credential, when that is what a name means.
pub(crate) fn credential_field(name: &str) -> Option<&str> {
    name.strip_prefix(FIELD)
}

pub(super) type Secrets<'a> = &'a (dyn Fn(&str) -> Option<SecretValue> + Sync);

/// The secret's value; the error names the secret.
pub(super) fn secret(secrets: Secrets<'_>, name: &str) -> Result<SecretValue, HttpError> {
    secrets(name).ok_or_else(|| {
        HttpError::Denied(format!(
            "the secret {name} has no value; an operator must set it"
        ))
    })
}

/// Adds credentials; returns the values that must not come back with the response.
/// [`super::oauth2`] handles OAuth2 tokens.
pub(super) fn put_in(
    auth: &EgressAuth,
    secrets: Secrets<'_>,
    request: &mut Outgoing,
) -> Result<Vec<SecretValue>, HttpError> {
    match auth {
        EgressAuth::Basic { username, password } => {
            let (username, password) = (secret(secrets, username)?, secret(secrets, password)?);
            // RFC 7617: the server splits at the first colon.
            if username.expose().contains(':') {
                return Err(unusable());
            }
            let pair = basic(username.expose(), password.expose());
            request
                .headers
                .insert(AUTHORIZATION, sensitive(format!("Basic {pair}"))?);
            Ok(vec![username, password, SecretValue::new(pair)])
        }
        EgressAuth::Bearer { token } => {
            let token = secret(secrets, token)?;
            bearer(request, &token)?;
            Ok(vec![token])
        }
        EgressAuth::Header { name, value } => {
            let value = secret(secrets, value)?;
            add_header(request, name, &value)?;
            Ok(vec![value])
        }
        EgressAuth::Query { name, value } => {
            let value = secret(secrets, value)?;
            add_parameter(request, name, &value)?;
            Ok(vec![value])
        }
        EgressAuth::Form { name, value } => {
            let value = secret(secrets, value)?;
            add_field(request, name, &value)?;
            Ok(vec![value])
        }
        EgressAuth::OAuth2 { .. } => Ok(Vec::new()),
        EgressAuth::Credential(places) => {
            let field = |field: &String| {
                secrets(&format!("{FIELD}{field}")).ok_or_else(|| {
                    HttpError::Denied(format!(
                        "the credential has no field {field}: save it again"
                    ))
                })
            };
            let mut sent = Vec::new();
            for (name, value) in &places.query {
                let value = field(value)?;
                add_parameter(request, name, &value)?;
                sent.push(value);
            }
            for (name, value) in &places.form {
                let value = field(value)?;
                add_field(request, name, &value)?;
                sent.push(value);
            }
            for (name, value) in &places.header {
                let value = field(value)?;
                add_header(request, name, &value)?;
                sent.push(value);
            }
            Ok(sent)
        }
    }
}

pub(super) fn bearer(request: &mut Outgoing, token: &SecretValue) -> Result<(), HttpError> {
    request.headers.insert(
        AUTHORIZATION,
        sensitive(format!("Bearer {}", token.expose()))?,
    );
    Ok(())
}

pub(super) fn basic(username: &str, password: &str) -> String {
    STANDARD.encode(format!("{username}:{password}"))
}

/// A header value that debug output does not show.
pub(super) fn sensitive(text: String) -> Result<HeaderValue, HttpError> {
    let mut value = HeaderValue::from_str(&text).map_err(|_| unusable())?;
    value.set_sensitive(true);
    Ok(value)
}

fn unusable() -> HttpError {
    HttpError::Denied(
        "a secret of the egress rule has a character that cannot be sent where the rule puts it"
            .into(),
    )
}

fn add_header(request: &mut Outgoing, name: &str, value: &SecretValue) -> Result<(), HttpError> {
    let name = HeaderName::from_str(name)
        .map_err(|_| HttpError::Denied("the header name of the egress rule is not valid".into()))?;
    request
        .headers
        .insert(name, sensitive(value.expose().to_owned())?);
    Ok(())
}

fn add_parameter(request: &mut Outgoing, name: &str, value: &SecretValue) -> Result<(), HttpError> {
    if names_field(request.url.query().unwrap_or_default().as_bytes(), name) {
        return Err(HttpError::Invalid(format!(
            "query parameter {name:?}: the host fills it in; leave it out"
        )));
    }
    request
        .url
        .query_pairs_mut()
        .append_pair(name, value.expose());
    Ok(())
}

fn add_field(request: &mut Outgoing, name: &str, value: &SecretValue) -> Result<(), HttpError> {
    let invalid = |what: &str| {
        Err(HttpError::Invalid(format!(
            "the host fills in the form field {name:?}: {what}"
        )))
    };
    let mut body = request.body.take().unwrap_or_default();
    if request.headers.contains_key(CONTENT_ENCODING) {
        return invalid("the body must not be compressed");
    }
    let types: Vec<&HeaderValue> = request.headers.get_all(CONTENT_TYPE).iter().collect();
    match types.as_slice() {
        [] if body.is_empty() => {
            request
                .headers
                .insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        }
        [one] if is_form(one) => {}
        _ => return invalid("the body must be application/x-www-form-urlencoded in UTF-8"),
    }
    if names_field(&body, name) {
        return invalid("the request must not have it");
    }
    if !body.is_empty() {
        body.push(b'&');
    }
    let field = form_urlencoded::Serializer::new(String::new())
        .append_pair(name, value.expose())
        .finish();
    body.extend_from_slice(field.as_bytes());
    // The client computes the content length, since the whole body is here.
    request.body = Some(body);
    Ok(())
}

fn is_form(content_type: &HeaderValue) -> bool {
    let text = content_type.to_str().unwrap_or_default();
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let parameters = parameters.trim().to_ascii_lowercase().replace('"', "");
    essence.trim().eq_ignore_ascii_case(FORM) && matches!(parameters.as_str(), "" | "charset=utf-8")
}

/// Whether a server could find the field there. Old servers split at `;`, too.
fn names_field(encoded: &[u8], name: &str) -> bool {
    encoded
        .split(|byte| b"&;".contains(byte))
        .any(|pair| form_urlencoded::parse(pair).any(|(field, _)| field.trim() == name))
}

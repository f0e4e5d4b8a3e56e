//! Lets only vendors pass, by their key.

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{HeaderMap, Method};
use patchbay_app::vendor_keys::Vendor;

use crate::AppState;
use crate::client_address::{ClientAddress, UnknownProxy, network};
use crate::error::ApiError;
use crate::security_headers::API_KEY;

const BEARER: &[u8] = b"bearer ";

/// The vendor that sends the request. [`require`] puts it into the request.
pub(crate) struct OfVendor(pub(crate) Vendor);

impl FromRequestParts<AppState> for OfVendor {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &AppState) -> Result<Self, ApiError> {
        let vendor = parts.extensions.get::<Vendor>().cloned();
        vendor.map(Self).ok_or_else(ApiError::internal)
    }
}

pub(crate) async fn require(
    State(state): State<AppState>,
    mut request: Request,
    next: Next,
) -> Response {
    let extensions = request.extensions();
    let network = match extensions.get::<UnknownProxy>() {
        // All clients of such a proxy look alike.
        Some(_) => None,
        None => extensions.get::<ClientAddress>(),
    };
    let network = network.map(|ClientAddress(address)| network_of(*address));
    let path = extensions.get::<MatchedPath>().map(MatchedPath::as_str);
    let route = format!("{} {}", named(request.method()), path.unwrap_or("unknown"));
    let key = key(request.headers());
    let keys = &state.app.vendor_keys;
    match keys
        .authenticate(key.as_deref(), network.as_deref(), &route)
        .await
    {
        Ok(vendor) => {
            request.extensions_mut().insert(vendor);
            next.run(request).await
        }
        Err(error) => ApiError::from(error).into_response(),
    }
}

/// As routes are counted: vendors must not name as many as they like.
fn named(method: &Method) -> &str {
    match *method {
        Method::HEAD => "GET",
        Method::GET | Method::POST | Method::PUT | Method::PATCH | Method::DELETE => {
            method.as_str()
        }
        _ => "other",
    }
}

fn network_of(address: std::net::IpAddr) -> String {
    network(address).to_string()
}

/// Of `X-API-Key`, or else of `Authorization: Bearer`. Two keys are none that is right.
pub(crate) fn key(headers: &HeaderMap) -> Option<String> {
    let mut given = headers.get_all(API_KEY).iter();
    if let Some(first) = given.next() {
        let is_one = given.next().is_none();
        let text = first.to_str().ok().filter(|_| is_one);
        return Some(text.unwrap_or_default().trim().to_owned());
    }
    let authorization = headers.get(AUTHORIZATION)?.as_bytes();
    let bearer = authorization
        .split_at_checked(BEARER.len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(BEARER));
    let text = bearer.and_then(|(_, key)| std::str::from_utf8(key).ok());
    Some(text.unwrap_or_default().trim().to_owned())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn read(lines: &[(&'static str, &'static str)]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        key(&headers)
    }

    #[test]
    fn a_key_is_read_from_either_header_and_two_are_none() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("x-api-key", " vk ")]).as_deref(), Some("vk"));
        let bearer = [("authorization", "BEARER vk")];
        assert_eq!(read(&bearer).as_deref(), Some("vk"));
        let both = [("authorization", "Bearer a"), ("x-api-key", "b")];
        assert_eq!(read(&both).as_deref(), Some("b"));
        let two = [("x-api-key", "a"), ("x-api-key", "a")];
        assert_eq!(read(&two).as_deref(), Some(""));
        assert_eq!(read(&[("authorization", "Basic a")]).as_deref(), Some(""));
        assert_eq!(read(&[("authorization", "x")]).as_deref(), Some(""));
    }
}

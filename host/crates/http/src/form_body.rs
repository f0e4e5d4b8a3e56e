//! Forms (`application/x-www-form-urlencoded`), which clients of the previous backend also send
//! under `/api/auth`, and the page for the code of single sign-on. Nowhere else are they read: any page
//! can make a browser send one.

use axum::extract::Request;
use http::header::AUTHORIZATION;
use patchbay_api::body::FORM;
use patchbay_api::oidc::OidcCode;
use patchbay_api::operation::Endpoint;
use serde_json::{Map, Value};

use crate::cookies;
use crate::error::ApiError;

pub(crate) const TYPE: &str = FORM;

const BEARER: &[u8] = b"bearer ";

/// Whether the request may bring a form: it must not have a credential that a browser adds by
/// itself, unless it has an access token of its own.
pub(crate) fn is_allowed(request: &Request) -> bool {
    // A page of this host sends it, with a cookie that a browser adds to no other site's form.
    if request.uri().path() == OidcCode::OPERATION.path {
        return true;
    }
    if !is_read_at(request.uri().path()) {
        return false;
    }
    match request.headers().get(AUTHORIZATION) {
        Some(value) => value
            .as_bytes()
            .get(..BEARER.len())
            .is_some_and(|scheme| scheme.eq_ignore_ascii_case(BEARER)),
        None => !cookies::has_any(request.headers()),
    }
}

pub(crate) fn is_read_at(path: &str) -> bool {
    path.starts_with("/api/auth/")
}

/// The form as a JSON object of texts.
pub(crate) fn as_json(form: &[u8]) -> Result<Vec<u8>, ApiError> {
    let mut fields = Map::new();
    for (name, value) in url::form_urlencoded::parse(form) {
        // What is not UTF-8 is read as this character.
        if name.contains(char::REPLACEMENT_CHARACTER) || value.contains(char::REPLACEMENT_CHARACTER)
        {
            return Err(ApiError::invalid("The form is not UTF-8"));
        }
        if fields
            .insert(name.into_owned(), Value::String(value.into_owned()))
            .is_some()
        {
            return Err(ApiError::invalid("The form names a field twice"));
        }
    }
    serde_json::to_vec(&fields).map_err(|_| ApiError::internal())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn allowed(path: &str, headers: &[(&str, &str)]) -> bool {
        let mut request = http::Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        is_allowed(&request.body(Body::empty()).expect("a request"))
    }

    #[test]
    fn forms_are_read_under_auth_only_and_never_with_what_a_browser_adds() {
        let login = "/api/auth/login";
        assert!(allowed(login, &[]));
        assert!(allowed(login, &[("cookie", "theme=dark")]));
        assert!(allowed(login, &[("authorization", "bearer x")]));
        let both = [("authorization", "Bearer x"), ("cookie", "token=y")];
        assert!(allowed(login, &both));
        for cookie in [
            "token=x",
            "a=b; authToken=x",
            "refreshToken=x",
            "patchbaySignup=x",
        ] {
            assert!(!allowed(login, &[("cookie", cookie)]), "{cookie}");
        }
        assert!(!allowed(login, &[("authorization", "Basic x")]));
        assert!(allowed(
            "/api/admin/oidc/code",
            &[("cookie", "__Host-patchbay-oidc=x")]
        ));
        assert!(!allowed("/api/admin/session", &[]));
        assert!(!allowed("/api/authors/x", &[]));
    }

    #[test]
    fn a_form_is_read_as_texts() {
        let read = |form: &[u8]| {
            as_json(form)
                .ok()
                .and_then(|json| String::from_utf8(json).ok())
        };
        let form = b"email=a%2Bb%40example.com&password=one+two%26three&otp=012345&empty=";
        let json = read(form).expect("a form");
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let expected = serde_json::json!({
            "email": "a+b@example.com", "password": "one two&three", "otp": "012345", "empty": "",
        });
        assert_eq!(json, expected);
        assert_eq!(read(b"").as_deref(), Some("{}"));
        for bad in [&b"a=%ff"[..], b"\xff=1", b"a=1&a=2"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}

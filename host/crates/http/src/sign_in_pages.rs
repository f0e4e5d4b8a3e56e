//! The few pages that a browser sees between the provider of single sign-on and this host. No script,
//! no style, and every text is escaped.

use axum::response::{IntoResponse, Response};
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use patchbay_api::oidc::{OidcCode, OidcStart};
use patchbay_api::operation::Endpoint;
use patchbay_app::Error;
use serde_json::Value;

use crate::error::ApiError;

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
);
const HTML: HeaderValue = HeaderValue::from_static("text/html; charset=utf-8");

/// The page of an error, with its status. Where a code is asked for, it has a place to type it.
pub(crate) fn of_error(error: Error) -> Response {
    let asks_for_code = error.code == "second-factor" && error.details.is_some();
    let page = match asks_for_code {
        true => code_page(&error),
        false => error_page(&error),
    };
    let mut response = ApiError::from(error).into_response();
    let headers = response.headers_mut();
    headers.remove(http::header::CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HTML);
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    *response.body_mut() = page.into();
    response
}

fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title} · Patchbay</title></head>\n<body><main><h1>{title}</h1>\n{body}\n</main></body></html>\n"
    )
}

fn error_page(error: &Error) -> String {
    let again = OidcStart::OPERATION.path;
    let body = format!(
        "<p>{}</p>\n<p><a href=\"{again}\">Sign in again</a></p>",
        escaped(&error.message)
    );
    page("Not signed in", &body)
}

fn code_page(error: &Error) -> String {
    let action = OidcCode::OPERATION.path;
    let told = |name: &str| {
        let details = error.details.as_ref();
        details
            .and_then(|details| details.get(name))
            .and_then(Value::as_str)
    };
    let key = told("totpSecret").map(|secret| {
        let secret = escaped(secret);
        let address = escaped(told("totpUri").unwrap_or_default());
        format!("<p>Key: <code>{secret}</code></p>\n<p><a href=\"{address}\">Open it in an authenticator on this device</a></p>\n")
    });
    let body = format!(
        "<p>{}</p>\n{}<form method=\"post\" action=\"{action}\"><p><label>Code <input name=\"totp\" inputmode=\"numeric\" \
         autocomplete=\"one-time-code\" pattern=\"[0-9 ]*\" maxlength=\"8\" required autofocus></label> <button>Sign in</button></p></form>",
        escaped(&error.message),
        key.unwrap_or_default()
    );
    page("Second factor", &body)
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use patchbay_app::error::Kind;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_provider_says_is_only_text() {
        let hostile = "<script>alert(1)</script>\" onload='x'";
        let error = Error::new(Kind::Forbidden, "no-role", hostile);
        let shown = error_page(&error);
        assert!(
            !shown.contains("<script>") && !shown.contains("\" onload"),
            "{shown}"
        );
        assert!(shown.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
    }

    #[test]
    fn the_page_for_a_code_shows_the_key_only_where_there_is_one() {
        let asks = |details| {
            let error = Error::new(Kind::Forbidden, "second-factor", "ada: type the code");
            code_page(&error.with_details(details))
        };
        let shown = asks(
            json!({ "name": "ada", "totpSecret": "ABC", "totpUri": "otpauth://totp/x?a=1&b=2" }),
        );
        assert!(
            shown.contains("<code>ABC</code>") && shown.contains("a=1&amp;b=2"),
            "{shown}"
        );
        let shown = asks(json!({ "name": "ada" }));
        assert!(!shown.contains("Key:") && shown.contains("action=\"/api/admin/oidc/code\""));
    }
}

//! What a guest may put into a request, before credentials are added.

use std::str::FromStr;

use patchbay_model::capability::{HttpError, HttpRequest};
use patchbay_model::egress::Target;
use patchbay_model::manifest::EgressAuth;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

/// Servers accept about 100.
const MAX_HEADERS: usize = 128;
/// Of all names and values; servers accept 8 to 32 KiB.
const MAX_HEADER_BYTES: usize = 64 << 10;

/// Headers that belong to the connection: a guest that sets them could smuggle a second request or
/// reach another virtual host.
const OWNED_BY_THE_HOST: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers that make servers and gateways read a request as another one: another method, path or
/// sender. A rule grants a method and a path, and the host is the sender.
const READ_AS_ANOTHER_REQUEST: &[&str] = &[
    "forwarded",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-host",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "via",
];
/// Followed by for, host, port, prefix, proto, scheme, server, …
const FORWARDED: &str = "x-forwarded-";

#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
}

/// Method and URL, normalised as they are matched and sent.
pub(super) fn parse(request: &HttpRequest) -> Result<(Method, Target), HttpError> {
    let method = Method::from_bytes(request.method.as_bytes());
    let method = method.map_err(|_| HttpError::Invalid("the method is not valid".into()))?;
    let target = Target::parse(&request.url)
        .map_err(|error| HttpError::Invalid(format!("the URL: {error}")))?;
    Ok((method, target))
}

/// Builds the request without credentials.
pub(super) fn outgoing(
    request: HttpRequest,
    method: Method,
    target: Target,
    auth: Option<&EgressAuth>,
) -> Result<Outgoing, HttpError> {
    let headers = headers(&request, auth)?;
    Ok(Outgoing {
        method,
        url: target.into_url(),
        headers,
        body: request.body,
    })
}

fn headers(request: &HttpRequest, auth: Option<&EgressAuth>) -> Result<HeaderMap, HttpError> {
    let bytes: usize = request
        .headers
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if request.headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        let limit = format!(
            "a request can have at most {MAX_HEADERS} headers with {MAX_HEADER_BYTES} bytes in total"
        );
        return Err(HttpError::Invalid(limit));
    }
    let injected = match auth {
        Some(EgressAuth::Basic { .. } | EgressAuth::Bearer { .. } | EgressAuth::OAuth2 { .. }) => {
            vec!["authorization".to_owned()]
        }
        Some(EgressAuth::Header { name, .. }) => vec![as_servers_read(name)],
        Some(EgressAuth::Credential(places)) => places
            .header
            .keys()
            .map(|name| as_servers_read(name))
            .collect(),
        Some(EgressAuth::Query { .. } | EgressAuth::Form { .. }) | None => Vec::new(),
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let refused = |reason: &str| HttpError::Invalid(format!("header {name:?}: {reason}"));
        let parsed = HeaderName::from_str(name).map_err(|_| refused("not a header name"))?;
        let read = as_servers_read(parsed.as_str());
        if OWNED_BY_THE_HOST.contains(&read.as_str()) || injected.contains(&read) {
            return Err(refused("the host fills it in"));
        }
        if READ_AS_ANOTHER_REQUEST.contains(&read.as_str()) || read.starts_with(FORWARDED) {
            return Err(refused(
                "with it, a server could answer another request than the granted one",
            ));
        }
        // The host must decompress what it checks, so it offers only codings that it knows.
        if parsed == reqwest::header::ACCEPT_ENCODING {
            continue;
        }
        headers.append(
            parsed,
            HeaderValue::from_bytes(value).map_err(|_| refused("not a header value"))?,
        );
    }
    Ok(headers)
}

/// Case does not matter, and gateways treat `_` and `-` alike.
fn as_servers_read(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

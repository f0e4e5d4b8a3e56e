//! `/api/docs`: a page to read and try the API, made of the OpenAPI document by Swagger UI. Its files
//! are part of the binary; the page loads nothing from elsewhere.
//!
//! A file's address has its hash, so that a browser keeps it for ever, and another version is another
//! address.

use std::io::Read;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Request;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use flate2::read::GzDecoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest, Sha256};

use crate::AppState;

/// Scripts and styles of this host only, none of them in the page itself. Swagger UI draws icons
/// from `data:` addresses, and the page asks this host.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const FOR_EVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");

struct Asset {
    name: &'static str,
    kind: &'static str,
    /// The file itself, or compressed by gzip.
    bytes: &'static [u8],
    is_compressed: bool,
}

const ASSETS: [Asset; 3] = [
    Asset {
        name: "swagger-ui.css",
        kind: "text/css; charset=utf-8",
        bytes: include_bytes!("../assets/swagger-ui/swagger-ui.css.gz"),
        is_compressed: true,
    },
    Asset {
        name: "swagger-ui-bundle.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../assets/swagger-ui/swagger-ui-bundle.js.gz"),
        is_compressed: true,
    },
    Asset {
        name: "start.js",
        kind: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../assets/start.js"),
        is_compressed: false,
    },
];

/// The address of each file.
static ADDRESSES: LazyLock<[String; 3]> = LazyLock::new(|| {
    ASSETS.each_ref().map(|asset| {
        let hash = hex(&Sha256::digest(asset.bytes)[..8]);
        format!("/api/docs/{hash}/{}", asset.name)
    })
});

static PAGE: LazyLock<String> = LazyLock::new(|| {
    let [style, bundle, start] = &*ADDRESSES;
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Patchbay API</title>\n<link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"{style}\">\n\
         <noscript>This page needs JavaScript. The document is at <a href=\"/api/openapi.json\">/api/openapi.json</a>.</noscript>\n\
         <div id=\"page\"></div>\n<script src=\"{bundle}\"></script>\n<script src=\"{start}\"></script>\n"
    )
});

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn router() -> Router<AppState> {
    Router::new()
        .route("/api/docs", get(page))
        .route("/api/docs/{hash}/{name}", get(file))
}

async fn page() -> Response {
    ([(CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE.as_str())).into_response()
}

async fn file(request: Request) -> Response {
    let asked = request.uri().path();
    let Some(place) = ADDRESSES.iter().position(|address| address == asked) else {
        return crate::not_found(request).await;
    };
    let (asset, headers) = (&ASSETS[place], request.headers());
    let fixed = [
        (CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (CACHE_CONTROL, FOR_EVER),
        (VARY, HeaderValue::from_static("accept-encoding")),
    ];
    match (asset.is_compressed, takes_gzip(headers)) {
        (false, _) => (fixed, asset.bytes).into_response(),
        (true, true) => {
            let encoding = [(CONTENT_ENCODING, HeaderValue::from_static("gzip"))];
            (fixed, encoding, asset.bytes).into_response()
        }
        (true, false) => {
            let mut whole = Vec::new();
            match GzDecoder::new(asset.bytes).read_to_end(&mut whole) {
                Ok(_) => (fixed, whole).into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    }
}

/// Every browser takes it; a client that says nothing gets the file itself.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let given = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = given
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = matches!(parts.next(), Some("gzip" | "*"));
        is_gzip
            && !parts.any(|part| {
                part.replace(' ', "").starts_with("q=0")
                    && !part.contains(['1', '2', '3', '4', '5', '6', '7', '8', '9'])
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_takes_gzip_gets_it() {
        let takes = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            takes_gzip(&headers)
        };
        assert!(takes("gzip, deflate, br") && takes("br, gzip;q=0.5") && takes("*"));
        assert!(!takes("br") && !takes("gzip;q=0") && !takes("gzip; q=0.0") && !takes(""));
        assert!(!takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn the_page_names_files_that_are_there_and_no_script_of_its_own() {
        assert!(
            ADDRESSES
                .iter()
                .all(|address| PAGE.contains(address.as_str()))
        );
        assert!(!PAGE.contains("http://") && !PAGE.contains("https://"));
        for asset in ASSETS.iter().filter(|asset| asset.is_compressed) {
            let mut whole = String::new();
            let read = GzDecoder::new(asset.bytes).read_to_string(&mut whole);
            assert!(read.is_ok_and(|length| length > 10_000), "{}", asset.name);
        }
    }
}

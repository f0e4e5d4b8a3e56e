//! The style and the script of all pages, part of the binary. A file's address has its hash, so that
//! a browser keeps it for ever, and another version is another address.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{StatusCode, Uri};
use sha2::{Digest, Sha256};

use crate::ROOT;

const FOR_EVER: &str = "public, max-age=31536000, immutable";

struct Asset {
    kind: &'static str,
    text: &'static str,
    address: String,
}

impl Asset {
    fn new(name: &str, kind: &'static str, text: &'static str) -> Self {
        let hash = hex::encode(&Sha256::digest(text.as_bytes())[..8]);
        Self {
            kind,
            text,
            address: format!("{ROOT}/assets/{hash}/{name}"),
        }
    }
}

static ASSETS: LazyLock<[Asset; 3]> = LazyLock::new(|| {
    [
        Asset::new(
            "console.css",
            "text/css; charset=utf-8",
            include_str!("../assets/console.css"),
        ),
        Asset::new(
            "console.js",
            "text/javascript; charset=utf-8",
            include_str!("../assets/console.js"),
        ),
        Asset::new(
            "icon.svg",
            "image/svg+xml",
            include_str!("../assets/icon.svg"),
        ),
    ]
});

pub(crate) fn style() -> &'static str {
    &ASSETS[0].address
}

pub(crate) fn script() -> &'static str {
    &ASSETS[1].address
}

pub(crate) fn icon() -> &'static str {
    &ASSETS[2].address
}

pub(crate) async fn file(uri: Uri) -> Response {
    match ASSETS.iter().find(|asset| asset.address == uri.path()) {
        Some(asset) => (
            [(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, FOR_EVER)],
            asset.text,
        )
            .into_response(),
        None => (StatusCode::NOT_FOUND, "There is no such file").into_response(),
    }
}

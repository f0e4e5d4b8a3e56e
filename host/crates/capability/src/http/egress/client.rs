//! The HTTP client of one rule of one revision: its connections, and its access token.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use patchbay_model::capability::HttpError;
use reqwest::{Client, Url};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::address;
use super::certificate::Certificates;
use crate::secrets::SecretValue;

pub(super) struct EgressClient {
    pub(super) http: Client,
    pub(super) token: Mutex<TokenState>,
    pub(super) certificates: Arc<Certificates>,
    pub(super) allowed: Arc<[IpNet]>,
}

impl EgressClient {
    /// Addresses in the URL never reach the resolver, so they are checked here.
    pub(super) fn permits(&self, url: &Url) -> Result<(), HttpError> {
        let address = match url.host() {
            Some(url::Host::Ipv4(address)) => IpAddr::from(address),
            Some(url::Host::Ipv6(address)) => IpAddr::from(address),
            _ => return Ok(()),
        };
        if address::permitted(address, &self.allowed) {
            return Ok(());
        }
        Err(HttpError::Denied(format!(
            "{address} is not a public address"
        )))
    }
}

/// An access token, and the credentials that it was given for.
pub(super) struct Token {
    pub(super) value: SecretValue,
    pub(super) fresh_until: Instant,
    pub(super) client_id: SecretValue,
    pub(super) client_secret: SecretValue,
}

/// The token, if there is one, and the last failure to get one.
#[derive(Default)]
pub(super) struct TokenState {
    pub(super) token: Option<Arc<Token>>,
    pub(super) failure: Option<(Instant, HttpError)>,
}

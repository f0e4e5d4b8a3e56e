//! Resolves names once per connection. Returns only addresses that are permitted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address;

/// The source of addresses: the system, or a test.
#[async_trait]
pub(super) trait Lookup: Send + Sync + 'static {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>>;
}

pub(super) struct System;

#[async_trait]
impl Lookup for System {
    async fn addresses(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((host, 0))
            .await?
            .map(|address| address.ip())
            .collect())
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum ResolutionError {
    #[error("{0} has only addresses that are not public")]
    Blocked(String),
    #[error("{0} has no address")]
    NotFound(String),
}

/// Returns only permitted addresses. The client connects to exactly these: there is no second
/// look-up that could answer differently.
pub(super) struct Pinned {
    pub(super) allowed: Arc<[IpNet]>,
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Resolve for Pinned {
    fn resolve(&self, name: Name) -> Resolving {
        let (allowed, lookup) = (Arc::clone(&self.allowed), Arc::clone(&self.lookup));
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let found = lookup
                .addresses(&host)
                .await
                .map_err(|_| ResolutionError::NotFound(host.clone()))?;
            if found.is_empty() {
                return Err(ResolutionError::NotFound(host).into());
            }
            // Port 0 means the URL's port.
            let permitted: Vec<SocketAddr> = found
                .into_iter()
                .filter(|&address| address::permitted(address, &allowed))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if permitted.is_empty() {
                return Err(ResolutionError::Blocked(host).into());
            }
            Ok(Box::new(permitted.into_iter()) as Addrs)
        })
    }
}

//! Limits requests without a login by their network.
//!
//! Only operations that anyone may call, and paths that no operation serves, are limited: where a
//! login is needed, its guard has limits of its own. Without Redis, requests pass.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use patchbay_app::limits::{Class, Limits};

use crate::client_address::{ClientAddress, UnknownProxy, network};
use crate::error::ApiError;

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Anonymous {
    pub(crate) limits: Limits,
    /// `None`: not limited.
    pub(crate) class: Option<Arc<Class>>,
}

pub(crate) async fn limit(
    State(anonymous): State<Anonymous>,
    request: Request,
    next: Next,
) -> Response {
    match anonymous.take(network_of(&request)).await {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

/// Where the request comes from; `None` where that tells nobody apart: all clients of an unknown
/// proxy have its address, and one of them would use up the limit of all.
pub(crate) fn network_of(request: &Request) -> Option<String> {
    let extensions = request.extensions();
    let ClientAddress(address) = extensions.get()?;
    let is_known = extensions.get::<UnknownProxy>().is_none();
    is_known.then(|| network(*address).to_string())
}

impl Anonymous {
    /// Counts a request, and refuses it when its network has used up its limit.
    pub(crate) async fn take(&self, network: Option<String>) -> Result<(), ApiError> {
        let (Some(class), Some(network)) = (&self.class, network) else {
            return Ok(());
        };
        self.limits.take_if_possible(class, &network).await?;
        Ok(())
    }
}

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
    let Some(class) = &anonymous.class else {
        return next.run(request).await;
    };
    // All clients of such a proxy have its address: one of them would use up the limit of all.
    if request.extensions().get::<UnknownProxy>().is_some() {
        return next.run(request).await;
    }
    let Some(ClientAddress(address)) = request.extensions().get() else {
        return next.run(request).await;
    };
    let key = network(*address).to_string();
    match anonymous.limits.take_if_possible(class, &key).await {
        Ok(_) => next.run(request).await,
        Err(refused) => ApiError::from(refused).into_response(),
    }
}

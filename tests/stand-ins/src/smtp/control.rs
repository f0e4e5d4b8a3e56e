//! `/_control`: what happened, and how to misbehave. For whoever starts the server only: it has no
//! login.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};

use super::state::{Behaviour, Fault, Shared};

pub(super) async fn state(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let state = shared.lock();
    Json(json!({
        "account": state.account, "behaviour": state.behaviour, "faults": state.faults, "mails": state.mails,
        "reached": state.reached,
    }))
}

/// Only the fields that are named change.
pub(super) async fn behave(
    State(shared): State<Arc<Shared>>,
    Json(change): Json<Value>,
) -> Result<Json<Behaviour>, (StatusCode, String)> {
    let wrong = |error: serde_json::Error| (StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
    let mut state = shared.lock();
    let mut all = serde_json::to_value(&state.behaviour).map_err(wrong)?;
    for (name, value) in change.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    state.behaviour = serde_json::from_value(all).map_err(wrong)?;
    Ok(Json(state.behaviour.clone()))
}

/// As after a rotation.
pub(super) async fn set_password(State(shared): State<Arc<Shared>>, Json(password): Json<String>) {
    shared.lock().account.password = password;
}

pub(super) async fn add_fault(State(shared): State<Arc<Shared>>, Json(fault): Json<Fault>) {
    shared.lock().faults.push(fault);
}

pub(super) async fn remove_faults(State(shared): State<Arc<Shared>>) {
    shared.lock().faults.clear();
}

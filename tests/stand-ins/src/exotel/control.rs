//! `/_control`: what happened, and how to misbehave. For whoever starts the server only: it has no
//! login.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::state::{Behaviour, Fault, Shared};

pub(super) async fn state(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let state = shared.lock();
    Json(json!({
        "account": state.account, "behaviour": state.behaviour, "faults": state.faults, "calls": state.calls,
        "messages": state.messages, "callbacks": state.deliveries, "asked": state.asked,
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

pub(super) async fn add_fault(State(shared): State<Arc<Shared>>, Json(fault): Json<Fault>) {
    shared.lock().faults.push(fault);
}

pub(super) async fn remove_faults(State(shared): State<Arc<Shared>>) {
    shared.lock().faults.clear();
}

fn found(found: bool) -> StatusCode {
    if found {
        StatusCode::OK
    } else {
        StatusCode::NOT_FOUND
    }
}

pub(super) async fn answer_call(
    State(shared): State<Arc<Shared>>,
    Path(sid): Path<String>,
) -> StatusCode {
    found(shared.answer_call(&sid))
}

#[derive(Deserialize)]
pub(super) struct End {
    #[serde(default = "completed")]
    status: String,
}

fn completed() -> String {
    "completed".into()
}

pub(super) async fn end_call(
    State(shared): State<Arc<Shared>>,
    Path(sid): Path<String>,
    Json(end): Json<End>,
) -> StatusCode {
    found(shared.end_call(&sid, &end.status))
}

pub(super) async fn repeat_callbacks(
    State(shared): State<Arc<Shared>>,
    Path(sid): Path<String>,
) -> StatusCode {
    found(shared.repeat_callbacks(&sid))
}

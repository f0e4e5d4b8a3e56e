//! Routes of the history.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use patchbay_api::answer::Page;
use patchbay_api::history::{
    AttemptBody, Erasure, HistoryBodies, HistoryErase, HistoryErasures, HistoryPrune,
    HistoryResetRetention, HistoryRetention, HistorySetRetention, HistoryStatus, Pruned,
    RecordedErasure, Retention, Status,
};
use patchbay_api::searches::HistoryExport;
use patchbay_app::history::History;
use patchbay_app::{Caller, Error};

use crate::error::ApiError;
use crate::routes::{Ask, CallerExtractor, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(status)
        .add(retention)
        .add(set_retention)
        .add(reset_retention)
        .add(prune)
        .add(erase)
        .add(erasures)
        .add(bodies)
        .add_raw::<HistoryExport, _>(export)
}

async fn status(history: History, _: Caller, _: Ask<HistoryStatus>) -> Result<Status, Error> {
    history.status().await
}

async fn retention(
    history: History,
    _: Caller,
    _: Ask<HistoryRetention>,
) -> Result<Retention, Error> {
    history.retention().await
}

async fn set_retention(
    history: History,
    who: Caller,
    ask: Ask<HistorySetRetention>,
) -> Result<Retention, Error> {
    history
        .set_retention(&who, &ask.path.queue, ask.body.0)
        .await
}

async fn reset_retention(
    history: History,
    who: Caller,
    ask: Ask<HistoryResetRetention>,
) -> Result<Retention, Error> {
    history
        .reset_retention(&who, &ask.path.queue, ask.query)
        .await
}

async fn prune(history: History, who: Caller, ask: Ask<HistoryPrune>) -> Result<Pruned, Error> {
    history.prune(&who, ask.body.0).await
}

async fn erase(history: History, who: Caller, ask: Ask<HistoryErase>) -> Result<Erasure, Error> {
    history.erase(&who, ask.body.0).await
}

async fn erasures(
    history: History,
    _: Caller,
    ask: Ask<HistoryErasures>,
) -> Result<Page<RecordedErasure>, Error> {
    history.erasures(ask.query).await
}

async fn bodies(
    history: History,
    who: Caller,
    ask: Ask<HistoryBodies>,
) -> Result<Vec<AttemptBody>, Error> {
    history.bodies(&who, &ask.path, ask.query).await
}

async fn export(
    State(history): State<History>,
    CallerExtractor(who): CallerExtractor,
    ask: Ask<HistoryExport>,
) -> Result<Response, ApiError> {
    let file = history.export(&who, ask.query).await?;
    let name = format!("attachment; filename=\"{}\"", file.name);
    let headers = [
        (CONTENT_TYPE, file.content_type.to_owned()),
        (CONTENT_DISPOSITION, name),
    ];
    Ok((headers, Body::from_stream(file.lines)).into_response())
}

//! Route of the incident bundle.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use patchbay_api::answer::Media;
use patchbay_api::incident::{Bundle, IncidentBundle};
use patchbay_app::incident::Incident;

use crate::error::ApiError;
use crate::routes::{Ask, CallerExtractor, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add_raw::<IncidentBundle, _>(bundle)
}

async fn bundle(
    State(incident): State<Incident>,
    CallerExtractor(who): CallerExtractor,
    ask: Ask<IncidentBundle>,
) -> Result<Response, ApiError> {
    let packed = incident.bundle(&who, ask.query.since_s).await?;
    let headers = [
        (CONTENT_TYPE, Bundle::TYPE.to_owned()),
        (
            CONTENT_DISPOSITION,
            format!("attachment; filename=\"{}\"", packed.name),
        ),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, packed.content).into_response())
}

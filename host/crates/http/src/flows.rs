//! Routes of flows.

use patchbay_api::flows::{AddedFlow, FlowsAdd};
use patchbay_app::flows::Flows;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add(add)
}

async fn add(flows: Flows, who: Caller, ask: Ask<FlowsAdd>) -> Result<AddedFlow, Error> {
    flows.add(&who, ask.body.0, ask.query.force).await
}

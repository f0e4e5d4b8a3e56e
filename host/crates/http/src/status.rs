//! Route of the state of the installation.

use patchbay_api::status::{Overview, StatusShow};
use patchbay_app::status::Status;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add(show)
}

async fn show(status: Status, _: Caller, _: Ask<StatusShow>) -> Result<Overview, Error> {
    status.show().await
}

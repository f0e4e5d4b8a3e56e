//! Route of the activity log.

use patchbay_api::activity::{Activity, ActivityList};
use patchbay_api::answer::Page;
use patchbay_app::activity::ActivityLog;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add(list)
}

async fn list(
    log: ActivityLog,
    _: Caller,
    ask: Ask<ActivityList>,
) -> Result<Page<Activity>, Error> {
    log.list(ask.query).await
}

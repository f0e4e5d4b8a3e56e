//! Routes of plugins, as operators see them.

use patchbay_api::routes::{RouteDetails, RouteView, RoutesList, RoutesShow};
use patchbay_app::routes::Routes as PluginRoutes;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add(list).add(show)
}

async fn list(
    routes: PluginRoutes,
    _: Caller,
    _: Ask<RoutesList>,
) -> Result<Vec<RouteView>, Error> {
    Ok(routes.list())
}

async fn show(
    routes: PluginRoutes,
    _: Caller,
    ask: Ask<RoutesShow>,
) -> Result<RouteDetails, Error> {
    routes.show(&ask.path.route)
}

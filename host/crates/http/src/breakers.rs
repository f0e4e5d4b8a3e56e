//! Routes of the breakers of outside hosts.

use patchbay_api::body::Json;
use patchbay_api::breakers::{BreakerView, BreakersClose, BreakersList, BreakersOpen};
use patchbay_app::breakers::Breakers;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes.add(list).add(open).add(close)
}

async fn list(
    breakers: Breakers,
    _: Caller,
    _: Ask<BreakersList>,
) -> Result<Vec<BreakerView>, Error> {
    Ok(breakers.list())
}

async fn open(
    breakers: Breakers,
    who: Caller,
    ask: Ask<BreakersOpen>,
) -> Result<BreakerView, Error> {
    let Json(order) = ask.body;
    breakers.open(&who, &order).await
}

async fn close(
    breakers: Breakers,
    who: Caller,
    ask: Ask<BreakersClose>,
) -> Result<BreakerView, Error> {
    let Json(order) = ask.body;
    breakers.close(&who, &order).await
}

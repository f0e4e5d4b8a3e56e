//! Routes of bulk operations.

use patchbay_api::answer::Page;
use patchbay_api::bulk::{
    Bulk, BulkBegin, BulkBegun, BulkCancel, BulkDetails, BulkItem, BulkItems, BulkList, BulkResume,
    BulkShow, BulkUndo,
};
use patchbay_app::bulk::BulkOperations;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(begin)
        .add(list)
        .add(show)
        .add(items)
        .add(cancel)
        .add(resume)
        .add(undo)
}

async fn begin(bulk: BulkOperations, who: Caller, ask: Ask<BulkBegin>) -> Result<BulkBegun, Error> {
    bulk.begin(&who, ask.body.0).await
}

async fn list(bulk: BulkOperations, _: Caller, ask: Ask<BulkList>) -> Result<Page<Bulk>, Error> {
    bulk.list(ask.query).await
}

async fn show(bulk: BulkOperations, _: Caller, ask: Ask<BulkShow>) -> Result<BulkDetails, Error> {
    bulk.show(ask.path.id).await
}

async fn items(
    bulk: BulkOperations,
    _: Caller,
    ask: Ask<BulkItems>,
) -> Result<Page<BulkItem>, Error> {
    bulk.items(ask.path.id, ask.query).await
}

async fn cancel(bulk: BulkOperations, who: Caller, ask: Ask<BulkCancel>) -> Result<Bulk, Error> {
    bulk.cancel(&who, ask.path.id).await
}

async fn resume(bulk: BulkOperations, who: Caller, ask: Ask<BulkResume>) -> Result<Bulk, Error> {
    bulk.resume(&who, ask.path.id, ask.body.0).await
}

async fn undo(bulk: BulkOperations, who: Caller, ask: Ask<BulkUndo>) -> Result<Bulk, Error> {
    bulk.undo(&who, ask.path.id).await
}

//! Routes of webhooks and the inbox, for operators.

use patchbay_api::answer::Page;
use patchbay_api::inbox::{
    InboxDetails, InboxErase, InboxItem, InboxList, InboxReplay, InboxShow, InboxStatistics,
    InboxStats, InboxVerdict, InboxVerify, WebhookDetails, WebhookView, WebhooksList, WebhooksShow,
};
use patchbay_api::inbox_many::{InboxEraseMany, InboxManyAnswer, InboxReplayMany, InboxVerifyMany};
use patchbay_app::inbox::Inbox;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    let routes = routes.add(webhooks).add(webhook).add(list).add(stats);
    let routes = routes.add(show).add(verify).add(replay).add(erase);
    routes.add(verify_many).add(replay_many).add(erase_many)
}

async fn webhooks(
    inbox: Inbox,
    _: Caller,
    _: Ask<WebhooksList>,
) -> Result<Vec<WebhookView>, Error> {
    inbox.webhooks().await
}

async fn webhook(inbox: Inbox, _: Caller, ask: Ask<WebhooksShow>) -> Result<WebhookDetails, Error> {
    inbox.webhook(&ask.path.webhook).await
}

async fn list(inbox: Inbox, _: Caller, ask: Ask<InboxList>) -> Result<Page<InboxItem>, Error> {
    inbox.list(ask.query).await
}

async fn stats(inbox: Inbox, _: Caller, _: Ask<InboxStats>) -> Result<InboxStatistics, Error> {
    inbox.stats().await
}

async fn show(inbox: Inbox, who: Caller, ask: Ask<InboxShow>) -> Result<InboxDetails, Error> {
    inbox.show(&who, &ask.path.id, ask.query).await
}

async fn verify(inbox: Inbox, who: Caller, ask: Ask<InboxVerify>) -> Result<InboxVerdict, Error> {
    inbox.verify(&who, &ask.path.id, ask.query).await
}

async fn replay(inbox: Inbox, who: Caller, ask: Ask<InboxReplay>) -> Result<InboxVerdict, Error> {
    inbox.replay(&who, &ask.path.id, ask.query).await
}

async fn erase(inbox: Inbox, who: Caller, ask: Ask<InboxErase>) -> Result<InboxItem, Error> {
    inbox.erase(&who, &ask.path.id).await
}

async fn verify_many(
    inbox: Inbox,
    who: Caller,
    ask: Ask<InboxVerifyMany>,
) -> Result<InboxManyAnswer, Error> {
    inbox.verify_many(&who, ask.body.0).await
}

async fn replay_many(
    inbox: Inbox,
    who: Caller,
    ask: Ask<InboxReplayMany>,
) -> Result<InboxManyAnswer, Error> {
    inbox.replay_many(&who, ask.body.0).await
}

async fn erase_many(
    inbox: Inbox,
    who: Caller,
    ask: Ask<InboxEraseMany>,
) -> Result<InboxManyAnswer, Error> {
    inbox.erase_many(&who, ask.body.0).await
}

//! Routes of queues.

use patchbay_api::answer::Page;
use patchbay_api::body::Json;
use patchbay_api::queues::{
    AllDone, Cleared, Done, MigratedRepeatable, Queue, QueueOverview, QueuesClean,
    QueuesConcurrency, QueuesDrain, QueuesList, QueuesMigrateRepeatables, QueuesObliterate,
    QueuesPause, QueuesPauseAll, QueuesPutBack, QueuesRateLimit, QueuesResume, QueuesResumeAll,
    QueuesShow, QueuesWhy, Reason, Switched,
};
use patchbay_app::queues::Queues;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(list)
        .add(show)
        .add(why)
        .add(pause)
        .add(resume)
        .add(pause_all)
        .add(resume_all)
        .add(drain)
        .add(clean)
        .add(put_back)
        .add(obliterate)
        .add(limit_concurrency)
        .add(limit_rate)
        .add(migrate_repeatables)
}

async fn list(queues: Queues, _: Caller, _: Ask<QueuesList>) -> Result<Page<QueueOverview>, Error> {
    queues.list().await
}

async fn show(queues: Queues, _: Caller, ask: Ask<QueuesShow>) -> Result<Queue, Error> {
    queues.show(&ask.path.queue).await
}

async fn why(queues: Queues, _: Caller, ask: Ask<QueuesWhy>) -> Result<Vec<Reason>, Error> {
    queues.why(&ask.path.queue).await
}

async fn pause(queues: Queues, who: Caller, ask: Ask<QueuesPause>) -> Result<Switched, Error> {
    queues.pause(&who, &ask.path.queue).await
}

async fn resume(queues: Queues, who: Caller, ask: Ask<QueuesResume>) -> Result<Switched, Error> {
    queues.resume(&who, &ask.path.queue).await
}

async fn pause_all(
    queues: Queues,
    who: Caller,
    ask: Ask<QueuesPauseAll>,
) -> Result<AllDone, Error> {
    queues.pause_all(&who, ask.body.0.all).await
}

async fn resume_all(
    queues: Queues,
    who: Caller,
    ask: Ask<QueuesResumeAll>,
) -> Result<AllDone, Error> {
    queues.resume_all(&who, ask.body.0.all).await
}

async fn drain(queues: Queues, who: Caller, ask: Ask<QueuesDrain>) -> Result<Cleared, Error> {
    let Json(what) = ask.body;
    queues.drain(&who, &ask.path.queue, what).await
}

async fn clean(queues: Queues, who: Caller, ask: Ask<QueuesClean>) -> Result<Cleared, Error> {
    let Json(what) = ask.body;
    queues.clean(&who, &ask.path.queue, what).await
}

async fn put_back(queues: Queues, who: Caller, ask: Ask<QueuesPutBack>) -> Result<Done, Error> {
    let Json(what) = ask.body;
    queues.put_back(&who, &ask.path.queue, what).await
}

async fn obliterate(
    queues: Queues,
    who: Caller,
    ask: Ask<QueuesObliterate>,
) -> Result<Done, Error> {
    let Json(sure) = ask.body;
    queues.obliterate(&who, &ask.path.queue, sure).await
}

async fn limit_concurrency(
    queues: Queues,
    who: Caller,
    ask: Ask<QueuesConcurrency>,
) -> Result<(), Error> {
    let Json(limit) = ask.body;
    queues.limit_concurrency(&who, &ask.path.queue, limit).await
}

async fn limit_rate(queues: Queues, who: Caller, ask: Ask<QueuesRateLimit>) -> Result<(), Error> {
    let Json(rate) = ask.body;
    queues.limit_rate(&who, &ask.path.queue, rate).await
}

async fn migrate_repeatables(
    queues: Queues,
    who: Caller,
    ask: Ask<QueuesMigrateRepeatables>,
) -> Result<Vec<MigratedRepeatable>, Error> {
    let Json(how) = ask.body;
    queues.migrate_repeatables(&who, &ask.path.queue, how).await
}

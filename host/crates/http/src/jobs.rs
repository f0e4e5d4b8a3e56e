//! Routes of jobs.

use patchbay_api::answer::Page;
use patchbay_api::jobs::{
    Added, Job, JobsAdd, JobsAddMany, JobsDuplicate, JobsKill, JobsList, JobsPromote, JobsRemove,
    JobsRetry, JobsSetData, JobsSetDelay, JobsSetPriority, JobsShow, QueuesLive, RedactedJob,
    ScannedJob,
};
use patchbay_api::timeline::{JobsTimeline, Timeline};
use patchbay_app::jobs::Jobs;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(list)
        .add(search)
        .add(add)
        .add(add_many)
        .add(show)
        .add(timeline)
        .add(retry)
        .add(remove)
        .add(duplicate)
        .add(promote)
        .add(kill)
        .add(set_data)
        .add(set_delay)
        .add(set_priority)
}

async fn list(jobs: Jobs, who: Caller, ask: Ask<JobsList>) -> Result<Page<RedactedJob>, Error> {
    jobs.list(&who, &ask.path.queue, ask.query).await
}

async fn search(jobs: Jobs, _: Caller, ask: Ask<QueuesLive>) -> Result<Page<ScannedJob>, Error> {
    jobs.search(&ask.path.queue, ask.query).await
}

async fn add(jobs: Jobs, who: Caller, ask: Ask<JobsAdd>) -> Result<Added, Error> {
    jobs.add(&who, &ask.path.queue, ask.body.0).await
}

async fn add_many(jobs: Jobs, who: Caller, ask: Ask<JobsAddMany>) -> Result<Vec<Added>, Error> {
    jobs.add_many(&who, &ask.path.queue, ask.body.0).await
}

async fn show(jobs: Jobs, who: Caller, ask: Ask<JobsShow>) -> Result<Job, Error> {
    jobs.show(&who, &ask.path, ask.query).await
}

async fn timeline(jobs: Jobs, who: Caller, ask: Ask<JobsTimeline>) -> Result<Timeline, Error> {
    jobs.timeline(&who, &ask.path, ask.query).await
}

async fn retry(jobs: Jobs, who: Caller, ask: Ask<JobsRetry>) -> Result<(), Error> {
    jobs.retry(&who, &ask.path).await
}

async fn remove(jobs: Jobs, who: Caller, ask: Ask<JobsRemove>) -> Result<(), Error> {
    jobs.remove(&who, &ask.path).await
}

async fn duplicate(jobs: Jobs, who: Caller, ask: Ask<JobsDuplicate>) -> Result<Added, Error> {
    jobs.duplicate(&who, &ask.path, ask.body.0).await
}

async fn promote(jobs: Jobs, who: Caller, ask: Ask<JobsPromote>) -> Result<(), Error> {
    jobs.promote(&who, &ask.path).await
}

async fn kill(jobs: Jobs, who: Caller, ask: Ask<JobsKill>) -> Result<(), Error> {
    jobs.kill(&who, &ask.path).await
}

async fn set_data(jobs: Jobs, who: Caller, ask: Ask<JobsSetData>) -> Result<(), Error> {
    jobs.set_data(&who, &ask.path, &ask.body.0, ask.query.force)
        .await
}

async fn set_delay(jobs: Jobs, who: Caller, ask: Ask<JobsSetDelay>) -> Result<(), Error> {
    jobs.set_delay(&who, &ask.path, ask.body.0).await
}

async fn set_priority(jobs: Jobs, who: Caller, ask: Ask<JobsSetPriority>) -> Result<(), Error> {
    jobs.set_priority(&who, &ask.path, ask.body.0).await
}

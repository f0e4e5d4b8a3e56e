//! Routes of schedules.

use patchbay_api::body::Json;
use patchbay_api::schedules::{
    ClientScheduler, RemovedSchedule, ScheduleView, ScheduledJob, SchedulesChange, SchedulesCreate,
    SchedulesList, SchedulesListOfClients, SchedulesListRemoved, SchedulesPause, SchedulesPreview,
    SchedulesRemove, SchedulesRemoveOfClient, SchedulesRestore, SchedulesResume, SchedulesRun,
    SchedulesShow, SchedulesShowOfClient,
};
use patchbay_app::schedules::Schedules;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(list)
        .add(list_of_clients)
        .add(show_of_client)
        .add(remove_of_client)
        .add(list_removed)
        .add(show)
        .add(create)
        .add(change)
        .add(remove)
        .add(restore)
        .add(pause)
        .add(resume)
        .add(run)
        .add(preview)
}

async fn list(
    schedules: Schedules,
    _: Caller,
    _: Ask<SchedulesList>,
) -> Result<Vec<ScheduleView>, Error> {
    schedules.list().await
}

async fn list_of_clients(
    schedules: Schedules,
    _: Caller,
    _: Ask<SchedulesListOfClients>,
) -> Result<Vec<ClientScheduler>, Error> {
    schedules.list_of_clients().await
}

async fn show_of_client(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesShowOfClient>,
) -> Result<ClientScheduler, Error> {
    let path = &ask.path;
    schedules
        .show_of_client(&who, &path.queue, &path.id, &ask.query)
        .await
}

async fn remove_of_client(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesRemoveOfClient>,
) -> Result<(), Error> {
    let path = &ask.path;
    schedules
        .remove_of_client(&who, &path.queue, &path.id)
        .await
}

async fn list_removed(
    schedules: Schedules,
    _: Caller,
    _: Ask<SchedulesListRemoved>,
) -> Result<Vec<RemovedSchedule>, Error> {
    schedules.list_removed().await
}

async fn show(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesShow>,
) -> Result<ScheduleView, Error> {
    schedules.show(&who, &ask.path.id, &ask.query).await
}

async fn create(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesCreate>,
) -> Result<ScheduleView, Error> {
    let Json(wanted) = ask.body;
    schedules.create(&who, wanted).await
}

async fn change(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesChange>,
) -> Result<ScheduleView, Error> {
    let Json(change) = ask.body;
    schedules.change(&who, &ask.path.id, change).await
}

async fn remove(schedules: Schedules, who: Caller, ask: Ask<SchedulesRemove>) -> Result<(), Error> {
    schedules.remove(&who, &ask.path.id).await
}

async fn restore(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesRestore>,
) -> Result<ScheduleView, Error> {
    schedules.restore(&who, &ask.path.id).await
}

async fn pause(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesPause>,
) -> Result<ScheduleView, Error> {
    schedules.pause(&who, &ask.path.id).await
}

async fn resume(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesResume>,
) -> Result<ScheduleView, Error> {
    schedules.resume(&who, &ask.path.id).await
}

async fn run(
    schedules: Schedules,
    who: Caller,
    ask: Ask<SchedulesRun>,
) -> Result<ScheduledJob, Error> {
    schedules.run(&who, &ask.path.id).await
}

async fn preview(
    schedules: Schedules,
    _: Caller,
    ask: Ask<SchedulesPreview>,
) -> Result<Vec<String>, Error> {
    let Json(wanted) = ask.body;
    schedules.preview(&wanted)
}

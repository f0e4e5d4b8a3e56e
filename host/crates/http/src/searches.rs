//! Routes to search the history, and of saved searches.

use patchbay_api::answer::Page;
use patchbay_api::searches::{
    Count, Found, FoundAttempt, HistoryAttempts, HistoryCount, NamedSearch, SearchesForget,
    SearchesList, SearchesRun, SearchesSave, SearchesUndo, UndoneSearch,
};
use patchbay_app::searches::Searches;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(attempts)
        .add(count)
        .add(list)
        .add(save)
        .add(forget)
        .add(undo)
        .add(run)
}

async fn attempts(
    searches: Searches,
    _: Caller,
    ask: Ask<HistoryAttempts>,
) -> Result<Page<FoundAttempt>, Error> {
    searches.attempts(ask.query).await
}

async fn count(searches: Searches, _: Caller, ask: Ask<HistoryCount>) -> Result<Count, Error> {
    searches.count(ask.query).await
}

async fn list(
    searches: Searches,
    _: Caller,
    _: Ask<SearchesList>,
) -> Result<Vec<NamedSearch>, Error> {
    searches.list().await
}

async fn save(
    searches: Searches,
    who: Caller,
    ask: Ask<SearchesSave>,
) -> Result<NamedSearch, Error> {
    searches.save(&who, &ask.path.name, ask.body.0).await
}

async fn forget(searches: Searches, who: Caller, ask: Ask<SearchesForget>) -> Result<(), Error> {
    searches.forget(&who, &ask.path.name).await
}

async fn undo(
    searches: Searches,
    who: Caller,
    ask: Ask<SearchesUndo>,
) -> Result<UndoneSearch, Error> {
    searches.undo(&who, &ask.path.name).await
}

async fn run(searches: Searches, who: Caller, ask: Ask<SearchesRun>) -> Result<Page<Found>, Error> {
    searches.run(&who, &ask.path.name, ask.query).await
}

//! Routes of dead letters.

use patchbay_api::dead_letters::{
    DeadLetter, DeadLetterCounts, DeadLetterDetails, DeadLettersAcknowledge, DeadLettersAssign,
    DeadLettersCount, DeadLettersList, DeadLettersNote, DeadLettersShow, DeadLettersUnacknowledge,
};
use patchbay_app::dead_letters::DeadLetters;
use patchbay_app::{Caller, Error};

use crate::routes::{Ask, Routes};

pub(crate) fn routes(routes: Routes) -> Routes {
    routes
        .add(list)
        .add(count)
        .add(show)
        .add(acknowledge)
        .add(unacknowledge)
        .add(note)
        .add(assign)
}

async fn list(
    letters: DeadLetters,
    _: Caller,
    ask: Ask<DeadLettersList>,
) -> Result<Vec<DeadLetter>, Error> {
    letters.list(ask.query).await
}

async fn count(
    letters: DeadLetters,
    _: Caller,
    ask: Ask<DeadLettersCount>,
) -> Result<DeadLetterCounts, Error> {
    letters.count(ask.query).await
}

async fn show(
    letters: DeadLetters,
    _: Caller,
    ask: Ask<DeadLettersShow>,
) -> Result<DeadLetterDetails, Error> {
    letters.show(ask.path.id).await
}

async fn acknowledge(
    letters: DeadLetters,
    who: Caller,
    ask: Ask<DeadLettersAcknowledge>,
) -> Result<DeadLetter, Error> {
    letters.acknowledge(&who, ask.path.id).await
}

async fn unacknowledge(
    letters: DeadLetters,
    who: Caller,
    ask: Ask<DeadLettersUnacknowledge>,
) -> Result<DeadLetter, Error> {
    letters.unacknowledge(&who, ask.path.id).await
}

async fn note(
    letters: DeadLetters,
    who: Caller,
    ask: Ask<DeadLettersNote>,
) -> Result<DeadLetter, Error> {
    letters.note(&who, ask.path.id, ask.body.0).await
}

async fn assign(
    letters: DeadLetters,
    who: Caller,
    ask: Ask<DeadLettersAssign>,
) -> Result<DeadLetter, Error> {
    letters.assign(&who, ask.path.id, ask.body.0).await
}

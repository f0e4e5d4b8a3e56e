//! `POST …/students/{learnerId}/account`: a learner becomes an account of the API. The host makes it,
//! as a plain user without a password; its owner claims it by signing up.

use patchbay_plugin::accounts::{self, Proposal};
use patchbay_plugin::sql::Value as Cell;
use patchbay_plugin::{Answer, Failure, Request, Retry, json};
use serde::Deserialize;

use crate::database::{self, text, text_at};

/// The longest number that an account takes.
const MAX_PHONE: usize = 20;

#[derive(Deserialize)]
struct Input {
    path: Learner,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Learner {
    learner_id: String,
}

pub fn promote(request: &Request) -> Result<Answer, Failure> {
    let Input { path } = request.parse()?;
    let id = path.learner_id;
    let rows = database::query(
        "select email, name, mobile from mrlearn.learners where id = $1",
        &[text(id.as_str())],
    )?;
    let Some(learner) = rows.first() else {
        return Err(Failure::new(
            "not-found",
            "there is no such learner",
            Retry::Never,
        ));
    };
    let Some(email) = text_at(learner, 0) else {
        let told = "the vendor knows no mail address of this learner";
        return Err(Failure::new("conflict", told, Retry::Never));
    };
    let line = |place: usize| {
        let value = text_at(learner, place)?;
        let line: String = value
            .chars()
            .filter(|c| !c.is_control())
            .take(255)
            .collect();
        Some(line)
    };
    let proposed = accounts::propose(&Proposal {
        email: email.to_owned(),
        name: line(1),
        phone: line(2).filter(|phone| phone.chars().count() <= MAX_PHONE),
    });
    let account = proposed.map_err(refused)?;
    database::execute(
        "insert into mrlearn.accounts (learner_id, account_id) values ($1, $2) on conflict (learner_id) do nothing",
        &[text(id.as_str()), Cell::Text(account.id.clone())],
    )?;
    let told = json!({ "learnerId": id, "accountId": account.id, "isNew": account.is_new });
    let answer = Answer::json(&told);
    Ok(match account.is_new {
        true => answer.with_status(201),
        false => answer,
    })
}

fn refused(error: patchbay_plugin::bindings::patchbay::plugin::types::CapabilityError) -> Failure {
    match error.code.as_str() {
        // The vendor's data, not the request.
        "invalid" => Failure::new(
            "conflict",
            format!(
                "no account can be made of what the vendor knows: {}",
                error.message
            ),
            Retry::Never,
        ),
        "denied" => Failure::new("not-granted", error.message, Retry::Never),
        code if error.retryable => Failure::new(code, error.message, Retry::Backoff),
        code => Failure::new(code, error.message, Retry::Never),
    }
}

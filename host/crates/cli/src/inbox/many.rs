//! Many requests at once: what is meant is shown first, then handled a part at a time.

use patchbay_api::answer::Data;
use patchbay_api::body::Json;
use patchbay_api::inbox_many::{
    InboxEraseMany, InboxMany, InboxManyAnswer, InboxPreview, InboxProgress, InboxReason,
    InboxReplayMany, InboxVerifyMany,
};
use patchbay_api::operation::{Endpoint, NoQuery};
use patchbay_model::words::counted;

use super::Which;
use crate::client::Client;
use crate::output::Output;
use crate::refusal::{Consent, Refusal};

pub(super) async fn verify_many(
    which: Which,
    apply: bool,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let is_dry = which.dry_run;
    let asked = InboxMany {
        apply,
        ..which.asked()
    };
    let question = apply.then_some("accepts those that are the vendor's, and adds their jobs");
    let ask = (consent, question);
    let Some(done) = handled::<InboxVerifyMany>(asked, is_dry, ask, client, output).await? else {
        return Ok(());
    };
    let accepted = match apply {
        true => "accepted",
        false => "would be accepted",
    };
    print(&done, accepted, output);
    if !apply && done.accepted > 0 {
        output.note("Nothing was changed. To accept them, add --apply");
    }
    match apply {
        true => refuse_rejected(&done),
        false => Ok(()),
    }
}

pub(super) async fn replay_many(
    which: Which,
    again: bool,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let is_dry = which.dry_run;
    let asked = InboxMany {
        again,
        ..which.asked()
    };
    let question = match again {
        true => "processes them, also those whose jobs were added before; effects may happen twice",
        false => "processes those that are the vendor's",
    };
    let ask = (consent, Some(question));
    let Some(done) = handled::<InboxReplayMany>(asked, is_dry, ask, client, output).await? else {
        return Ok(());
    };
    print(&done, "processed", output);
    refuse_rejected(&done)
}

pub(super) async fn erase_many(
    which: Which,
    consent: &Consent,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let is_dry = which.dry_run;
    let ask = (consent, Some("erases their content for good"));
    let asked = which.asked();
    if let Some(done) = handled::<InboxEraseMany>(asked, is_dry, ask, client, output).await? {
        print(&done, "accepted", output);
        output.note("Their jobs are not erased: patchbay history erase");
    }
    Ok(())
}

/// What became of all; `None` where nothing was done. A part that is not asked for is not done: to
/// stop, end the command.
async fn handled<E>(
    asked: InboxMany,
    is_dry: bool,
    (consent, question): (&Consent, Option<&str>),
    client: &Client,
    output: Output,
) -> anyhow::Result<Option<InboxProgress>>
where
    E: Endpoint<Path = (), Query = NoQuery, Body = Json<InboxMany>, Answer = Data<InboxManyAnswer>>,
{
    let previewed = client.ask::<E>((), NoQuery {}, Json(asked)).await?;
    let preview = previewed.data.preview.unwrap_or_default();
    if is_dry {
        output.value(&described(&preview), &previewed.raw);
        return Ok(None);
    }
    let Some(token) = &preview.token else {
        output.value("No request matches", &previewed.raw);
        return Ok(None);
    };
    let total = preview.total;
    output.note(&described(&preview));
    if let Some(question) = question {
        let requests = counted(total.unsigned_abs(), "request");
        consent.ask(&format!("This handles {requests}: it {question}"))?;
    }
    let mut done = InboxProgress::default();
    let mut cursor = None;
    loop {
        let part = InboxMany {
            token: Some(token.clone()),
            cursor,
            ..InboxMany::default()
        };
        let answer = client.ask::<E>((), NoQuery {}, Json(part)).await?.data;
        add(&mut done, answer.progress.unwrap_or_default());
        cursor = answer.next_cursor;
        if cursor.is_none() {
            return Ok(Some(done));
        }
        let handled = done.handled;
        output.note(&format!("{handled} of {total}"));
    }
}

fn add(all: &mut InboxProgress, part: InboxProgress) {
    all.handled += part.handled;
    all.accepted += part.accepted;
    all.repeats += part.repeats;
    all.rejected += part.rejected;
    all.deferred += part.deferred;
    all.erased += part.erased;
    all.skipped += part.skipped;
    for reason in part.reasons {
        let is_same = |known: &&mut InboxReason| {
            (&known.result, &known.reason) == (&reason.result, &reason.reason)
        };
        match all.reasons.iter_mut().find(is_same) {
            Some(known) => known.count += reason.count,
            None => all.reasons.push(reason),
        }
    }
    all.reasons
        .sort_by_key(|reason| std::cmp::Reverse(reason.count));
}

fn described(preview: &InboxPreview) -> String {
    let total = counted(preview.total.unsigned_abs(), "request");
    let mut lines = vec![format!("{total} meant")];
    lines.extend(
        preview
            .groups
            .iter()
            .map(|group| format!("  {}  {} {}", group.webhook, group.count, group.state)),
    );
    if preview.completed > 0 {
        let completed = preview.completed;
        lines.push(format!("  jobs of {completed} have completed"));
    }
    lines.extend(preview.samples.iter().map(|sample| {
        let code = sample.code.as_deref().unwrap_or_default();
        let at = sample.received_at.format("%Y-%m-%d %H:%M:%S UTC");
        format!(
            "  {}  {at}  {}  {} {code}",
            sample.id, sample.webhook, sample.state
        )
        .trim_end()
        .to_owned()
    }));
    lines.join("\n")
}

fn print(done: &InboxProgress, accepted: &str, output: Output) {
    let mut lines = vec![format!(
        "{} handled",
        counted(done.handled.unsigned_abs(), "request")
    )];
    for (count, what) in [
        (done.accepted, accepted),
        (done.repeats, "repeats of events that are known"),
        (done.rejected, "still rejected"),
        (done.deferred, "could not be judged"),
        (done.erased, "erased"),
        (done.skipped, "left as they are"),
    ] {
        if count > 0 {
            lines.push(format!("  {count} {what}"));
        }
    }
    lines.extend(
        done.reasons
            .iter()
            .map(|reason| format!("  {} {}: {}", reason.count, reason.result, reason.reason)),
    );
    output.value(&lines.join("\n"), done);
}

/// For scripts: exit code 4.
fn refuse_rejected(done: &InboxProgress) -> anyhow::Result<()> {
    match done.rejected {
        0 => Ok(()),
        rejected => {
            let requests = counted(rejected.unsigned_abs(), "request");
            Err(Refusal(format!("{requests} still rejected: see the reasons above")).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_with_their_reasons() {
        let part = |rejected, code: &str| InboxProgress {
            handled: rejected + 1,
            accepted: 1,
            rejected,
            reasons: vec![InboxReason {
                result: "rejected".into(),
                reason: code.into(),
                count: rejected,
            }],
            ..InboxProgress::default()
        };
        let mut all = InboxProgress::default();
        for part in [part(1, "stale"), part(3, "bad-token"), part(1, "stale")] {
            add(&mut all, part);
        }
        assert_eq!((all.handled, all.accepted, all.rejected), (8, 3, 5));
        let said: Vec<(&str, i64)> = all
            .reasons
            .iter()
            .map(|reason| (reason.reason.as_str(), reason.count))
            .collect();
        assert_eq!(said, [("bad-token", 3), ("stale", 2)]);
        assert!(refuse_rejected(&all).is_err());
    }
}

//! What to do next about a group of dead letters, for all commands that work on its jobs.

use patchbay_api::body::NoBody;
use patchbay_api::dead_letters::{
    DeadLetter, DeadLetterDetails, DeadLetterPath, DeadLetterState, DeadLettersShow,
};
use patchbay_api::jobs::LastChange;
use patchbay_api::operation::NoQuery;
use patchbay_model::shell;
use patchbay_model::words::counted;

use super::client::Client;
use super::output::time;

/// Codes of failures that the job's data has caused: a retry fails in the same way.
const OF_THE_DATA: [&str; 5] = [
    "invalid-input",
    "does-not-fit",
    "too-large",
    "recipients-refused",
    "message-refused",
];

/// For example "25 jobs: 5 failing, 20 removed".
pub(super) fn whereabouts(group: &DeadLetter) -> String {
    let counts = [
        (group.failing, "failing"),
        (group.waiting, "waiting or running"),
        (group.repaired, "repaired"),
        (group.removed, "removed"),
        (group.failing_elsewhere, "failing in another group"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, place)| format!("{count} {place}"))
        .collect();
    let jobs = counted(group.jobs, "job");
    match counts.is_empty() {
        true => jobs,
        false => format!("{jobs}: {}", counts.join(", ")),
    }
}

/// What to do next about the group: a command wherever there is one.
pub(super) fn next(details: &DeadLetterDetails) -> Vec<String> {
    advice(details, false)
}

/// `is_wanted`: somebody wants the jobs to run again, also those that were removed on purpose.
fn advice(details: &DeadLetterDetails, is_wanted: bool) -> Vec<String> {
    let group = &details.group;
    let id = group.id;
    let mut lines = Vec::new();
    let retry = format!("patchbay dead-letter retry {id} --first 10");
    if group.failing > 0 && OF_THE_DATA.contains(&group.code.as_str()) {
        lines.push(format!(
            "With the same data these jobs fail again ({}). Next: change the data and retry: patchbay bulk edit-and-retry \
             dead-letter={id} --set PATH=JSON --dry-run; or activate a revision that accepts it, then: {retry}",
            group.code
        ));
    } else if group.failing > 0 && group.code == "expired" {
        lines.push(format!(
            "A retry expires again. Next, if they are still wanted: add new jobs like them: patchbay bulk enqueue-again dead-letter={id} --new-key"
        ));
    } else if group.failing > 0 && details.permanent {
        lines.push(format!(
            "The plugin does not retry this failure by itself. Next: remove its cause (the data, a setting, the revision), then: {retry}"
        ));
    } else if group.failing > 0 {
        lines.push(format!("Next: {retry}"));
    } else if group.waiting > 0 {
        lines.push(format!(
            "Next: patchbay queue why {}",
            shell::arguments(&[&group.queue])
        ));
    }
    if let Some(undo) = details.undo {
        lines.push(format!(
            "{} not in Redis any more: bulk operation {undo} has removed jobs of this group. To bring them back: patchbay bulk undo {undo}",
            is_or_are(group.removed)
        ));
    } else if let (Some(removal), true) = (&details.removal, group.removed > 0) {
        let again = match is_wanted && details.restorable > 0 {
            true => format!(". {}", add_again(id)),
            false => String::new(),
        };
        lines.push(format!(
            "{} not in Redis any more: {}{again}",
            is_or_are(group.removed),
            on_purpose(removal)
        ));
    } else if group.removed > 0 && details.restorable > 0 {
        lines.push(format!(
            "{} not in Redis any more. {}",
            is_or_are(group.removed),
            add_again(id)
        ));
    } else if group.removed > 0 {
        lines.push(format!(
            "{} not in Redis any more, and the history has not kept their data: only their producer can add them again",
            is_or_are(group.removed)
        ));
    }
    if group.state == DeadLetterState::Closed {
        let rest = match group.removed {
            0 => ". Nothing needs to be done",
            _ => "",
        };
        lines.push(format!("closed: no job of it fails or waits{rest}"));
    } else if lines.is_empty() {
        lines.push(format!(
            "its jobs are still being counted. Try again in 10 s: patchbay dead-letter show {id}"
        ));
    }
    lines
}

fn add_again(id: i64) -> String {
    format!(
        "To add them again with the data that the history has kept: patchbay bulk retry dead-letter={id} --from-history --keep-key"
    )
}

/// `ops removed failed jobs of the queue at 2026-11-30T13:08:03Z (queue.clean): INC-7`
fn on_purpose(removal: &LastChange) -> String {
    let what = match removal.action.as_str() {
        "queue.obliterate" => "the queue with all its jobs",
        "job.remove" => "jobs of this group one by one, the last",
        "bulk.remove" => "jobs of this group",
        _ => "failed jobs of the queue",
    };
    let why = removal.reason.as_ref().map(|why| format!(": {why}"));
    format!(
        "{} removed {what} at {} ({}){}",
        removal.actor,
        time(removal.at),
        removal.action,
        why.unwrap_or_default()
    )
}

fn is_or_are(jobs: i64) -> String {
    format!(
        "{} {}",
        counted(jobs, "job"),
        if jobs == 1 { "is" } else { "are" }
    )
}

/// Why nothing was done to the failed jobs of a group; nothing if some are failed, so that the
/// reason is another one.
pub(super) async fn nothing_failed(client: &Client, id: i64) -> anyhow::Result<Option<String>> {
    let path = DeadLetterPath { id };
    let details = client
        .ask::<DeadLettersShow>(path, NoQuery {}, NoBody)
        .await?
        .data;
    Ok((details.group.failing == 0).then(|| nothing_was_done(&details)))
}

fn nothing_was_done(details: &DeadLetterDetails) -> String {
    let group = &details.group;
    let head = format!(
        "no job of dead letter {} is in the failed state; nothing was done ({})",
        group.id,
        whereabouts(group)
    );
    std::iter::once(head)
        .chain(advice(details, true))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A group with this many failing, waiting, repaired and removed jobs.
    fn group(counts: [i64; 4], restorable: i64) -> anyhow::Result<DeadLetterDetails> {
        let [failing, waiting, repaired, removed] = counts;
        let state = if failing + waiting > 0 {
            "open"
        } else {
            "closed"
        };
        let value = json!({
            "id": 7, "queue": "email queue", "plugin": "", "revision": "", "code": "x", "message": "x", "state": state,
            "jobs": counts.iter().sum::<i64>(), "failing": failing, "waiting": waiting, "repaired": repaired, "removed": removed,
            "failingElsewhere": 0, "failures": 9, "firstSeen": "2026-01-01T00:00:00Z", "lastSeen": "2026-01-01T00:00:00Z",
            "sinceAcknowledged": 0, "restorable": restorable, "sample": [], "elsewhere": [],
        });
        Ok(serde_json::from_value(value)?)
    }

    #[test]
    fn the_next_command_always_does_something() -> anyhow::Result<()> {
        let retry = "patchbay dead-letter retry 7 --first 10";
        let why = "patchbay queue why 'email queue'";
        let history = "patchbay bulk retry dead-letter=7 --from-history --keep-key";
        let closed = "Nothing needs to be done";
        let kept_nothing = "the history has not kept their data";
        let all = [retry, why, history, closed, kept_nothing];
        for (counts, restorable, says) in [
            ([2, 3, 1, 0], 0, &[retry][..]),
            ([2, 0, 0, 4], 4, &[retry, history]),
            ([0, 3, 1, 0], 0, &[why]),
            ([0, 0, 5, 0], 0, &[closed]),
            ([0, 0, 0, 5], 5, &[history]),
            ([0, 0, 1, 1], 0, &[kept_nothing]),
        ] {
            let text = next(&group(counts, restorable)?).join("\n");
            let said: Vec<&str> = all.into_iter().filter(|line| text.contains(line)).collect();
            assert_eq!(said, says, "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_retry_is_not_advised_where_the_same_data_fails_again() -> anyhow::Result<()> {
        let mut details = group([2, 0, 0, 0], 0)?;
        details.group.code = "invalid-input".into();
        let text = next(&details).join("\n");
        assert!(
            text.starts_with("With the same data these jobs fail again (invalid-input). Next: change the data and retry: patchbay bulk \
                              edit-and-retry dead-letter=7 --set PATH=JSON --dry-run"),
            "{text}"
        );
        details.group.code = "expired".into();
        assert!(next(&details)[0].contains("patchbay bulk enqueue-again dead-letter=7 --new-key"));
        details.group.code = "not-configured".into();
        details.permanent = true;
        let text = next(&details).join("\n");
        assert!(
            text.contains("remove its cause")
                && text.ends_with("patchbay dead-letter retry 7 --first 10")
        );
        Ok(())
    }

    #[test]
    fn jobs_that_were_removed_on_purpose_are_not_advised_to_come_back() -> anyhow::Result<()> {
        let mut details = group([0, 0, 0, 5], 5)?;
        details.removal = Some(LastChange {
            at: "2026-01-01T00:00:00Z".parse()?,
            actor: "ops".into(),
            action: "queue.clean".into(),
            reason: Some("INC-7".into()),
        });
        let text = next(&details).join("\n");
        assert!(
            text.starts_with("5 jobs are not in Redis any more: ops removed failed jobs of the queue at 2026-01-01T00:00:00"),
            "{text}"
        );
        assert!(
            text.contains("(queue.clean): INC-7") && !text.contains("from-history"),
            "{text}"
        );
        assert!(nothing_was_done(&details).contains("--from-history"));
        Ok(())
    }

    #[test]
    fn counts_have_their_noun_in_the_right_number() -> anyhow::Result<()> {
        let details = group([0, 0, 0, 1], 1)?;
        let text = nothing_was_done(&details);
        assert!(text.contains("(1 job: 1 removed)"), "{text}");
        assert!(text.contains("1 job is not in Redis"), "{text}");
        assert_eq!(
            whereabouts(&group([2, 1, 0, 0], 0)?.group),
            "3 jobs: 2 failing, 1 waiting or running"
        );
        Ok(())
    }
}

//! What to do next about a group of dead letters, for all commands that work on its jobs.

use patchbay_api::body::NoBody;
use patchbay_api::dead_letters::{
    DeadLetter, DeadLetterDetails, DeadLetterPath, DeadLetterState, DeadLettersShow,
};
use patchbay_api::operation::NoQuery;
use patchbay_model::shell;
use patchbay_model::words::counted;

use super::client::Client;

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
    let group = &details.group;
    let id = group.id;
    let mut lines = Vec::new();
    if group.failing > 0 {
        lines.push(format!("Next: patchbay dead-letter retry {id} --first 10"));
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
    } else if group.removed > 0 && details.restorable > 0 {
        lines.push(format!(
            "{} not in Redis any more. To add them again with the data that the history has kept: \
             patchbay bulk retry dead-letter={id} --from-history --keep-key",
            is_or_are(group.removed)
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
        .chain(next(details))
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

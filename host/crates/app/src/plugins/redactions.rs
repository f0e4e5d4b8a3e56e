//! Collects what manifests, past and present, redact in the jobs of each queue.

use patchbay_model::QueueName;
use patchbay_store::RedactionRow;
use patchbay_work::redactions::Paths;

/// While an active revision handles a queue, its manifest decides. Otherwise everything that any
/// revision has redacted counts: it is unknown who sent the jobs that are left, and for which
/// revision.
pub(super) fn by_queue(rows: Vec<RedactionRow>) -> Paths {
    let (current, past): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.is_current);
    let mut paths = Paths::new();
    for row in current {
        paths.entry(row.queue).or_default().extend(row.paths);
    }
    let handled: Vec<QueueName> = paths.keys().cloned().collect();
    for row in past.into_iter().filter(|row| !handled.contains(&row.queue)) {
        paths.entry(row.queue).or_default().extend(row.ever);
    }
    paths
}

#[cfg(test)]
mod tests {
    use patchbay_model::DataPath;

    use super::*;

    #[test]
    fn an_active_manifest_decides_and_without_one_all_that_ever_was_hidden_is() {
        let row = |queue: &str, paths: &[&str], ever: &[&str], is_current| {
            let of = |paths: &[&str]| {
                paths
                    .iter()
                    .map(|path| path.parse().expect("a path"))
                    .collect()
            };
            RedactionRow {
                queue: queue.parse().expect("a queue"),
                paths: of(paths),
                ever: of(ever),
                is_current,
            }
        };
        let known = by_queue(vec![
            row("active", &["to"], &["to", "text"], true),
            row("active", &[], &["of.another.plugin"], false),
            row("stopped", &["to"], &["to", "text"], false),
            row("stopped", &["phone"], &["phone"], false),
            row("open", &[], &[], false),
        ]);
        let of = |queue: &str| {
            known
                .get(&queue.parse::<QueueName>().expect("a queue"))
                .map(|paths| paths.iter().map(DataPath::as_str).collect())
        };
        assert_eq!(of("active"), Some(vec!["to"]));
        assert_eq!(of("stopped"), Some(vec!["phone", "text", "to"]));
        assert_eq!(of("open"), Some(vec![]));
        assert_eq!(of("never"), None);
    }
}

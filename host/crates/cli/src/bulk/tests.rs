use patchbay_api::bulk::{Bulk, BulkChange, BulkReason};

use super::text::of_change;
use super::*;

#[test]
fn replacements_have_three_values_and_an_option_is_none_of_them() {
    let values = |texts: &[&str]| texts.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    let read = replacements(&values(&["to", " at ", "@", "a", "-", ""])).expect("two");
    assert_eq!(
        read,
        [
            json!({ "path": "to", "find": " at ", "with": "@" }),
            json!({ "path": "a", "find": "-", "with": "" })
        ]
    );
    let refused = replacements(&values(&["to", "a", "--dry-run"])).expect_err("an option");
    assert!(refused.to_string().contains("--dry-run looks like"));
}

#[test]
fn an_undo_that_puts_nothing_back_says_so_with_the_reasons() {
    let bulk: Bulk = serde_json::from_value(json!({
            "id": 4, "kind": "edit-and-retry", "source": "live", "jobState": "failed", "filter": { "queue": "q" }, "actor": "ops",
            "state": "undone", "matched": 10, "done": 10, "skipped": 0, "failed": 0, "restored": 0, "createdAt": "2026-11-24T12:00:00Z",
        }))
        .expect("an operation");
    let reason = BulkReason {
        state: "not-undone".into(),
        reason: "The job has run since it was edited".into(),
        jobs: 10,
    };
    let text = describe_bulk(&bulk, &[reason]);
    for part in [
        "undone  10 matched, 10 done, 0 skipped, 0 failed, 0 restored",
        "\n10 not undone: The job has run since it was edited\n",
        "Nothing was undone",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_change_is_shown_with_both_values() {
    let value = |text: &str| RawValue::from_string(text.to_owned()).ok();
    let change = |before, after| {
        of_change(&BulkChange {
            path: "to".into(),
            before,
            after,
        })
    };
    assert_eq!(
        change(value(r#""x at b""#), value(r#""x@b""#)),
        r#"to: "x at b" -> "x@b""#
    );
    assert_eq!(change(None, value("1.10")), "to: (none) -> 1.10");
    assert_eq!(change(value("null"), None), "to: null -> (none)");
    let hidden = || value(r#""[redacted]""#);
    assert_eq!(
        change(hidden(), hidden()),
        "to: changes, hidden by the plugin's redaction (--dry-run --reveal shows it)"
    );
}

use chrono::TimeDelta;

use super::*;

fn row(cells: [&str; 2]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

fn lines(head: &[&str], rows: &[Vec<String>], limit: Option<usize>) -> Vec<String> {
    lines_keeping(1, head, rows, limit, true)
}

#[test]
fn columns_are_left_out_before_a_failure_is_cut_to_nothing_or_a_row_is_split() {
    let head = [
        "ID",
        "QUEUE",
        "JOBS",
        "FAILING",
        "REMOVED",
        "ELSEWHERE",
        "LAST SEEN",
        "REVISION",
        "STATE",
        "FAILURE",
    ];
    let cells = [
        "1",
        "emailQueue",
        "25",
        "5",
        "20",
        "0",
        "12 min ago",
        "email 0123456789ab",
        "open",
        "invalid-input: the data of the job have no address, and nobody knows where to send it",
    ];
    let rows = [cells.map(str::to_owned).to_vec()];
    for (limit, has, has_not) in [
        (
            100,
            &["FAILING", "LAST SEEN", "invalid-input: the data of"][..],
            &["ELSEWHERE"][..],
        ),
        (
            80,
            &["FAILING", "invalid-input: the data of"],
            &["ELSEWHERE", "REVISION"],
        ),
    ] {
        let shown = lines(&head, &rows, Some(limit));
        assert_eq!(shown.len(), 2, "{shown:?}");
        let text = shown.join("\n");
        assert!(
            has.iter().all(|part| text.contains(part)),
            "{limit}: {text}"
        );
        assert!(
            !has_not.iter().any(|part| text.contains(part)),
            "{limit}: {text}"
        );
    }
    // With -o wide every column is asked for.
    let wide = lines_keeping(1, &head, &rows, Some(60), false).join("\n");
    assert!(wide.contains("REVISION"), "{wide}");
}

#[test]
fn what_others_wrote_is_shown_and_steers_nothing() {
    assert_eq!(
        plain("a\tb\n\u{1b}[2J\u{9b}1m\r\u{202e}ok"),
        "a\tb\n\\u{1b}[2J\\u{9b}1m\\u{d}\\u{202e}ok"
    );
    let long = "x".repeat(100_000);
    let shown = lines(
        &["A", "B"],
        &[
            row(["two\nlines", "1"]),
            row(["\u{1b}", "2"]),
            row([&long, "3"]),
        ],
        None,
    );
    assert_eq!(shown[1].trim_end_matches('1').trim_end(), "two\\nlines");
    assert!(
        shown[2].starts_with("\\u{1b} ") && shown[2].len() == MAX_WIDTH + 3,
        "{}",
        shown[2]
    );
    assert_eq!(shown[3], format!("{long}  3"));
}

#[test]
fn a_table_fits_its_terminal_and_stays_aligned() {
    let rows = [
        row(["emailQueue", "the server answered with something long"]),
        row(["日本", "été"]),
    ];
    assert_eq!(
        lines(&["QUEUE", "FAILURE"], &rows, Some(30)),
        [
            "QUEUE       FAILURE",
            "emailQueue  the server answer…",
            "日本        été"
        ]
    );
    assert_eq!(
        lines(&["QUEUE", "FAILURE"], &rows[..1], Some(20)),
        [
            "QUEUE    emailQueue",
            "FAILURE  the server",
            "         answered",
            "         with",
            "         something",
            "         long"
        ]
    );
}

#[test]
fn a_line_breaks_between_words_and_only_a_long_word_is_broken() {
    let all = |text: &'static str, width: usize| {
        let (mut rest, mut lines) = (text, Vec::new());
        while !rest.is_empty() {
            let (line, after) = broken(rest, width);
            lines.push(line);
            rest = after;
        }
        lines
    };
    assert_eq!(all("one two three", 7), ["one two", "three"]);
    assert_eq!(all("one two three", 8), ["one two", "three"]);
    assert_eq!(all("a bbbbbbbbbb c", 4), ["a", "bbbb", "bbbb", "bb c"]);
    assert_eq!(all("  日本語 été", 6), ["  日本", "語 été"]);
    assert_eq!(all("", 6), Vec::<&str>::new());
    assert_eq!(all("x   ", 6), ["x"]);
}

#[test]
fn columns_that_are_kept_whole_are_wrapped_and_never_cut() {
    let rows = [row(["email", "smtp://mail.example.org:587"])];
    let told = lines_keeping(2, &["PLUGIN", "HOST"], &rows, Some(30), true);
    assert!(told.len() > 2, "{told:?}");
    let cells: String = told.iter().map(|line| line.trim_start()).collect();
    assert!(
        !cells.contains('…') && cells.contains("smtp://mail.example.org"),
        "{cells}"
    );
    assert_eq!(
        lines_keeping(2, &["PLUGIN", "HOST"], &rows, Some(60), true).len(),
        2
    );
}

#[test]
fn json_is_indented_and_no_value_changes() {
    let json = r#"{"a":[1.10,{}, [ ] ],"b":"{\"x\": [1,2]}","c":123456789012345678901234567890}"#;
    let text = indented(json);
    assert_eq!(
        text,
        "{\n  \"a\": [\n    1.10,\n    {},\n    []\n  ],\n  \"b\": \"{\\\"x\\\": [1,2]}\",\n  \"c\": 123456789012345678901234567890\n}"
    );
    let same: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        same,
        serde_json::from_str::<serde_json::Value>(json).expect("JSON")
    );
}

#[test]
fn times_are_told_from_now() {
    let now = Utc::now();
    let of = |seconds| relative(now - TimeDelta::seconds(seconds), now);
    assert_eq!(
        [0, 5, 600, 100_000, -7, -10_000].map(of),
        [
            "now",
            "5 s ago",
            "10 min ago",
            "27 h 46 min ago",
            "in 7 s",
            "in 2 h 46 min"
        ]
    );
}

use super::*;

fn redaction(paths: &[&str]) -> Redaction {
    Redaction::new(
        &paths
            .iter()
            .map(|path| path.parse().expect("a path"))
            .collect::<Vec<_>>(),
    )
}

fn shown(paths: &[&str], data: &str) -> String {
    redaction(paths).data(data).0.text.into_owned()
}

#[test]
fn what_is_redacted_is_hidden_and_everything_else_stays_as_it_was_written() {
    let data = r#"{ "z": 1.50, "to": "asha@example.com", "deep": {"Password": "hunter2", "ok": true, "otp": null}, "n": 12345678901234567890123 }"#;
    assert_eq!(
        shown(&["to"], data),
        r#"{"z":1.50,"to":"[redacted]","deep":{"Password":"[redacted]","ok":true,"otp":null},"n":12345678901234567890123}"#
    );
    let plain = r#"{ "b" : 1e5, "a":[ 1 ] , "a": 2}"#;
    assert_eq!(
        shown(&["to"], plain),
        plain,
        "spaces, order, numbers and names that come twice"
    );
    assert_eq!(
        shown(
            &["list.phone", "none"],
            r#"{"list":[{"phone":[1,2]},3],"none":null}"#
        ),
        r#"{"list":[{"phone":"[redacted]"},3],"none":null}"#
    );
    let groups = r#"{"otp":{"subject":"Your code","token":"t1"},"credentials":{"user":"u"}}"#;
    assert_eq!(
        shown(&[], groups),
        r#"{"otp":{"subject":"Your code","token":"[redacted]"},"credentials":"[redacted]"}"#
    );
    assert_eq!(
        shown(&["a"], "{\"a"),
        REDACTED,
        "what is no JSON has no paths"
    );
    assert_eq!(shown(&[], "{\"a"), "{\"a");
    let deep = format!("{}\"hunter2\"{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(
        !shown(&[], &deep).contains("hunter2"),
        "and no overflow of the stack"
    );
}

#[test]
fn half_a_surrogate_pair_hides_nothing_from_the_rules() {
    for (data, expected) in [
        (
            r#"{"phone":"+15550131","c":{"password":"hunter2"},"\ud800":1}"#,
            "{\"phone\":\"[redacted]\",\"c\":{\"password\":\"[redacted]\"},\"\u{fffd}\u{fffd}\u{fffd}\":1}",
        ),
        (
            r#"{"c":{"\ud800":1,"password":"hunter2"},"n":"\ud83d"}"#,
            "{\"c\":{\"\u{fffd}\u{fffd}\u{fffd}\":1,\"password\":\"[redacted]\"},\"n\":\"\\ud83d\"}",
        ),
    ] {
        assert_eq!(shown(&["phone"], data), expected);
    }
    let note = shown(
        &["phone"],
        r#"{"phone":"+15550131","n":"call +15550131 \ud83d"}"#,
    );
    assert!(!note.contains("5550131"), "{note}");
    let plain = r#"{"n":"cut \ud83d"}"#;
    assert_eq!(
        shown(&["phone"], plain),
        plain,
        "nothing is hidden: it stays as it was written"
    );
}

#[test]
fn hidden_values_are_hidden_wherever_they_turn_up_again() {
    let redaction = redaction(&["to", "text"]);
    let long = "x".repeat(1_000);
    let data =
            serde_json::json!({ "to": "Asha <asha@example.com>", "password": "hunter2", "otp": 4711, "text": long })
                .to_string();
    let (_, mask) = redaction.data(&data);
    for (text, expected) in [
        (
            "no mailbox ASHA@example.com here",
            "no mailbox [redacted] here",
        ),
        ("GET /?to=asha%40example.com", "GET /?to=[redacted]"),
        ("said hunter2.", "said [redacted]."),
        (
            "after 47110 ms, code 4711",
            "after 47110 ms, code [redacted]",
        ),
        ("nothing of it", "nothing of it"),
        (
            "password=abc&x=1 \"token\": \"a\\\"b\", done",
            "password=[redacted]&x=1 \"token\": \"[redacted]\", done",
        ),
        (
            "Authorization: Bearer abc.def1",
            "Authorization: Bearer [redacted]",
        ),
        ("password: is missing", "password: is missing"),
        ("Basic authentication failed", "Basic authentication failed"),
    ] {
        assert_eq!(mask.text(text), expected);
    }
    assert!(!mask.text(&format!("it was {long}")).contains("xxx"));
    let result = r#"{"input":{"to":"Asha <asha@example.com>"},"accepted":["asha@example.com"],"code":4711,"n":4712}"#;
    assert_eq!(
        redaction.document(result, &mask).text,
        r#"{"input":{"to":"[redacted]"},"accepted":["[redacted]"],"code":"[redacted]","n":4712}"#
    );
    assert!(mask.finds("x hunter2") && !mask.finds("hunter23"));
    assert_eq!(
        mask.replaced("hunter2 hunter2", "[erased]"),
        "[erased] [erased]"
    );
}

#[test]
fn data_that_has_no_paths_is_hidden_whole_where_anything_is() {
    let twice =
        serde_json::json!(r#"{"to":"ada@example.com","lines":["Grace Hopper"],"n":1}"#).to_string();
    let (shown_twice, mask) = redaction(&["to"]).data(&twice);
    assert_eq!(
        (&*shown_twice.text, shown_twice.hidden),
        (r#""[redacted]""#, 1)
    );
    assert_eq!(
        mask.text("no mailbox Ada@example.com for Grace Hopper"),
        "no mailbox [redacted] for [redacted]"
    );
    for (data, expected) in [
        (r#""ada@example.com""#, r#""[redacted]""#),
        ("4711", r#""[redacted]""#),
        (
            r#"["ada@example.com",[4711],true,null,{"n":1}]"#,
            r#"["[redacted]",["[redacted]"],true,null,{"n":1}]"#,
        ),
        ("ada@example.com", REDACTED),
    ] {
        let (shown, mask) = redaction(&["to"]).data(data);
        assert_eq!(shown.text, expected, "{data}");
        let said = mask.text("sent to ada@example.com, code 4711").into_owned();
        assert!(
            said.contains(REDACTED) && (!data.contains("ada") || !said.contains("ada")),
            "{data}: {said}"
        );
    }
    for data in ["true", "null", r#""""#, "{}", "[]"] {
        assert_eq!(redaction(&["to"]).data(data).0.text, data);
    }
    assert_eq!(
        shown(&[], r#""ada@example.com""#),
        r#""ada@example.com""#,
        "nothing is to be hidden"
    );
    assert_eq!(
        redaction(&["to"]).document("50", &Mask::default()).text,
        "50",
        "progress and results are no data"
    );
}

#[test]
fn documents_within_texts_are_read_as_documents() {
    let data = serde_json::json!({ "body": r#"{"to":"ada@example.com","password":"hunter2","n":1}"#, "n": 1 });
    assert_eq!(
        shown(&["body.to"], &data.to_string()),
        r#"{"body":"{\"to\":\"[redacted]\",\"password\":\"[redacted]\",\"n\":1}","n":1}"#
    );
    let hidden =
        serde_json::json!({ "body": r#"{"to":["ada@example.com"],"code":4711}"# }).to_string();
    let (shown, mask) = redaction(&["body"]).data(&hidden);
    assert_eq!(shown.text, r#"{"body":"[redacted]"}"#);
    assert_eq!(mask.text("ada@example.com 4711"), "[redacted] [redacted]");
}

#[test]
fn hidden_values_are_hidden_in_keys_and_in_the_rest_of_the_data() {
    let data = r#"{"to":"dup@example.com","x":"for dup@example.com","otp":4711,"n":[4711,4712],"by":{"DUP@example.com":1},"ok":true}"#;
    let (shown, mask) = redaction(&["to"]).data(data);
    assert_eq!(
        shown.text,
        r#"{"to":"[redacted]","x":"for [redacted]","otp":"[redacted]","n":["[redacted]",4712],"by":{"[redacted]":1},"ok":true}"#
    );
    assert_eq!(shown.hidden, 5);
    let shown = redaction(&["to"]).document(r#"{"dup@example.com":1}"#, &mask);
    assert_eq!((&*shown.text, shown.hidden), (r#"{"[redacted]":1}"#, 1));
}

#[test]
fn every_one_of_many_values_is_hidden_and_too_many_hide_everything() {
    let people = |count: usize| {
        (0..count)
            .map(|n| format!("person{n}@example.com"))
            .collect::<Vec<_>>()
    };
    let few = people(3_000);
    let data = serde_json::json!({ "n": 1, "to": few }).to_string();
    let (shown, mask) = redaction(&["to"]).data(&data);
    assert_eq!(shown.text, r#"{"n":1,"to":"[redacted]"}"#);
    let result = serde_json::json!({ "accepted": few }).to_string();
    let shown = redaction(&[]).document(&result, &mask);
    assert_eq!(shown.hidden, few.len());
    assert!(!shown.text.contains("example.com"));

    let data = serde_json::json!({ "to": people(60_000), "n": 1 }).to_string();
    let (shown, mask) = redaction(&["to"]).data(&data);
    assert_eq!(
        (&*shown.text, &*redaction(&[]).document(&result, &mask).text),
        (REDACTED, REDACTED)
    );
    assert_eq!(
        (mask.text("sent"), mask.text("")),
        (REDACTED.into(), "".into())
    );
    assert!(
        !mask.is_empty() && !mask.finds("sent"),
        "nobody is erased by it"
    );
}

#[test]
fn texts_of_any_kind_are_cut_at_whole_characters() {
    let (_, mask) = Redaction::default().data(r#"{"secret":"éèü€"}"#);
    for text in [
        "éèü€",
        "xéèü€é",
        "é=é",
        "\"sécret\":\"é",
        "password=",
        "=",
        ":",
        "Bearer é",
        "secret='é",
        "=\"",
        "token=\\\"",
    ] {
        let _ = mask.text(text);
    }
    assert_eq!(mask.text("(éèü€)"), "([redacted])");
}

#[test]
fn a_document_that_holds_the_mark_is_known_by_the_place() {
    assert_eq!(mark_in(r#"{"a":1}"#), None);
    assert_eq!(
        mark_in(r#"{"a/b":[1,{"c":"x [redacted]"}]}"#).as_deref(),
        Some("/a~1b/1/c")
    );
}

#[test]
fn a_path_is_covered_by_itself_its_parent_and_its_name() {
    let redaction = redaction(&["lead.phone", "to"]);
    for (path, is_covered) in [
        ("to", true),
        ("to.x", true),
        ("lead.phone", true),
        ("lead.id", false),
        ("a.password", true),
    ] {
        assert_eq!(redaction.covers(path), is_covered, "{path}");
    }
}

#[test]
fn of_unknown_data_keys_persons_and_credentials_are_hidden_too() {
    let shown = |text: &str| {
        Redaction::strict()
            .document(text, &Mask::default())
            .text
            .into_owned()
    };
    let data = r#"{"emailsSent":12,"userEmail":"a@b.example","phoneNumber":98765,"cacheKey":"k1","hash":"h","keyboard":"qwerty","n":1}"#;
    assert_eq!(
        shown(data),
        r#"{"emailsSent":12,"userEmail":"[redacted]","phoneNumber":"[redacted]","cacheKey":"[redacted]","hash":"[redacted]","keyboard":"qwerty","n":1}"#
    );
    assert_eq!(
        shown(r#"{"total":1250,"at":"2026-11-30"}"#),
        r#"{"total":1250,"at":"2026-11-30"}"#
    );
    assert_eq!(shown("email=a@b.example&n=1"), "email=[redacted]&n=1");
    let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjQyfQ.c2lnbmF0dXJl";
    assert_eq!(shown(jwt), REDACTED);
    assert_eq!(
        shown(&format!(r#"["ok",{{"x":"go {jwt}, now"}}]"#)),
        r#"["ok",{"x":"go [redacted], now"}]"#
    );
    assert_eq!(
        shown("vk_live_abcdEFGH1234 pbt_1a2b3c4d_secret"),
        "[redacted] [redacted]"
    );
}

use super::*;

fn edited(data: &str, set: &[(&str, &str)], unset: &[&str]) -> Result<String, String> {
    let set = set.iter().map(|(path, value)| {
        (
            path.parse().expect("a path"),
            serde_json::from_str(value).expect("JSON"),
        )
    });
    let unset = unset.iter().map(|path| path.parse().expect("a path"));
    Edits {
        set: set.collect(),
        replace: Vec::new(),
        unset: unset.collect(),
    }
    .apply(data)
}

fn replacing(edits: &[(&str, &str, &str)]) -> Edits {
    let replace = edits.iter().map(|(path, find, with)| Replacement {
        path: path.parse().expect("a path"),
        find: (*find).to_owned(),
        with: (*with).to_owned(),
    });
    Edits {
        replace: replace.collect(),
        ..Edits::default()
    }
}

#[test]
fn a_text_is_replaced_within_a_text_and_within_each_text_of_a_list() {
    let data = r#"{"n":1.10,"to":"x at example.com, y at example.com","cc":["z at b", 7, "é@c", " at at "]}"#;
    let edits = replacing(&[("to", " at ", "@"), ("cc", " at ", "@"), ("gone", "a", "b")]);
    assert_eq!(
        edits.apply(data),
        Ok(r#"{"n":1.10,"to":"x@example.com, y@example.com","cc":["z@b",7,"é@c","@at "]}"#.into())
    );
    let edits = replacing(&[("lead.0", "\"", ""), ("lead.0", "b", "\\")]);
    assert_eq!(
        edits.apply(r#"{"lead":["a\"b"]}"#),
        Ok(r#"{"lead":["a\\"]}"#.into())
    );
}

#[test]
fn a_job_in_which_nothing_is_replaced_stays_as_it_is_with_the_reason() {
    for (data, path, reason) in [
        (
            r#"{"to":"a@b"}"#,
            "to",
            "its data has nothing to replace at /to",
        ),
        (
            r#"{"to":["a@b"]}"#,
            "to",
            "its data has nothing to replace at /to",
        ),
        (r#"{"to":7}"#, "to", "its data has no text at /to"),
        (
            r#"{"to":{"a":" at "}}"#,
            "to",
            "its data has no text at /to",
        ),
        (r#"{"cc":" at "}"#, "to", "its data has no text at /to"),
        ("{", "to", "its data is not JSON"),
    ] {
        assert_eq!(
            replacing(&[(path, " at ", "@")]).apply(data),
            Err(reason.into()),
            "{data}"
        );
    }
}

#[test]
fn data_that_would_become_too_large_is_never_made() {
    let with = "x".repeat(64 << 10);
    let letters = "a".repeat(100_000);
    let document = format!(r#"{{"a":"{letters}","b":["{letters}","{letters}"]}}"#);
    for path in ["a", "b"] {
        let reason = replacing(&[(path, "a", &with)]).apply(&document);
        assert!(reason.is_err_and(|reason| reason.contains("larger than 1048576 bytes")));
    }
}

#[test]
fn a_row_keeps_the_edits_and_a_host_without_replacements_cannot_read_it_in_part() {
    #[derive(Deserialize)]
    #[allow(dead_code, reason = "read as the version before reads it")]
    struct Before {
        set: Vec<(Path, Box<RawValue>)>,
        unset: Vec<Path>,
    }
    let old = r#"{"set":[[["n"],1.10]],"unset":[["a","b"]]}"#;
    let edits = Edits::of_row(old).expect("a row of the version before");
    assert_eq!(edits.to_row().expect("JSON"), old);
    let edits = Edits {
        replace: replacing(&[("to", " at ", "@")]).replace,
        ..edits
    };
    let row = edits.to_row().expect("JSON");
    let read = Edits::of_row(&row).expect("a row");
    assert_eq!((read.replace, read.set[0].1.get()), (edits.replace, "1.10"));
    assert!(serde_json::from_str::<Before>(old).is_ok());
    assert!(serde_json::from_str::<Before>(&row).is_err());
}

#[test]
fn an_item_that_is_removed_is_shown_by_its_list() {
    let edits = Edits {
        unset: ["tags.0", "gone.0", "lead.id"]
            .map(|path| path.parse().expect("a path"))
            .to_vec(),
        ..Edits::default()
    };
    let old = r#"{"tags":["a","b"],"lead":{"id":1}}"#;
    let new = edits.apply(old).expect("it can be edited");
    let shown: Vec<String> = edits.shown(old).iter().map(Path::written).collect();
    assert_eq!(shown, ["tags", "gone.0", "lead.id"]);
    assert!(!edits.is_unchanged(old, &new));
    let same = r#"{"tags":[],"n":1}"#;
    assert!(edits.is_unchanged(same, &edits.apply(same).expect("it can be edited")));
}

#[test]
fn touched_paths_are_named_once_as_they_are_written() {
    let edits = Edits {
        set: vec![("/a.b/c".parse().expect("a path"), text("1"))],
        ..replacing(&[("lead.to", "a", "b"), ("/lead/to", "c", "d")])
    };
    let touched: Vec<String> = edits.touched().iter().map(|path| path.written()).collect();
    assert_eq!(touched, ["/a.b/c", "lead.to"]);
    let value = |path: &str, data: &str| {
        let path: Path = path.parse().expect("a path");
        path.value_in(data).map(|value| value.get().to_owned())
    };
    assert_eq!(
        value("a.1.b", r#"{"a":[0,{"b": 1.10}]}"#).as_deref(),
        Some("1.10")
    );
    assert_eq!(value("a.2", r#"{"a":[0,1]}"#), None);
}

fn text(json: &str) -> Box<RawValue> {
    serde_json::from_str(json).expect("JSON")
}

#[test]
fn only_what_is_named_changes_and_the_rest_stays_as_it_was_written() {
    let data =
        r#"{"z":123456789012345678901234567890,"lead":{"id":1.10,"tags":["a","b"]}, "a.b":null}"#;
    assert_eq!(
        edited(
            data,
            &[
                ("lead.id", "2"),
                ("/a.b", "[1.0]"),
                ("lead.tags.1", "\"c\"")
            ],
            &[]
        ),
        Ok(
            r#"{"z":123456789012345678901234567890,"lead":{"id":2,"tags":["a","c"]},"a.b":[1.0]}"#
                .into()
        )
    );
    assert_eq!(
        edited("{}", &[("a.b.c", "true")], &["x.y"]),
        Ok(r#"{"a":{"b":{"c":true}}}"#.into())
    );
    assert_eq!(
        edited(r#"{"a":1,"b":[1,2]}"#, &[], &["a", "/b/0", "c"]),
        Ok(r#"{"b":[2]}"#.into())
    );
}

#[test]
fn a_path_that_leads_nowhere_is_an_error_and_no_change() {
    for data in [r#"{"a":1}"#, r#"{"a":[]}"#, "7", "nonsense"] {
        assert!(edited(data, &[("a.b", "1")], &[]).is_err(), "{data}");
    }
    for path in ["", ".", "a..b", "/", "/a/"] {
        assert!(path.parse::<Path>().is_err(), "{path}");
    }
}

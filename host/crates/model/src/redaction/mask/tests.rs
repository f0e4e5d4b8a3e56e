use super::*;

fn mask(value: &str) -> Mask {
    Mask::new([value.to_owned()])
}

#[test]
fn a_value_is_found_in_the_spellings_that_programs_give_it() {
    for (value, texts) in [
        (
            "Grace \"Amazing\" Hopper",
            &[
                r#"said {"name":"Grace \"Amazing\" Hopper"}"#,
                r#"said "{\"name\":\"Grace \\\"Amazing\\\" Hopper\"}""#,
                "Grace &quot;Amazing&quot; Hopper",
            ][..],
        ),
        (
            "Grace Brewster Hopper",
            &[
                "/?q=Grace+Brewster+Hopper",
                "/Grace%20Brewster%20Hopper",
                "GRACE brewster hopper",
            ],
        ),
        (
            "it's (so) *good*!~",
            &[
                "it's%20(so)%20*good*!~",
                "it%27s%20%28so%29%20%2Agood%2A%21~",
                "it%27s+%28so%29+*good*%21%7E",
            ],
        ),
        (
            "Élodie Ümit",
            &[
                "no ÉLODIE ÜMIT",
                "élodie ümit",
                r"\u00c9lodie \u00DCmit",
                r"\\u00c9lodie",
                "%C3%89lodie%20%c3%9cmit",
            ],
        ),
        (
            "Hauptstraße 12",
            &["HAUPTSTRASSE 12", "hauptstrasse 12", "HAUPTSTRAẞE 12"],
        ),
        ("a/b c@d", &["/a/b%20c@d", "a%2Fb%20c%40d"]),
    ] {
        for text in texts.iter().filter(|text| !text.ends_with("lodie")) {
            let shown = mask(value).text(text).into_owned();
            assert!(shown.contains(REDACTED), "{value}: {text}");
            assert!(
                !shown.to_lowercase().contains("hopper") && !shown.contains("12"),
                "{value}: {shown}"
            );
        }
    }
    assert_eq!(
        mask("Élodie Ümit").text("«ÉLODIE ÜMIT» ißt"),
        "«[redacted]» ißt",
        "the rest stays as it is"
    );
}

#[test]
fn an_address_is_found_in_each_of_its_spellings() {
    for (value, texts) in [
        (
            "x@bücher.example",
            &[
                "X@BÜCHER.example",
                "x@xn--bcher-kva.example",
                "<x@XN--BCHER-KVA.EXAMPLE>",
                "\"x\"@bücher.example",
            ][..],
        ),
        (
            "x@xn--bcher-kva.example",
            &["x@bücher.example", "x%40b%C3%BCcher.example"],
        ),
        (
            "a..b@example.com",
            &[
                "\"a..b\"@example.com",
                "a..b@EXAMPLE.com",
                r#"{"to":"\"a..b\"@example.com"}"#,
            ],
        ),
        ("\"a..b\"@example.com", &["a..b@example.com"]),
        (
            "Ada <x@bücher.example>, b@example.com",
            &["x@xn--bcher-kva.example", "b@example.com"],
        ),
        ("Write to x@bücher.example.", &["x@xn--bcher-kva.example"]),
    ] {
        for text in texts {
            let shown = mask(value).text(text).into_owned();
            assert!(
                shown.contains(REDACTED) && !shown.to_lowercase().contains("cher"),
                "{value}: {text}: {shown}"
            );
        }
    }
}

#[test]
fn short_values_are_hidden_as_whole_words_of_which_underscores_are_a_part() {
    let panic = mask("panic");
    for text in [
        "__rust_start_panic",
        "panic_unwind",
        "core::panicking",
        "panic2",
        "a_panic_b",
    ] {
        assert_eq!(panic.text(text), text);
    }
    for (text, shown) in [
        ("said panic.", "said [redacted]."),
        ("q=panic&x", "q=[redacted]&x"),
        ("q%3Dpanic", "q%3D[redacted]"),
        (r"said\npanic", r"said\n[redacted]"),
        (r"\u0022panic\u0022", r"\u0022[redacted]\u0022"),
        ("x-panic", "x-[redacted]"),
    ] {
        assert_eq!(panic.text(text), shown);
    }
}

#[test]
fn a_text_is_not_cut_within_a_value() {
    let ada = mask("ada@example.com");
    let cut = |text: &str, most| {
        let mut text = text.to_owned();
        ada.cut(&mut text, most);
        text
    };
    assert_eq!(cut("no ada@example.com", 10), "no ");
    assert_eq!(cut("no ada@example.com here", 18), "no ada@example.com");
    assert_eq!(cut("éé ada@example.com", 3), "é");
    assert_eq!(cut("short", 10), "short");
}

use super::*;

fn read(text: &str) -> Vec<(Option<String>, String)> {
    let boxes = parse_list(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    boxes
        .into_iter()
        .map(|one| (one.name, one.address.to_string()))
        .collect()
}

fn named(name: &str, address: &str) -> (Option<String>, String) {
    (Some(name.to_owned()), address.to_owned())
}

fn bare(address: &str) -> (Option<String>, String) {
    (None, address.to_owned())
}

#[test]
fn every_form_of_a_mailbox_is_read() {
    for (text, expected) in [
        ("a@x.org", bare("a@x.org")),
        ("  A.b+c@X.Org ", bare("A.b+c@x.org")),
        ("<a@x.org>", bare("a@x.org")),
        ("Ada Lovelace <a@x.org>", named("Ada Lovelace", "a@x.org")),
        (
            "Ada  L. O'Neil <a@x.org>",
            named("Ada L. O'Neil", "a@x.org"),
        ),
        ("\"Last, First\" <a@x.org>", named("Last, First", "a@x.org")),
        (
            "\"She said \\\"hi\\\" \\\\\" <a@x.org>",
            named("She said \"hi\" \\", "a@x.org"),
        ),
        ("Jörg 👋 <a@x.org>", named("Jörg 👋", "a@x.org")),
        ("a@x.org <b@y.org>", named("a@x.org", "b@y.org")),
        (
            "a@x.org (Ada (the first))",
            named("Ada the first", "a@x.org"),
        ),
        ("Ada (at work) <a(b)@x.org>", named("Ada", "a@x.org")),
        ("\"a b\"@x.org", bare("\"a b\"@x.org")),
        ("\"a@b, c\"@x.org", bare("\"a@b, c\"@x.org")),
        ("\"plain\"@x.org", bare("plain@x.org")),
        ("Ada <\"a>b\"@x.org>", named("Ada", "\"a>b\"@x.org")),
        ("a..b.@docomo.example", bare("\"a..b.\"@docomo.example")),
        ("info@müller.example", bare("info@xn--mller-kva.example")),
        ("info@MÜLLER.example", bare("info@xn--mller-kva.example")),
        ("उदा@उदाहरण.भारत", bare("उदा@xn--p1b6ci4b4b3a.xn--h2brj9c")),
        ("root@localhost", bare("root@localhost")),
        ("a@[192.0.2.1]", bare("a@[192.0.2.1]")),
        ("a@[IPv6:2001:db8::1]", bare("a@[IPv6:2001:db8::1]")),
    ] {
        assert_eq!(read(text), [expected], "{text}");
    }
}

#[test]
fn lists_groups_and_empty_places_are_read() {
    assert_eq!(
        read("a@x.org, \"Last, First\" <b@x.org>,, Team: c@x.org, D <d@x.org>; , e@x.org,"),
        [
            bare("a@x.org"),
            named("Last, First", "b@x.org"),
            bare("c@x.org"),
            named("D", "d@x.org"),
            bare("e@x.org")
        ]
    );
    assert_eq!(read("undisclosed-recipients:;"), []);
    assert_eq!(read(" "), []);
    assert_eq!(
        "a@x.org, b@x.org".parse::<Mailbox>(),
        Err(AddressError::Several)
    );
    assert_eq!("".parse::<Mailbox>(), Err(AddressError::Nobody));
}

#[test]
fn what_is_no_address_or_would_be_more_than_one_line_is_refused() {
    for (text, expected) in [
        ("nobody", AddressError::NoAddress),
        ("@x.org", AddressError::NoAddress),
        ("a@", AddressError::NoAddress),
        ("a b@x.org", AddressError::NoAddress),
        ("a@b@x.org", AddressError::NoAddress),
        ("a@x.org b@x.org", AddressError::NoAddress),
        ("a@x.org; b@x.org", AddressError::NoAddress),
        ("Ada <a@x.org> trailing", AddressError::NoAddress),
        ("Ada <a@x.org", AddressError::Open),
        ("\"Ada <a@x.org>", AddressError::Open),
        ("a@x.org (Ada", AddressError::Open),
        ("Team: a@x.org", AddressError::Open),
        ("Team: Inner: a@x.org;;", AddressError::NoAddress),
        ("a@x..org", AddressError::Domain),
        ("a@-.", AddressError::Domain),
        ("a@x org", AddressError::Domain),
        ("a@x.org>", AddressError::NoAddress),
        ("a@[300.0.0.1]", AddressError::Domain),
        ("a@[tag:anything]", AddressError::Domain),
        ("a@x.org\r\nBcc: evil@x.org", AddressError::Control),
        ("a@x.org\n", AddressError::Control),
        ("\"a\r\n.\r\n\"@x.org", AddressError::Control),
        ("a\0@x.org", AddressError::Control),
        ("Ada\u{2028} <a@x.org>", AddressError::Control),
        ("Ada\u{85} <a@x.org>", AddressError::Control),
    ] {
        assert_eq!(parse_list(text), Err(expected), "{text:?}");
    }
    assert_eq!(
        "Ada <a@x.org>".parse::<Address>(),
        Err(AddressError::NoAddress),
        "an envelope has no names"
    );
    assert_eq!(
        format!("{}@x.org", "a".repeat(300)).parse::<Address>(),
        Err(AddressError::TooLong)
    );
    assert_eq!(
        format!("{} <a@x.org>", "n".repeat(400)).parse::<Mailbox>(),
        Err(AddressError::LongName)
    );
}

#[test]
fn what_is_written_reads_back_the_same() {
    for text in [
        "a..b.@x.org",
        "\"a \\\"b\\\" \\\\ c\"@x.org",
        "info@müller.example",
        "ü@x.org",
        "a@[192.0.2.1]",
    ] {
        let address: Address = text.parse().expect("an address");
        assert_eq!(
            address.to_string().parse::<Address>().as_ref(),
            Ok(&address),
            "{text}"
        );
    }
}

#[test]
fn only_a_local_part_beyond_ascii_needs_smtputf8() {
    assert!(
        "info@müller.example"
            .parse::<Address>()
            .expect("an address")
            .is_ascii()
    );
    assert!(
        !"jörg@example.com"
            .parse::<Address>()
            .expect("an address")
            .is_ascii()
    );
    assert!(
        "A@X.org"
            .parse::<Address>()
            .expect("an address")
            .is_same(&"a@x.ORG".parse::<Address>().expect("an address"))
    );
}

#[test]
fn an_address_is_known_in_each_of_its_spellings() {
    let spellings = |text: &str| text.parse::<Address>().expect("an address").spellings();
    assert_eq!(
        spellings("Ada@Example.com"),
        ["Ada@example.com", "\"Ada\"@example.com"]
    );
    assert_eq!(
        spellings("a..b@example.com"),
        ["\"a..b\"@example.com", "a..b@example.com"]
    );
    assert_eq!(
        spellings("\"a..b\"@example.com"),
        spellings("a..b@example.com")
    );
    let both = [
        "x@xn--bcher-kva.example",
        "\"x\"@xn--bcher-kva.example",
        "x@bücher.example",
        "\"x\"@bücher.example",
    ];
    assert_eq!(
        (
            spellings("x@BÜCHER.example"),
            spellings("x@xn--bcher-kva.example")
        ),
        (
            both.map(String::from).to_vec(),
            both.map(String::from).to_vec()
        )
    );
}

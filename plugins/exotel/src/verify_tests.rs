use super::*;

const REFERENCE: &str = "call-0d3b1c5e-7a1f-4a52-9a8b-0d6a3b1f2c4d";
const OTHER: &str = "call-1d3b1c5e-7a1f-4a52-9a8b-0d6a3b1f2c4d";
const SMS: &str = "sms-0d3b1c5e-7a1f-4a52-9a8b-0d6a3b1f2c4d";
const SID: &str = "80bfbec2d78bbbf10fb851f4fa165211";

fn request(query: &str, content_type: &str, body: &[u8]) -> Request {
    Request {
        name: "status".into(),
        method: "POST".into(),
        path: "/api/exotel/status".into(),
        query: query.into(),
        headers: vec![("content-type".into(), content_type.into())],
        body: body.to_vec(),
        ip: "203.0.113.7".into(),
        received_at: 1_780_000_000_000,
    }
}

fn judged(request: &Request) -> Result<Accepted, Rejected> {
    verify(request)
}

/// As the host gives it: without the token.
fn query(reference: &str) -> String {
    format!("reference={reference}")
}

fn read(content_type: &str, body: &[u8]) -> Event {
    read_at(REFERENCE, content_type, body)
}

fn read_at(reference: &str, content_type: &str, body: &[u8]) -> Event {
    let accepted =
        judged(&request(&query(reference), content_type, body)).unwrap_or_else(|r| panic!("{r:?}"));
    assert_eq!(accepted.jobs.len(), 1);
    assert_eq!(accepted.jobs[0].name, "event");
    serde_json::from_str(&accepted.jobs[0].data).expect("an event")
}

const FORM: &str = "application/x-www-form-urlencoded";

fn terminal_pairs() -> Vec<(&'static str, &'static str)> {
    vec![
        ("CallSid", SID),
        ("EventType", "terminal"),
        ("Status", "completed"),
        ("From", "09876543210"),
        ("To", "09123456789"),
        ("ConversationDuration", "320"),
        ("Legs[0][OnCallDuration]", "335"),
        ("Legs[0][Status]", "completed"),
        ("Legs[1][OnCallDuration]", "320"),
        ("Legs[1][AnsweredBy]", "Human"),
        ("EndTime", "2020-01-01 10:05:40"),
        ("RecordingUrl", "https://recordings.exotel.com/a.mp3"),
        ("CustomField", REFERENCE),
    ]
}

fn multipart(pairs: &[(&str, &str)]) -> (String, Vec<u8>) {
    let mut body = String::new();
    for (name, value) in pairs {
        body +=
            &format!("--XX\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    body += "--XX--\r\n";
    (
        "multipart/form-data; boundary=XX".to_owned(),
        body.into_bytes(),
    )
}

#[test]
fn one_event_in_three_content_types_is_one_event() {
    let pairs = terminal_pairs();
    let (kind, body) = multipart(&pairs);
    let parts = read(&kind, &body);
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(&pairs);
    let form = read(FORM, form.finish().as_bytes());
    let json = serde_json::json!({
        "CallSid": SID, "EventType": "terminal", "Status": "completed", "From": "09876543210", "To": "09123456789",
        "ConversationDuration": 320, "EndTime": "2020-01-01 10:05:40", "RecordingUrl": "https://recordings.exotel.com/a.mp3",
        "CustomField": REFERENCE, "StartTime": null,
        "Legs": [{ "OnCallDuration": 335, "Status": "completed" }, { "OnCallDuration": "320", "AnsweredBy": "Human" }],
    });
    let json = read(
        "application/json; charset=utf-8",
        json.to_string().as_bytes(),
    );
    assert_eq!(parts, form);
    assert_eq!(parts, json);
    assert_eq!(
        (parts.duration_s, parts.conversation_s),
        (Some(335), Some(320))
    );
    assert_eq!(parts.answered_by.as_deref(), Some("Human"));
    assert_eq!(parts.reference, REFERENCE);
}

#[test]
fn the_url_decides_which_row_is_meant_and_the_event_has_one_id() {
    let body = format!("CallSid={SID}&EventType=answered&Status=in-progress&CustomField={OTHER}");
    let accepted = judged(&request(&query(REFERENCE), FORM, body.as_bytes()))
        .unwrap_or_else(|r| panic!("{r:?}"));
    let id = format!("{REFERENCE}:{SID}:answered");
    assert_eq!(accepted.event_id, Some(id));
    assert_eq!(accepted.kind, "call.answered");
    let event: Event = serde_json::from_str(&accepted.jobs[0].data).expect("an event");
    assert_eq!(event.reference, REFERENCE);
    assert_eq!(event.received_at, 1_780_000_000_000);
    let sms = read_at(
        SMS,
        FORM,
        format!(
            "SmsSid={SID}&Status=sent&DetailedStatusCode=20005&DetailedStatus=DELIVERED_TO_HANDSET"
        )
        .as_bytes(),
    );
    assert_eq!(sms.id(), format!("{SMS}:{SID}:sent"));
    assert_eq!(sms.detailed_code.as_deref(), Some("20005"));
}

#[test]
fn the_same_news_under_the_url_of_another_row_is_another_event() {
    let body = format!("CallSid={SID}&EventType=terminal&Status=completed");
    let own = read_at(REFERENCE, FORM, body.as_bytes());
    let foreign = read_at(OTHER, FORM, body.as_bytes());
    assert_ne!(own.id(), foreign.id());
    assert_eq!(own.id(), read_at(REFERENCE, FORM, body.as_bytes()).id());
}

#[test]
fn news_of_a_call_under_the_url_of_a_message_is_refused_and_the_other_way_round() {
    for (reference, name) in [(SMS, "CallSid"), (REFERENCE, "SmsSid")] {
        let body = format!("{name}={SID}&Status=completed");
        let rejected =
            judged(&request(&query(reference), FORM, body.as_bytes())).expect_err(reference);
        assert_eq!(
            (rejected.status, rejected.code.as_str()),
            (400, "malformed"),
            "{reference}"
        );
    }
}

#[test]
fn a_url_that_names_no_row_is_refused() {
    let body = format!("CallSid={SID}&Status=completed");
    let twice = format!("reference={REFERENCE}&reference={OTHER}");
    for query in [
        "",
        "reference=",
        "reference=call-1",
        "Reference=call-0d3b1c5e-7a1f-4a52-9a8b-0d6a3b1f2c4d",
        "reference=lead-0d3b1c5e-7a1f-4a52-9a8b-0d6a3b1f2c4d",
        &twice,
    ] {
        let rejected = judged(&request(query, FORM, body.as_bytes())).expect_err(query);
        assert_eq!(
            (rejected.status, rejected.code.as_str()),
            (401, "bad-reference"),
            "{query}"
        );
    }
}

#[test]
fn hostile_bodies_are_refused_and_the_reason_shows_no_value() {
    let long = "x".repeat(9_000);
    let many = (0..300).map(|n| format!("a{n}=1&")).collect::<String>();
    let deep = format!(
        "{{\"CallSid\":\"{SID}\",\"Legs\":{}{}}}",
        "[".repeat(500),
        "]".repeat(500)
    );
    let list = format!(
        "{{\"CallSid\":\"{SID}\",\"Legs\":[{}]}}",
        vec!["1"; 300].join(",")
    );
    let forms: Vec<String> = vec![
        String::new(),
        "Status=completed".into(),
        "CallSid=&Status=completed".into(),
        "CallSid=null&Status=completed".into(),
        format!("CallSid={SID}"),
        format!("CallSid={SID}&SmsSid={SID}&Status=sent"),
        format!("CallSid={SID}&CallSid=another&Status=completed"),
        "CallSid=../../etc/passwd&Status=completed".into(),
        "CallSid=a%27%3Bdrop&Status=completed".into(),
        "CallSid=%00&Status=completed".into(),
        format!("CallSid={SID}&Status=a%00b"),
        format!("CallSid={SID}&Status=completed&CustomField={long}"),
        format!("{many}CallSid={SID}&Status=completed"),
        format!("CallSid={}&Status=completed", "a".repeat(65)),
        format!("CallSid={SID}&EventType={}", "e".repeat(65)),
    ];
    let mut cases: Vec<(String, Vec<u8>)> = forms
        .into_iter()
        .map(|body| (FORM.to_owned(), body.into_bytes()))
        .collect();
    for body in [
        "",
        "[]",
        "null",
        "\"a\"",
        "{",
        "{\"CallSid\":1,}",
        &deep,
        &list,
        &format!("{{\"CallSid\":\"{SID}\",\"Status\":\"busy\",\"Status\":\"completed\"}}"),
        &format!("{{\"CallSid\":{{\"a\":\"{SID}\"}},\"Status\":\"busy\"}}"),
    ] {
        cases.push(("application/json".into(), body.as_bytes().to_vec()));
    }
    let (kind, mut cut) = multipart(&terminal_pairs());
    cut.truncate(cut.len() - 30);
    cases.push((kind.clone(), cut));
    cases.push((kind.clone(), b"--XX\r\n\r\nno name\r\n--XX--\r\n".to_vec()));
    let (_, invalid) = multipart(&[("CallSid", SID), ("Status", "\u{1}")]);
    cases.push((kind, invalid));
    cases.push(("multipart/form-data".into(), multipart(&terminal_pairs()).1));
    cases.push((
        "multipart/form-data; boundary=YY".into(),
        multipart(&terminal_pairs()).1,
    ));
    cases.push(("text/plain".into(), b"CallSid=1&Status=busy".to_vec()));
    cases.push((FORM.into(), vec![0xff, 0xfe]));
    for (kind, body) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(120)]).into_owned();
        let rejected = judged(&request(&query(REFERENCE), &kind, &body))
            .map(|accepted| accepted.jobs[0].data.clone())
            .expect_err(&shown);
        assert_eq!(
            (rejected.status, rejected.code.as_str()),
            (400, "malformed"),
            "{shown}"
        );
        assert!(!rejected.message.contains(SID), "{}", rejected.message);
    }
}

#[test]
fn odd_values_are_left_out_and_the_rest_is_read() {
    let event = read(
        FORM,
        format!(
            "CallSid={SID}&EventType=Terminal&Status=Completed&ConversationDuration=-5&RecordingUrl=javascript:alert(1)\
             &CustomField=lead-123&Legs[0][OnCallDuration]=NaN&Legs[1][OnCallDuration]=17.9&Legs[99][OnCallDuration]=70\
             &Legs[0][AnsweredBy]=NA&Cause=NORMAL_CLEARING&Duration=1e99"
        )
        .as_bytes(),
    );
    assert_eq!(event.event, "terminal");
    assert_eq!(event.status.as_deref(), Some("completed"));
    assert_eq!(
        (event.conversation_s, event.recording_url, event.answered_by),
        (None, None, None)
    );
    assert_eq!(event.duration_s, Some(17));
}

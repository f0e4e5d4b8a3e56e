use patchbay_model::egress::CredentialPlaces;

use super::*;

const FORM: &str = "application/x-www-form-urlencoded";

fn bearer() -> Option<EgressAuth> {
    Some(EgressAuth::Bearer {
        token: "TOKEN".into(),
    })
}

fn named(kind: fn(String, String) -> EgressAuth) -> Option<EgressAuth> {
    Some(kind("Api-Key".into(), "TOKEN".into()))
}

fn header() -> Option<EgressAuth> {
    named(|name, value| EgressAuth::Header { name, value })
}

fn query() -> Option<EgressAuth> {
    named(|name, value| EgressAuth::Query { name, value })
}

fn form(server: &Server) -> EgressRule {
    let auth = named(|name, value| EgressAuth::Form { name, value });
    EgressRule {
        methods: vec!["POST".into()],
        ..rule(server.url("/**"), auth)
    }
}

#[tokio::test]
async fn every_kind_of_credential_arrives_as_its_standard_says() {
    let server = Server::silent().await;
    let basic = Some(EgressAuth::Basic {
        username: "USER".into(),
        password: "PASSWORD".into(),
    });
    send(rule(server.url("/**"), basic), get(server.url("/x")))
        .await
        .expect("a response");
    // "v4lue+of/USER?:v4lue+of/PASSWORD?"
    let expected = "Basic djRsdWUrb2YvVVNFUj86djRsdWUrb2YvUEFTU1dPUkQ/";
    assert_eq!(server.last().header("authorization"), Some(expected));

    send(rule(server.url("/**"), bearer()), get(server.url("/x")))
        .await
        .expect("a response");
    assert_eq!(
        server.last().header("authorization"),
        Some("Bearer v4lue+of/TOKEN?")
    );

    send(rule(server.url("/**"), header()), get(server.url("/x")))
        .await
        .expect("a response");
    assert_eq!(server.last().header("api-key"), Some("v4lue+of/TOKEN?"));

    send(
        rule(server.url("/**"), query()),
        get(server.url("/x?a=%41&b")),
    )
    .await
    .expect("a response");
    assert_eq!(
        server.last().uri.to_string(),
        "/x?a=%41&b&Api-Key=v4lue%2Bof%2FTOKEN%3F"
    );

    send(form(&server), post(server.url("/x"), FORM, "a=1&b=%20"))
        .await
        .expect("a response");
    let seen = server.last();
    assert_eq!(seen.body(), "a=1&b=%20&Api-Key=v4lue%2Bof%2FTOKEN%3F");
    assert_eq!(
        seen.header("content-length"),
        Some(seen.body.len().to_string().as_str())
    );

    let empty = HttpRequest {
        method: "POST".into(),
        ..get(server.url("/x"))
    };
    send(form(&server), empty).await.expect("a response");
    assert_eq!(server.last().body(), "Api-Key=v4lue%2Bof%2FTOKEN%3F");
    assert_eq!(server.last().header("content-type"), Some(FORM));
}

#[tokio::test]
async fn what_the_host_fills_in_the_guest_cannot_set() {
    let server = Server::silent().await;
    for (auth, name) in [
        (bearer(), "Authorization"),
        (header(), "api-key"),
        (header(), "API-KEY"),
        (header(), "api_key"),
    ] {
        let mut forged = get(server.url("/x"));
        forged.headers.push((name.into(), b"mine".to_vec()));
        let answer = send(rule(server.url("/**"), auth), forged).await;
        assert!(
            matches!(answer, Err(HttpError::Invalid(_))),
            "{name}: {answer:?}"
        );
    }
    for parameters in [
        "Api-Key=mine",
        "a=1&Api-Key=",
        "a=1;Api-Key=mine",
        "%41pi-Key=mine",
        "Api-Key",
        "a&+Api-Key=x",
    ] {
        let answer = send(
            rule(server.url("/**"), query()),
            get(server.url(&format!("/x?{parameters}"))),
        )
        .await;
        assert!(
            matches!(answer, Err(HttpError::Invalid(_))),
            "query {parameters}: {answer:?}"
        );
        let answer = send(form(&server), post(server.url("/x"), FORM, parameters)).await;
        assert!(
            matches!(answer, Err(HttpError::Invalid(_))),
            "form {parameters}: {answer:?}"
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_form_field_goes_into_form_bodies_only() {
    let server = Server::silent().await;
    for content_type in [
        "application/json",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded; charset=utf-16",
        "",
    ] {
        let answer = send(form(&server), post(server.url("/x"), content_type, "{}")).await;
        assert!(
            matches!(answer, Err(HttpError::Invalid(_))),
            "{content_type}: {answer:?}"
        );
    }
    let mut twice = post(server.url("/x"), FORM, "a=1");
    twice
        .headers
        .push(("Content-Type".into(), b"application/json".to_vec()));
    assert!(matches!(
        send(form(&server), twice).await,
        Err(HttpError::Invalid(_))
    ));
    let mut compressed = post(server.url("/x"), FORM, "a=1");
    compressed
        .headers
        .push(("content-encoding".into(), b"gzip".to_vec()));
    assert!(matches!(
        send(form(&server), compressed).await,
        Err(HttpError::Invalid(_))
    ));
    assert!(server.seen().is_empty());
    let fine = post(
        server.url("/x"),
        "Application/X-WWW-Form-URLEncoded; Charset=\"UTF-8\"",
        "a=1",
    );
    send(form(&server), fine).await.expect("a response");
}

#[tokio::test]
async fn a_secret_without_a_usable_value_is_an_error_and_nothing_is_sent() {
    let server = Server::silent().await;
    let plugin = Plugin::new(&[rule(server.url("/**"), bearer())]);
    let answer = plugin.send_with(&|_| None, get(server.url("/x"))).await;
    assert!(matches!(answer, Err(HttpError::Denied(text)) if text.contains("TOKEN")));
    let broken = |_: &str| Some(SecretValue::new("hunter2\r\nx-b: 2".into()));
    let answer = plugin.send_with(&broken, get(server.url("/x"))).await;
    assert!(
        matches!(&answer, Err(HttpError::Denied(text)) if !text.contains("hunter2")),
        "{answer:?}"
    );
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_named_credential_fills_in_all_its_places_and_nothing_that_the_guest_may_set() {
    let server = Server::silent().await;
    let pairs = |pairs: &[(&str, &str)]| {
        let owned = pairs
            .iter()
            .map(|(name, field)| ((*name).to_owned(), (*field).to_owned()));
        owned.collect::<std::collections::BTreeMap<_, _>>()
    };
    let query = EgressAuth::Credential(CredentialPlaces {
        query: pairs(&[("mid", "mid"), ("key", "key")]),
        header: pairs(&[("X-School", "mid")]),
        ..CredentialPlaces::default()
    });
    let reading = || EgressRule {
        methods: vec!["GET".into()],
        ..rule(server.url("/**"), Some(query.clone()))
    };
    send(reading(), get(server.url("/x?limit=5")))
        .await
        .expect("a response");
    let seen = server.last();
    assert_eq!(
        seen.uri.to_string(),
        "/x?limit=5&key=v4lue%2Bof%2Ffield%3Akey%3F&mid=v4lue%2Bof%2Ffield%3Amid%3F"
    );
    assert_eq!(seen.header("x-school"), Some("v4lue+of/field:mid?"));
    let own = get(server.url("/x?mid=mine"));
    assert!(matches!(
        send(reading(), own).await,
        Err(HttpError::Invalid(_))
    ));
    let form = EgressAuth::Credential(CredentialPlaces {
        form: pairs(&[("mid", "mid"), ("key", "key")]),
        ..CredentialPlaces::default()
    });
    let writing = EgressRule {
        methods: vec!["POST".into()],
        ..rule(server.url("/**"), Some(form))
    };
    send(writing, post(server.url("/x"), FORM, "email=a%40b"))
        .await
        .expect("a response");
    assert_eq!(
        &server.last().body[..],
        &b"email=a%40b&key=v4lue%2Bof%2Ffield%3Akey%3F&mid=v4lue%2Bof%2Ffield%3Amid%3F"[..]
    );
}

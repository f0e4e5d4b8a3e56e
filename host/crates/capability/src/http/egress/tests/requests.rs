use super::*;

#[tokio::test]
async fn what_no_rule_names_is_denied_without_a_connection() {
    let server = Server::silent().await;
    let plugin = Plugin::new(&[rule(server.url("/v1/**"), None)]);
    for url in [
        server.url("/v2/x"),
        server.url("/v11"),
        server.url("/v1/%2e%2e/x"),
        server.url("/v1/../x"),
        "http://example.com/v1/x".into(),
        format!("https://{}/v1/x", server.address),
        "http://127.0.0.1:1/v1/x".into(),
    ] {
        let answer = plugin.send(get(&url)).await;
        assert!(
            matches!(answer, Err(HttpError::Denied(_))),
            "{url}: {answer:?}"
        );
    }
    let delete = HttpRequest {
        method: "DELETE".into(),
        ..get(server.url("/v1/x"))
    };
    assert!(matches!(
        plugin.send(delete).await,
        Err(HttpError::Denied(_))
    ));
    let lower = HttpRequest {
        method: "get".into(),
        ..get(server.url("/v1/x"))
    };
    assert!(matches!(
        plugin.send(lower).await,
        Err(HttpError::Denied(_))
    ));
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn urls_with_several_readings_are_refused_without_a_connection() {
    let server = Server::silent().await;
    let plugin = Plugin::new(&[rule(server.url("/v1/**"), None)]);
    let port = server.address.port();
    for url in [
        server.url("/v1/..%2fv2"),
        server.url("/v1/%252e%252e/v2"),
        server.url("/v1\\..\\v2"),
        server.url("/v1//x"),
        server.url("/v1/..;/v2"),
        server.url("/v1/x%00"),
        server.url("/v1/x\r\nHost: evil"),
        format!("http://user:password@127.0.0.1:{port}/v1/x"),
        format!("http://example.com@127.0.0.1:{port}/v1/x"),
        format!("http://127.0.0.1:{port}\\@example.com/v1/x"),
        format!("http://localhost.:{port}/v1/x"),
        "file:///v1/x".into(),
        "/v1/x".into(),
    ] {
        let answer = plugin.send(get(&url)).await;
        assert!(
            matches!(answer, Err(HttpError::Invalid(_))),
            "{url:?}: {answer:?}"
        );
    }
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn what_is_matched_is_what_is_sent() {
    let server = Server::silent().await;
    let lookup = Scripted::new(&[&["127.0.0.1"]]);
    let port = server.address.port();
    let plugin = Plugin::resolving(
        &[rule(format!("http://api.example:{port}/v1/**"), None)],
        lookup.clone(),
    );
    for (path, expected) in [
        ("/v1/%61dmin/./x?q=%41#/../../secret", "/v1/admin/x?q=%41"),
        ("/v1/a/../b", "/v1/b"),
        ("/v1/%2e/%e2%82%ac", "/v1/%E2%82%AC"),
    ] {
        plugin
            .send(get(format!("HTTP://Api.Example:{port}{path}")))
            .await
            .expect("a response");
        let seen = server.last();
        assert_eq!(
            (seen.uri.to_string().as_str(), seen.header("host")),
            (expected, Some(&*format!("api.example:{port}")))
        );
    }
    assert!(lookup.asked().iter().all(|host| host == "api.example"));
}

#[tokio::test]
async fn the_rule_with_the_longest_literal_prefix_decides() {
    let server = Server::silent().await;
    let bearer = |token: &str| {
        Some(EgressAuth::Bearer {
            token: token.into(),
        })
    };
    let plugin = Plugin::new(&[
        rule(server.url("/**"), None),
        rule(server.url("/v1/**"), bearer("TOKEN")),
        rule(server.url("/v1/admin/**"), bearer("PASSWORD")),
        rule(server.url("/v1/accounts"), bearer("USER")),
    ]);
    for (path, expected) in [
        ("/x", None),
        ("/v1/x", Some("TOKEN")),
        ("/v1/%61dmin/x", Some("PASSWORD")),
        ("/v1/accounts", Some("USER")),
    ] {
        plugin
            .send(get(server.url(path)))
            .await
            .expect("a response");
        let expected = expected.map(|name| format!("Bearer {}", value(name)));
        assert_eq!(
            server.last().header("authorization"),
            expected.as_deref(),
            "{path}"
        );
    }
}

#[tokio::test]
async fn headers_that_belong_to_the_connection_or_break_lines_are_refused() {
    let server = Server::silent().await;
    let plugin = Plugin::new(&[rule(server.url("/**"), None)]);
    let with = |name: &str, value: &[u8]| {
        let mut request = get(server.url("/x"));
        request.headers.push((name.to_owned(), value.to_vec()));
        request
    };
    for (name, value) in [
        ("Host", &b"evil"[..]),
        ("connection", b"upgrade"),
        ("Content-Length", b"5"),
        ("content_length", b"5"),
        ("Transfer-Encoding", b"chunked"),
        ("transfer_encoding", b"chunked"),
        ("upgrade", b"h2c"),
        ("proxy-authorization", b"x"),
        ("X-HTTP-Method-Override", b"DELETE"),
        ("x_http_method_override", b"DELETE"),
        ("X-HTTP-Method", b"DELETE"),
        ("X-Method-Override", b"DELETE"),
        ("X-Original-URL", b"/admin"),
        ("x-rewrite-url", b"/admin"),
        ("X-Forwarded-For", b"127.0.0.1"),
        ("x-forwarded-host", b"evil"),
        ("X_Forwarded_Proto", b"https"),
        ("x-forwarded-prefix", b"/admin"),
        ("Forwarded", b"for=127.0.0.1;host=evil"),
        ("x-real-ip", b"127.0.0.1"),
        ("Via", b"1.1 us"),
        ("x-a", b"1\r\nx-b: 2"),
        ("x-a", b"1\nx-b: 2"),
        ("x-a", b"1\0"),
        ("x-a\r\nx-b", b"2"),
        ("x a", b"1"),
        ("", b"1"),
    ] {
        let answer = plugin.send(with(name, value)).await;
        assert!(
            matches!(answer, Err(HttpError::Invalid(_))),
            "{name:?}: {answer:?}"
        );
    }
    let many = HttpRequest {
        headers: vec![("x-a".into(), b"1".to_vec()); 40_000],
        ..get(server.url("/x"))
    };
    assert!(matches!(
        plugin.send(many).await,
        Err(HttpError::Invalid(_))
    ));
    assert!(matches!(
        plugin.send(with("x-a", &vec![b'x'; 100_000])).await,
        Err(HttpError::Invalid(_))
    ));
    let odd = HttpRequest {
        method: "GET /x HTTP/1.1\r\nx-a: 1\r\n\r\nGET".into(),
        ..get(server.url("/x"))
    };
    assert!(matches!(plugin.send(odd).await, Err(HttpError::Invalid(_))));
    assert!(server.seen().is_empty());

    plugin
        .send(with("x-mine", b"\xc3\xa9\t1"))
        .await
        .expect("a response");
    let seen = server.last();
    assert_eq!(
        seen.headers.get("x-mine").map(|value| value.as_bytes()),
        Some(&b"\xc3\xa9\t1"[..])
    );
    assert_eq!(seen.header("x-correlation-id"), Some("c-1"));
}

#[tokio::test]
async fn each_revision_has_connections_of_its_own_and_loses_them_when_it_is_gone() {
    let server = Server::silent().await;
    let rules = [rule(server.url("/**"), None)];
    install_tls();
    let egress = Egress::new(EgressConfig::default()).expect("a configuration");
    let call = async |name: &str, manifest: &Arc<Manifest>| {
        let revision = RevisionDigest::of(name.as_bytes());
        egress
            .send(caller(revision, manifest), get(server.url("/x")))
            .await
            .expect("a response");
        server.last().peer
    };
    let (first, second, third) = (manifest(&rules), manifest(&rules), manifest(&rules));
    let connection = call("first", &first).await;
    assert_eq!(call("first", &first).await, connection, "kept alive");
    let other = call("second", &second).await;
    assert_ne!(other, connection, "not shared between revisions");
    assert_eq!(egress.clients.len(), 2);
    drop(first);
    call("third", &third).await;
    assert_eq!(
        egress.clients.len(),
        2,
        "the first revision's client went, and no other"
    );
    assert_eq!(
        call("second", &second).await,
        other,
        "the second one kept its connection"
    );
}

#[tokio::test]
async fn a_rule_that_is_not_granted_sends_nothing() {
    let server = Server::silent().await;
    let plugin = Plugin::new(&[rule(
        server.url("/**"),
        Some(EgressAuth::Bearer {
            token: "TOKEN".into(),
        }),
    )]);
    let refused = |_: &EgressRule| Err("not granted".to_owned());
    let caller = Caller {
        permitted: &refused,
        ..caller(RevisionDigest::of(b"test"), &plugin.manifest)
    };
    let answer = plugin.egress.send(caller, get(server.url("/x"))).await;
    assert_eq!(answer, Err(HttpError::Denied("not granted".into())));
    assert!(server.seen().is_empty());
}

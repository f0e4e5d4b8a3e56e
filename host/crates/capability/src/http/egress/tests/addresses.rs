use super::*;

#[tokio::test]
async fn addresses_in_the_url_are_checked_in_every_spelling() {
    let server = Server::silent().await;
    let port = server.address.port();
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::169.254.169.254]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[::ffff:169.254.169.254]",
        "169.254.169.254",
        "10.0.0.1",
        "100.64.0.1",
        "192.168.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[ff02::1]",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
    ] {
        let url = format!("http://{host}:{port}/x");
        let closed = EgressRule {
            allow_addresses: Vec::new(),
            ..rule(url.clone(), None)
        };
        let answer = send(closed, get(url)).await;
        assert!(
            matches!(&answer, Err(HttpError::Denied(text)) if text.contains("not a public address")),
            "{host}: {answer:?}"
        );
    }
    assert!(server.seen().is_empty());
    for host in ["2130706433", "0x7f.1"] {
        let url = format!("http://{host}:{port}/x");
        send(rule(url.clone(), None), get(url))
            .await
            .expect("the same address, and allowed");
    }
}

#[tokio::test]
async fn a_name_with_only_private_addresses_is_denied() {
    let server = Server::silent().await;
    let port = server.address.port();
    for address in [
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
        "169.254.169.254",
        "10.1.2.3",
        "100.100.100.200",
        "64:ff9b::7f00:1",
    ] {
        let url = format!("http://api.example:{port}/x");
        let closed = EgressRule {
            allow_addresses: Vec::new(),
            ..rule(url.clone(), None)
        };
        let plugin = Plugin::resolving(&[closed], Scripted::new(&[&[address]]));
        let answer = plugin.send(get(url)).await;
        assert!(
            matches!(answer, Err(HttpError::Denied(_))),
            "{address}: {answer:?}"
        );
    }
    let url = format!("http://localhost:{port}/x");
    let closed = EgressRule {
        allow_addresses: Vec::new(),
        ..rule(url.clone(), None)
    };
    assert!(
        matches!(send(closed, get(url)).await, Err(HttpError::Denied(_))),
        "by the system's resolver"
    );
    assert!(server.seen().is_empty());
    let plugin = Plugin::resolving(&[rule("http://api.example/x", None)], Scripted::new(&[]));
    let answer = plugin.send(get("http://api.example/x")).await;
    assert!(
        matches!(answer, Err(HttpError::Dns(_))),
        "a name without an address is another error"
    );
}

#[tokio::test]
async fn of_a_mixed_answer_only_the_permitted_addresses_are_connected_to() {
    let permitted = TcpListener::bind("127.0.0.2:0").await.expect("a port");
    let port = permitted.local_addr().expect("an address").port();
    let permitted = Server::listening(permitted, |_| "permitted".into_response());
    let blocked = TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("the same port");
    let blocked = Server::listening(blocked, |_| "blocked".into_response());
    let url = format!("http://api.example:{port}/x");
    let rule = EgressRule {
        allow_addresses: vec!["127.0.0.2".into()],
        ..rule(url.clone(), None)
    };
    let plugin = Plugin::resolving(
        &[rule],
        Scripted::new(&[&["127.0.0.1", "127.0.0.2", "::1"]]),
    );
    assert_eq!(
        plugin.send(get(url)).await.expect("a response").body,
        b"permitted"
    );
    assert_eq!((permitted.seen().len(), blocked.seen().len()), (1, 0));
}

#[tokio::test]
async fn a_name_that_changes_its_address_after_the_check_reaches_nothing_new() {
    let permitted = TcpListener::bind("127.0.0.2:0").await.expect("a port");
    let port = permitted.local_addr().expect("an address").port();
    // Closes each connection, so that the next request has to connect again.
    let permitted = Server::listening(permitted, |_| {
        ([("connection", "close")], "permitted").into_response()
    });
    let blocked = TcpListener::bind(("127.0.0.1", port))
        .await
        .expect("the same port");
    let blocked = Server::listening(blocked, |_| "blocked".into_response());
    let url = format!("http://api.example:{port}/x");
    let rule = EgressRule {
        allow_addresses: vec!["127.0.0.2".into()],
        ..rule(url.clone(), None)
    };
    let lookup = Scripted::new(&[&["127.0.0.2"], &["127.0.0.1"]]);
    let plugin = Plugin::resolving(&[rule], lookup.clone());
    assert_eq!(
        plugin.send(get(&url)).await.expect("a response").body,
        b"permitted"
    );
    assert_eq!(
        lookup.asked(),
        ["api.example"],
        "one look-up for check and connection"
    );
    let rebound = plugin.send(get(&url)).await;
    assert!(
        matches!(&rebound, Err(HttpError::Denied(text)) if text.contains("not public")),
        "{rebound:?}"
    );
    assert_eq!((permitted.seen().len(), blocked.seen().len()), (1, 0));
}

#[tokio::test]
async fn the_operator_opens_networks_for_all_rules_and_nothing_beside_them() {
    let server = Server::silent().await;
    install_tls();
    let config = EgressConfig {
        allow_addresses: vec!["127.0.0.0/31".into()],
        ca_file: None,
        ..EgressConfig::default()
    };
    let egress = Egress::new(config).expect("a configuration");
    let rules = ["127.0.0.1", "127.0.0.2"].map(|host| EgressRule {
        allow_addresses: Vec::new(),
        ..rule(format!("http://{host}:{}/x", server.address.port()), None)
    });
    let manifest = manifest(&rules);
    let call = async |rule: &EgressRule| {
        egress
            .send(
                caller(RevisionDigest::of(b"test"), &manifest),
                get(&rule.url),
            )
            .await
    };
    assert!(call(&rules[0]).await.is_ok());
    assert!(matches!(call(&rules[1]).await, Err(HttpError::Denied(_))));
    let odd = Egress::new(EgressConfig {
        allow_addresses: vec!["everything".into()],
        ca_file: None,
        ..EgressConfig::default()
    });
    assert!(
        odd.err()
            .expect("refused")
            .to_string()
            .starts_with("egress.allow_addresses:")
    );
}

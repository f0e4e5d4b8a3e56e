//! Guessing the operator's password is slowed down, but the operator can still log in.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::harness::{Host, PASSWORD, USER, World};

/// Time between two checks of credentials that may be guesses.
const PACE: Duration = Duration::from_millis(200);

/// All of 127.0.0.0/8 is this machine. Each login uses a new connection, so that none is known to
/// have the right password.
async fn log_in(host: &Host, from: &str, password: &str) -> anyhow::Result<u16> {
    try_with(&client(from)?, host, password).await
}

fn client(from: &str) -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .no_proxy()
        .local_address(from.parse::<IpAddr>()?);
    Ok(builder.pool_max_idle_per_host(0).build()?)
}

async fn try_with(client: &reqwest::Client, host: &Host, password: &str) -> anyhow::Result<u16> {
    let request = client
        .get(format!("{}/api/admin/breakers", host.url))
        .basic_auth(USER, Some(password));
    Ok(request.send().await?.status().as_u16())
}

async fn guess(host: &Host, from: &str, times: usize) -> anyhow::Result<Duration> {
    let (client, began) = (client(from)?, Instant::now());
    for _ in 0..times {
        assert_eq!(
            try_with(&client, host, &uuid::Uuid::new_v4().to_string()).await?,
            401
        );
    }
    Ok(began.elapsed())
}

#[tokio::test]
async fn whoever_guesses_is_slowed_down_and_the_operator_gets_in_from_the_same_address()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for _ in 0..20 {
        assert_eq!(
            log_in(&host, "127.0.0.1", "an old password").await?,
            401,
            "a program that guesses nothing"
        );
    }
    guess(&host, "127.0.0.1", 10).await?;
    let took = guess(&host, "127.0.0.1", 6).await?;
    assert!(took >= PACE * 5, "one after another: {took:?}");
    assert_eq!(log_in(&host, "127.0.0.1", PASSWORD).await?, 200);
    // Many at once, without a pause.
    let guessers = (0..20).map(|_| async { guess(&host, "127.0.0.1", usize::MAX).await });
    let operator = async {
        for _ in 0..2 {
            assert_eq!(log_in(&host, "127.0.0.1", PASSWORD).await?, 200);
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = futures::future::try_join_all(guessers) => anyhow::bail!("they guess on: {ended:?}"),
        ended = tokio::time::timeout(Duration::from_secs(40), operator) => ended??,
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_that_is_logged_in_does_not_wait_for_those_who_guess() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    guess(&host, "127.0.0.1", 10).await?;
    assert_eq!(host.get("/api/admin/breakers").await?.0, 200);
    let guessers = (0..10).map(|_| async { guess(&host, "127.0.0.1", usize::MAX).await });
    let operator = async {
        let began = Instant::now();
        for _ in 0..50 {
            assert_eq!(host.get("/api/admin/breakers").await?.0, 200);
        }
        anyhow::Ok(began.elapsed())
    };
    let took = tokio::select! {
        ended = futures::future::try_join_all(guessers) => anyhow::bail!("they guess on: {ended:?}"),
        took = operator => took?,
    };
    assert!(took < PACE * 50, "each waited for its turn: {took:?}");
    Ok(())
}

#[tokio::test]
async fn guesses_from_many_addresses_are_slowed_down_as_one() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for n in 1..=50 {
        guess(&host, &format!("127.0.1.{n}"), 1).await?;
    }
    let began = Instant::now();
    for n in 1..=6 {
        guess(&host, &format!("127.0.1.{n}"), 1).await?;
    }
    let took = began.elapsed();
    assert!(took >= PACE * 5, "one after another: {took:?}");
    assert_eq!(log_in(&host, "127.0.2.1", PASSWORD).await?, 200);
    Ok(())
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_counts_by_itself() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")])
        .await?;
    let by_proxy = async |client: String, times: usize| {
        let began = Instant::now();
        for _ in 0..times {
            let wrong = uuid::Uuid::new_v4().to_string();
            let request = host
                .http
                .get(format!("{}/metrics", host.url))
                .basic_auth(USER, Some(wrong));
            // The header that the client itself sets changes nothing.
            let sent = request
                .header(
                    "x-forwarded-for",
                    format!("{}, {client}", uuid::Uuid::new_v4()),
                )
                .send()
                .await?;
            assert_eq!(sent.status(), 401);
        }
        anyhow::Ok(began.elapsed())
    };
    by_proxy("192.0.2.1".into(), 10).await?;
    let took = by_proxy("192.0.2.1".into(), 6).await?;
    assert!(took >= PACE * 5, "{took:?}");
    let mut others = Duration::ZERO;
    for n in 0..20 {
        others += by_proxy(format!("192.0.3.{n}"), 1).await?;
    }
    assert!(others < PACE * 20, "others wait for nobody: {others:?}");
    Ok(())
}

#[tokio::test]
async fn guesses_from_networks_that_never_failed_before_are_slowed_down_and_a_known_one_is_not()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world
        .host(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")])
        .await?;
    let from = async |network: String, password: &str| {
        let client = client("127.0.0.1")?;
        let request = client
            .get(format!("{}/api/admin/breakers", host.url))
            .basic_auth(USER, Some(password))
            .header("x-forwarded-for", network);
        anyhow::Ok(request.send().await?.status().as_u16())
    };
    let (home, wrong) = ("198.51.100.1", "one password for all");
    assert_eq!(from(home.to_owned(), PASSWORD).await?, 200);
    for n in 0..50 {
        assert_eq!(from(format!("2001:db8:{n:x}::1"), wrong).await?, 401);
    }
    let began = Instant::now();
    for n in 50..56 {
        assert_eq!(from(format!("2001:db8:{n:x}::1"), wrong).await?, 401);
    }
    let took = began.elapsed();
    assert!(took >= PACE * 5, "one after another: {took:?}");
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(from(home.to_owned(), PASSWORD).await?, 200);
    }
    let took = began.elapsed();
    assert!(took < PACE * 20, "it waits for nobody: {took:?}");
    assert_eq!(from("192.0.2.1".to_owned(), PASSWORD).await?, 200);
    Ok(())
}

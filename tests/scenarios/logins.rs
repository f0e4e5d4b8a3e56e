//! Guessing the operator's password is slowed down, and the operator gets in all the same.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;

use crate::harness::{Host, PASSWORD, USER, World, until};

/// Status, and `Retry-After` in seconds. All of 127.0.0.0/8 is this machine.
async fn log_in(host: &Host, from: &str, password: &str) -> anyhow::Result<(u16, Option<u64>)> {
    let client = reqwest::Client::builder().no_proxy().local_address(from.parse::<IpAddr>()?).build()?;
    let request = client.get(format!("{}/api/admin/breakers", host.url)).basic_auth(USER, Some(password));
    answer(request).await
}

async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, Option<u64>)> {
    let response = request.send().await?;
    let retry_after = response.headers().get("retry-after").map(|value| value.to_str().map(str::to_owned));
    let retry_after = retry_after.transpose()?.map(|seconds| seconds.parse()).transpose()?;
    Ok((response.status().as_u16(), retry_after))
}

#[tokio::test]
async fn whoever_guesses_must_wait_and_the_operator_gets_in_from_another_address() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for _ in 0..20 {
        assert_eq!(log_in(&host, "127.0.0.1", "an old password").await?, (401, None), "a program that guesses nothing");
    }
    for n in 1..10 {
        assert_eq!(log_in(&host, "127.0.0.1", &format!("guess {n}")).await?, (401, None));
    }
    let (status, retry_after) = log_in(&host, "127.0.0.1", PASSWORD).await?;
    assert_eq!(status, 429, "the right password is not looked at, or guessing would go on");
    assert_eq!(retry_after, Some(1));
    assert_eq!(log_in(&host, "127.0.0.2", PASSWORD).await?.0, 200);
    let waited = until(Duration::from_secs(10), "the wait is over", async || {
        Ok(Some(log_in(&host, "127.0.0.1", PASSWORD).await?.0).filter(|status| *status != 429))
    });
    assert_eq!(waited.await?, 200);
    assert_eq!(log_in(&host, "127.0.0.1", "mistyped").await?.0, 401, "counted from nothing");
    Ok(())
}

#[tokio::test]
async fn guesses_from_many_addresses_are_slowed_down_as_one() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    for n in 1..=60 {
        assert_eq!(
            log_in(&host, &format!("127.0.1.{n}"), &format!("guess {n}")).await?.0,
            401,
            "each may mistype once"
        );
    }
    let (status, retry_after) = log_in(&host, "127.0.1.60", "guess").await?;
    assert_eq!(status, 429);
    assert!(retry_after.context("a time")? > 10, "{retry_after:?}");
    assert_eq!(log_in(&host, "127.0.2.1", PASSWORD).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn behind_a_trusted_proxy_each_client_counts_by_itself() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[("PATCHBAY_HTTP_TRUSTED_PROXIES", "127.0.0.0/8")]).await?;
    let by_proxy = async |client: &str, password: &str| {
        let request = host.http.get(format!("{}/metrics", host.url)).basic_auth(USER, Some(password));
        answer(request.header("x-forwarded-for", client)).await
    };
    for n in 0..10 {
        // What it says about itself changes nothing.
        assert_eq!(by_proxy(&format!("203.0.113.{n}, 192.0.2.1"), &format!("guess {n}")).await?.0, 401);
    }
    assert_eq!(by_proxy("192.0.2.1", PASSWORD).await?.0, 429);
    assert_eq!(by_proxy("192.0.2.2", PASSWORD).await?.0, 200);
    Ok(())
}

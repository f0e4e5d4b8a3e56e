//! The emergency login.

use super::*;

#[tokio::test]
async fn the_emergency_login_works_once_per_code_and_is_recorded() -> anyhow::Result<()> {
    let world = World::new().await?;
    let (exit, printed) = world.output(&["hash-password"], &[]).await?;
    assert_eq!(exit, Some(4), "no password on standard input: {printed}");
    let hash = hashed("the emergency password")?;
    let secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";
    let env = [
        ("PATCHBAY_PEOPLE_MASTER_PASSWORD_HASH", hash.as_str()),
        ("PATCHBAY_PEOPLE_MASTER_TOTP_SECRET", secret),
    ];
    let host = world.host(&with(&env)).await?;
    verified(&world, &host, "ada@example.com").await?;
    let log_in = async |password: &str, totp: &str| {
        post(
            &host,
            "/api/auth/master-login",
            json!({ "email": "ada@example.com", "masterPassword": password, "totp": totp }),
        )
        .await
    };
    // This half minute's code and the next one's are both good also when it ends meanwhile.
    let now = chrono::Utc::now().timestamp() / 30;
    let (status, body) = log_in("the emergency password", &totp(secret, now)?).await?;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["refreshToken"], Value::Null);
    let token = text(&body["token"]);
    assert_eq!(profile(&host, &token).await?, 200);
    assert_eq!(
        log_in("the emergency password", &totp(secret, now)?)
            .await?
            .0,
        401,
        "the code was used"
    );
    assert_eq!(
        log_in("another password", &totp(secret, now + 1)?).await?.0,
        401
    );
    assert_eq!(
        log_in("the emergency password", &totp(secret, now + 1)?)
            .await?
            .0,
        401,
        "spent with the wrong password"
    );
    let request = host
        .http
        .post(format!("{}/api/auth/change-password", host.url))
        .bearer_auth(&token)
        .json(&json!({ "currentPassword": PASSWORD, "newPassword": "another password" }));
    assert_eq!(answer(request).await?.0, 403);
    let mut database = world.database().await?;
    let actions: Vec<(String,)> = sqlx::query_as(
        "select action from patchbay.audit_entries where trail = 'login_logs' order by id",
    )
    .fetch_all(&mut database)
    .await?;
    let actions: Vec<&str> = actions.iter().map(|(action,)| action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "login",
            "master_login",
            "master_login_failed",
            "master_login_failed",
            "master_login_failed"
        ]
    );
    Ok(())
}

#[tokio::test]
async fn emergency_logins_from_elsewhere_are_limited_before_they_are_noted() -> anyhow::Result<()> {
    let world = World::new().await?;
    let hash = hashed("the emergency password")?;
    let env = [
        ("PATCHBAY_PEOPLE_MASTER_PASSWORD_HASH", hash.as_str()),
        (
            "PATCHBAY_PEOPLE_MASTER_TOTP_SECRET",
            "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP",
        ),
        ("PATCHBAY_PEOPLE_MASTER_NETWORKS", "10.0.0.0/8"),
    ];
    let host = world.host(&with(&env)).await?;
    let mut statuses = Vec::new();
    for _ in 0..30 {
        let body =
            json!({ "email": "ada@example.com", "masterPassword": "a guess", "totp": "000000" });
        statuses.push(post(&host, "/api/auth/master-login", body).await?.0);
    }
    let failed = statuses.iter().filter(|status| **status == 401).count();
    assert_eq!(&statuses[..3], &[401; 3], "{statuses:?}");
    assert!(failed < 10 && statuses.contains(&429), "{statuses:?}");
    let mut database = world.database().await?;
    let noted: i64 = sqlx::query_scalar(
        "select count(*) from patchbay.audit_entries where action = 'master_login_failed'",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!(noted, i64::try_from(failed)?);
    let metrics = crate::metrics::scrape(&host).await?;
    let labels = [
        ("kind", "user"),
        ("method", "master"),
        ("result", "limited"),
    ];
    let limited = metrics.value("patchbay_logins_total", &labels)?;
    assert_eq!(limited, (30 - failed) as f64, "the rest is counted");
    Ok(())
}

pub(super) fn hashed(password: &str) -> anyhow::Result<String> {
    use std::io::Write;
    let mut child = std::process::Command::new(binary())
        .args(["hash-password"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    child
        .stdin
        .take()
        .context("stdin")?
        .write_all(password.as_bytes())?;
    let output = child.wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// RFC 6238, computed a second time.
pub fn totp(secret: &str, step: i64) -> anyhow::Result<String> {
    use hmac::{Hmac, KeyInit, Mac};
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (mut bits, mut length, mut key) = (0_u64, 0, Vec::new());
    for c in secret.chars() {
        bits = (bits << 5) | u64::try_from(alphabet.find(c).context("base32")?)?;
        length += 5;
        if length >= 8 {
            length -= 8;
            key.push((bits >> length) as u8);
        }
    }
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(&key)?;
    mac.update(&step.to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = usize::from(digest[19] & 15);
    let number = u32::from_be_bytes(digest[offset..offset + 4].try_into()?) & 0x7fff_ffff;
    Ok(format!("{:06}", number % 1_000_000))
}

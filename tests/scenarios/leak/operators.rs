//! Secrets of operators, of their programs and of vendors, made and used in every way.

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::needles::Planted;
use super::{Drill, ODD};
use crate::harness::Host;
use crate::people::totp;

/// Of values that begin with what is shown in lists, this much of the end is secret.
const SECRET_END: usize = 40;

fn text(value: &Value) -> anyhow::Result<String> {
    Ok(value.as_str().context("a text")?.to_owned())
}

fn end(value: &str) -> &str {
    &value[value.len().saturating_sub(SECRET_END)..]
}

async fn post(host: &Host, path: &str, body: &Value) -> anyhow::Result<(Option<String>, Value)> {
    let request = host.http.post(host.url.clone() + path).json(body);
    let response = request.send().await?;
    let cookie = response.headers().get("set-cookie");
    let cookie = cookie.and_then(|line| line.to_str().ok()?.split(';').next());
    let cookie = cookie.map(str::to_owned);
    Ok((cookie, response.json().await?))
}

/// An operator who enrols, logs in and makes a token, and a key of a vendor; the key's prefix.
pub async fn plant(drill: &mut Drill) -> anyhow::Result<String> {
    let host = &drill.host;
    let password = Planted::new("own password of an operator", ODD);
    let mistyped = Planted::new("mistyped password of an operator", ODD);
    let new = json!({ "name": "ada", "role": "owner", "maySeeData": true });
    let (status, made) = host.post("/api/admin/operators", new).await?;
    ensure!(status == 200, "{made}");
    let link = text(&made["data"]["link"])?;
    let (_, offer) = post(
        host,
        "/api/admin/enrolment/begin",
        &json!({ "link": &link }),
    )
    .await?;
    let totp_secret = text(&offer["data"]["totpSecret"])?;
    let code = totp(&totp_secret, chrono::Utc::now().timestamp() / 30)?;
    let complete = json!({ "link": &link, "password": &password.value, "totp": code });
    let (_, done) = post(host, "/api/admin/enrolment/complete", &complete).await?;
    let codes = done["data"]["recoveryCodes"].as_array();
    let codes = codes.with_context(|| done.to_string())?;
    let (spent, unused) = (text(&codes[0])?, text(&codes[1])?);
    let wrong = json!({ "name": "ada", "password": &mistyped.value, "recoveryCode": &unused });
    let (_, refused) = post(host, "/api/admin/session", &wrong).await?;
    ensure!(refused["success"] == false, "{refused}");
    let right = json!({ "name": "ada", "password": &password.value, "recoveryCode": &spent });
    let (cookie, logged_in) = post(host, "/api/admin/session", &right).await?;
    let cookie = cookie.with_context(|| logged_in.to_string())?;

    let new = json!({ "name": "deploys", "scopes": ["all:read"] });
    let request = host
        .http
        .post(format!("{}/api/admin/tokens", host.url))
        .header("cookie", &cookie)
        .json(&new);
    let made: Value = request.send().await?.json().await?;
    let token = text(&made["data"]["secret"])?;
    let new = json!({ "name": "a vendor", "scopes": ["leads:read"] });
    let (status, issued) = host.post("/api/admin/vendor-keys", new).await?;
    ensure!(status == 200, "{issued}");
    let key = text(&issued["data"]["secret"])?;
    for (path, name, value) in [
        (
            "/api/admin/queues",
            "authorization",
            format!("Bearer {token}"),
        ),
        ("/api/admin/queues", "cookie", cookie.clone()),
        ("/api/vendor/key", "x-api-key", key.clone()),
    ] {
        let request = host.http.get(host.url.clone() + path).header(name, value);
        let status = request.send().await?.status();
        ensure!(status == 200, "{path}: {status}");
    }
    let (_, session) = cookie.split_once('=').context("a cookie")?;
    let given = [
        ("link of an operator", end(&link)),
        ("second factor of an operator", &totp_secret),
        ("spent recovery code", &spent),
        ("recovery code", &unused),
        ("session of an operator", end(session)),
        ("token of a program", end(&token)),
        ("key of a vendor", end(&key)),
    ];
    let secrets = &mut drill.secrets.0;
    secrets.extend(given.map(|(name, value)| (name, Planted::given(name, value))));
    secrets.extend([password, mistyped].map(|planted| (planted.name, planted)));
    text(&issued["data"]["key"]["prefix"])
}

//! Who may call what: every operation of the OpenAPI document, called by everybody, compared with
//! one table.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::{Value, json};

use crate::harness::{Host, PASSWORD, USER, World, repository};
use crate::people::{PEOPLE, verified};

/// Operations that end the session of whoever calls them.
const ENDS_A_SESSION: [&str; 2] = ["auth.logout", "auth.logout_all"];

/// Who calls.
#[derive(Clone)]
enum Who {
    Nobody,
    Token(String),
    Operator(&'static str),
}

async fn call(host: &Host, method: &str, path: &str, who: &Who) -> anyhow::Result<String> {
    let filled: String = path
        .split('/')
        .map(|part| if part.starts_with('{') { "none" } else { part })
        .collect::<Vec<_>>()
        .join("/");
    let request = host
        .http
        .request(method.to_uppercase().parse()?, host.url.clone() + &filled);
    let request = match who {
        Who::Nobody => request,
        Who::Token(token) => request.bearer_auth(token),
        Who::Operator(password) => request.basic_auth(USER, Some(password)),
    };
    Ok(match request.send().await?.status().as_u16() {
        refused @ (401 | 403) => refused.to_string(),
        _ => "in".to_owned(),
    })
}

async fn log_in(host: &Host, email: &str) -> anyhow::Result<String> {
    let body = json!({ "email": email, "password": crate::people::PASSWORD });
    let request = host
        .http
        .post(format!("{}/api/auth/login", host.url))
        .json(&body);
    let answer: Value = request.send().await?.json().await?;
    Ok(answer["token"].as_str().context("a token")?.to_owned())
}

#[tokio::test]
async fn who_may_call_which_operation_is_as_in_the_table() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&PEOPLE).await?;
    verified(&world, &host, "ada@example.com").await?;
    let admin = verified(&world, &host, "root@example.com").await?;
    let id = admin["user"]["id"].as_str().context("an id")?;
    let role = json!({ "role": "admin" });
    let (status, _) = host
        .put(&format!("/api/admin/people/{id}/role"), role)
        .await?;
    assert_eq!(status, 200);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(
        repository().join("docs/openapi.json"),
    )?)?;
    let mut tokens = (
        log_in(&host, "ada@example.com").await?,
        log_in(&host, "root@example.com").await?,
    );
    let mut table = BTreeMap::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("methods")? {
            let id = operation["operationId"].as_str().context("an id")?;
            let reads = operation["x-patchbay-effect"] == "reads";
            let mut callers = vec![
                ("nobody", Who::Nobody),
                ("forged token", Who::Token("e30.e30.e30".into())),
                ("user", Who::Token(tokens.0.clone())),
                ("admin", Who::Token(tokens.1.clone())),
                ("wrong operator", Who::Operator("wrong")),
            ];
            // Whether an operator gets in is shown by what does no harm.
            if reads || ENDS_A_SESSION.contains(&id) {
                callers.push(("operator", Who::Operator(PASSWORD)));
            }
            let mut row = Vec::new();
            for (name, who) in callers {
                row.push(format!("{name} {}", call(&host, method, path, &who).await?));
            }
            table.insert(id.to_owned(), row.join(", "));
            if ENDS_A_SESSION.contains(&id) {
                tokens = (
                    log_in(&host, "ada@example.com").await?,
                    log_in(&host, "root@example.com").await?,
                );
            }
        }
    }
    let lines: Vec<String> = table
        .into_iter()
        .map(|(id, row)| format!("{id}: {row}\n"))
        .collect();
    let (text, file) = (
        lines.concat(),
        repository().join("tests/snapshots/access.txt"),
    );
    if std::env::var_os("PATCHBAY_TEST_UPDATE").is_some() {
        std::fs::write(&file, &text)?;
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(
        kept, text,
        "compare, then update with PATCHBAY_TEST_UPDATE=1"
    );
    Ok(())
}

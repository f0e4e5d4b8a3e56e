//! The OpenAPI document, checked with the tools of its readers.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::{PASSWORD, USER, World, hostile_plugin, repository};

const QUEUE: &str = "hostileQueue";

pub fn interop() -> anyhow::Result<PathBuf> {
    Ok(repository().join("tests/interop").canonicalize()?)
}

/// The output of a program of the interop folder, when it succeeds.
async fn printed(program: &str, arguments: &[&str], dir: &Path) -> anyhow::Result<String> {
    printed_with(program, arguments, dir, &[]).await
}

/// The same, with more in its environment.
pub async fn printed_with(
    program: &str,
    arguments: &[&str],
    dir: &Path,
    env: &[(&str, &str)],
) -> anyhow::Result<String> {
    let interop = interop()?;
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(interop.join(program));
    // The Python generator calls a formatter from this directory.
    command.args(arguments).current_dir(dir).env(
        "PATH",
        format!("{}:{path}", interop.join(".venv/bin").display()),
    );
    command.envs(env.iter().copied());
    let output = command
        .output()
        .await
        .with_context(|| format!("{program}: run `make test`, which installs it"))?;
    let [out, err] =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {out}{err}"
    );
    Ok(out)
}

/// The document as a host serves it, in a file.
pub async fn served(url: &str, dir: &Path) -> anyhow::Result<String> {
    let file = dir.join("document.json");
    std::fs::write(
        &file,
        reqwest::get(format!("{url}/api/openapi.json"))
            .await?
            .text()
            .await?,
    )?;
    Ok(file.to_str().context("a path")?.to_owned())
}

#[tokio::test]
async fn validators_find_no_error_in_the_document() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    validate(&host.url, world.dir.path()).await
}

/// Fails where a validator finds an error in the document that a host serves.
pub async fn validate(url: &str, dir: &Path) -> anyhow::Result<()> {
    let file = served(url, dir).await?;
    printed(".venv/bin/openapi-spec-validator", &[&file], dir).await?;
    let lint = printed(
        "node_modules/.bin/redocly",
        &["lint", &file, "--format=json", "--max-problems=1000"],
        dir,
    )
    .await?;
    // The program prints other text around the JSON.
    let report: Value = serde_json::from_str(&lint[lint.find('{').context("JSON")?..])?;
    assert_eq!(report["totals"]["errors"], 0, "{report}");
    Ok(())
}

#[tokio::test]
async fn generated_clients_compile_and_drive_the_host() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    host.deploy("hostile", hostile_plugin()?).await?;
    let dir = world.dir.path();
    let file = served(&host.url, dir).await?;
    let expected = |id: &Value| json!({ "id": id, "code": "unknown-queue", "success": true });
    let drive = [host.url.as_str(), USER, PASSWORD, QUEUE];

    let typescript = dir.join("typescript");
    std::fs::create_dir(&typescript)?;
    std::fs::write(typescript.join("package.json"), r#"{"type":"module"}"#)?;
    std::fs::copy(
        interop()?.join("openapi/client.ts"),
        typescript.join("client.ts"),
    )?;
    std::os::unix::fs::symlink(
        interop()?.join("node_modules"),
        typescript.join("node_modules"),
    )?;
    printed(
        "node_modules/.bin/openapi-typescript",
        &[&file, "--output", "document.d.ts"],
        &typescript,
    )
    .await?;
    let strict = [
        "--strict",
        "--noEmitOnError",
        "--skipLibCheck",
        "--target",
        "es2022",
        "--module",
        "nodenext",
    ];
    let compile = [&strict[..], &["--lib", "es2022,dom", "client.ts"]].concat();
    printed("node_modules/.bin/tsc", &compile, &typescript).await?;
    let output = Command::new("node")
        .arg("client.js")
        .args(drive)
        .current_dir(&typescript)
        .output()
        .await?;
    let told: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    assert_eq!(told, expected(&told["id"]));
    host.job_in(QUEUE, told["id"].as_str().context("an id")?, "completed")
        .await?;

    let generate = [
        "generate",
        "--meta",
        "none",
        "--path",
        &file,
        "--output-path",
        "client",
    ];
    printed(".venv/bin/openapi-python-client", &generate, dir).await?;
    let script = interop()?.join("openapi/client.py");
    let run = [
        &[
            script.to_str().context("a path")?,
            dir.to_str().context("a path")?,
        ],
        &drive[..],
    ]
    .concat();
    let told: Value = serde_json::from_str(&printed(".venv/bin/python", &run, dir).await?)?;
    assert_eq!(told, expected(&told["id"]));
    host.job_in(QUEUE, told["id"].as_str().context("an id")?, "completed")
        .await?;
    Ok(())
}

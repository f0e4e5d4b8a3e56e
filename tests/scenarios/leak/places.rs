//! Places where a value could appear: everything that a host stores, writes and answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{Host, PASSWORD, USER, World, binary};

/// All keys of a server, and their content.
pub async fn redis(world: &World) -> anyhow::Result<Vec<u8>> {
    let mut redis = world.redis().await?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut redis).await?;
    let mut content = Vec::new();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await?;
        let (read, all): (&str, &[&str]) = match kind.as_str() {
            "string" => ("GET", &[]),
            "hash" => ("HGETALL", &[]),
            "set" => ("SMEMBERS", &[]),
            "list" => ("LRANGE", &["0", "-1"]),
            "zset" => ("ZRANGE", &["0", "-1"]),
            "stream" => ("XRANGE", &["-", "+"]),
            // Deleted in the meantime.
            "none" => continue,
            other => bail!("{key} is a {other}"),
        };
        content.extend(key.as_bytes());
        let held: redis::Value = redis::cmd(read)
            .arg(&key)
            .arg(all)
            .query_async(&mut redis)
            .await?;
        flatten(&held, &mut content);
    }
    Ok(content)
}

fn flatten(value: &redis::Value, content: &mut Vec<u8>) {
    match value {
        redis::Value::BulkString(bytes) => content.extend(bytes),
        redis::Value::SimpleString(text) => content.extend(text.as_bytes()),
        redis::Value::Array(values) | redis::Value::Set(values) => {
            values.iter().for_each(|value| flatten(value, content));
        }
        redis::Value::Map(pairs) => pairs.iter().for_each(|(key, value)| {
            flatten(key, content);
            flatten(value, content);
        }),
        _ => {}
    }
    content.push(b'\n');
}

/// A backup of the whole database, logins included.
pub async fn dump(world: &World) -> anyhow::Result<Vec<u8>> {
    // Debian has a directory per version; the newest version reads all older ones.
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions.map(|version| version.path()).max_by_key(|path| {
        path.file_name()
            .and_then(|name| name.to_str()?.parse::<u32>().ok())
            .unwrap_or_default()
    });
    let program = |name: &str| {
        newest
            .as_ref()
            .map_or_else(|| name.into(), |dir| dir.join("bin").join(name))
    };
    let mut content = Vec::new();
    for (name, argument) in [("pg_dump", "--no-sync"), ("pg_dumpall", "--globals-only")] {
        let output = Command::new(program(name))
            .arg(argument)
            .arg("--dbname")
            .arg(&world.database_url)
            .output()
            .await?;
        ensure!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        content.extend(output.stdout);
    }
    Ok(content)
}

/// Files below a directory, with their names.
pub fn files(dir: &Path) -> anyhow::Result<Vec<u8>> {
    let mut content = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        content.extend(path.as_os_str().as_encoded_bytes());
        content.extend(if path.is_dir() {
            files(&path)?
        } else {
            std::fs::read(&path)?
        });
    }
    Ok(content)
}

/// Every readable operation of the API with all its parameters, with and without credentials.
pub async fn answers(
    host: &Host,
    parameters: &BTreeMap<&str, Vec<String>>,
) -> anyhow::Result<Vec<u8>> {
    let (_, document) = host.get("/api/openapi.json").await?;
    let mut content = Vec::new();
    for (template, methods) in document["paths"].as_object().context("paths")? {
        if methods["get"].is_null() || template == "/metrics" {
            continue;
        }
        for path in paths(template, &methods["get"]["parameters"], parameters)? {
            for password in [PASSWORD, "wrong"] {
                let request = host
                    .http
                    .get(host.url.clone() + &path)
                    .basic_auth(USER, Some(password));
                let answer = request.send().await?;
                content.extend(format!("{path} {:?}", answer.headers()).into_bytes());
                content.extend(answer.bytes().await?);
            }
        }
    }
    Ok(content)
}

fn paths(
    template: &str,
    listed: &Value,
    known: &BTreeMap<&str, Vec<String>>,
) -> anyhow::Result<Vec<String>> {
    let mut paths = vec![template.to_owned()];
    for parameter in listed.as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().context("a name")?;
        let place = format!("{{{name}}}");
        let values = match known.get(name) {
            Some(values) => values,
            None if parameter["required"] == false => continue,
            None => bail!("{template}: what can {name} be?"),
        };
        let with = |path: &String, value: &String| {
            if path.contains(&place) {
                path.replace(&place, value)
            } else {
                query(path, name, value)
            }
        };
        paths = paths
            .iter()
            .flat_map(|path| values.iter().map(move |value| with(path, value)))
            .collect();
    }
    Ok(paths)
}

fn query(path: &str, name: &str, value: &str) -> String {
    format!(
        "{path}{}{name}={value}",
        if path.contains('?') { '&' } else { '?' }
    )
}

/// The output of a command with exactly these variables.
pub async fn command(
    world: &World,
    env: &[(&str, &str)],
    args: &[&str],
) -> anyhow::Result<Vec<u8>> {
    let mut command = Command::new(std::path::absolute(binary())?);
    command
        .args(args)
        .current_dir(world.dir.path())
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default());
    command
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let output = output.with_context(|| format!("{args:?} does not end"))??;
    Ok([output.stdout, output.stderr].concat())
}

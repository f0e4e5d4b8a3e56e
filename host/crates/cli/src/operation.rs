//! `patchbay plugin call`: calls an operation of a plugin and prints its answer.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use base64::Engine;
use clap::Args;
use patchbay_api::path::api_path;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Output;
use super::client::{Answered, Client};
use super::input::given;
use super::output::plain;

#[derive(Debug, Args)]
pub struct Call {
    /// Name of the plugin
    plugin: String,
    /// Name of the operation
    operation: String,
    /// Input of the operation: JSON, @FILE, or - for standard input
    #[arg(long, value_name = "JSON", default_value = "{}")]
    input: String,
    /// Write the unchanged answer to this file instead of printing it
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(crate) async fn run(args: Call, client: &Client, output: Output) -> anyhow::Result<()> {
    let input = given(args.input)?;
    let input = RawValue::from_string(input.trim().to_owned()).context("--input is not JSON")?;
    let path = api_path(&["plugins", &args.plugin, "call"]);
    let answered = client.answer(&path, &args.operation, &input).await?;
    match &args.output {
        Some(file) => {
            std::fs::write(file, &answered.content)
                .with_context(|| format!("cannot write {}", file.display()))?;
            let text = format!("{} bytes in {}", answered.content.len(), file.display());
            let value = describe(
                &answered,
                json!({ "file": file, "bytes": answered.content.len() }),
            );
            output.value(&text, &value);
        }
        None => print(&answered, output)?,
    }
    if answered.kind == "relay" && answered.http_status >= 400 {
        bail!(
            "The server behind the plugin answered with HTTP status {}",
            answered.http_status
        );
    }
    Ok(())
}

fn print(answered: &Answered, output: Output) -> anyhow::Result<()> {
    let content = &answered.content;
    if output.json {
        let data = match answered.kind.as_str() {
            "json" => json!({ "data": serde_json::from_slice::<Value>(content)? }),
            "empty" => json!({}),
            _ => json!({ "base64": base64::engine::general_purpose::STANDARD.encode(content) }),
        };
        output.value("", &describe(answered, data));
        return Ok(());
    }
    match answered.kind.as_str() {
        "json" => println!(
            "{}",
            serde_json::to_string_pretty(&serde_json::from_slice::<Value>(content)?)?
        ),
        "empty" => output.note("Done. The answer is empty"),
        _ if std::io::stdout().is_terminal()
            && !std::str::from_utf8(content).is_ok_and(|text| plain(text) == text) =>
        {
            let kind = answered.content_type.as_deref().unwrap_or("unknown type");
            bail!(
                "The answer ({} bytes, {kind}) is not text. Write it to a file with --output FILE",
                content.len()
            );
        }
        _ => std::io::stdout().write_all(content)?,
    }
    Ok(())
}

/// The answer as JSON: its kind, status and content.
fn describe(answered: &Answered, content: Value) -> Value {
    let mut value = json!({ "kind": answered.kind, "status": answered.status });
    if let (Some(value), Value::Object(content)) = (value.as_object_mut(), content) {
        value.extend(
            answered
                .content_type
                .clone()
                .map(|kind| ("contentType".to_owned(), kind.into())),
        );
        value.extend(content);
    }
    value
}

//! A plugin's first hour: runs the documentation pages for newcomers as they are printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;

use crate::dev::patchbay;
use crate::harness::{Host, PASSWORD, USER, World, binary, full_length, repository, until};

const KEY: &str = "8f3c1d2e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";

/// The code blocks of one section of a page: files by name, and commands in order.
struct Example {
    files: BTreeMap<String, String>,
    commands: Vec<String>,
}

impl Example {
    /// The section under `heading` of a page in docs/plugins.
    fn of(page: &str, heading: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(repository().join("docs/plugins").join(page))?;
        let (_, section) = text
            .split_once(&format!("\n{heading}\n"))
            .with_context(|| format!("{page}: {heading}"))?;
        let section = section.split("\n## ").next().unwrap_or_default();
        let mut example = Self {
            files: BTreeMap::new(),
            commands: Vec::new(),
        };
        for block in section.split("```").skip(1).step_by(2) {
            let (language, content) = block.split_once('\n').unwrap_or((block, ""));
            if language == "console" {
                let commands = content.lines().filter_map(|line| line.strip_prefix("$ "));
                example.commands.extend(
                    commands
                        .map(|line| line.split("   #").next().unwrap_or(line).trim().to_owned()),
                );
                continue;
            }
            let first = content.lines().next().unwrap_or_default();
            let name = first.trim_matches(['/', '#', '*', ' ']);
            if name.contains('.') && !name.contains(' ') {
                example.files.insert(name.to_owned(), content.to_owned());
            }
        }
        Ok(example)
    }

    fn write(&self, dir: &Path) -> anyhow::Result<()> {
        for (name, content) in &self.files {
            let file = dir.join(name);
            std::fs::create_dir_all(file.parent().context("a folder")?)?;
            std::fs::write(file, content)?;
        }
        Ok(())
    }

    /// Runs every command except those that install something. Returns the result of the job that
    /// the last command added.
    async fn run(&self, dir: &Path, host: &Host, env: &[(&str, PathBuf)]) -> anyhow::Result<Value> {
        let mut said = String::new();
        for line in self
            .commands
            .iter()
            .filter(|line| line.starts_with("patchbay "))
        {
            let arguments = line.replace("'{\"name\":\"Grace\"}'", "{\"name\":\"Grace\"}");
            let mut command = patchbay(dir);
            command
                .args(arguments.split_whitespace().skip(1))
                .envs(env.iter().map(|(name, value)| (name, value)));
            command
                .env("PATCHBAY_URL", &host.url)
                .env("PATCHBAY_USER", USER)
                .env("PATCHBAY_PASSWORD", PASSWORD);
            for name in ["HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"] {
                command.envs(std::env::var_os(name).map(|value| (name, value)));
            }
            let output = command.output().await?;
            said = String::from_utf8_lossy(&output.stdout).into_owned();
            if !output.status.success() {
                bail!("{line}: {said}{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        // "added: helloQueue 1"
        let added = said.lines().next().unwrap_or_default();
        let [.., queue, id] = added.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("added what? {added:?}")
        };
        // The page's manifests redact the name in the greeting.
        let story = host.revealed_job_in(queue, id, "completed").await?;
        Ok(serde_json::from_str(
            story["job"]["returnValue"].as_str().context("a result")?,
        )?)
    }

    /// Checks that the version that the page installs is the version under test.
    fn installs(&self, package: &str, pinned_in: &str) -> anyhow::Result<()> {
        let pins = std::fs::read_to_string(repository().join("tests").join(pinned_in))?;
        let mut words = self
            .commands
            .iter()
            .flat_map(|line| line.split_whitespace());
        let install = words
            .find(|word| word.starts_with(package))
            .context("a command that installs")?;
        let version = install.rsplit(['@', '=']).next().unwrap_or_default();
        let pinned = pins
            .lines()
            .any(|line| line.contains(package) && line.contains(version));
        anyhow::ensure!(pinned, "{install}: {pinned_in} has another version");
        Ok(())
    }
}

const NOT_SOURCES: [&str; 6] = [
    "target",
    "dist",
    ".git",
    "node_modules",
    ".venv",
    ".patchbay",
];

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            true if NOT_SOURCES.iter().any(|name| entry.file_name() == *name) => {}
            true => copy_folder(&path, &to)?,
            false => std::fs::copy(&path, &to).map(drop)?,
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_rust_quick_start_works_word_for_word() -> anyhow::Result<()> {
    let world = World::new().await?;
    // A master key: the page's webhook needs one.
    let host = world.host(&[("PATCHBAY_SECRETS_KEY", KEY)]).await?;
    let example = Example::of("README.md", "## In Rust")?;

    // As the page says: a folder beside the other plugins of a checkout.
    let checkout = world.dir.path().join("checkout");
    copy_folder(&repository().canonicalize()?, &checkout)?;
    let hello = checkout.join("plugins/hello");
    example.write(&hello)?;
    // Reuses what is already compiled.
    let target = (
        "CARGO_TARGET_DIR",
        repository().canonicalize()?.join("plugins/target"),
    );
    let result = example
        .run(&hello, &host, std::slice::from_ref(&target))
        .await?;
    assert_eq!(result, serde_json::json!({ "greeted": "Grace" }));
    a_whole_plugin(&checkout, &host, &target.1).await?;

    if full_length() {
        // In any other folder, with the path of the checkout. Everything is compiled anew.
        let elsewhere = world.dir.path().join("elsewhere");
        example.write(&elsewhere)?;
        let manifest = std::fs::read_to_string(elsewhere.join("Cargo.toml"))?;
        let sdk = format!("path = \"{}\"", checkout.join("plugins/sdk").display());
        assert!(manifest.contains("path = \"../sdk\""), "{manifest}");
        std::fs::write(
            elsewhere.join("Cargo.toml"),
            manifest.replace("path = \"../sdk\"", &sdk),
        )?;
        let result = example.run(&elsewhere, &host, &[]).await?;
        assert_eq!(result["greeted"], "Grace");
    }
    Ok(())
}

/// The page with jobs, a route and a webhook in one plugin: each of its commands, in a shell.
async fn a_whole_plugin(checkout: &Path, host: &Host, target: &Path) -> anyhow::Result<()> {
    let parcels = checkout.join("plugins/parcels");
    Example::of("whole.md", "## The plugin")?.write(&parcels)?;
    let tries = Example::of("whole.md", "## Try it")?;
    let bin = checkout.join("bin");
    std::fs::create_dir_all(&bin)?;
    std::os::unix::fs::symlink(std::path::absolute(binary())?, bin.join("patchbay"))?;
    let shell = async |command: &str| {
        let mut paths = vec![bin.clone()];
        paths.extend(std::env::split_paths(
            &std::env::var_os("PATH").unwrap_or_default(),
        ));
        let output = tokio::process::Command::new("bash")
            .args(["-c", command])
            .current_dir(&parcels)
            .env("PATH", std::env::join_paths(paths)?)
            .env("CARGO_TARGET_DIR", target)
            .env("PATCHBAY_URL", &host.url)
            .env("PATCHBAY_USER", USER)
            .env("PATCHBAY_PASSWORD", PASSWORD)
            .stdin(std::process::Stdio::null())
            .output()
            .await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("$ {command}\n{said}");
        anyhow::ensure!(
            output.status.success(),
            "{command}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    };
    let (ask, before) = tries.commands.split_last().context("commands")?;
    let mut said = Vec::new();
    for command in before {
        said.push(shell(command).await?);
    }
    let [.., later, earlier, forged, inbox] = &said[..] else {
        bail!("{said:?}");
    };
    for accepted in [later, earlier] {
        assert!(accepted.contains("\"success\":true"), "{accepted}");
    }
    assert!(forged.contains("\"success\":false"), "{forged}");
    assert!(
        inbox.contains("parcels.moved") && inbox.contains("rejected"),
        "{inbox}"
    );
    until(Duration::from_secs(20), "the place", async || {
        let place = shell(ask).await?;
        Ok(place.contains(r#"{"place":"Pune","step":2}"#).then_some(()))
    })
    .await
}

/// The page's `npm install` and `pip install` were done once for all tests.
async fn runs(
    language: &str,
    package: &str,
    pinned_in: &str,
    installed: &str,
) -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let example = Example::of("languages.md", &format!("## {language}"))?;
    example.installs(package, pinned_in)?;
    let dir = world.dir.path().join("hello");
    example.write(&dir)?;
    std::os::unix::fs::symlink(
        repository().canonicalize()?.join("tests").join(installed),
        dir.join(Path::new(installed).file_name().context("a folder")?),
    )?;
    let result = example.run(&dir, &host, &[]).await?;
    assert_eq!(
        result,
        serde_json::json!({ "greeted": "Grace", "first": true })
    );

    // When the plugin itself refuses a job, the failure has the plugin's message.
    let queue = format!(
        "hello{}Queue",
        if language == "Python" { "Py" } else { "Js" }
    );
    let id = host
        .add(&queue, serde_json::json!({ "name": "x", "data": {} }))
        .await?;
    let failed = host.job_in(&queue, &id, "failed").await?;
    assert_eq!(
        failed["job"]["failedReason"], "invalid-input: name: a text is missing",
        "{failed}"
    );
    // An unexpected exception ends the call, with the message of the language.
    let id = host
        .add(
            &queue,
            serde_json::json!({ "name": "x", "data": null, "attempts": 1 }),
        )
        .await?;
    let failed = host.job_in(&queue, &id, "failed").await?;
    let reason = failed["job"]["failedReason"].as_str().unwrap_or_default();
    let exception = if language == "Python" {
        "AttributeError"
    } else {
        "Uncaught TypeError: "
    };
    anyhow::ensure!(
        reason.starts_with("trapped: ") && reason.contains(exception),
        "{failed}"
    );
    let file = if language == "Python" {
        "hello.py"
    } else {
        "hello.js:"
    };
    anyhow::ensure!(
        failed["job"]["stacktrace"].to_string().contains(file),
        "{failed}"
    );
    Ok(())
}

#[tokio::test]
async fn a_javascript_plugin_works_as_its_page_says() -> anyhow::Result<()> {
    runs(
        "JavaScript",
        "@bytecodealliance/componentize-js",
        "languages/package.json",
        "languages/node_modules",
    )
    .await
}

#[tokio::test]
async fn a_python_plugin_works_as_its_page_says() -> anyhow::Result<()> {
    runs(
        "Python",
        "componentize-py",
        "interop/requirements.txt",
        "interop/.venv",
    )
    .await
}

/// Its tools take minutes to install: it runs only where they are installed.
#[tokio::test]
async fn a_c_plugin_works_as_its_page_says() -> anyhow::Result<()> {
    let has = |program: &str| {
        std::process::Command::new(program)
            .arg("--version")
            .output()
            .is_ok()
    };
    let has_all = has("wit-bindgen") && has("clang") && has("wasm-ld");
    if !full_length() && !has_all {
        println!("skipped: wit-bindgen, clang or wasm-ld is missing");
        return Ok(());
    }
    let world = World::new().await?;
    let host = world.host(&[]).await?;
    let example = Example::of("languages.md", "## C")?;
    let dir = world.dir.path().join("hello");
    example.write(&dir)?;
    assert_eq!(
        example.run(&dir, &host, &[]).await?,
        serde_json::json!({ "greeted": true })
    );
    Ok(())
}

//! `patchbay dev` for a newcomer: a whole installation from nothing, and nothing runs afterwards.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::{binary, repository, until};

/// The program in `dir`, without this process's environment.
pub fn patchbay(dir: &Path) -> Command {
    let mut command =
        Command::new(std::path::absolute(binary()).expect("the current directory exists"));
    command
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub async fn json_of(dir: &Path, args: &[&str]) -> anyhow::Result<Value> {
    let output = patchbay(dir).arg("--json").args(args).output().await?;
    anyhow::ensure!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    crate::harness::printed_json(&output.stdout)
}

fn start_dev(dir: &Path) -> anyhow::Result<Child> {
    let plugins = repository().join("plugins").canonicalize()?;
    Ok(patchbay(dir)
        .arg("dev")
        .arg("--plugins")
        .arg(plugins)
        .stdout(Stdio::piped())
        .spawn()?)
}

/// What it prints when everything runs.
pub async fn up(dev: &mut Child) -> anyhow::Result<String> {
    let mut lines = BufReader::new(dev.stdout.take().context("stdout")?).lines();
    let welcome = tokio::time::timeout(Duration::from_secs(120), async {
        let mut text = String::new();
        while let Some(line) = lines.next_line().await? {
            text.push_str(&line);
            text.push('\n');
            if line.contains("Ctrl-C stops everything") {
                return Ok(text);
            }
        }
        anyhow::bail!("it ended after: {text}")
    });
    let welcome = welcome.await.context("it does not come up")?;
    // Its log must be read, or it would block.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    welcome
}

pub async fn interrupt(mut dev: Child) -> anyhow::Result<()> {
    let pid =
        rustix::process::Pid::from_raw(dev.id().context("running")?.try_into()?).context("pid")?;
    rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
    let ended = tokio::time::timeout(Duration::from_secs(60), dev.wait()).await??;
    anyhow::ensure!(ended.success(), "{ended}");
    Ok(())
}

/// Under root, Postgres keeps its data where its own user can reach it.
pub fn forget(dir: &Path) {
    let name =
        hex::encode(&Sha256::digest(dir.join(".patchbay").as_os_str().as_encoded_bytes())[..6]);
    std::fs::remove_dir_all(Path::new("/var/lib/patchbay-dev").join(name)).ok();
}

#[tokio::test]
async fn a_whole_installation_starts_from_nothing_catches_a_mail_and_stops() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().canonicalize()?;
    let mut dev = start_dev(&dir)?;
    let welcome = up(&mut dev).await?;
    assert!(welcome.contains("plugin    email "), "{welcome}");

    let mail = r#"{"to":"you@example.com","subject":"Hello","text":"It works"}"#;
    json_of(&dir, &["job", "add", "emailQueue", "send", mail]).await?;
    let caught = until(Duration::from_secs(30), "the mail", async || {
        let mails = json_of(&dir, &["mail", "list"]).await?;
        Ok(mails.get(0).map(|mail| mail["subject"].clone()))
    });
    assert_eq!(caught.await?, "Hello");

    let key = dir.join(".patchbay/secrets.key");
    assert_eq!(
        key.metadata()?.permissions().mode() & 0o777,
        0o600,
        "the master key is for its owner only"
    );
    let secrets = json_of(&dir, &["secret", "list", "email"]).await?;
    assert!(secrets.is_array(), "{secrets}");
    std::fs::write(dir.join("value"), "a value")?;
    let set = json_of(
        &dir,
        &["secret", "set", "email", "ANY", "--from-file", "value"],
    )
    .await?;
    assert_eq!(set["source"], "vault", "secrets can be set at once");

    let findings = json_of(&dir, &["doctor"]).await?;
    let found = |check: &str| {
        findings
            .as_array()
            .into_iter()
            .flatten()
            .find(|finding| finding["check"] == check)
    };
    let configuration = found("configuration").and_then(|finding| finding["message"].as_str());
    assert!(
        configuration.is_some_and(|message| message.starts_with("that of `patchbay dev` in ")),
        "{findings}"
    );
    assert!(
        found("redis").is_some_and(|finding| finding["level"] == "ok"),
        "{findings}"
    );

    let keys = json_of(&dir, &["config"]).await?;
    let of = |name: &str| {
        let mut keys = keys.as_array().into_iter().flatten();
        keys.find(|key| key["key"] == name).cloned()
    };
    let redis = of("redis.url").context("a key")?;
    assert_eq!(
        (&redis["value"], &redis["source"]),
        (&Value::from("(set)"), &Value::from("patchbay dev")),
        "the configuration of the host that runs here: {redis}"
    );

    let second = start_dev(&dir)?.wait_with_output().await?;
    assert!(!second.status.success(), "two would share their servers");
    json_of(&dir, &["plugin", "list"])
        .await
        .context("the first one is where it was")?;

    interrupt(dev).await?;
    let redis: reqwest::Url = welcome
        .split_whitespace()
        .find(|word| word.starts_with("redis://"))
        .context("Redis")?
        .parse()?;
    let address = (
        redis.host_str().context("host")?.to_owned(),
        redis.port().context("port")?,
    );
    assert!(
        tokio::net::TcpStream::connect(address).await.is_err(),
        "Redis is stopped"
    );

    // Deleting the directory gives a fresh start, even if data is stored elsewhere. The
    // configuration file in this directory is read.
    std::fs::remove_dir_all(dir.join(".patchbay"))?;
    std::fs::write(dir.join("patchbay.toml"), "environment = \"of-the-file\"\n")?;
    let mut again = start_dev(&dir)?;
    let welcome = up(&mut again).await?;
    assert!(welcome.contains("Patchbay runs."), "{welcome}");
    let health = welcome
        .split_whitespace()
        .find(|word| word.ends_with("/api/health"))
        .context("where its health is told")?;
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let health = reqwest::get(health).await?.text().await?;
    assert!(health.contains("of-the-file"), "{health}");
    std::fs::create_dir_all(dir.join("below"))?;
    let keys = json_of(&dir.join("below"), &["config"]).await?;
    assert!(
        keys.to_string().contains("of-the-file"),
        "also in a folder below, where the file is not: {keys}"
    );
    interrupt(again).await?;
    // Without a host, nothing says where Postgres is: the keys are shown all the same.
    let shown = patchbay(&dir.join("below"))
        .args(["--json", "config"])
        .output()
        .await?;
    let keys = crate::harness::printed_json(&shown.stdout)?;
    assert!(
        !keys.to_string().contains("patchbay dev\""),
        "it does not run any more: {keys}"
    );
    forget(&dir);
    Ok(())
}

#[tokio::test]
async fn what_the_environment_overrides_and_a_plugin_that_is_not_loaded_are_told()
-> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().canonicalize()?;
    let redis = crate::redis_server::RedisServer::start_new(&dir).await?;
    let plugin = dir.join("plugins/unbuilt");
    std::fs::create_dir_all(&plugin)?;
    std::fs::write(plugin.join("plugin.toml"), "name = \"unbuilt\"\n")?;
    let broken = dir.join("plugins/broken/dist");
    std::fs::create_dir_all(&broken)?;
    std::fs::write(broken.join("broken.wasm"), "no component")?;
    let mut dev = patchbay(&dir)
        .arg("dev")
        .env("REDIS_URL", &redis.url)
        .stdout(Stdio::piped())
        .spawn()?;
    let welcome = up(&mut dev).await?;
    assert!(
        welcome.contains("REDIS_URL is set: dev uses redis://")
            && welcome.contains("instead of a private Redis"),
        "{welcome}"
    );
    for part in [
        "NOT LOADED  plugins/unbuilt: it is not built",
        "patchbay plugin build plugins/unbuilt",
        "NOT LOADED  plugins/broken/dist/broken.wasm: ",
        "patchbay plugin push plugins/broken/dist/broken.wasm --activate --grant",
    ] {
        assert!(welcome.contains(part), "{part}: {welcome}");
    }
    interrupt(dev).await?;
    forget(&dir);
    Ok(())
}

/// The commands that the welcome says to try of a plugin's demo.
fn commands_of(welcome: &str, plugin: &str) -> Vec<String> {
    let demo = welcome.split_once(&format!("Demo of {plugin}"));
    let lines = demo.map_or("", |(_, demo)| demo).lines().skip(1);
    lines
        .map_while(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_command_of_the_demo_works_and_a_later_start_needs_no_shared_login()
-> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().canonicalize()?;
    std::fs::create_dir(dir.join("plugins"))?;
    let exotel = repository().join("plugins/exotel").canonicalize()?;
    std::os::unix::fs::symlink(exotel, dir.join("plugins/exotel"))?;
    let start = || {
        let mut dev = patchbay(&dir);
        dev.args(["dev", "--demo"]).stdout(Stdio::piped()).spawn()
    };
    let mut dev = start()?;
    let welcome = up(&mut dev).await?;
    assert!(!welcome.contains("NOT LOADED"), "{welcome}");
    let commands = commands_of(&welcome, "exotel");
    let [
        log_in,
        call,
        inbox,
        message,
        timeline,
        recording,
        check,
        failing,
    ] = &commands[..]
    else {
        anyhow::bail!("{commands:?}");
    };
    let shell = async |token: &str, command: &str| {
        let output = Command::new("bash")
            .args(["-c", command])
            .current_dir(&dir)
            .env("TOKEN", token)
            .stdin(Stdio::null())
            .output()
            .await?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        println!("{command}\n{text}");
        anyhow::Ok(text)
    };
    let token = shell("", &format!("{log_in}; echo \"$TOKEN\"")).await?;
    let token = token.trim();
    let placed = shell(token, call).await?;
    assert!(placed.contains(r#""status":"queued""#), "{placed}");
    let sent = shell(token, message).await?;
    assert!(sent.contains(r#""success":true"#), "{sent}");
    let until_told = async |command: &str, expected: &[&str]| {
        until(Duration::from_secs(30), expected[0], async || {
            let told = shell(token, command).await?;
            let is_told = expected.iter().all(|text| told.contains(text));
            Ok(is_told.then_some(()))
        })
        .await
    };
    until_told(inbox, &["call.terminal", "call.answered", "enqueued"]).await?;
    until_told(timeline, &["completed", "delivered", "\"recording\":\"/"]).await?;
    until_told(recording, &[" 100000 "]).await?;
    let checked = shell(token, &format!("{check} && echo it works")).await?;
    assert!(checked.contains("it works"), "{checked}");
    let unknown = shell(token, failing).await?;
    assert!(unknown.contains(r#""status":"unknown""#), "{unknown}");

    // Somebody closes the shared login.
    let word = |text: &str, begin: &str| {
        let mut words = text.split_whitespace();
        words.find_map(|word| word.starts_with(begin).then(|| word.to_owned()))
    };
    let database = word(&welcome, "postgres://").context("Postgres")?;
    let mut database = <sqlx::PgConnection as sqlx::Connection>::connect(&database).await?;
    sqlx::query("update patchbay.operator_basic set mode = 'board'")
        .execute(&mut database)
        .await?;
    drop(database);
    interrupt(dev).await?;
    let mut again = start()?;
    let told = up(&mut again).await?;
    assert!(
        told.contains("plugin    exotel ") && !told.contains("NOT LOADED"),
        "{told}"
    );
    assert!(told.contains("it opens only Bull Board"), "{told}");
    let stand_in = |text: &str| {
        let place = text.split_once("with stand-in exotel at http://")?.1;
        Some(place.split(". Try").next()?.to_owned())
    };
    let place = stand_in(&told).context("a place")?;
    assert_eq!(Some(&place), stand_in(&welcome).as_ref(), "the same port");
    interrupt(again).await?;
    until(Duration::from_secs(10), "the stand-in's end", async || {
        let open = tokio::net::TcpStream::connect(&place).await;
        Ok(open.is_err().then_some(()))
    })
    .await?;
    forget(&dir);
    Ok(())
}

/// Runs commands in one shell, so that a later one sees the variables of an earlier one; what each
/// prints.
struct Shell {
    child: Child,
    told: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Shell {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let mut child = Command::new("bash")
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let told = BufReader::new(child.stdout.take().context("stdout")?).lines();
        Ok(Self { child, told })
    }

    async fn run(&mut self, command: &str) -> anyhow::Result<String> {
        const END: &str = "-- end of the command --";
        let input = self.child.stdin.as_mut().context("stdin")?;
        // The shell's own input is not the command's.
        let command = format!("{{ {command}\n}} 2>&1 </dev/null\necho; echo '{END}'\n");
        input.write_all(command.as_bytes()).await?;
        let mut text = String::new();
        while let Some(line) = self.told.next_line().await? {
            if line == END {
                println!("$ {command}{text}");
                return Ok(text);
            }
            text.push_str(&line);
            text.push('\n');
        }
        anyhow::bail!("the shell has ended: {text}")
    }

    /// Repeats the command until it prints all this.
    async fn until(&mut self, command: &str, expected: &[&str]) -> anyhow::Result<()> {
        until(Duration::from_secs(30), command, async || {
            let told = self.run(command).await?;
            let is_told = expected.iter().all(|text| told.contains(text));
            Ok(is_told.then_some(()))
        })
        .await
    }
}

#[tokio::test]
async fn the_demos_of_mail_and_learning_take_every_journey_to_its_end() -> anyhow::Result<()> {
    let home = tempfile::tempdir()?;
    let dir = home.path().canonicalize()?;
    std::fs::create_dir(dir.join("plugins"))?;
    for plugin in ["email", "mrlearn"] {
        let folder = repository().join("plugins").join(plugin).canonicalize()?;
        std::os::unix::fs::symlink(folder, dir.join("plugins").join(plugin))?;
    }
    let mut dev = patchbay(&dir)
        .args(["dev", "--demo"])
        .stdout(Stdio::piped())
        .spawn()?;
    let welcome = up(&mut dev).await?;
    println!("{welcome}");
    assert!(!welcome.contains("NOT LOADED"), "{welcome}");

    let commands = commands_of(&welcome, "email");
    let [
        log_in,
        template,
        test,
        taken,
        nobody,
        lift,
        busy,
        stale,
        mended,
    ] = &commands[..]
    else {
        anyhow::bail!("{commands:?}");
    };
    let mut shell = Shell::new(&dir)?;
    shell.run(log_in).await?;
    let made = shell.run(template).await?;
    assert!(
        made.contains("\"version\":1") && made.contains("Asha &amp; Co"),
        "{made}"
    );
    let sent = shell.run(test).await?;
    assert!(
        sent.contains("jobId") && sent.contains("Added: emailQueue"),
        "{sent}"
    );
    let both = ["sales@demo.example", "you@example.com"];
    shell.until(taken, &both).await?;
    shell.run(nobody).await?;
    let list = "PROGRAM plugin call email suppressions";
    let program = lift.split(" plugin call").next().context("a program")?;
    let list = list.replace("PROGRAM", program);
    shell.until(&list, &["rcpt-550-5.1.1@example.com"]).await?;
    shell.run(lift).await?;
    let none = shell.run(&list).await?;
    assert!(!none.contains("rcpt-550"), "{none}");
    shell.run(busy).await?;
    let delayed = format!("{program} job list emailQueue delayed");
    shell.until(&delayed, &["send"]).await?;
    shell.run(stale).await?;
    let alerts = format!("{program} alert list");
    shell
        .until(&alerts, &["bad-credentials", "plugin email"])
        .await?;
    let told = shell.run(mended).await?;
    assert!(told.contains("wait again"), "{told}");
    shell.until(taken, &["stale@example.com"]).await?;

    let commands = commands_of(&welcome, "mrlearn");
    let [
        log_in,
        config,
        sync,
        students,
        further,
        enrol,
        promote,
        remind,
        away,
        refused,
        saved,
    ] = &commands[..]
    else {
        anyhow::bail!("{commands:?}");
    };
    shell.run(log_in).await?;
    let made = shell.run(config).await?;
    assert!(
        made.contains("\"state\":\"ok\"") && made.contains("mrlearn-sync-"),
        "{made}"
    );
    let run = shell.run(sync).await?;
    assert!(run.contains("\"queued\":true"), "{run}");
    let runs = sync.rsplit("sleep 2; ").next().context("the runs")?;
    shell
        .until(runs, &["\"state\":\"completed\"", "\"written\":80"])
        .await?;
    let listed = shell.run(students).await?;
    assert!(listed.contains("learner0@example.com"), "{listed}");
    shell.run(further).await?;
    shell.until(runs, &["\"written\":1}"]).await?;
    shell.run(enrol).await?;
    let state = enrol.rsplit("sleep 2; ").next().context("the state")?;
    shell
        .until(state, &["\"learners\":41", "\"POST assign\":1"])
        .await?;
    let made = shell.run(promote).await?;
    assert!(
        made.contains("\"isNew\":true") && made.contains("learner3@example.com"),
        "{made}"
    );
    shell.run(remind).await?;
    shell.until(taken, &["learner5@example.com"]).await?;
    let waits = shell.run(away).await?;
    // It waits, runs again, and is done. Beside it, the next tick of the schedule is delayed, too.
    let job = waits.split("See: patchbay job show ").nth(1);
    let job = job.and_then(|rest| rest.lines().next()).context("a job")?;
    shell
        .until(&format!("{program} job show {job}"), &["completed"])
        .await?;
    shell.run(refused).await?;
    shell
        .until(&alerts, &["bad-credentials", "plugin mrlearn"])
        .await?;
    let told = shell.run(saved).await?;
    assert!(told.contains("\"state\":\"ok\""), "{told}");
    let over = format!("{program} alert history --rule bad-credentials");
    shell.until(&over, &["mrlearn", "recovered"]).await?;
    interrupt(dev).await?;
    forget(&dir);
    Ok(())
}

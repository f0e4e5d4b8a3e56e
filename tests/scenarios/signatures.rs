//! A host that trusts keys stores and runs only what one of them signed, whatever Postgres says.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::Context;
use patchbay_model::RevisionDigest;
use patchbay_model::signature::{PrivateKey, Signature};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::harness::{
    Host, PASSWORD, USER, World, binary, email_plugin, hostile_plugin, mail_job, printed_json,
    until, variant,
};

const TRUSTED: &str = "PATCHBAY_PLUGINS_TRUSTED_KEYS";

fn signed(component: &[u8], key: &PrivateKey) -> Signature {
    key.sign(&RevisionDigest::of(component))
}

async fn push(
    host: &Host,
    component: &[u8],
    signatures: &[Signature],
) -> anyhow::Result<(u16, Value)> {
    let mut request = host
        .http
        .post(format!("{}/api/admin/plugins", host.url))
        .body(component.to_vec());
    for signature in signatures {
        request = request.header("x-patchbay-signature", signature.to_string());
    }
    host.request(request).await
}

async fn activate(host: &Host, digest: &str) -> anyhow::Result<(u16, Value)> {
    host.post(
        "/api/admin/plugins/email/activate",
        json!({ "digest": digest, "grant": true }),
    )
    .await
}

async fn deploy(host: &Host, component: &[u8], key: &PrivateKey) -> anyhow::Result<String> {
    let (status, staged) = push(host, component, &[signed(component, key)]).await?;
    anyhow::ensure!(status == 200, "push: {status} {staged}");
    let digest = staged["data"]["digest"]
        .as_str()
        .context("digest")?
        .to_owned();
    let (status, answer) = activate(host, &digest).await?;
    anyhow::ensure!(status == 200, "activate: {status} {answer}");
    Ok(digest)
}

/// Changes the active revision in Postgres, as another process (or anybody with a login) may do.
async fn make_active(database: &mut PgConnection, digest: &str) -> anyhow::Result<()> {
    let mut tx = database.begin().await?;
    sqlx::query("update patchbay.revisions set state = 'retired' where state = 'active'")
        .execute(&mut *tx)
        .await?;
    sqlx::query("update patchbay.revisions set state = 'active' where digest = $1")
        .bind(digest)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "update patchbay.plugins set active = $1, generation = generation + 1 where name = 'email'",
    )
    .bind(digest)
    .execute(&mut *tx)
    .await?;
    sqlx::query("select pg_notify('patchbay_plugins', '')")
        .execute(&mut *tx)
        .await?;
    Ok(tx.commit().await?)
}

/// Why the plugin's active revision does not run, once that is reported.
async fn failure(host: &Host) -> anyhow::Result<String> {
    until(Duration::from_secs(30), "a load failure", async || {
        let (_, plugins) = host.get("/api/admin/plugins").await?;
        Ok(plugins["data"][0]["failure"].as_str().map(str::to_owned))
    })
    .await
}

async fn takes_over(host: &Host, digest: &str) -> anyhow::Result<()> {
    until(Duration::from_secs(30), "no load failure", async || {
        let (_, plugins) = host.get("/api/admin/plugins").await?;
        let plugin = &plugins["data"][0];
        Ok(
            (plugin["digest"] == digest && plugin["active"] == true && plugin["failure"].is_null())
                .then_some(()),
        )
    })
    .await?;
    assert_eq!(ran_on(host).await?, digest);
    Ok(())
}

/// The revision that runs a new job.
async fn ran_on(host: &Host) -> anyhow::Result<String> {
    let id = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(1) }))
        .await?;
    host.job_in("emailQueue", &id, "completed").await?;
    let path = format!("/api/admin/queues/emailQueue/jobs/{id}");
    until(
        Duration::from_secs(30),
        "the attempt in Postgres",
        async || {
            let (_, story) = host.get(&path).await?;
            Ok(story["data"]["attempts"][0]["revision"]
                .as_str()
                .map(str::to_owned))
        },
    )
    .await
}

fn message(answer: &Value) -> &str {
    answer["message"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn unsigned_changed_and_wrongly_signed_files_are_refused_and_nothing_is_kept()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (key, stranger) = (PrivateKey::generate(), PrivateKey::generate());
    let host = world.host(&[(TRUSTED, &key.public().to_string())]).await?;
    let plugin = email_plugin()?;
    let changed = variant(&plugin, "changed");
    let good = signed(&plugin, &key);
    let claimed = Signature {
        key: key.public().id(),
        ..signed(&plugin, &stranger)
    };
    let cases: [(&str, &[u8], Vec<Signature>, &str); 6] = [
        ("unsigned", &plugin, vec![], "the plugin is not signed"),
        (
            "a stranger's",
            &plugin,
            vec![signed(&plugin, &stranger)],
            "not by a trusted key",
        ),
        (
            "changed after signing",
            &changed,
            vec![good.clone()],
            "does not fit the plugin",
        ),
        (
            "a stranger's under a trusted id",
            &plugin,
            vec![claimed.clone()],
            "does not fit the plugin",
        ),
        (
            "one good and one wrong",
            &plugin,
            vec![good.clone(), claimed],
            "does not fit the plugin",
        ),
        (
            "not even a plugin",
            b"hello",
            vec![],
            "the plugin is not signed",
        ),
    ];
    for (what, file, signatures, reason) in cases {
        let (status, answer) = push(&host, file, &signatures).await?;
        assert_eq!(
            (status, &answer["code"]),
            (422, &json!("untrusted")),
            "{what}: {answer}"
        );
        assert!(message(&answer).contains(reason), "{what}: {answer}");
    }
    for garbage in [
        "nonsense",
        "",
        &good.to_string()[..80],
        &format!("{good},nonsense"),
    ] {
        let request = host
            .http
            .post(format!("{}/api/admin/plugins", host.url))
            .body(plugin.clone());
        let (status, answer) = host
            .request(request.header("x-patchbay-signature", garbage))
            .await?;
        assert_eq!(
            (status, &answer["code"]),
            (400, &json!("invalid-input")),
            "{garbage:?}: {answer}"
        );
        assert!(
            message(&answer).contains("x-patchbay-signature"),
            "{answer}"
        );
    }
    let mut database = world.database().await?;
    let kept: i64 = sqlx::query_scalar(
        "select (select count(*) from patchbay.revisions) + (select count(*) from patchbay.revision_signatures) \
         + (select count(*) from patchbay.plugins)",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!(kept, 0, "nothing was kept");
    let actions: i64 = sqlx::query_scalar(
        "select count(*) from patchbay.operator_actions where action = 'plugin.push' and error is not null",
    )
    .fetch_one(&mut database)
    .await?;
    assert_eq!(actions, 6, "every refusal is on record");
    Ok(())
}

#[tokio::test]
async fn a_signed_plugin_runs_and_shows_its_signers_and_another_signature_can_be_added()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (key, other) = (PrivateKey::generate(), PrivateKey::generate());
    let host = world.host(&[(TRUSTED, &key.public().to_string())]).await?;
    let plugin = email_plugin()?;
    let digest = deploy(&host, &plugin, &key).await?;
    assert_eq!(ran_on(&host).await?, digest);
    // The same file again: its signature is already stored.
    let (status, again) = push(&host, &plugin, &[]).await?;
    assert_eq!(
        (status, &again["data"]["created"]),
        (200, &json!(false)),
        "{again}"
    );
    let (status, again) = push(&host, &plugin, &[signed(&plugin, &other)]).await?;
    assert_eq!(
        (status, &again["data"]["created"]),
        (200, &json!(false)),
        "{again}"
    );
    let (_, revisions) = host.get("/api/admin/plugins/email/revisions").await?;
    let signatures = &revisions["data"][0]["signatures"];
    assert_eq!(signatures[0]["keyId"], key.public().id().to_string());
    assert_eq!(
        (&signatures[0]["standing"], &signatures[0]["addedBy"]),
        (&json!("trusted"), &json!(USER))
    );
    assert_eq!(signatures[1]["keyId"], other.public().id().to_string());
    assert_eq!(signatures[1]["standing"], "unknown-key");
    Ok(())
}

#[tokio::test]
async fn without_trusted_keys_nothing_is_required_and_a_given_signature_is_kept_and_shown()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let key = PrivateKey::generate();
    let host = world.host(&[]).await?;
    let plugin = email_plugin()?;
    host.deploy("email", plugin.clone()).await?;
    // First a stale .sig file, which this host does not check, and then the right one.
    let stale = signed(b"an earlier build", &key);
    let (status, staged) = push(&host, &plugin, &[stale]).await?;
    assert_eq!(status, 200, "{staged}");
    let (status, staged) = push(&host, &plugin, &[signed(&plugin, &key)]).await?;
    assert_eq!(
        (status, &staged["data"]["created"]),
        (200, &json!(false)),
        "{staged}"
    );
    assert_eq!(
        staged["data"]["signatures"][0]["keyId"],
        key.public().id().to_string()
    );
    assert_eq!(staged["data"]["signatures"][0]["standing"], "unchecked");
    assert!(host.stop().await?.success());
    let host = world.host(&[(TRUSTED, &key.public().to_string())]).await?;
    assert_eq!(
        ran_on(&host).await?,
        staged["data"]["digest"].as_str().context("digest")?
    );
    Ok(())
}

#[tokio::test]
async fn a_file_or_signature_changed_in_the_database_is_not_loaded_and_the_incumbent_keeps_running()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let key = PrivateKey::generate();
    let host = world.host(&[(TRUSTED, &key.public().to_string())]).await?;
    let mut database = world.database().await?;
    let plugin = email_plugin()?;
    let incumbent = deploy(&host, &plugin, &key).await?;

    // A changed file.
    let second = variant(&plugin, "second");
    let (status, staged) = push(&host, &second, &[signed(&second, &key)]).await?;
    assert_eq!(status, 200, "{staged}");
    let second_digest = staged["data"]["digest"]
        .as_str()
        .context("digest")?
        .to_owned();
    sqlx::query("update patchbay.revisions set component = $1 where digest = $2")
        .bind(variant(&plugin, "evil"))
        .bind(&second_digest)
        .execute(&mut database)
        .await?;
    let (status, answer) = activate(&host, &second_digest).await?;
    assert_eq!(
        (status, &answer["code"]),
        (409, &json!("damaged")),
        "{answer}"
    );
    make_active(&mut database, &second_digest).await?;
    let reason = failure(&host).await?;
    assert!(
        reason.contains("The stored file of revision") && reason.contains("has changed"),
        "{reason}"
    );
    assert_eq!(ran_on(&host).await?, incumbent);
    // Pushing the original file repairs the row, and every process loads it without a restart.
    let (status, answer) = push(&host, &second, &[]).await?;
    assert_eq!(
        (status, &answer["data"]["created"]),
        (200, &json!(false)),
        "{answer}"
    );
    takes_over(&host, &second_digest).await?;

    // A removed signature, and one that is swapped with that of another revision.
    let third = variant(&plugin, "third");
    let (status, staged) = push(&host, &third, &[signed(&third, &key)]).await?;
    assert_eq!(status, 200, "{staged}");
    let third_digest = staged["data"]["digest"]
        .as_str()
        .context("digest")?
        .to_owned();
    let swap = "update patchbay.revision_signatures set signature = \
        (select signature from patchbay.revision_signatures where digest = $1) where digest = $2";
    sqlx::query(swap)
        .bind(&incumbent)
        .bind(&third_digest)
        .execute(&mut database)
        .await?;
    make_active(&mut database, &third_digest).await?;
    let reason = failure(&host).await?;
    assert!(reason.contains("does not fit the plugin"), "{reason}");
    assert_eq!(ran_on(&host).await?, second_digest);
    let (_, status) = host.get("/api/admin/plugins/email/status").await?;
    assert_eq!(
        (&status["data"]["active"], &status["data"]["running"]),
        (&json!(third_digest), &json!(second_digest))
    );
    assert_eq!(status["data"]["failure"], reason);
    sqlx::query("delete from patchbay.revision_signatures where digest = $1")
        .bind(&third_digest)
        .execute(&mut database)
        .await?;
    until(Duration::from_secs(30), "the other reason", async || {
        Ok(failure(&host)
            .await?
            .contains("the plugin is not signed")
            .then_some(()))
    })
    .await?;
    let (status, answer) = activate(&host, &third_digest).await?;
    assert_eq!(
        (status, &answer["code"]),
        (422, &json!("untrusted")),
        "{answer}"
    );
    assert_eq!(ran_on(&host).await?, second_digest);

    // After it is signed again, it is loaded without a restart.
    let (status, answer) = push(&host, &third, &[signed(&third, &key)]).await?;
    assert_eq!(status, 200, "{answer}");
    takes_over(&host, &third_digest).await?;
    Ok(())
}

#[tokio::test]
async fn a_signed_plugin_does_not_run_under_the_name_of_another_one() -> anyhow::Result<()> {
    let world = World::new().await?;
    let key = PrivateKey::generate();
    let host = world.host(&[(TRUSTED, &key.public().to_string())]).await?;
    let incumbent = deploy(&host, &email_plugin()?, &key).await?;
    let other = hostile_plugin()?;
    let (status, staged) = push(&host, &other, &[signed(&other, &key)]).await?;
    assert_eq!(status, 200, "{staged}");
    make_active(
        &mut world.database().await?,
        staged["data"]["digest"].as_str().context("digest")?,
    )
    .await?;
    let reason = failure(&host).await?;
    assert!(
        reason.contains("belongs to plugin hostile, not to email"),
        "{reason}"
    );
    assert_eq!(ran_on(&host).await?, incumbent);
    Ok(())
}

#[tokio::test]
async fn keys_are_rotated_without_a_gap_and_a_withdrawn_key_stops_its_plugins_at_the_next_start()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let (old, new, last) = (
        PrivateKey::generate(),
        PrivateKey::generate(),
        PrivateKey::generate(),
    );
    let host = world.host(&[(TRUSTED, &old.public().to_string())]).await?;
    let plugin = email_plugin()?;
    let digest = deploy(&host, &plugin, &old).await?;
    let (status, answer) = push(&host, &plugin, &[signed(&plugin, &new)]).await?;
    assert_eq!(status, 200, "{answer}");
    assert!(host.stop().await?.success());

    let both = format!("{},{}", old.public(), new.public());
    let host = world.host(&[(TRUSTED, &both)]).await?;
    assert_eq!(ran_on(&host).await?, digest);
    assert!(host.stop().await?.success());

    let file = world.dir.path().join("trusted");
    std::fs::write(&file, format!("# the new key only\n{}\n", new.public()))?;
    let host = world
        .host(&[(
            "PATCHBAY_PLUGINS_TRUSTED_KEYS_FILE",
            file.to_str().context("a path")?,
        )])
        .await?;
    assert_eq!(ran_on(&host).await?, digest);
    assert!(host.stop().await?.success());

    let host = world.host(&[(TRUSTED, &last.public().to_string())]).await?;
    let reason = failure(&host).await?;
    assert!(reason.contains(&last.public().id().to_string()), "{reason}");
    let mut doctor = tokio::process::Command::new(binary());
    doctor
        .args(["--json", "doctor"])
        .current_dir(world.dir.path())
        .env(TRUSTED, last.public().to_string());
    doctor
        .env("DATABASE_URL", &world.database_url)
        .env("REDIS_URL", &world.redis_url);
    let found = printed_json(&doctor.output().await?.stdout)?;
    let found = found
        .as_array()
        .context("findings")?
        .iter()
        .filter(|finding| finding["check"] == "signatures");
    assert_eq!(
        found.map(|finding| &finding["level"]).collect::<Vec<_>>(),
        ["ok", "error"]
    );
    let waiting = host
        .add("emailQueue", json!({ "name": "send", "data": mail_job(2) }))
        .await?;
    let (_, story) = host
        .get(&format!("/api/admin/queues/emailQueue/jobs/{waiting}"))
        .await?;
    assert_eq!(story["data"]["job"]["state"], "waiting", "its queues wait");
    let (status, answer) = push(&host, &plugin, &[signed(&plugin, &last)]).await?;
    assert_eq!(status, 200, "{answer}");
    host.job_in("emailQueue", &waiting, "completed").await?;
    takes_over(&host, &digest).await?;
    Ok(())
}

#[tokio::test]
async fn keys_signatures_and_pushes_by_commands() -> anyhow::Result<()> {
    let world = World::new().await?;
    let dir = world.dir.path();
    let file = dir.join("email.wasm");
    std::fs::write(&file, email_plugin()?)?;
    let run = async |url: Option<&str>, args: &[&str]| {
        let mut command = tokio::process::Command::new(binary());
        command
            .current_dir(dir)
            .args(args)
            .env("PATCHBAY_USER", USER)
            .env("PATCHBAY_PASSWORD", PASSWORD);
        command.envs(url.map(|url| ("PATCHBAY_URL", url)));
        let output = command.output().await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        anyhow::Ok((
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        ))
    };

    let (code, made, errors) = run(None, &["--json", "plugin", "keygen"]).await?;
    assert_eq!(code, Some(0), "{errors}");
    let made = printed_json(made.as_bytes())?;
    let public = made["publicKey"].as_str().context("a key")?.to_owned();
    let mode = std::fs::metadata(dir.join("patchbay.key"))?
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(dir.join("patchbay.key"))?;
    let (code, _, errors) = run(None, &["plugin", "keygen", "--out", "patchbay.key"]).await?;
    assert_eq!(code, Some(1), "an existing key is not overwritten");
    assert!(errors.contains("patchbay.key"), "{errors}");
    assert_eq!(std::fs::read(dir.join("patchbay.key"))?, before);

    let verify = ["plugin", "verify", "email.wasm", "--key", public.as_str()];
    assert_eq!(run(None, &verify).await?.0, Some(1), "not signed yet");
    let (code, _, errors) = run(
        None,
        &["plugin", "sign", "email.wasm", "--key", "patchbay.key"],
    )
    .await?;
    assert_eq!(code, Some(0), "{errors}");
    let (code, text, errors) = run(None, &verify).await?;
    assert_eq!(code, Some(0), "{errors}");
    assert!(text.contains("is signed by"), "{text}");
    std::fs::write(dir.join("public"), format!("{public}\n"))?;
    assert_eq!(
        run(None, &["plugin", "verify", "email.wasm", "--key", "public"])
            .await?
            .0,
        Some(0)
    );
    run(None, &["plugin", "keygen", "--out", "other.key"]).await?;
    let (_, other, _) = run(None, &["--json", "plugin", "keygen", "--out", "third.key"]).await?;
    let other = printed_json(other.as_bytes())?;
    let stranger = other["publicKey"].as_str().context("a key")?;
    assert_eq!(
        run(None, &["plugin", "verify", "email.wasm", "--key", stranger])
            .await?
            .0,
        Some(1)
    );
    let (code, _, errors) = run(
        None,
        &[
            "plugin",
            "sign",
            "email.wasm",
            "--key",
            "third.key",
            "--add",
        ],
    )
    .await?;
    assert_eq!(code, Some(0), "{errors}");
    for key in [public.as_str(), stranger] {
        assert_eq!(
            run(None, &["plugin", "verify", "email.wasm", "--key", key])
                .await?
                .0,
            Some(0),
            "both have signed"
        );
    }
    std::fs::write(
        dir.join("changed.wasm"),
        variant(&email_plugin()?, "changed"),
    )?;
    let (code, _, errors) = run(
        None,
        &[
            "plugin",
            "verify",
            "changed.wasm",
            "--signature",
            "email.wasm.sig",
            "--key",
            &public,
        ],
    )
    .await?;
    assert_eq!(code, Some(1));
    assert!(errors.contains("does not fit"), "{errors}");

    let host = world.host(&[(TRUSTED, &public)]).await?;
    let url = Some(host.url.as_str());
    let (code, _, errors) = run(url, &["plugin", "push", "changed.wasm"]).await?;
    assert_eq!(code, Some(4), "unsigned");
    assert!(
        errors.contains("the plugin is not signed") && errors.contains("untrusted"),
        "{errors}"
    );
    let (code, text, errors) = run(url, &["--json", "plugin", "push", "email.wasm"]).await?;
    assert_eq!(code, Some(0), "{errors}");
    let staged = printed_json(text.as_bytes())?;
    assert_eq!(
        staged["signatures"].as_array().map(Vec::len),
        Some(2),
        "{staged}"
    );
    let (_, table, _) = run(url, &["plugin", "revisions", "email"]).await?;
    assert!(table.contains("(unknown key)"), "{table}");
    Ok(())
}

#[tokio::test]
async fn a_host_whose_trusted_keys_cannot_be_read_does_not_start_and_names_the_key()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let mut command = tokio::process::Command::new(binary());
    command
        .arg("serve")
        .current_dir(world.dir.path())
        .env("DATABASE_URL", &world.database_url)
        .env("REDIS_URL", &world.redis_url)
        .env("PATCHBAY_PLUGINS_TRUSTED_KEYS_FILE", "missing");
    let output = command.output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{errors}");
    assert!(
        errors.contains(
            "plugins.trusted_keys_file (from PATCHBAY_PLUGINS_TRUSTED_KEYS_FILE), missing:"
        ),
        "{errors}"
    );
    Ok(())
}

//! Audit trails show tampering: what the host's own login is refused, and what a verification says
//! after somebody who may do everything has done it.

use std::time::Duration;

use anyhow::{Context, ensure};
use patchbay_model::audit::{ActorKind, LOGIN_LOGS};
use patchbay_model::audit_chain::{Hash, Link, chain, root};
use patchbay_store::{NewHostEntry, Store, StoreConfig};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::cable::Cable;
use crate::commands::{json_of, patchbay};
use crate::harness::{Host, World, clerk_plugin, until};

const KEY: (&str, &str) = (
    "PATCHBAY_SECRETS_KEY",
    "0404040404040404040404040404040404040404040404040404040404040405",
);
const SOON: Duration = Duration::from_secs(30);

async fn run(database: &mut PgConnection, statement: impl Into<String>) -> anyhow::Result<()> {
    let statement = statement.into();
    database
        .execute(AssertSqlSafe(statement.clone()))
        .await
        .with_context(|| statement)?;
    Ok(())
}

/// Entries of any writer: keys are numbers.
async fn write(
    database: &mut PgConnection,
    trail: &str,
    keys: std::ops::RangeInclusive<i32>,
) -> anyhow::Result<()> {
    let insert = format!(
        "insert into patchbay.audit_entries (trail, entry_key, actor_id, action, entry) \
         select '{trail}', k::text, 'u-' || k, 'change', jsonb_build_object('to', k) from generate_series({}, {}) k",
        keys.start(),
        keys.end()
    );
    run(database, insert).await
}

async fn number(database: &mut PgConnection, query: &str) -> anyhow::Result<i64> {
    Ok(sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
        .fetch_one(database)
        .await?)
}

async fn all_sealed(database: &mut PgConnection) -> anyhow::Result<()> {
    until(SOON, "everything is sealed", async || {
        let waiting = number(database, "select count(*) from patchbay.audit_pending").await?;
        Ok((waiting == 0).then_some(()))
    })
    .await
}

/// Exit code and report of `patchbay audit verify --database`.
async fn verified(world: &World, more: &[&str]) -> anyhow::Result<(i32, Value)> {
    verified_with(world, more, &[KEY]).await
}

async fn verified_with(
    world: &World,
    more: &[&str],
    env: &[(&str, &str)],
) -> anyhow::Result<(i32, Value)> {
    let arguments = [&["--json", "audit", "verify", "--database"], more].concat();
    let (code, said) = world.output(&arguments, env).await?;
    let json = said.find('{').context(said.clone())?;
    let mut answers = serde_json::Deserializer::from_str(&said[json..]).into_iter::<Value>();
    let answer = answers.next().context("an answer")??;
    Ok((code.context("an exit code")?, answer["data"].clone()))
}

fn of<'a>(report: &'a Value, trail: &str) -> &'a Value {
    let trails = report["trails"].as_array().into_iter().flatten();
    let mut found = trails.filter(|found| found["trail"] == trail);
    found.next().unwrap_or(&Value::Null)
}

/// Kind, batch and entry of each problem.
fn problems(report: &Value, trail: &str) -> Vec<(String, Value, Value)> {
    let problems = of(report, trail)["problems"].as_array();
    let tell = |problem: &Value| {
        let kind = problem["kind"].as_str().unwrap_or_default().to_owned();
        (kind, problem["batch"].clone(), problem["entry"].clone())
    };
    problems.into_iter().flatten().map(tell).collect()
}

/// Ids of a trail's entries.
async fn ids(database: &mut PgConnection, trail: &str) -> anyhow::Result<Vec<i64>> {
    let query =
        sqlx::query_scalar("select id from patchbay.audit_entries where trail = $1 order by id");
    Ok(query.bind(trail).fetch_all(database).await?)
}

/// Whoever may do everything turns the guards off.
async fn unguarded(database: &mut PgConnection) -> anyhow::Result<()> {
    for table in ["audit_entries", "audit_batches", "audit_expiries"] {
        run(
            database,
            format!("alter table patchbay.{table} disable trigger all"),
        )
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_hosts_own_login_may_not_change_entries_and_after_hardening_cannot_take_the_right()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let mut admin = world.database().await?;
    let login = format!("{}_host", world.prefix);
    run(
        &mut admin,
        format!("create role {login} login password 'secret-4711' createrole"),
    )
    .await?;
    run(
        &mut admin,
        format!("grant create on database {} to {login}", world.prefix),
    )
    .await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    url.set_username(&login).ok();
    url.set_password(Some("secret-4711")).ok();
    world.database_url = url.to_string();
    let host = world.host(&[KEY]).await?;
    let mut own = world.database().await?;
    write(&mut own, "leads", 1..=3).await?;
    all_sealed(&mut own).await?;
    let changes = [
        "update patchbay.audit_entries set entry = '{}'",
        "delete from patchbay.audit_entries",
        "truncate patchbay.audit_entries",
        "update patchbay.audit_batches set count = 1",
        "delete from patchbay.audit_batches",
        "truncate patchbay.audit_batches",
        "delete from patchbay.audit_expiries",
        "truncate patchbay.audit_expiries",
    ];
    for change in changes {
        let refused = run(&mut own, change).await.expect_err(change);
        let refused = format!("{refused:#}");
        assert!(refused.contains("permission denied"), "{change}: {refused}");
    }
    // It can give the rights to itself; then the triggers refuse.
    for table in ["audit_entries", "audit_batches"] {
        let grant = format!("grant update, delete, truncate on patchbay.{table} to {login}");
        run(&mut own, grant).await?;
    }
    for change in &changes[..6] {
        let refused = run(&mut own, *change).await.expect_err(change);
        let refused = format!("{refused:#}");
        assert!(refused.contains("append-only"), "{change}: {refused}");
    }
    run(&mut own, "set session_replication_role = replica")
        .await
        .expect_err("only superusers may");
    for table in ["audit_entries", "audit_batches"] {
        let revoke = format!("revoke update, delete, truncate on patchbay.{table} from {login}");
        run(&mut own, revoke).await?;
    }
    let (_, told) = world.output(&["doctor"], &[KEY]).await?;
    assert!(told.contains("own-login"), "{told}");

    // Hardened, as `audit harden` says, it cannot.
    let said = patchbay(&host, &["audit", "harden"]).await?;
    let statements = String::from_utf8(said.stdout)?;
    println!("{statements}");
    let role = format!("{login}_audit");
    for statement in statements.lines().filter(|line| !line.starts_with("--")) {
        // Roles are shared by all databases of the server.
        run(&mut admin, statement.replace("patchbay_audit", &role)).await?;
    }
    run(&mut admin, format!("alter role {login} nocreaterole")).await?;
    for change in [
        "grant update on patchbay.audit_entries to current_user",
        "update patchbay.audit_entries set entry = '{}'",
        "alter table patchbay.audit_entries disable trigger all",
        "create or replace function patchbay.set_audit_leaf() returns trigger language plpgsql as 'begin return new; end'",
        "delete from patchbay.audit_batches",
    ] {
        let done = run(&mut own, change).await;
        let may: bool =
            sqlx::query_scalar("select has_table_privilege('patchbay.audit_entries', 'update')")
                .fetch_one(&mut own)
                .await?;
        assert!(
            !may && (done.is_err() || change.starts_with("grant")),
            "{change}"
        );
    }
    write(&mut own, "leads", 4..=6).await?;
    all_sealed(&mut own).await?;
    let (code, report) = verified(&world, &[]).await?;
    assert_eq!(code, 0, "{report:#}");
    assert_eq!(of(&report, "leads")["entries"], 6, "{report:#}");
    let (_, told) = world.output(&["doctor"], &[KEY]).await?;
    assert!(
        told.contains("separate-owner") && !told.contains("does not own"),
        "{told}"
    );
    host.stop().await?;
    own.close().await?;
    run(
        &mut admin,
        format!("reassign owned by {role} to current_user"),
    )
    .await?;
    run(
        &mut admin,
        format!("reassign owned by {login} to current_user"),
    )
    .await?;
    run(&mut admin, format!("drop owned by {role}, {login}")).await?;
    run(&mut admin, format!("drop role {role}, {login}")).await?;
    Ok(())
}

/// A host that has sealed two batches of three entries in each of these trails, and is stopped.
/// Gives the newest batches, too, as `audit anchor` prints them.
async fn sealed(trails: &[&str]) -> anyhow::Result<(World, PgConnection, String)> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    for round in 0..2 {
        for trail in trails {
            write(&mut database, trail, 3 * round + 1..=3 * round + 3).await?;
        }
        all_sealed(&mut database).await?;
    }
    let anchors = String::from_utf8(patchbay(&host, &["audit", "anchor"]).await?.stdout)?;
    let (code, report) = verified(&world, &[]).await?;
    ensure!(code == 0, "{report:#}");
    let report = json_of(&host, &["--json", "audit", "verify"]).await?;
    ensure!(report["result"] == "whole", "{report:#}");
    for trail in trails {
        let found = of(&report, trail);
        ensure!(
            found["entries"] == 6 && found["withoutMac"] == 0,
            "{report:#}"
        );
    }
    host.stop().await?;
    Ok((world, database, anchors))
}

#[tokio::test]
async fn what_somebody_who_may_do_everything_has_done_is_named() -> anyhow::Result<()> {
    let trails = [
        "changed",
        "releafed",
        "deleted",
        "inserted",
        "swapped",
        "reordered",
        "rootless",
        "moved",
        "hole",
        "untouched",
    ];
    let (world, mut database, _) = sealed(&trails).await?;
    unguarded(&mut database).await?;
    let mut place = Vec::new();
    for trail in trails {
        place.push(ids(&mut database, trail).await?);
    }
    let entry = |trail: &str, at: usize| {
        let trail = trails.iter().position(|known| *known == trail);
        place[trail.expect("a trail")][at]
    };
    let last_batch = |trail: &str| {
        format!(
            "trail = '{trail}' and n = (select max(n) from patchbay.audit_batches where trail = '{trail}')"
        )
    };
    for statement in [
        format!(
            "update patchbay.audit_entries set entry = '{{\"to\": 99}}' where id = {}",
            entry("changed", 1)
        ),
        format!(
            "update patchbay.audit_entries e set actor_id = 'somebody-else' where id = {}",
            entry("releafed", 1)
        ),
        format!(
            "update patchbay.audit_entries e set leaf = patchbay.audit_leaf(e) where id = {}",
            entry("releafed", 1)
        ),
        format!(
            "delete from patchbay.audit_entries where id = {}",
            entry("deleted", 1)
        ),
        "insert into patchbay.audit_entries (trail, entry_key, entry, leaf) values ('inserted', 'x', '{}', sha256('x'))"
            .to_owned(),
        format!(
            "update patchbay.audit_entries e set entry = o.entry from patchbay.audit_entries o where (e.id, o.id) in (({a}, {b}), ({b}, {a}))",
            a = entry("swapped", 0),
            b = entry("swapped", 1)
        ),
        format!(
            "update patchbay.audit_batches set ids = (select array_agg(i order by i desc) from unnest(ids) i) where {}",
            last_batch("reordered")
        ),
        format!(
            "update patchbay.audit_batches set root = sha256('other') where {}",
            last_batch("rootless")
        ),
        format!(
            "update patchbay.audit_entries set trail = 'untouched', entry_key = 'moved' where id = {}",
            entry("moved", 2)
        ),
        "delete from patchbay.audit_batches where trail = 'hole' and n = 1".to_owned(),
    ] {
        run(&mut database, statement).await?;
    }
    let added = *ids(&mut database, "inserted")
        .await?
        .last()
        .context("an id")?;
    let (code, report) = verified(&world, &[]).await?;
    println!("{report:#}");
    assert_eq!(code, 1);
    let kinds = |trail: &str| -> Vec<(String, Value)> {
        let found = problems(&report, trail).into_iter();
        found.map(|(kind, _, entry)| (kind, entry)).collect()
    };
    let one = |kind: &str, entry: i64| vec![(kind.to_owned(), json!(entry))];
    assert_eq!(kinds("changed"), one("entry-changed", entry("changed", 1)));
    assert_eq!(kinds("releafed"), [("batch-changed".into(), Value::Null)]);
    assert_eq!(problems(&report, "releafed")[0].1, 1, "which batch");
    assert_eq!(kinds("deleted"), one("entry-missing", entry("deleted", 1)));
    assert_eq!(kinds("inserted"), one("entry-unsealed", added));
    assert_eq!(
        kinds("swapped"),
        [
            ("entry-changed".to_owned(), json!(entry("swapped", 0))),
            ("entry-changed".to_owned(), json!(entry("swapped", 1))),
        ]
    );
    assert_eq!(kinds("reordered"), [("batch-changed".into(), Value::Null)]);
    let rootless: Vec<String> = kinds("rootless")
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    assert!(
        rootless.contains(&"batch-changed".to_owned()),
        "{rootless:?}"
    );
    assert_eq!(kinds("moved"), one("entry-moved", entry("moved", 2)));
    assert_eq!(kinds("untouched"), one("entry-unsealed", entry("moved", 2)));
    let hole = kinds("hole");
    assert!(
        hole[0].0 == "batch-missing" && hole.len() == 4,
        "and its three entries are in no batch: {hole:?}"
    );
    let text = world
        .output(&["audit", "verify", "--database"], &[KEY])
        .await?;
    assert!(
        text.0 == Some(1)
            && text.1.contains("BROKEN")
            && text
                .1
                .contains(&format!("Entry {} was deleted", entry("deleted", 1))),
        "{}",
        text.1
    );
    Ok(())
}

#[tokio::test]
async fn a_chain_that_was_computed_anew_without_the_key_and_a_tail_that_was_cut_are_named()
-> anyhow::Result<()> {
    let (world, mut database, anchors) = sealed(&["anew", "maclass", "keyed", "cut"]).await?;
    unguarded(&mut database).await?;
    let file = world.dir.path().join("anchors.txt");
    std::fs::write(&file, format!("# kept elsewhere\n{anchors}"))?;
    let file = file.to_str().context("a path")?;
    // An entry of the last batch is changed, and leaf, root and chain are computed as they would
    // have been.
    for trail in ["anew", "maclass", "keyed"] {
        type Batch = (i64, Vec<i64>, Vec<u8>, chrono::DateTime<chrono::Utc>);
        let batches: Vec<Batch> =
            sqlx::query_as(
                "select n, ids, chain, sealed_at from patchbay.audit_batches where trail = $1 order by n",
            )
            .bind(trail)
            .fetch_all(&mut database)
            .await?;
        let (n, ids, _, sealed_at) = batches.last().context("a batch")?;
        let before: Option<Hash> = match batches.len() {
            1 => None,
            length => batches[length - 2].2.as_slice().try_into().ok(),
        };
        run(
            &mut database,
            format!(
                "update patchbay.audit_entries set entry = '{{\"to\": 99}}' where id = {}",
                ids[0]
            ),
        )
        .await?;
        run(
            &mut database,
            format!(
                "update patchbay.audit_entries e set leaf = patchbay.audit_leaf(e) where id = {}",
                ids[0]
            ),
        )
        .await?;
        let mut leaves = Vec::<Hash>::new();
        for id in ids {
            let leaf: Vec<u8> =
                sqlx::query_scalar("select leaf from patchbay.audit_entries where id = $1")
                    .bind(id)
                    .fetch_one(&mut database)
                    .await?;
            leaves.push(leaf.as_slice().try_into()?);
        }
        let root = root(&leaves);
        let chain = chain(&Link {
            trail,
            epoch: 1,
            n: *n,
            before: before.as_ref(),
            count: i32::try_from(leaves.len())?,
            root: &root,
            sealed_at_us: sealed_at.timestamp_micros(),
        });
        sqlx::query(
            "update patchbay.audit_batches set root = $3, chain = $4 where trail = $1 and n = $2",
        )
        .bind(trail)
        .bind(n)
        .bind(&root[..])
        .bind(&chain[..])
        .execute(&mut database)
        .await?;
    }
    run(
        &mut database,
        "update patchbay.audit_batches set mac = null, kid = null where trail = 'maclass' \
         and n = (select max(n) from patchbay.audit_batches where trail = 'maclass')",
    )
    .await?;
    run(
        &mut database,
        "update patchbay.audit_batches set kid = 'other' where trail = 'keyed' \
         and n = (select max(n) from patchbay.audit_batches where trail = 'keyed')",
    )
    .await?;
    run(
        &mut database,
        "delete from patchbay.audit_entries e using patchbay.audit_batches b where b.trail = 'cut' \
         and b.n = (select max(n) from patchbay.audit_batches where trail = 'cut') and e.id = any(b.ids)",
    )
    .await?;
    run(
        &mut database,
        "delete from patchbay.audit_batches where trail = 'cut' and n = (select max(n) from patchbay.audit_batches where trail = 'cut')",
    )
    .await?;
    let (code, report) = verified(&world, &[]).await?;
    println!("{report:#}");
    assert_eq!(code, 1);
    let kinds = |report: &Value, trail: &str| -> Vec<String> {
        problems(report, trail)
            .into_iter()
            .map(|(kind, ..)| kind)
            .collect()
    };
    assert_eq!(kinds(&report, "anew"), ["mac-wrong"]);
    assert_eq!(kinds(&report, "maclass"), ["mac-missing"]);
    assert_eq!(kinds(&report, "keyed"), ["mac-wrong"]);
    // Without the key, only what was noted elsewhere shows it.
    let (_, unkeyed) = verified_with(&world, &["--trail", "anew"], &[]).await?;
    assert_eq!(unkeyed["macs"], "no-master-key");
    assert_eq!(kinds(&unkeyed, "anew"), Vec::<String>::new());
    let (code, unkeyed) =
        verified_with(&world, &["--trail", "anew", "--anchors", file], &[]).await?;
    assert_eq!(
        (code, kinds(&unkeyed, "anew")),
        (1, vec!["anchor-differs".to_owned()])
    );
    // The cut trail fits in itself.
    assert_eq!(of(&report, "cut")["result"], "whole", "{report:#}");
    let (code, cut) = verified(&world, &["--trail", "cut", "--anchors", file]).await?;
    assert_eq!((code, &of(&cut, "cut")["result"]), (3, &json!("shorter")));
    let missing = of(&cut, "cut")["missing"]["message"]
        .as_str()
        .context("words")?;
    assert!(
        missing.starts_with("1 batch up to ") && missing.contains("is missing"),
        "{missing}"
    );
    // A host that starts does not go on with it.
    for table in ["audit_entries", "audit_batches", "audit_expiries"] {
        let on = format!("alter table patchbay.{table} enable trigger all");
        run(&mut database, on).await?;
    }
    let (_, told) = world.output(&["doctor"], &[KEY]).await?;
    assert!(
        told.contains("unguarded"),
        "on again, but not always: {told}"
    );
    let host = world.host(&[KEY]).await?;
    write(&mut database, "cut", 9..=9).await?;
    until(SOON, "an alert", async || {
        let alerts = host.get("/api/admin/alerts").await?.1.to_string();
        Ok((alerts.contains("audit-short") && alerts.contains("\"cut\"")).then_some(()))
    })
    .await?;
    assert_eq!(
        number(
            &mut database,
            "select count(*) from patchbay.audit_batches where trail = 'cut'"
        )
        .await?,
        1
    );
    Ok(())
}

#[tokio::test]
async fn a_replaced_function_of_the_database_is_named_by_the_entries_that_it_was_given()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    write(&mut database, "leads", 1..=1).await?;
    all_sealed(&mut database).await?;
    run(
        &mut database,
        "create or replace function patchbay.audit_leaf(e patchbay.audit_entries) returns bytea language sql as 'select sha256(''x'')'",
    )
    .await?;
    write(&mut database, "leads", 2..=2).await?;
    all_sealed(&mut database).await?;
    let ids = ids(&mut database, "leads").await?;
    let report = json_of_broken(&host, &["--json", "audit", "verify", "--trail", "leads"]).await?;
    assert_eq!(
        problems(&report, "leads"),
        [("entry-changed".to_owned(), json!(2), json!(ids[1]))]
    );
    // The alert follows the verification.
    until(SOON, "an alert", async || {
        let alerts = host.get("/api/admin/alerts").await?.1.to_string();
        Ok(alerts.contains("audit-broken").then_some(()))
    })
    .await?;
    let page = host.metrics().await?;
    for line in [
        "patchbay_audit_broken{trail=\"leads\"} 1",
        "patchbay_audit_entries_total{trail=\"leads\"} 2",
        "patchbay_audit_pending_age_seconds ",
        "patchbay_audit_verified_timestamp_seconds{trail=\"leads\"} ",
    ] {
        assert!(page.contains(line), "{line}: {page}");
    }
    Ok(())
}

async fn json_of_broken(host: &Host, args: &[&str]) -> anyhow::Result<Value> {
    let output = patchbay(host, args).await?;
    ensure!(
        output.status.code() == Some(1),
        "{:?} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(answer["data"].clone())
}

#[tokio::test]
async fn a_restored_older_database_is_shorter_and_sealing_waits_for_an_operator()
-> anyhow::Result<()> {
    let mut world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    write(&mut database, "leads", 1..=2).await?;
    all_sealed(&mut database).await?;
    host.stop().await?;
    database.close().await?;
    // The backup.
    let original = world.prefix.clone();
    let copy = format!("{original}_copy");
    let mut server: reqwest::Url = world.database_url.parse()?;
    server.set_path("postgres");
    let mut admin = PgConnection::connect(server.as_str()).await?;
    run(
        &mut admin,
        format!("create database {copy} template {original}"),
    )
    .await?;
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    for key in 3..=4 {
        write(&mut database, "leads", key..=key).await?;
        all_sealed(&mut database).await?;
    }
    let (code, report) = verified(&world, &[]).await?;
    ensure!(code == 0, "{report:#}");
    host.stop().await?;
    database.close().await?;

    // The restore.
    let mut url: reqwest::Url = world.database_url.parse()?;
    url.set_path(&copy);
    let before = std::mem::replace(&mut world.database_url, url.into());
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    write(&mut database, "leads", 5..=5).await?;
    let report = until(SOON, "the gap is noticed", async || {
        let said = patchbay(&host, &["--json", "audit", "verify", "--trail", "leads"]).await?;
        let report: Value = serde_json::from_slice(&said.stdout)?;
        Ok((said.status.code() == Some(3)).then_some(report["data"].clone()))
    })
    .await?;
    let leads = of(&report, "leads");
    assert_eq!(
        (&leads["missing"]["batches"], &leads["pending"]),
        (&json!(2), &json!(1)),
        "{report:#}"
    );
    until(SOON, "an alert", async || {
        let alerts = host.get("/api/admin/alerts").await?.1.to_string();
        Ok(alerts.contains("audit-short").then_some(()))
    })
    .await?;
    let unreasoned = patchbay(&host, &["audit", "accept-gap", "leads"]).await?;
    assert_eq!(unreasoned.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&unreasoned.stderr).contains("reason"));
    let accept = ["audit", "accept-gap", "leads", "--reason", "restored"];
    let accepted = patchbay(&host, &accept).await?;
    println!("{}", String::from_utf8_lossy(&accepted.stdout));
    assert!(accepted.status.success(), "{accepted:?}");
    until(SOON, "the entry is sealed", async || {
        let waiting = "select count(*) from patchbay.audit_pending where trail = 'leads'";
        Ok((number(&mut database, waiting).await? == 0).then_some(()))
    })
    .await?;
    let said = patchbay(&host, &["--json", "audit", "verify", "--trail", "leads"]).await?;
    let report: Value = serde_json::from_slice(&said.stdout)?;
    assert_eq!(said.status.code(), Some(0), "{report:#}");
    let leads = of(&report["data"], "leads");
    assert_eq!(
        (
            &leads["acceptedGaps"][0]["lost"]["n"],
            &leads["head"]["epoch"]
        ),
        (&json!(3), &json!(2)),
        "{report:#}"
    );
    let again = patchbay(&host, &accept).await?;
    assert_eq!(again.status.code(), Some(4), "nothing is to be accepted");
    host.stop().await?;
    database.close().await?;
    world.database_url = before;
    run(&mut admin, format!("drop database {copy} with (force)")).await
}

#[tokio::test]
async fn ten_thousand_entries_of_sixteen_writers_are_each_in_one_batch_while_the_sealing_host_is_killed()
-> anyhow::Result<()> {
    const WRITERS: i32 = 16;
    const EACH: i32 = 625;
    let world = World::new().await?;
    let mut first = world.host(&[KEY]).await?;
    let second = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    let writers = (0..WRITERS).map(|writer| {
        let url = world.database_url.clone();
        async move {
            let mut own = PgConnection::connect(&url).await?;
            for key in 0..EACH {
                let key = writer * EACH + key;
                write(&mut own, "leads", key..=key).await?;
            }
            anyhow::Ok(())
        }
    });
    let written = futures::future::try_join_all(writers);
    let killed = async {
        let mut looking = world.database().await?;
        until(SOON, "the first batches", async || {
            let sealed = "select count(*) from patchbay.audit_batches where trail = 'leads'";
            Ok((number(&mut looking, sealed).await? > 0).then_some(()))
        })
        .await?;
        Ok(first.child.kill().await?)
    };
    tokio::try_join!(written, killed)?;
    let all = i64::from(WRITERS * EACH);
    until(
        Duration::from_secs(60),
        "everything is sealed",
        async || {
            let waiting =
                number(&mut database, "select count(*) from patchbay.audit_pending").await?;
            Ok((waiting == 0).then_some(()))
        },
    )
    .await?;
    for (query, expected) in [
        (
            "select count(*) from patchbay.audit_entries where trail = 'leads'",
            all,
        ),
        (
            "select sum(count)::bigint from patchbay.audit_batches where trail = 'leads'",
            all,
        ),
        (
            "select count(distinct id) from patchbay.audit_batches, unnest(ids) id where trail = 'leads'",
            all,
        ),
        (
            "select max(n) - count(*) from patchbay.audit_batches where trail = 'leads'",
            0,
        ),
    ] {
        assert_eq!(number(&mut database, query).await?, expected, "{query}");
    }
    let report = json_of(&second, &["--json", "audit", "verify"]).await?;
    assert_eq!(report["result"], "whole", "{report:#}");
    assert_eq!(of(&report, "leads")["entries"], all);
    Ok(())
}

#[tokio::test]
async fn postgres_away_during_a_seal_loses_nothing() -> anyhow::Result<()> {
    let world = World::new().await?;
    let mut url: reqwest::Url = world.database_url.parse()?;
    let cable = Cable::to(format!("127.0.0.1:{}", url.port().context("a port")?)).await?;
    url.set_port(Some(cable.address.port())).ok();
    let host = world
        .host(&[
            KEY,
            ("DATABASE_URL", url.as_str()),
            ("PATCHBAY_AUDIT_SEAL_EVERY_MS", "100"),
        ])
        .await?;
    let mut database = world.database().await?;
    let mut written = 0;
    for round in 0..4 {
        write(&mut database, "leads", written + 1..=written + 500).await?;
        written += 500;
        if round % 2 == 0 {
            cable.cut.send_replace(true);
            write(&mut database, "leads", written + 1..=written + 500).await?;
            written += 500;
            cable.cut.send_replace(false);
        }
    }
    all_sealed(&mut database).await?;
    let (code, report) = verified(&world, &["--trail", "leads"]).await?;
    assert_eq!(
        (code, &of(&report, "leads")["entries"]),
        (0, &json!(written))
    );
    drop(host);
    Ok(())
}

#[tokio::test]
async fn what_operators_do_and_what_happens_to_plugins_are_entries_that_can_be_found_and_downloaded()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    host.deploy("clerk", clerk_plugin()?).await?;
    let secret = json!({ "value": "value-4711" });
    host.put("/api/admin/plugins/clerk/secrets/TOKEN", secret)
        .await?;
    let refused = host
        .post("/api/admin/queues/nothing-here/pause", json!({}))
        .await?;
    println!("{refused:?}");
    let listed = async |query: &str| -> anyhow::Result<Vec<Value>> {
        let (status, answer) = host.get(&format!("/api/admin/audit{query}")).await?;
        ensure!(status == 200, "{answer}");
        Ok(answer["data"].as_array().context("a list")?.clone())
    };
    let pushed = listed("?trail=operators&action=plugin.activate").await?;
    let phases: Vec<&Value> = pushed
        .iter()
        .map(|entry| &entry["entry"]["phase"])
        .collect();
    assert_eq!(phases, ["ended", "began"], "{pushed:?}");
    assert_eq!(
        pushed[0]["entry"]["actionId"],
        pushed[1]["entry"]["actionId"]
    );
    assert_eq!(
        (
            &pushed[1]["actorId"],
            &pushed[1]["entity"],
            &pushed[1]["address"]
        ),
        (&json!("operator"), &json!("clerk"), &json!("127.0.0.1"))
    );
    let mut database = world.database().await?;
    let fits = "select count(*) from patchbay.operator_actions a join patchbay.audit_entries e \
        on e.trail = 'operators' and e.entry_key = a.id || '/began' \
        and e.entry ->> 'detailsSha256' = encode(sha256(convert_to(a.details::text, 'UTF8')), 'hex')";
    let actions = "select count(*) from patchbay.operator_actions";
    assert_eq!(
        number(&mut database, fits).await?,
        number(&mut database, actions).await?,
        "what operator_actions says can be compared with the ledger"
    );
    let of_plugin = listed("?trail=plugins&entity=clerk").await?;
    let actions: Vec<&str> = of_plugin
        .iter()
        .filter_map(|entry| entry["action"].as_str())
        .collect();
    assert_eq!(actions, ["secret.set", "activate", "grant"]);
    assert!(!format!("{of_plugin:?}").contains("value-4711"));
    assert_eq!(listed("?actor=nobody").await?.len(), 0);
    assert_eq!(
        listed("?trail=plugins&actor=operator&until=2000-01-01T00:00:00Z")
            .await?
            .len(),
        0
    );
    let (status, answer) = host
        .put("/api/admin/audit/trails/operators", json!({ "schema": {} }))
        .await?;
    assert_eq!(status, 409, "{answer}");

    run(
        &mut database,
        "insert into patchbay.audit_entries (trail, entry_key, actor_id, entry) values ('csv', '=cmd()', '@a', '{\"a\": \"b, \\\"c\\\"\"}')",
    )
    .await?;
    let said = patchbay(&host, &["audit", "export", "--trail", "csv"]).await?;
    let text = String::from_utf8(said.stdout)?;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].starts_with("id,at,trail,actorKind,actorId"),
        "{text}"
    );
    assert!(
        lines[1].contains("\"'=cmd()\"") && lines[1].contains("\"'@a\""),
        "{text}"
    );
    let exports = listed("?trail=operators&action=audit.export").await?;
    assert!(!exports.is_empty(), "a download is recorded");
    for wrong in [
        "export?format=xml",
        "export?since=-5000-01-01T00:00:00Z",
        "?until=x",
    ] {
        let path = format!("/api/admin/audit/{wrong}").replace("/?", "?");
        assert_eq!(host.get(&path).await?.0, 400, "{wrong}");
    }
    Ok(())
}

#[tokio::test]
async fn old_entries_are_deleted_only_as_an_operator_decided_and_the_chain_verifies_over_the_hole()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    write(&mut database, "leads", 1..=3).await?;
    all_sealed(&mut database).await?;
    let expire = ["audit", "expire", "leads"];
    let refused = patchbay(&host, &expire).await?;
    assert_eq!(refused.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("kept for ever"));
    let short = patchbay(
        &host,
        &["audit", "retention", "set", "leads", "--days", "7"],
    )
    .await?;
    assert_eq!(short.status.code(), Some(4), "90 days at least");
    json_of(
        &host,
        &[
            "--json",
            "audit",
            "retention",
            "set",
            "leads",
            "--days",
            "90",
        ],
    )
    .await?;
    let asked = patchbay(&host, &expire).await?;
    let asked = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.contains("older than 90 days, for ever"), "{asked}");
    let none = json_of(&host, &["--json", "audit", "expire", "leads", "--yes"]).await?;
    assert_eq!(none["deleted"], 0, "nothing is that old");
    // Instead of waiting for ninety days.
    run(
        &mut database,
        "alter table patchbay.audit_retention drop constraint audit_retention_keep_days_check",
    )
    .await?;
    run(
        &mut database,
        "update patchbay.audit_retention set keep_days = 0",
    )
    .await?;
    let done = json_of(&host, &["--json", "audit", "expire", "leads", "--yes"]).await?;
    assert_eq!(
        (&done["deleted"], &done["more"]),
        (&json!(3), &json!(false))
    );
    write(&mut database, "leads", 4..=4).await?;
    all_sealed(&mut database).await?;
    let (code, report) = verified(&world, &[]).await?;
    assert_eq!(code, 0, "{report:#}");
    let leads = of(&report, "leads");
    assert_eq!(
        (&leads["expired"], &leads["entries"]),
        (&json!(3), &json!(1))
    );
    // An expiry that somebody has added by hand is told.
    let refused = run(
        &mut database,
        "delete from patchbay.audit_entries where trail = 'leads'",
    )
    .await;
    assert!(format!("{:#}", refused.expect_err("no expiry")).contains("no expiry covers"));
    run(
        &mut database,
        "insert into patchbay.audit_expiries (trail, up_to, before, count, by) values ('leads', 1000000, now() + interval '1 day', 1, 'me')",
    )
    .await?;
    run(
        &mut database,
        "delete from patchbay.audit_entries where trail = 'leads'",
    )
    .await?;
    let (code, report) = verified(&world, &["--trail", "leads"]).await?;
    assert_eq!(code, 1);
    assert_eq!(
        problems(&report, "leads")[0].0,
        "expiry-unrecorded",
        "{report:#}"
    );
    Ok(())
}

#[tokio::test]
async fn old_rows_of_the_old_backend_become_entries_once() -> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    run(
        &mut database,
        "create table public.login_logs (id serial primary key, \"userId\" int, action text, \"ipAddress\" text, \"userAgent\" text, \
         \"timestamp\" timestamptz)",
    )
    .await?;
    run(
        &mut database,
        "insert into public.login_logs (\"userId\", action, \"ipAddress\", \"userAgent\", \"timestamp\") \
         select k, 'login', '10.0.0.1', 'curl', '2024-01-01T00:00:00Z' from generate_series(1, 2500) k",
    )
    .await?;
    let import = ["--json", "audit", "import", "login_logs"];
    let done = json_of(&host, &import).await?;
    assert_eq!(
        (&done["read"], &done["added"]),
        (&json!(2500), &json!(2500))
    );
    let again = json_of(&host, &import).await?;
    assert_eq!((&again["read"], &again["added"]), (&json!(2500), &json!(0)));
    let found = json_of(
        &host,
        &[
            "--json",
            "audit",
            "list",
            "--trail",
            "login_logs",
            "--actor",
            "7",
        ],
    )
    .await?;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(
        (
            &found[0]["origin"],
            &found[0]["entry"]["ipAddress"],
            &found[0]["action"]
        ),
        (&json!("import"), &json!("10.0.0.1"), &json!("login"))
    );
    all_sealed(&mut database).await?;
    let (code, report) = verified(&world, &[]).await?;
    assert_eq!(code, 0, "{report:#}");
    let missing = patchbay(
        &host,
        &["audit", "import", "login_logs", "--table", "crm.nothing"],
    )
    .await?;
    assert_eq!(missing.status.code(), Some(3));
    Ok(())
}

fn login<'a>(
    key: &'a str,
    user: Option<&'a str>,
    action: &'a str,
    told: &'a Value,
) -> NewHostEntry<'a> {
    NewHostEntry {
        trail: LOGIN_LOGS,
        entry_key: key,
        actor_kind: ActorKind::User,
        actor_id: user,
        actor_name: None,
        action,
        entity: None,
        address: Some(std::net::IpAddr::from([10, 0, 0, 7])),
        platform: Some("web"),
        correlation_id: None,
        entry: told,
    }
}

#[tokio::test]
async fn a_login_is_also_a_row_of_the_old_backend_and_a_table_that_refuses_it_stops_no_login()
-> anyhow::Result<()> {
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    let config = StoreConfig {
        url: world.database_url.clone(),
        min_connections: 0,
        max_connections: 2,
        acquire_timeout: Duration::from_secs(5),
    };
    let store = Store::connect(config, Duration::from_secs(5)).await?;
    let told = json!({ "userAgent": "curl/8" });
    // Without the table, the entry is all.
    assert!(
        store
            .append_entry(&login("a", Some("7"), "login", &told))
            .await?
    );
    assert!(
        !store
            .append_entry(&login("a", Some("8"), "login", &told))
            .await?,
        "the first stands"
    );
    for id in ["serial", "uuid"] {
        run(&mut database, "drop table if exists public.login_logs").await?;
        run(
            &mut database,
            format!(
                "create table public.login_logs (id {id} primary key, \"userId\" int not null, action text, \"ipAddress\" text, \
                 \"userAgent\" text, \"timestamp\" timestamp not null default now())"
            ),
        )
        .await?;
        for (key, user, action) in [
            ("login", Some("7"), "login"),
            ("logout", Some("7"), "logout"),
            ("failed", None, "login-failed"),
            ("nobody", None, "login"),
        ] {
            let key = format!("{id}-{key}");
            assert!(
                store
                    .append_entry(&login(&key, user, action, &told))
                    .await?,
                "{key}"
            );
        }
        let rows: Vec<(i32, String, String, String)> = sqlx::query_as(
            "select \"userId\", action, \"ipAddress\", \"userAgent\" from public.login_logs order by action",
        )
        .fetch_all(&mut database)
        .await?;
        let row = |action: &str| {
            (
                7,
                action.to_owned(),
                "10.0.0.7".to_owned(),
                "curl/8".to_owned(),
            )
        };
        assert_eq!(rows, [row("login"), row("logout")], "{id}");
    }
    all_sealed(&mut database).await?;
    let found = json_of(
        &host,
        &[
            "--json",
            "audit",
            "list",
            "--trail",
            "login_logs",
            "--actor",
            "7",
        ],
    )
    .await?;
    assert_eq!(found.as_array().map(Vec::len), Some(5), "{found}");
    assert_eq!(
        (
            &found[0]["address"],
            &found[0]["platform"],
            &found[0]["actorKind"]
        ),
        (&json!("10.0.0.7"), &json!("web"), &json!("user"))
    );
    let (code, report) = verified(&world, &[]).await?;
    assert_eq!(code, 0, "{report:#}");
    Ok(())
}

#[tokio::test]
async fn after_a_rekey_macs_are_checked_with_the_new_master_key_alone() -> anyhow::Result<()> {
    const NEW: &str = "0505050505050505050505050505050505050505050505050505050505050506";
    let world = World::new().await?;
    let host = world.host(&[KEY]).await?;
    let mut database = world.database().await?;
    write(&mut database, "leads", 1..=1).await?;
    all_sealed(&mut database).await?;
    host.stop().await?;
    let new = ("PATCHBAY_SECRETS_KEY", NEW);
    let host = world
        .host(&[new, ("PATCHBAY_SECRETS_OLD_KEY", KEY.1)])
        .await?;
    let done = json_of(&host, &["--json", "secret", "rekey"]).await?;
    assert_eq!(
        (&done["hostKeys"], &done["unreadable"]),
        // Of the audit trails and of the inbox.
        (&json!(2), &json!([]))
    );
    write(&mut database, "leads", 2..=2).await?;
    all_sealed(&mut database).await?;
    let (code, report) = verified_with(&world, &["--trail", "leads"], &[new]).await?;
    let leads = of(&report, "leads");
    assert_eq!(
        (
            code,
            &leads["entries"],
            &leads["uncheckedMacs"],
            &leads["withoutMac"]
        ),
        (0, &json!(2), &json!(0), &json!(0)),
        "{report:#}"
    );
    // Whoever lacks that key cannot check them, and is told.
    let (code, report) = verified(&world, &["--trail", "leads"]).await?;
    let leads = of(&report, "leads");
    assert_eq!(
        (code, &leads["uncheckedMacs"]),
        (1, &json!(2)),
        "{report:#}"
    );
    let told = problems(&report, "leads");
    assert!(told.len() == 1 && told[0].0 == "mac-unchecked", "{told:?}");
    Ok(())
}

#[tokio::test]
async fn without_a_master_key_the_chain_has_no_macs_and_says_so() -> anyhow::Result<()> {
    let world = World::new().await?;
    let anchors = world.dir.path().join("anchors");
    let host = world
        .host(&[(
            "PATCHBAY_AUDIT_ANCHOR_FILE",
            anchors.to_str().context("a path")?,
        )])
        .await?;
    let mut database = world.database().await?;
    write(&mut database, "leads", 1..=2).await?;
    all_sealed(&mut database).await?;
    let report = json_of(&host, &["--json", "audit", "verify"]).await?;
    assert_eq!(
        (&report["macs"], &of(&report, "leads")["withoutMac"]),
        (&json!("no-master-key"), &json!(1))
    );
    let file = until(SOON, "an anchor in the file", async || {
        let text = std::fs::read_to_string(&anchors).unwrap_or_default();
        Ok(text
            .contains("trail=leads epoch=1 batch=1 chain=")
            .then_some(text))
    })
    .await?;
    println!("{file}");
    let log = host.log.lock().expect("no writer panics").clone();
    assert!(
        log.contains("audit anchor") && log.contains("no master key is configured"),
        "{log}"
    );
    Ok(())
}

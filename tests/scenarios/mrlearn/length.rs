//! Many learners: memory stays flat, time grows with their number, a second sync writes only what
//! changed, and nobody is lost of a long list that changes while it is read.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use patchbay_stand_ins::graphy::Learner;
use serde_json::json;
use sqlx::Row;

use super::Setting;
use crate::harness::{full_length, until};

/// For both rounds, at full length, of a host that is not optimised.
const LIMIT: Duration = Duration::from_secs(300);

/// Resident memory of the host, in MiB.
fn resident_mib(setting: &Setting) -> anyhow::Result<u64> {
    let pid = setting.host.child.id().unwrap_or_default();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(kib
        .and_then(|kib| kib.parse::<u64>().ok())
        .unwrap_or_default()
        / 1_024)
}

/// What one round of syncs has cost.
struct Round {
    took: Duration,
    written: i64,
    most_mib: u64,
}

/// Syncs these configs, as many at once as the plugin does, to their ends.
async fn round(setting: &Setting, configs: &[i64]) -> anyhow::Result<Round> {
    let last = "select coalesce(max(id), 0)::int8 from mrlearn.sync_runs";
    let before = setting.count(last).await?;
    let started = Instant::now();
    for id in configs {
        anyhow::ensure!(setting.trigger(*id).await? == 202);
    }
    let ended = format!(
        "select count(*) from mrlearn.sync_runs where id > {before} and state = 'completed'"
    );
    let all = i64::try_from(configs.len())?;
    let mut most_mib = 0;
    until(LIMIT, "the end of all syncs", async || {
        most_mib = most_mib.max(resident_mib(setting)?);
        Ok((setting.count(&ended).await? >= all).then_some(()))
    })
    .await?;
    let written = format!(
        "select coalesce(sum(written), 0)::int8 from mrlearn.sync_runs where id > {before}"
    );
    Ok(Round {
        took: started.elapsed(),
        written: setting.count(&written).await?,
        most_mib,
    })
}

#[tokio::test]
async fn many_learners_in_many_courses_are_mirrored_in_flat_memory() -> anyhow::Result<()> {
    let (count, courses) = match full_length() {
        true => (50_000, 40),
        false => (1_500, 3),
    };
    let setting = Setting::new().await?;
    setting.set(json!({ "pageSize": 500 })).await?;
    let course = |n: usize| format!("course{}", n % courses);
    let learners = |from: usize, to: usize| -> Vec<Learner> {
        (from..to).map(|n| Learner::new(n, &course(n))).collect()
    };
    let mut configs = Vec::new();
    for n in 0..courses {
        configs.push(setting.config(&course(n), json!({})).await?);
    }

    // Time grows with the list: half of it, then the whole.
    let change = |all: Vec<Learner>| setting.vendor.change_learners(|kept| kept.extend(all));
    change(learners(0, count / 2));
    let half = round(&setting, &configs[..1]).await?;
    change(learners(count / 2, count));
    let whole = round(&setting, &configs[..1]).await?;
    println!(
        "one course: {} learners in {:.1} s, {count} in {:.1} s",
        count / 2,
        half.took.as_secs_f64(),
        whole.took.as_secs_f64()
    );
    if full_length() {
        assert!(whole.took < half.took * 4, "twice as many");
    }

    let before = resident_mib(&setting)?;
    let first_course = half.written + whole.written;
    let started = Instant::now();
    for number in 1..=2 {
        let told = round(&setting, &configs).await?;
        println!(
            "round {number}: {count} learners in {courses} courses, {} rows written, {:.1} s; the host has {before} MiB before and {} MiB at most",
            told.written,
            told.took.as_secs_f64(),
            told.most_mib
        );
        let expected = match number {
            1 => i64::try_from(2 * count)? - first_course,
            _ => 1,
        };
        assert_eq!(told.written, expected, "only what has changed");
        assert!(told.most_mib < before + 256, "memory stays flat");
        setting.vendor.change_learners(|all| {
            all[count / 2]
                .courses
                .values_mut()
                .for_each(|progress| *progress = 99 - *progress.min(&mut 98));
        });
    }
    if full_length() {
        assert!(started.elapsed() < LIMIT, "{:?}", started.elapsed());
    }
    let all = "select count(*) from mrlearn.enrolments where left_at is null";
    assert_eq!(setting.count(all).await?, i64::try_from(count)?);

    // The list changes before each page: learners leave at the front, and others come.
    let mut database = setting.world.database().await?;
    sqlx::query("delete from mrlearn.enrolments where course_id = 'course0'")
        .execute(&mut database)
        .await?;
    setting.vendor.behave(|behaviour| {
        behaviour.removes_per_page = 30;
        behaviour.adds_per_page = 10;
        behaviour.changes = count / 500;
    });
    let told = round(&setting, &configs[..1]).await?;
    let rows = sqlx::query(
        "select learner_id from mrlearn.enrolments where course_id = 'course0' and left_at is null",
    )
    .fetch_all(&mut database)
    .await?;
    let known: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let there = setting.vendor.learners();
    let there = there
        .iter()
        .filter(|learner| learner.courses.contains_key("course0"));
    let lost: Vec<&String> = there
        .clone()
        .map(|learner| &learner.id)
        .filter(|id| !known.contains(*id))
        .collect();
    println!(
        "a list that changes before each page: {:.1} s, {} of the course, {} lost",
        told.took.as_secs_f64(),
        there.count(),
        lost.len()
    );
    assert!(lost.is_empty(), "{lost:?}");
    Ok(())
}

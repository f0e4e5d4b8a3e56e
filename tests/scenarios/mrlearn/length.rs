//! Many learners: memory stays flat, time grows with their number, and a second sync writes only
//! what changed.

use std::time::Instant;

use patchbay_stand_ins::graphy::Learner;
use serde_json::json;

use super::Setting;
use crate::harness::full_length;

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

#[tokio::test]
async fn many_learners_in_many_courses_are_mirrored_in_flat_memory() -> anyhow::Result<()> {
    let (count, courses) = match full_length() {
        true => (50_000, 40),
        false => (1_500, 3),
    };
    let setting = Setting::new().await?;
    setting.set(json!({ "pageSize": 500 })).await?;
    let course = |n: usize| format!("course{}", n % courses);
    setting.vendor.change_learners(|all| {
        all.extend((0..count).map(|n| Learner::new(n, &course(n))));
    });
    let mut configs = Vec::new();
    for n in 0..courses {
        configs.push(setting.config(&course(n), json!({})).await?);
    }
    let before = resident_mib(&setting)?;
    let mut most = before;
    for round in 0..2 {
        let (started, mut written) = (Instant::now(), 0);
        for id in &configs {
            let run = setting.sync(*id).await?;
            assert_eq!(run["state"], "completed", "{run}");
            written += run["written"].as_i64().unwrap_or_default();
            most = most.max(resident_mib(&setting)?);
        }
        println!(
            "round {round}: {count} learners in {courses} courses, {written} rows written, {:.1} s, host {before} MiB before, {most} MiB at most",
            started.elapsed().as_secs_f64()
        );
        let expected = if round == 0 { 2 * count } else { 1 };
        match round {
            0 => assert_eq!(written, i64::try_from(expected)?),
            _ => assert_eq!(
                written,
                i64::try_from(expected)?,
                "one learner has come further"
            ),
        }
        setting.vendor.change_learners(|all| {
            all[count / 2]
                .courses
                .values_mut()
                .for_each(|progress| *progress = 99 - *progress.min(&mut 98));
        });
    }
    let all = "select count(*) from mrlearn.enrolments where left_at is null";
    assert_eq!(setting.count(all).await?, i64::try_from(count)?);
    assert!(
        most < before + 256,
        "{before} MiB before, {most} MiB at most"
    );
    Ok(())
}

//! `patchbay audit verify`, `anchor` and `accept-gap`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use patchbay_api::audit::{
    AuditAcceptGap, AuditAnchors, AuditReport, AuditVerify, TrailPath, TrailReport, Verdict, Verify,
};
use patchbay_api::body::NoBody;
use patchbay_api::operation::NoQuery;
use patchbay_model::audit_chain::Anchor;

use crate::client::Client;
use crate::output::Output;
use crate::refusal::Refusal;

/// Every entry is read.
const LIMIT: Duration = Duration::from_secs(24 * 3_600);
/// The exit codes of `patchbay audit verify`.
const EXIT_CODES: &str = "\
Exit codes:
  0  every trail is whole
  1  a trail is broken, or it could not be verified
  3  a trail is shorter than what was noted outside of the database";
const BROKEN: u8 = 1;
const SHORTER: u8 = 3;

#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct VerifyArgs {
    /// Only this trail
    #[arg(long)]
    pub trail: Option<String>,
    /// File with anchors: lines of audit.anchor_file, of the log, or of `patchbay audit anchor`
    #[arg(long, value_name = "FILE")]
    pub anchors: Option<PathBuf>,
    /// Read the database itself, not a running host; needs its configuration (DATABASE_URL, and
    /// secrets.key_file to check MACs). Redis is not asked
    #[arg(long)]
    pub database: bool,
}

impl VerifyArgs {
    /// The anchors of the file.
    pub fn anchors(&self) -> anyhow::Result<Vec<Anchor>> {
        self.anchors.as_deref().map_or(Ok(Vec::new()), read)
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Anchor>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let anchors = Anchor::newest(text.lines().filter_map(Anchor::read));
    if anchors.is_empty() {
        return Err(Refusal(format!(
            "{} has no anchor: a line is like trail=operators epoch=1 batch=7 chain=64 hexadecimal digits",
            path.display()
        ))
        .into());
    }
    Ok(anchors)
}

pub(super) async fn run(
    args: VerifyArgs,
    client: &Client,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let anchors = args.anchors()?;
    let asked = Verify {
        trail: args.trail,
        anchors,
    };
    let report = client
        .ask_with::<AuditVerify>((), |request| request.json(&asked).timeout(LIMIT))
        .await?;
    Ok(print_report(&report.data, output))
}

/// Prints what a verification found; gives the exit code.
pub fn print_report(report: &AuditReport, output: Output) -> ExitCode {
    if output.json {
        output.value("", report);
    } else {
        print_tables(report, output);
    }
    match report.result {
        Verdict::Whole => ExitCode::SUCCESS,
        Verdict::Broken => ExitCode::from(BROKEN),
        Verdict::Shorter => ExitCode::from(SHORTER),
    }
}

fn print_tables(report: &AuditReport, output: Output) {
    let row = |trail: &TrailReport| {
        let head = trail.head.as_ref().map_or("-".to_owned(), |head| {
            format!("epoch {} batch {}", head.epoch, head.n)
        });
        vec![
            trail.trail.clone(),
            word(trail.result).to_owned(),
            trail.entries.to_string(),
            trail.batches.to_string(),
            trail.pending.to_string(),
            trail.expired.to_string(),
            head,
            trail.without_mac.to_string(),
        ]
    };
    output.list(
        &[
            "TRAIL",
            "RESULT",
            "ENTRIES",
            "BATCHES",
            "NOT SEALED",
            "EXPIRED",
            "NEWEST",
        ],
        &["WITHOUT MAC"],
        report.trails.iter().map(row).collect(),
        report,
        &Default::default(),
    );
    if output.quiet {
        return;
    }
    for trail in &report.trails {
        let name = &trail.trail;
        for problem in &trail.problems {
            println!("{}", crate::plain(&format!("{name}: {}", problem.message)));
        }
        if trail.more_problems > 0 {
            println!("{name}: {} more problems", trail.more_problems);
        }
        if let Some(missing) = &trail.missing {
            println!("{}", crate::plain(&format!("{name}: {}", missing.message)));
        }
        for gap in &trail.accepted_gaps {
            println!(
                "{name}: an operator accepted that entries are missing before epoch {}",
                gap.epoch
            );
        }
        if trail.unchecked_macs > 0 {
            output.note(&format!(
                "{name}: {} MACs were not checked, because no configured master key opens their key",
                trail.unchecked_macs
            ));
        }
    }
    let without: u64 = report.trails.iter().map(|trail| trail.without_mac).sum();
    if report.macs == "no-master-key" {
        output.note("MACs were not checked: no master key is configured (secrets.key_file)");
    } else if without > 0 {
        output.note(&format!(
            "{} no MAC, because no master key was configured when they were sealed. Somebody who could write to the database could have changed them unseen. For new batches: set secrets.key_file",
            match without {
                1 => "1 batch has".to_owned(),
                more => format!("{more} batches have"),
            }
        ));
    }
    if report.trails.is_empty() {
        output.note("There are no entries");
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Whole => "whole",
        Verdict::Shorter => "SHORTER",
        Verdict::Broken => "BROKEN",
    }
}

pub(super) async fn anchor(client: &Client, output: Output) -> anyhow::Result<()> {
    let heads = client.ask::<AuditAnchors>((), NoQuery {}, NoBody).await?;
    if output.json {
        output.value("", &heads.raw);
        return Ok(());
    }
    for head in &heads.data {
        println!("{head}");
    }
    Ok(())
}

pub(super) async fn accept_gap(
    trail: String,
    client: &Client,
    output: Output,
) -> anyhow::Result<()> {
    let path = TrailPath {
        trail: trail.clone(),
    };
    let gap = client
        .ask::<AuditAcceptGap>(path, NoQuery {}, NoBody)
        .await?;
    output.done(
        &format!(
            "Accepted: entries of {trail} up to batch {} of epoch {} are missing. Sealing goes on in epoch {}",
            gap.data.lost.n, gap.data.lost.epoch, gap.data.epoch
        ),
        &gap.raw,
    );
    Ok(())
}

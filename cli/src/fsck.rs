//! `polyfs fsck`: everything a cluster holds, checked.
//!
//! Owns the progress bar, both presentations and the exit code: 1 when something is wrong. The checks are core's.

use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use polyfs_core::region::audit::Finding;
use polyfs_node::fsck::{self, Progress, Report};
use serde_json::{Value, json};

use crate::arguments::Ask;
use crate::{cluster, output};

/// Audits and prints.
pub(crate) fn run(options: &Ask) -> anyhow::Result<ExitCode> {
    let bar = if options.json {
        ProgressBar::hidden()
    } else {
        ProgressBar::new_spinner()
    };
    let report = cluster::block_on(async {
        let access = cluster::reach(&options.cluster).await?;
        Ok(fsck::run(access, &|progress| show(&bar, progress)).await?)
    });
    bar.finish_and_clear();
    let report = report?;
    let text = if options.json {
        format!("{:#}", to_json(&report))
    } else {
        for_people(&report)
    };
    output::print(&text)?;
    Ok(if report.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(bar: &ProgressBar, progress: Progress) {
    match progress.total {
        Some(total) => {
            bar.set_style(style("{msg} {wide_bar} {pos}/{len} {eta}"));
            bar.set_length(total);
        }
        None => bar.set_style(style("{spinner} {msg} {pos}")),
    }
    bar.set_message(progress.stage);
    bar.set_position(progress.done);
    bar.tick();
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are well formed")
}

fn to_json(report: &Report) -> Value {
    let finding = |found: &Finding| {
        let inodes: Vec<u64> = found.subjects().iter().map(|ino| ino.0).collect();
        json!({ "kind": found.kind(), "what": found.to_string(), "inodes": inodes })
    };
    json!({
        "clean": report.findings.is_empty(),
        "regions": report.regions,
        "inodes": report.inodes,
        "chunks": report.chunks,
        "chunks_verified": report.verified,
        "unsettled": report.unsettled,
        "findings": report.findings.iter().map(finding).collect::<Vec<_>>(),
    })
}

fn for_people(report: &Report) -> String {
    let mut text: String = report
        .findings
        .iter()
        .map(|found| format!("{}: {found}\n", found.kind()))
        .collect();
    if report.unsettled > 0 {
        text += &format!(
            "{} things changed too fast to be judged: run it again when less is written\n",
            report.unsettled
        );
    }
    let Report {
        regions,
        inodes,
        verified,
        ..
    } = report;
    text += &format!("read {regions} regions, {inodes} inodes, {verified} chunks: ");
    text += &match report.findings.len() {
        0 => "all is well".to_owned(),
        count => format!("{count} findings"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use polyfs_core::place::Ino;

    #[test]
    fn findings_are_said_to_people_and_to_programs() {
        let mut report = Report::default();
        assert!(for_people(&report).ends_with("all is well"));
        assert_eq!(to_json(&report)["clean"], true);
        report.findings.push(Finding::Forgotten { ino: Ino(77) });
        let json = to_json(&report);
        assert_eq!(json["findings"][0]["kind"], "forgotten");
        assert_eq!(json["findings"][0]["inodes"][0], 77);
        assert!(for_people(&report).contains("1 findings"));
    }
}

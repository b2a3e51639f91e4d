//! What the figures of a comparison must show.
//!
//! Owns the demands: no row fails, none is slower than GlusterFS, commits and creates are twice as fast, a sequential
//! write reaches 200 MB/s. Deliberately knows nothing of how the figures came about.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Deserialize;

const OURS: &str = "polyfs";
const PEER: &str = "glusterfs";
/// What must be twice as fast as the peer's.
const TWICE: &[&str] = &[
    "fio rand write 4K fsync=1, 1 job",
    "fio rand write 4K fsync=1, 8 jobs",
    "meta 1 proc create",
    "meta 8 procs create",
];
const SEQUENTIAL: &str = "fio seq write 1M, end_fsync";
const SEQUENTIAL_MB_S_MIN: f64 = 200.0;

/// What the harness wrote.
#[derive(Deserialize)]
pub(super) struct Results {
    started: String,
    profile: String,
    seconds: Option<u64>,
    rounds_complete: Option<u64>,
    machine: Machine,
    metrics: BTreeMap<String, Metric>,
    failures: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    load: Vec<(u64, String, String, f64, f64)>,
}

#[derive(Deserialize)]
struct Machine {
    kernel: String,
    cpus: u64,
    mem_gb: f64,
}

#[derive(Deserialize)]
struct Metric {
    unit: String,
    higher_is_better: bool,
    /// By target, one for each round.
    values: BTreeMap<String, Vec<f64>>,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    let even = values.len().is_multiple_of(2);
    Some(if even {
        f64::midpoint(values[middle - 1], upper)
    } else {
        upper
    })
}

/// What must hold, and whether it does.
pub(super) struct Demand {
    pub(super) holds: bool,
    /// A line for people.
    pub(super) text: String,
}

impl Metric {
    /// How many times as fast as the peer: the median of the rounds' own ratios, as the machine drifts between rounds.
    fn ratio(&self) -> Option<f64> {
        let (ours, peer) = (self.values.get(OURS)?, self.values.get(PEER)?);
        let speed = |(ours, peer): (&f64, &f64)| {
            if self.higher_is_better {
                ours / peer
            } else {
                peer / ours
            }
        };
        median(ours.iter().zip(peer).map(speed).collect())
    }
}

impl Results {
    pub(super) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("the results in {}", path.display()))?;
        Ok(serde_json::from_str(&text)?)
    }

    /// When, where, and how busy the machine was.
    pub(super) fn circumstances(&self) -> String {
        let loads = self.load.iter().map(|(.., load)| *load);
        let load = median(loads.clone().collect()).unwrap_or_default();
        let worst = loads.fold(0.0, f64::max);
        format!(
            "Run of {}, profile `{}`, {} complete rounds in {} s; {} CPUs, {} GiB, Linux {}; load average {load:.1} in \
             the median, {worst:.1} at most.",
            self.started,
            self.profile,
            self.rounds_complete.unwrap_or_default(),
            self.seconds.unwrap_or_default(),
            self.machine.cpus,
            self.machine.mem_gb,
            self.machine.kernel,
        )
    }

    /// The demands.
    pub(super) fn verdict(&self) -> Vec<Demand> {
        let mut lines = vec![self.nothing_fails(), self.nothing_is_slower()];
        lines.extend(TWICE.iter().map(|name| self.twice(name)));
        lines.push(self.sequential());
        lines
    }

    fn nothing_fails(&self) -> Demand {
        let ours = |(step, by): (&String, &BTreeMap<String, Vec<String>>)| {
            by.contains_key(OURS).then(|| step.clone())
        };
        let failed: Vec<String> = self.failures.iter().filter_map(ours).collect();
        line(failed.is_empty(), "no row fails", &failed.join(", "))
    }

    fn nothing_is_slower(&self) -> Demand {
        let slower = |(name, metric): (&String, &Metric)| {
            let ratio = metric.ratio().filter(|ratio| *ratio < 1.0)?;
            Some(format!("{name} ({ratio:.2})"))
        };
        let slower: Vec<String> = self.metrics.iter().filter_map(slower).collect();
        line(
            slower.is_empty(),
            "no row is slower than GlusterFS",
            &slower.join("; "),
        )
    }

    fn twice(&self, name: &str) -> Demand {
        let ratio = self.metrics.get(name).and_then(Metric::ratio);
        let found = ratio.map_or("not measured".to_owned(), |ratio| {
            format!("{ratio:.2} times")
        });
        let demand = format!("{name}: at least twice as fast as GlusterFS");
        line(ratio.is_some_and(|ratio| ratio >= 2.0), &demand, &found)
    }

    fn sequential(&self) -> Demand {
        let metric = self.metrics.get(SEQUENTIAL);
        let values = metric.and_then(|metric| metric.values.get(OURS));
        let speed = values.and_then(|values| median(values.clone()));
        let unit = metric.map_or("", |metric| &metric.unit);
        let found = speed.map_or("not measured".to_owned(), |speed| {
            format!("{speed:.0} {unit}")
        });
        let demand = format!("{SEQUENTIAL}: at least {SEQUENTIAL_MB_S_MIN} MB/s");
        line(
            speed.is_some_and(|speed| speed >= SEQUENTIAL_MB_S_MIN),
            &demand,
            &found,
        )
    }
}

fn line(holds: bool, demand: &str, found: &str) -> Demand {
    let word = if holds { "holds" } else { "**does not hold**" };
    let found = if found.is_empty() {
        String::new()
    } else {
        format!(": {found}")
    };
    let text = format!("* {demand}: {word}{found}");
    Demand { holds, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"started": "then", "profile": "quick", "machine": {"kernel": "6", "cpus": 2, "mem_gb": 24.0},
        "failures": {"git": {"native": ["x"]}}, "load": [[1, "a", "b", 0.5, 3.0]], "metrics": {
        "meta 1 proc create": {"unit": "ops/s", "higher_is_better": true,
            "values": {"polyfs": [10.0, 30.0, 20.0], "glusterfs": [10.0, 10.0, 10.0]}},
        "rm -rf": {"unit": "s", "higher_is_better": false, "values": {"polyfs": [2.0], "glusterfs": [1.0]}}}}"#;

    #[test]
    fn demands_are_judged_by_ratios_within_rounds() {
        let results: Results = serde_json::from_str(TEXT).expect("well formed");
        let demands = results.verdict();
        assert!(demands[0].holds && !demands[1].holds);
        let lines: Vec<String> = demands.into_iter().map(|demand| demand.text).collect();
        assert_eq!(lines[0], "* no row fails: holds");
        assert!(
            lines[1].ends_with("**does not hold**: rm -rf (0.50)"),
            "{}",
            lines[1]
        );
        let creates = lines.iter().find(|line| line.contains("1 proc create"));
        assert!(creates.is_some_and(|line| line.ends_with("holds: 2.00 times")));
        assert!(
            lines
                .last()
                .is_some_and(|line| line.contains("not measured"))
        );
    }
}

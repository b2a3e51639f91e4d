//! `polyfs status`: how a cluster is doing, for people and for programs.
//!
//! Owns both presentations and the exit code: 0 when it is served, 1 when it is not. The verdict is the master's.

use std::process::ExitCode;

use comfy_table::{Cell, CellAlignment, Table, presets};
use polyfs_core::ids::NodeId;
use polyfs_core::master::controller::health::Verdict;
use polyfs_core::master::status::{ClusterStatus, NodeLine, NodeState};
use polyfs_node::find::FindError;
use polyfs_node::status::{Headless, Known, look};
use serde_json::{Value, json};

use crate::arguments::Ask;
use crate::{cluster, output};

/// Asks and prints.
pub(crate) fn run(options: &Ask) -> anyhow::Result<ExitCode> {
    let known = cluster::block_on(async {
        match cluster::reach(&options.cluster).await {
            Ok(access) => Ok(look(&access).await),
            // The waypoints know the cluster, and none of it is left: that is an answer.
            Err(FindError::NoMember { cluster, addresses }) => Ok(Known::Headless(Headless {
                cluster,
                reachable: Default::default(),
                unreachable: Default::default(),
                nobody_at: addresses,
                unled: Default::default(),
            })),
            Err(error) => Err(error.into()),
        }
    })?;
    let text = if options.json {
        format!("{:#}", to_json(&known))
    } else {
        for_people(&known)
    };
    output::print(&text)?;
    Ok(match &known {
        Known::Cluster(status) if status.health != Verdict::Unavailable => ExitCode::SUCCESS,
        Known::Cluster(_) | Known::Headless(_) => ExitCode::FAILURE,
    })
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Degraded => "degraded",
        Verdict::Unavailable => "unavailable",
    }
}

const fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Alive => "alive",
        NodeState::Silent => "silent",
        NodeState::Dead => "dead",
        NodeState::Draining => "draining",
        NodeState::Stalled => "stalled",
    }
}

fn to_json(known: &Known) -> Value {
    match known {
        Known::Cluster(status) => cluster_json(status),
        Known::Headless(left) => headless_json(left),
    }
}

fn cluster_json(status: &ClusterStatus) -> Value {
    let members: Vec<u64> = status.mrg.members.iter().map(|node| node.0).collect();
    let node = |line: &NodeLine| {
        json!({
            "id": line.id.0,
            "address": line.address,
            "zone": line.zone,
            "state": state(line.state),
            "version": line.version,
            "used_bytes": line.used_bytes,
            "capacity_bytes": line.capacity_bytes,
        })
    };
    json!({
        "cluster_id": status.cluster_id.to_string(),
        "health": word(status.health),
        "why": status.why,
        "master": status.master.0,
        "mrg": { "members": members, "leader": status.mrg.leader.0 },
        "nodes": status.nodes.iter().map(node).collect::<Vec<_>>(),
        "regions": {
            "meta": status.regions.meta,
            "data": status.regions.data,
            "under_replicated": status.regions.under_replicated,
            "unavailable": status.regions.unavailable,
        },
    })
}

fn headless_json(left: &Headless) -> Value {
    let node = |(id, state, address): (Option<NodeId>, &str, &str)| {
        json!({
            "id": id.map(|id| id.0),
            "address": address,
            "zone": "",
            "state": if state == REACHED { "alive" } else { "silent" },
            "version": "",
            "used_bytes": 0,
            "capacity_bytes": 0,
        })
    };
    let nodes: Vec<Value> = lines(left).map(node).collect();
    json!({
        "cluster_id": left.cluster.to_string(),
        "health": "unavailable",
        "why": left.why(),
        "master": null,
        "mrg": { "members": [], "leader": null },
        "nodes": nodes,
        "regions": {
            "meta": 0,
            "data": 0,
            "under_replicated": 0,
            "unavailable": left.unled.len(),
        },
    })
}

const REACHED: &str = "reached";

/// Who is left, and who is not: the number when it is known, whether it answers, and where it should be.
fn lines(left: &Headless) -> impl Iterator<Item = (Option<NodeId>, &'static str, &str)> {
    let here = left.reachable.iter().map(|of| (of, REACHED));
    let gone = left.unreachable.iter().map(|of| (of, "not reached"));
    let known = here.chain(gone);
    let nobody = left.nobody_at.iter();
    known
        .map(|((id, at), state)| (Some(*id), state, at.as_str()))
        .chain(nobody.map(|at| (None, "not reached", at.as_str())))
}

fn for_people(known: &Known) -> String {
    match known {
        Known::Cluster(status) => cluster_text(status),
        Known::Headless(left) => {
            let mut table = table(&["node", "state", "address"]);
            for (node, state, address) in lines(left) {
                let node = node.map_or("?".to_owned(), |node| node.to_string());
                table.add_row([node.as_str(), state, address]);
            }
            let why = reasons(&left.why());
            format!("cluster {}: unavailable\n{why}\n{table}", left.cluster)
        }
    }
}

fn cluster_text(status: &ClusterStatus) -> String {
    let mut table = table(&[
        "node", "state", "address", "zone", "version", "used", "capacity",
    ]);
    for line in &status.nodes {
        let id = if line.id == status.master {
            format!("{} (master)", line.id)
        } else {
            line.id.to_string()
        };
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(id),
            Cell::new(state(line.state)),
            Cell::new(&line.address),
            Cell::new(&line.zone),
            Cell::new(&line.version),
            right(bytes(line.used_bytes)),
            right(bytes(line.capacity_bytes)),
        ]);
    }
    let members: Vec<String> = status.mrg.members.iter().map(ToString::to_string).collect();
    let regions = &status.regions;
    format!(
        "cluster {}: {}\n{}\n{table}\n\nmaster group: {}\nregions: {} of names, {} of content; {} groups short of copies, {} not served",
        status.cluster_id,
        word(status.health),
        reasons(&status.why),
        members.join(", "),
        regions.meta,
        regions.data,
        regions.under_replicated,
        regions.unavailable,
    )
}

fn reasons(why: &[String]) -> String {
    why.iter().map(|reason| format!("  {reason}\n")).collect()
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// Bytes as people say them.
fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0;
    let mut scaled = count;
    while scaled >= 10 * 1024 && unit + 1 < units.len() {
        scaled /= 1024;
        unit += 1;
    }
    format!("{scaled} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;
    use polyfs_core::ids::{ClusterId, GroupId};

    #[test]
    fn bytes_are_said_in_fitting_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(10 << 30), "10 GiB");
        assert_eq!(bytes(9000), "9000 B");
    }

    #[test]
    fn a_cluster_without_a_master_is_unavailable_and_says_why() {
        let left = Headless {
            cluster: ClusterId(7),
            reachable: [(NodeId(1), "a:1".to_owned())].into(),
            unreachable: [(NodeId(2), "b:1".to_owned())].into(),
            nobody_at: vec!["c:1".to_owned()],
            unled: [GroupId(0), GroupId(3)].into(),
        };
        let json = to_json(&Known::Headless(left.clone()));
        assert_eq!(json["health"], "unavailable");
        assert_eq!(json["nodes"].as_array().map(Vec::len), Some(3));
        assert!(
            json["why"][0]
                .as_str()
                .is_some_and(|why| why.contains("1 of 3")),
            "{json}"
        );
        let text = for_people(&Known::Headless(left));
        assert!(
            text.contains("n2 at b:1, c:1;") && text.contains("not reached"),
            "{text}"
        );
    }
}

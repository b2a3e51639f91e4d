//! Lines about databases on a three-node mount that go on working while nodes are killed.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::cluster::Cluster;
use super::{Context, Figure, Line, Needs};
use crate::process::{self, Daemon};

const NODES: usize = 3;

/// SQLite.
pub(super) const SQLITE: Line = Line {
    id: "live-sqlite",
    title: "SQLite in both journal modes commits on while each node is killed; integrity_check is ok",
    needs: Needs::Mount,
    packages: &["fuse3", "sqlite3"],
    limit: Duration::from_secs(600),
    run: sqlite,
};

/// PostgreSQL.
pub(super) const POSTGRES: Line = Line {
    id: "live-postgres",
    title: "PostgreSQL runs pgbench while each node is killed; pg_amcheck finds nothing",
    needs: Needs::Mount,
    packages: &["fuse3", "postgresql"],
    limit: Duration::from_secs(900),
    run: postgres,
};

/// Inserts rows until the file $3 is there; every insert must succeed. Then the check.
const INSERT: &str = r#"sqlite3 "$1" "pragma journal_mode=$2; create table t(a integer primary key, b);" >/dev/null
    i=0; while [ ! -e "$3" ]; do i=$((i+1))
        sqlite3 -cmd '.timeout 60000' "$1" "insert into t values($i, randomblob(3000));"; echo "row $i"; done
    [ "$(sqlite3 "$1" 'pragma integrity_check')" = ok ]; [ "$(sqlite3 "$1" 'select count(*) from t')" = $i ]
    echo "sound $i""#;

/// Kills every node in turn and starts it again, with `meanwhile` before and after.
fn kill_in_turn(cluster: &mut Cluster, meanwhile: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    for node in 0..NODES {
        meanwhile()?;
        cluster.kill(node)?;
        meanwhile()?;
        cluster.launch(node)?;
        cluster.ready(node)?;
        cluster.heal(NODES)?;
    }
    meanwhile()
}

fn sqlite(context: &Context) -> Result<Figure> {
    let mut cluster = Cluster::whole(&context.binary, &context.scratch, NODES)?;
    let mount = cluster.mount("m")?;
    let mut rows = 0.0;
    for mode in ["delete", "wal"] {
        let file = mount.point.join(format!("{mode}.db"));
        let stop = context.scratch.join(format!("stop-{mode}"));
        let mut command =
            process::bash(INSERT, &[file.as_os_str(), mode.as_ref(), stop.as_os_str()]);
        let log = context.scratch.join(format!("insert-{mode}.log"));
        let mut writer = Daemon::start("sqlite3", &mut command, &log)?;
        kill_in_turn(&mut cluster, &mut || {
            writer.forget_lines();
            for _ in 0..20 {
                writer.wait_line("row ", Duration::from_secs(60))?;
            }
            Ok(())
        })?;
        std::fs::write(&stop, b"")?;
        let sound = writer.wait_line("sound ", Duration::from_secs(120))?;
        let status = writer.wait(Duration::from_secs(30))?;
        ensure!(status.success(), "{mode}: {status}\n{}", writer.output());
        rows += sound.trim_start_matches("sound ").parse::<f64>()?;
    }
    mount.stop()?;
    Ok(Figure::new(rows, "rows", "none failed, six kills of nodes"))
}

/// $1 the data directory, $2 the socket's, $3 the file that ends it.
const PGBENCH: &str = r#"export LC_ALL=C; D=$1 S=$2; cd /
    B=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
    as() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
    mkdir -p "$D" "$S"; chown postgres "$D" "$S"; chmod 700 "$D"
    as "$B/initdb" -D "$D" -A trust --data-checksums >/dev/null
    as "$B/pg_ctl" -D "$D" -w -t 60 -l "$S/log" -o "-k $S -c listen_addresses= " start >/dev/null
    trap 'as "$B/pg_ctl" -D "$D" -m immediate -w stop >/dev/null 2>&1' EXIT
    as "$B/createdb" -h "$S" b; as "$B/pgbench" -h "$S" -i -s 2 -q b >/dev/null 2>&1
    n=0; while [ ! -e "$3" ]; do
        as "$B/pgbench" -h "$S" -n -c 4 -t 25 b >"$S/out" 2>&1 || { cat "$S/out"; tail -20 "$S/log"; exit 1; }
        n=$((n+100)); echo "done $n"; done
    as "$B/psql" -h "$S" -qc 'create extension amcheck' b
    as "$B/pg_amcheck" -h "$S" --heapallindexed b
    Q="select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers) and (select count(*) from pgbench_history) = $n"
    [ "$(as "$B/psql" -h "$S" -Atc "$Q" b)" = t ]
    as "$B/pg_ctl" -D "$D" -m fast -w -t 60 stop >/dev/null; trap - EXIT
    as "$B/pg_checksums" --check -D "$D" >/dev/null; echo "sound $n""#;

fn postgres(context: &Context) -> Result<Figure> {
    let mut cluster = Cluster::whole(&context.binary, &context.scratch, NODES)?;
    let mount = cluster.mount("m")?;
    let stop = context.scratch.join("stop");
    let (data, sockets) = (mount.point.join("pg"), context.scratch.join("pg"));
    let mut command = process::bash(PGBENCH, &[&data, &sockets, &stop]);
    let log = context.scratch.join("pgbench.log");
    let mut load = Daemon::start("pgbench", &mut command, &log)?;
    load.wait_line("done ", Duration::from_secs(240))?;
    let waited = kill_in_turn(&mut cluster, &mut || {
        load.forget_lines();
        // The first may have begun before the kill.
        load.wait_line("done ", Duration::from_secs(120))?;
        load.wait_line("done ", Duration::from_secs(120)).map(drop)
    });
    std::fs::write(&stop, b"")?;
    waited?;
    let sound = load.wait_line("sound ", Duration::from_secs(240))?;
    let status = load.wait(Duration::from_secs(30))?;
    ensure!(status.success(), "{status}\n{}", load.output());
    mount.stop()?;
    let transactions: f64 = sound.trim_start_matches("sound ").parse()?;
    Ok(Figure::new(
        transactions,
        "transactions",
        "none failed, three kills of nodes",
    ))
}

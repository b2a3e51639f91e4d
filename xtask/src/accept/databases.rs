//! Lines about live databases on a mount: the third promise.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{Context, Figure, Line, Needs, up};
use crate::process::Daemon;

/// SQLite under kill -9 of the filesystem.
pub(super) const SQLITE: Line = Line {
    id: "db-sqlite",
    title: "SQLite keeps every committed row when the filesystem is killed, in both journal modes",
    needs: Needs::Mount,
    packages: &["fuse3", "sqlite3"],
    limit: Duration::from_secs(300),
    run: sqlite,
};

/// PostgreSQL over a restart of the filesystem.
pub(super) const POSTGRES: Line = Line {
    id: "db-postgres",
    title: "PostgreSQL runs pgbench on a mount and keeps everything when the filesystem is killed",
    needs: Needs::Mount,
    packages: &["fuse3", "postgresql"],
    limit: Duration::from_secs(420),
    run: postgres,
};

/// How long rows are inserted before the filesystem is killed under them.
const INSERTING: Duration = Duration::from_secs(5);

/// Inserts rows one by one; a row's number is printed once its commit returned. Ends when the database fails.
const INSERT: &str = r#"sqlite3 "$1" "pragma journal_mode=$2; create table if not exists t(a integer primary key, b);" >/dev/null
    for i in $(seq "$3" 1000000); do
        sqlite3 -cmd '.timeout 5000' "$1" "insert into t values($i, randomblob(3000));" || exit 0
        echo "row $i"
    done"#;

fn sqlite(context: &Context) -> Result<Figure> {
    let mut rows = 0;
    for mode in ["delete", "wal"] {
        let mount = up::up(context)?;
        let file = mount.point.join(format!("{mode}.db"));
        let mut command = crate::process::bash(INSERT, &[file.as_os_str()]);
        command.args([mode, "1"]);
        let log = context.scratch.join(format!("insert-{mode}.log"));
        let mut writer = Daemon::start("sqlite3", &mut command, &log)?;
        writer.wait_line("row 1", Duration::from_secs(60))?;
        std::thread::sleep(INSERTING);
        mount.kill()?;
        writer.wait(Duration::from_secs(60))?;
        let printed = std::fs::read_to_string(&log)?;
        let committed = printed
            .lines()
            .filter_map(|line| line.strip_prefix("row ")?.parse::<usize>().ok())
            .max()
            .unwrap_or(0);
        let mount = up::up(context)?;
        // What was locked when the mount died is free 10 s after (docs/semantics.md).
        let script = r#"[ "$(sqlite3 -cmd '.timeout 15000' "$1" 'pragma integrity_check')" = ok ]
            sqlite3 -cmd '.timeout 15000' "$1" 'select count(*) from t where a <= '"$2""#;
        let number = committed.to_string();
        let found = context.bash(
            "the check",
            script,
            &[file.as_os_str(), number.as_ref()],
            Duration::from_secs(60),
        )?;
        ensure!(
            found.trim() == number,
            "journal_mode={mode}: {committed} rows were committed, {} are there",
            found.trim()
        );
        rows += committed;
        mount.stop()?;
    }
    Ok(Figure::count(rows, "rows kept", "two journal modes"))
}

/// Functions for both halves of the PostgreSQL line: $1 the data directory, $2 the socket's, outside the mount.
const POSTGRES_WORDS: &str = r#"export LC_ALL=C; D=$1 S=$2; cd /
    B=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
    as() { setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"; }
    stop() { as "$B/pg_ctl" -D "$D" -m "$1" -w -t 30 stop >/dev/null 2>&1 || kill -9 "$(head -1 "$D/postmaster.pid")" 2>/dev/null || true; }
    start() { as "$B/pg_ctl" -D "$D" -w -t 60 -l "$S/log" -o "-k $S -c listen_addresses= " start >/dev/null || { tail -20 "$S/log"; return 1; }; }
"#;
const POSTGRES_LOAD: &str = r#"
    mkdir -p "$D" "$S"; chown postgres "$D" "$S"; chmod 700 "$D"
    as "$B/initdb" -D "$D" -A trust --data-checksums >/dev/null
    start; as "$B/createdb" -h "$S" b; as "$B/pgbench" -h "$S" -i -s 2 -q b >/dev/null 2>&1
    as "$B/pgbench" -h "$S" -c 4 -T 8 b | grep '^tps'
    # Each committed number is printed after its commit returned; ends when the server dies.
    as "$B/psql" -h "$S" -qc 'create table n(a integer)' b
    for i in $(seq 1000000); do as "$B/psql" -h "$S" -qc "insert into n values($i)" b 2>/dev/null || break; echo "row $i"; done"#;
const POSTGRES_CHECK: &str = r#"
    # The killed server may not have been reaped yet, and would then look alive.
    rm -f "$D/postmaster.pid" "$S"/.s.PGSQL.*; start; trap 'stop immediate' EXIT
    Q="select (select sum(abalance) from pgbench_accounts) = (select sum(tbalance) from pgbench_tellers) and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)"
    [ "$(as "$B/psql" -h "$S" -Atc "$Q" b)" = t ]
    as "$B/psql" -h "$S" -Atc "select count(distinct a) from n where a <= $3" b
    stop fast; trap - EXIT; as "$B/pg_checksums" --check -D "$D" >/dev/null"#;

fn postgres(context: &Context) -> Result<Figure> {
    let mount = up::up(context)?;
    let data = mount.point.join("pg");
    let sockets = context.scratch.join("pg");
    let arguments = [data.as_os_str(), sockets.as_os_str()];
    let script = format!("{POSTGRES_WORDS}{POSTGRES_LOAD}");
    let log = context.scratch.join("load.log");
    let mut load = Daemon::start(
        "pgbench",
        &mut crate::process::bash(&script, &arguments),
        &log,
    )?;
    let tps = load.wait_line("tps", Duration::from_secs(180))?;
    load.wait_line("row 20", Duration::from_secs(60))?;
    let postmaster = std::fs::read_to_string(data.join("postmaster.pid"))?;
    let postmaster: i32 = postmaster
        .lines()
        .next()
        .context("postmaster.pid is empty")?
        .parse()?;
    mount.kill()?;
    // Its data directory is gone: it would linger and keep the sockets.
    let _gone = nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(postmaster),
        nix::sys::signal::Signal::SIGKILL,
    );
    load.wait(Duration::from_secs(60))?;
    let printed = std::fs::read_to_string(&log)?;
    let committed = printed
        .lines()
        .filter_map(|line| line.strip_prefix("row ")?.parse::<usize>().ok())
        .max()
        .unwrap_or(0)
        .to_string();
    let started = Instant::now();
    let mount = up::up(context)?;
    let script = format!("{POSTGRES_WORDS}{POSTGRES_CHECK}");
    let arguments = [data.as_os_str(), sockets.as_os_str(), committed.as_ref()];
    let found = context.bash("the check", &script, &arguments, Duration::from_secs(120))?;
    ensure!(
        found.trim() == committed,
        "{committed} rows were committed, {} are there",
        found.trim()
    );
    let took = started.elapsed().as_secs_f64();
    mount.stop()?;
    let tps = tps
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok())
        .unwrap_or(0.0);
    let more = format!("{committed} rows kept, recovery and check {took:.1} s");
    Ok(Figure::new(tps.round(), "tps", &more))
}

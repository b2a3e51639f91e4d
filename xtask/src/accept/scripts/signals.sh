# What ends a command, and when. $1 is the binary, $2 an empty directory, $3 to $5 are free addresses of this machine.
binary=$1 w=$3 one=$4 two=$5
cd "$2"
ok() { echo "ok $*"; }
until_said() { # until_said WORD LOG
  for _ in $(seq 300); do grep -q "^$1 " "$2" && return; sleep 0.1; done; echo "no $1 in $2:"; cat "$2"; exit 1
}
gone() { # gone PID SECONDS: it ends by itself
  for _ in $(seq $(($2 * 10))); do
    state=$(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null) || return 0
    [ "$state" = Z ] && return 0
    sleep 0.1
  done
  echo "process $1 goes on"; exit 1
}
fails() { # fails CODE WORD COMMAND...
  local expected=$1 word=$2 code=0; shift 2
  out=$("$@" 2>&1) || code=$?
  [ "$code" = "$expected" ] || { echo "$*: exit code $code: $out"; exit 1; }
  case "$out" in *"$word"*) ;; *) echo "$*: $out"; exit 1 ;; esac
}
mounted() { grep -qF " $PWD/$1 " /proc/self/mountinfo; }
unmounted() { if mounted "$1"; then echo "$1 is mounted"; exit 1; fi; }

mkdir m n
"$binary" up m --data d --nodes 3 >up.log 2>&1 & up=$!
until_said mounted up.log; echo kept >m/kept
kill -HUP $up; gone $up 60; unmounted m; ok a closed terminal unmounts
fails 2 "--nodes 3" "$binary" up m --data d; ok no node is left out
(trap '' HUP; exec "$binary" up m --data d --nodes 3) >up.log 2>&1 & up=$!
until_said mounted up.log; kill -HUP $up; [ "$(cat m/kept)" = kept ]; ok nohup is heeded
kill $up; gone $up 60; unmounted m; ok SIGTERM unmounts

printf 'listen = "%s"\nwaypoint = "%s"\ndata = "of-node"\n' "$w" "$w" >all.toml
"$binary" waypoint --config all.toml >w.log 2>&1 & waypoint=$!
until_said ready w.log
sed -i "s/^listen.*/listen = \"$one\"/" all.toml
"$binary" node --config all.toml >node.log 2>&1 & node=$!
until_said ready node.log; ok a file may bring all flags
"$binary" node --config all.toml --data d2 --listen "$two" --mount m >second.log 2>&1 & second=$!
until_said ready second.log; kill $second; gone $second 60; unmounted m; ok a signal between ready and mounted counts
"$binary" mount --daemon --config all.toml -- n; [ "$(cd n && pwd)" = "$PWD/n" ]; mounted n; "$binary" umount n; ok into the background and back
fails 1 "has heard nodes" "$binary" waypoint forget --config all.toml \
  "$("$binary" status --config all.toml --json | sed -n 's/.*"cluster_id": "\(.*\)".*/\1/p')"; ok a living cluster is not forgotten
fails 1 "knows no such cluster" "$binary" waypoint forget --config all.toml 12ab; ok nor one that is unknown
kill -STOP $node
"$binary" mount --daemon --config all.toml n >daemon.log 2>&1 & daemon=$!
until child=$(cat /proc/$daemon/task/$daemon/children) && [ -n "$child" ]; do sleep 0.1; done
kill -TERM $daemon; gone ${child% } 60; kill -CONT $node; unmounted n; ok who waits for a mount takes it along
kill $node $waypoint; gone $node 60; gone $waypoint 60
echo "all done"

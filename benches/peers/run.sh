#!/usr/bin/env bash
# Runs the same work on orch and on its peers: N jobs that do nothing, a chain, a fan-out. One line of JSON for each goes to
# .cache/peers/results.ndjson; a table of them is printed at the end. README.md tells what is compared and what is not.
#
#   benches/peers/run.sh [--quick] [--jobs N] [PEER...]
#
# Peers: orch bullmq graphile apalis dbos restate temporal prefect; all without one. They are installed into .cache/peers from
# package registries, pinned; servers run on free ports with folders of their own, and are stopped at the end.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$root/.cache/peers
results=$cache/results.ndjson
all=(orch bullmq graphile apalis dbos restate temporal prefect)
export PEERS_JOBS=10000 PEERS_CHAIN=1000 PEERS_FAN=10000

chosen=()
while (($#)); do
  case $1 in
    --quick) PEERS_JOBS=200 PEERS_CHAIN=50 PEERS_FAN=200 ;;
    --jobs) PEERS_JOBS=$2 && shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit ;;
    -*) echo "unknown option $1" >&2 && exit 2 ;;
    *) chosen+=("$1") ;;
  esac
  shift
done
((${#chosen[@]})) || chosen=("${all[@]}")
for name in "${chosen[@]}"; do
  [[ " ${all[*]} " == *" $name "* ]] || { echo "no peer is called $name; there are: ${all[*]}" >&2 && exit 2; }
done

say() { echo "── $*" >&2; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# ── what is installed ────────────────────────────────────────────────────────────────────────────────────────────

# Runs the rest of its arguments unless they were run for these contents of the file.
once() {
  local file=$1 mark=$cache/done-$(basename "$1")
  shift
  cmp -s "$file" "$mark" && return
  "$@" >&2
  cp "$file" "$mark"
}

install_node() {
  mkdir -p "$cache/node"
  cp "$here"/*.mjs "$here/package.json" "$here/package-lock.json" "$cache/node/"
  once "$here/package-lock.json" npm ci --prefix "$cache/node" --no-audit --no-fund --ignore-scripts
}

install_python() {
  [[ -x $cache/python/bin/python ]] || python3 -m venv "$cache/python"
  once "$here/requirements.txt" "$cache/python/bin/pip" install --quiet --requirement "$here/requirements.txt"
}

# Redis as Debian packs it, unpacked beside the rest and not installed.
install_redis() {
  redis=(redis-server)
  command -v redis-server >/dev/null && return
  redis=(env "LD_LIBRARY_PATH=$cache/redis/usr/lib/$(uname -m)-linux-gnu" "$cache/redis/usr/bin/redis-server")
  [[ -x $cache/redis/usr/bin/redis-server ]] && return
  mkdir -p "$cache/deb" "$cache/redis"
  (cd "$cache/deb" && apt-get download redis-server redis-tools libjemalloc2 liblzf1 liblua5.1-0 lua-cjson lua-bitop libatomic1) >&2
  for package in "$cache"/deb/*.deb; do dpkg -x "$package" "$cache/redis"; done
}

# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────

servers=()
stop_servers() {
  for pid in "${servers[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in "${servers[@]}"; do wait "$pid" 2>/dev/null || true; done
  servers=()
}

# What hangs is given up after a quarter of an hour.
limited() { timeout --foreground --kill-after 10 900 "$@"; }

# Starts a server in the background: log file, command.
serve() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 &
  servers+=($!)
}

# Waits until somebody listens on every port.
until_open() {
  local port
  for port in "$@"; do
    for _ in $(seq 240); do
      (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && continue 2
      sleep 0.25
    done
    echo "nothing listens on port $port after a minute" >&2
    return 1
  done
}

# ── peers ────────────────────────────────────────────────────────────────────────────────────────────────────────
# Each runs in a shell of its own that stops its servers and deletes its folder at the end.

peer_orch() {
  local store
  (cd "$root" && cargo build --release --locked --quiet --package orch-benches)
  local bench=${CARGO_TARGET_DIR:-$root/target}/release/orch-bench
  for store in memory sqlite; do
    "$bench" --dir "$dir" --rounds 1 --json --store $store --shape chain:1 --runs "$PEERS_JOBS" | python3 "$here/orch_lines.py" jobs $store
    "$bench" --dir "$dir" --rounds 1 --json --only chain-$store | python3 "$here/orch_lines.py" chain $store
    "$bench" --dir "$dir" --rounds 1 --json --store $store --shape "fan-out:$PEERS_FAN" | python3 "$here/orch_lines.py" fan-out $store
  done
}

peer_bullmq() {
  install_node
  install_redis
  local fsync
  for fsync in always everysec; do
    export REDIS_DURABILITY="Redis 7.0, append-only file, appendfsync $fsync"
    export REDIS_PORT=$(free_port)
    mkdir "$dir/$fsync"
    serve "$dir/redis.log" "${redis[@]}" --bind 127.0.0.1 --port "$REDIS_PORT" --save '' --appendonly yes --appendfsync $fsync --dir "$dir/$fsync"
    until_open "$REDIS_PORT"
    limited node "$cache/node/bullmq.mjs"
    stop_servers
  done
}

# A PostgreSQL with its default settings, which flush every commit. It refuses to run as root.
serve_postgres() {
  local bin port=$1
  bin=$(dirname "$(readlink -f "$(type -P postgres || ls /usr/lib/postgresql/*/bin/postgres | tail -1)")")
  [[ -x $bin/initdb ]] || { echo "PostgreSQL is missing: apt-get install postgresql" >&2 && return 1; }
  local as=()
  if ((EUID == 0)); then
    as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
    chmod 755 "$dir"
    install -d -o postgres -g postgres "$dir/postgres"
  fi
  (cd / && "${as[@]}" "$bin/initdb" --pgdata "$dir/postgres/data" --username postgres --auth trust --encoding UTF8) >&2
  cd /
  serve "$dir/postgres.log" "${as[@]}" "$bin/postgres" -D "$dir/postgres/data" -p "$port" -k "$dir/postgres" -c listen_addresses=127.0.0.1
  until_open "$port"
  export POSTGRES_DURABILITY="PostgreSQL, fsync and synchronous_commit on"
  export DATABASE_URL=postgresql://postgres@127.0.0.1:$port/postgres
}

peer_graphile() {
  install_node
  serve_postgres "$(free_port)"
  limited node "$cache/node/graphile-worker.mjs"
}

peer_apalis() {
  local target=$cache/apalis-target
  cargo build --release --locked --quiet --manifest-path "$here/apalis/Cargo.toml" --target-dir "$target"
  limited "$target/release/apalis-peer" "$dir/apalis.db"
}

peer_dbos() {
  install_python
  DBOS_URL=sqlite:///$dir/dbos.sqlite DBOS_DURABILITY="SQLite, rollback journal, as DBOS sets it" \
    limited "$cache/python/bin/python" "$here/dbos_peer.py"
  serve_postgres "$(free_port)"
  DBOS_URL=$DATABASE_URL DBOS_DURABILITY=$POSTGRES_DURABILITY limited "$cache/python/bin/python" "$here/dbos_peer.py"
}

peer_restate() {
  install_node
  local ingress admin fabric
  ingress=$(free_port) admin=$(free_port) fabric=$(free_port)
  serve "$dir/restate.log" env RESTATE_DISABLE_TELEMETRY=true RESTATE_LISTEN_MODE=tcp RESTATE_BASE_DIR="$dir/restate" \
    RESTATE_BIND_ADDRESS=127.0.0.1:"$fabric" RESTATE_ADVERTISED_ADDRESS=http://127.0.0.1:"$fabric" \
    RESTATE_INGRESS__BIND_ADDRESS=127.0.0.1:"$ingress" RESTATE_ADMIN__BIND_ADDRESS=127.0.0.1:"$admin" \
    "$cache/node/node_modules/.bin/restate-server" --no-logo
  until_open "$ingress" "$admin"
  RESTATE_INGRESS_URL=http://127.0.0.1:$ingress RESTATE_ADMIN_URL=http://127.0.0.1:$admin \
    RESTATE_DURABILITY="its own log on RocksDB, one node, flushed (the default)" limited node "$cache/node/restate.mjs"
}

peer_temporal() {
  install_python
  local port
  port=$(free_port)
  serve "$dir/temporal.log" "$cache/python/bin/temporal" server start-dev --headless --log-level error --ip 127.0.0.1 --port "$port" --db-filename "$dir/temporal.db"
  until_open "$port"
  TEMPORAL_ADDRESS=127.0.0.1:$port TEMPORAL_DURABILITY="SQLite, as the development server sets it" \
    limited "$cache/python/bin/python" "$here/temporal_peer.py"
}

peer_prefect() {
  install_python
  local port
  port=$(free_port)
  export PREFECT_HOME=$dir/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 PREFECT_LOGGING_LEVEL=ERROR
  serve "$dir/prefect.log" "$cache/python/bin/prefect" server start --host 127.0.0.1 --port "$port" --no-ui
  until_open "$port"
  PREFECT_API_URL=http://127.0.0.1:$port/api PREFECT_DURABILITY="SQLite, WAL, as Prefect sets it; written after the fact, not awaited" \
    limited "$cache/python/bin/python" "$here/prefect_peer.py"
}

# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────

mkdir -p "$cache"
: >"$results"
failed=0
for name in "${chosen[@]}"; do
  say "$name"
  set +e
  (
    set -e
    # Not in the work tree: PostgreSQL's user must reach it. And not in /tmp, which may not be on a disk.
    dir=$(mktemp -d "${PEERS_DIR:-/var/tmp}/orch-peers-XXXXXX")
    trap 'stop_servers; rm -rf "$dir"' EXIT
    trap 'exit 130' INT TERM
    "peer_$name"
  ) | grep --line-buffered '^{' | tee -a "$results"
  status=${PIPESTATUS[0]}
  set -e
  ((status == 130)) && exit 130
  if ((status)); then
    failed=1
    say "$name could not be measured ($status)"
  fi
done
python3 "$here/table.py" <"$results"
exit $failed

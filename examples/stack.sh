# Sourced by the `run` of an example. `stack FOLDER COMMAND...` starts a NATS server, sidestream, nginx and the application in
# COMMAND, each from the files in FOLDER, on loopback only, and keeps them running until it gets a signal; then it ends them. What ends by
# itself is started again: kill one of them, by the .pid file that is named, and watch the page.
#
#   PORT            where nginx listens; a free port without it
#   SIDESTREAM, NATS_SERVER, NGINX    programs that are not in the PATH
#   START_SECONDS   how long each part may take to answer; 30 without it
#   WORK            a directory for sockets, sessions, logs and the stream; without it a temporary one, which is removed at the end,
#                   unless it never got ready

# Ends the script where a program is missing. `needs PROGRAM WHAT`: what to do about it.
needs() {
  command -v "$1" >/dev/null || { echo "$1 is missing: $2" >&2; exit 1; }
}

# Whether somebody listens on a port.
taken() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# A port where nobody listens, below those that the kernel gives away.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((16384 + RANDOM % 16384))
    taken "$port" || { echo "$port"; return; }
  done
  echo 'no free port' >&2
  return 1
}

# Runs a command, and again whenever it ends, for as long as $work/running is there.
keep() {
  local name=$1
  shift
  while [ -e "$work/running" ]; do
    "$@" >>"$work/$name.log" 2>&1 &
    echo $! >"$work/$name.pid.new" && mv "$work/$name.pid.new" "$work/$name.pid"
    # The end may have come between the question above and this.
    [ -e "$work/running" ] || kill $! 2>/dev/null || true
    wait $! || true
    # One that fails at once is not started a thousand times a second.
    sleep 0.2
  done
}

# Waits until a command succeeds.
until_succeeds() {
  local what=$1 tried
  shift
  for ((tried = 0; tried < 10 * ${START_SECONDS:-30}; tried++)); do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "$what does not answer" >&2
  tail -n 5 "$work"/*.log >&2
  return 1
}

# A request to this site, with the cookie of the one before.
ask() {
  curl -sf --noproxy '*' --max-time 5 -b "$work/cookies" -c "$work/cookies" -H 'Content-Type: application/json' "$@"
}

# All four at once: who is signed in gets a stream, which the sidecar begins where it has seen NATS.
streams() {
  local line streams=1
  ask -d '{"user":"alice"}' "$1/login" || return 1
  while IFS= read -r line; do
    [ "$line" != 'event: sidestream.connected' ] || { streams=0; break; }
  done < <(exec curl -sfN --noproxy '*' --max-time 5 -b "$work/cookies" -H 'Accept: text/event-stream' "$1/events")
  ask -d '{}' "$1/logout" && return "$streams"
}

end() {
  trap - EXIT INT TERM
  rm -f "$work/running"
  local name
  for name in nginx application sidestream nats; do
    [ ! -e "$work/$name.pid" ] || kill "$(cat "$work/$name.pid")" 2>/dev/null || true
  done
  wait
  [ -n "$ready" ] || echo "it did not get ready; the logs are in $work" >&2
  [ -n "${WORK:-}" ] || [ -z "$ready" ] || rm -rf "$work"
}

stack() {
  local folder=$1 nats admin application port
  shift
  needs "${NATS_SERVER:-nats-server}" 'install nats-server (Debian: apt install nats-server), or say NATS_SERVER=/where/it/is'
  needs "${SIDESTREAM:-sidestream}" 'install it (docs/install.md), or cargo build and say SIDESTREAM=target/debug/sidestream'
  needs "${NGINX:-nginx}" 'install nginx (Debian: apt install nginx), or say NGINX=/where/it/is'
  needs curl 'install curl (Debian: apt install curl)'
  [ -z "${PORT:-}" ] || ! taken "$PORT" || { echo "port $PORT is taken: say another one, or none" >&2; exit 1; }
  work=${WORK:-$(mktemp -d)} ready=
  nats=$(free_port) admin=$(free_port) application=$(free_port) port=${PORT:-$(free_port)}
  mkdir -p "$work/sessions"
  touch "$work/running"
  trap end EXIT
  trap 'exit 0' INT TERM

  # To nginx itself, a variable of this name says which sockets it inherits.
  local nginx=${NGINX:-nginx}
  unset NGINX
  # nginx's workers have the account of whoever runs this, and sidestream believes that account. All directives in one
  # -g: of two, nginx keeps the last.
  local directives='daemon off;'
  [ "$(id -u)" != 0 ] || directives+=' user root;'
  sed -e "s|@work@|$work|g" -e "s|@port@|$port|g" -e "s|@application@|$application|g" "$folder/nginx.conf" >"$work/nginx.conf"
  # Whoever has it may end streams.
  (umask 077 && head -c 32 /dev/urandom | base64 | tr -d '\n' >"$work/admin-token")

  keep nats "${NATS_SERVER:-nats-server}" --jetstream --addr 127.0.0.1 --port "$nats" --store_dir "$work/store" &
  keep sidestream "${SIDESTREAM:-sidestream}" serve --config "$folder/sidestream.toml" \
    --set "server.listen=unix:$work/sidestream.sock" --set "admin.listen=127.0.0.1:$admin" \
    --set "admin.token_file=$work/admin-token" --set "nats.servers=nats://127.0.0.1:$nats" \
    --set "trust.peer_uids=[$(id -u)]" --set server.drain_window=1s &
  until_succeeds NATS taken "$nats"
  PORT=$application NATS_URL=nats://127.0.0.1:$nats SESSION_SECRET=$(head -c 32 /dev/urandom | base64) SESSIONS=$work/sessions \
    ADMIN_URL=http://127.0.0.1:$admin ADMIN_TOKEN_FILE=$work/admin-token keep application "$@" &
  keep nginx "$nginx" -p "$work" -c "$work/nginx.conf" -e "$work/nginx.log" -g "$directives" &
  until_succeeds 'a stream through nginx' streams "http://127.0.0.1:$port"
  ready=1
  echo "ready: http://127.0.0.1:$port/ (logs and process ids in $work)"
  wait
}

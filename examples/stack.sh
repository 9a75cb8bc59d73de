# Sourced by the `run` of an example. `stack FOLDER COMMAND...` starts a NATS server, sidestream, nginx and the application in
# COMMAND, each from the files in FOLDER, on loopback only, and keeps them running until it gets a signal; then it ends them. What ends by
# itself is started again: kill one of them, by the .pid file that is named, and watch the page.
#
#   PORT            where nginx listens; a free port without it
#   SIDESTREAM, NATS_SERVER, NGINX    programs that are not in the PATH
#   WORK            a directory for sockets, logs and the stream; without it a temporary one, which is removed at the end

# A port where nobody listens, below those that the kernel gives away.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((16384 + RANDOM % 16384))
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { echo "$port"; return; }
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
  local what=$1
  shift
  for _ in {1..300}; do
    "$@" >/dev/null 2>&1 && return
    sleep 0.1
  done
  echo "$what does not answer; see $work" >&2
  tail -n 5 "$work"/*.log >&2
  return 1
}

end() {
  trap - EXIT INT TERM
  rm -f "$work/running"
  local name
  for name in nginx application sidestream nats; do
    [ ! -e "$work/$name.pid" ] || kill "$(cat "$work/$name.pid")" 2>/dev/null || true
  done
  wait
  [ -n "${WORK:-}" ] || rm -rf "$work"
}

stack() {
  local folder=$1 nats application port
  shift
  work=${WORK:-$(mktemp -d)}
  nats=$(free_port) application=$(free_port) port=${PORT:-$(free_port)}
  touch "$work/running"
  trap end EXIT
  trap 'exit 0' INT TERM

  # nginx's workers have the account of whoever runs this, and sidestream believes that account.
  local account=()
  [ "$(id -u)" != 0 ] || account=(-g 'user root;')
  sed -e "s|@work@|$work|g" -e "s|@port@|$port|g" -e "s|@application@|$application|g" "$folder/nginx.conf" >"$work/nginx.conf"

  keep nats "${NATS_SERVER:-nats-server}" --jetstream --addr 127.0.0.1 --port "$nats" --store_dir "$work/store" &
  keep sidestream "${SIDESTREAM:-sidestream}" serve --config "$folder/sidestream.toml" \
    --set "server.listen=unix:$work/sidestream.sock" --set admin.listen=127.0.0.1:0 --set "nats.servers=nats://127.0.0.1:$nats" \
    --set "trust.peer_uids=[$(id -u)]" --set server.drain_window=1s &
  until_succeeds NATS eval "exec 3<>/dev/tcp/127.0.0.1/$nats"
  PORT=$application NATS_URL=nats://127.0.0.1:$nats SESSION_SECRET=$(head -c 32 /dev/urandom | base64) keep application "$@" &
  keep nginx "${NGINX:-nginx}" -p "$work" -c "$work/nginx.conf" -e "$work/nginx.log" -g 'daemon off;' "${account[@]}" &
  until_succeeds 'the application' curl -sf --noproxy '*' "http://127.0.0.1:$port/"
  echo "ready: http://127.0.0.1:$port/ (logs and process ids in $work)"
  wait
}

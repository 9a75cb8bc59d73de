# shellcheck shell=bash
# Sourced by scripts/bench: brings nginx with nchan, as Debian builds them, into .cache. Wants scripts/lib/install.sh.
#
#   fetch_nchan     leaves paths in NGINX_PROGRAM and NCHAN_MODULE, and a version in NCHAN_VERSION (all exported)

nchan_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$nchan_root/scripts/lib/debian.sh"

fetch_nchan() {
  local into="$nchan_root/.cache/nchan"
  if [ -n "${NGINX_PROGRAM:-}" ] && [ -f "${NCHAN_MODULE:-}" ]; then
    export NGINX_PROGRAM NCHAN_MODULE
    return
  fi
  if [ ! -s "$into/versions" ]; then
    echo 'fetching nginx and nchan (Debian packages, 1 MB) into .cache; nothing is installed' >&2
    unpack_debian "$into" nginx libnginx-mod-nchan || {
      echo 'name nginx and its module in NGINX_PROGRAM and NCHAN_MODULE' >&2
      return 1
    }
  fi
  export NGINX_PROGRAM="$into/usr/sbin/nginx" NCHAN_MODULE="$into/usr/lib/nginx/modules/ngx_nchan_module.so"
  NCHAN_VERSION=$(sed -n 2p "$into/versions")
  export NCHAN_VERSION
  "$NGINX_PROGRAM" -v 2>/dev/null || {
    echo 'nginx does not run; are its libraries here (libpcre2-8-0, libssl3, zlib1g)?' >&2
    return 1
  }
}

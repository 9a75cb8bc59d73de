# shellcheck shell=bash
# Sourced by scripts/bench: brings nginx with nchan, as Debian builds them, into .cache.
#
#   fetch_nchan     leaves paths in NGINX_PROGRAM and NCHAN_MODULE, and a version in NCHAN_VERSION (all exported)
#
# The packages are only unpacked: installed, they would start an nginx, or give the one that runs a new module.

nchan_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# Downloads both packages and unpacks them into a directory.
unpack_nchan() {
  local into=$1 packages package
  packages=$(mktemp -d) || return
  (cd "$packages" && apt-get download -qq -o APT::Sandbox::User=root nginx libnginx-mod-nchan) >&2 || {
    rm -rf "$packages"
    return 1
  }
  for package in "$packages"/*.deb; do
    dpkg-deb -x "$package" "$into" || return
  done
  dpkg-deb -f "$packages"/libnginx-mod-nchan_*.deb Version >"$into/nchan-version"
  rm -rf "$packages"
}

fetch_nchan() {
  local into="$nchan_root/.cache/nchan"
  if [ -n "${NGINX_PROGRAM:-}" ] && [ -f "${NCHAN_MODULE:-}" ]; then
    export NGINX_PROGRAM NCHAN_MODULE
    return
  fi
  if [ ! -s "$into/nchan-version" ]; then
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
      echo 'not a Debian system: name nginx and its module in NGINX_PROGRAM and NCHAN_MODULE' >&2
      return 1
    }
    echo 'fetching nginx and nchan (Debian packages, 1 MB) into .cache; nothing is installed' >&2
    rm -rf "$into" && mkdir -p "$into"
    # Lists may be old, or not there at all in a container.
    unpack_nchan "$into" || { as_root apt-get update -qq && unpack_nchan "$into"; } || return
  fi
  export NGINX_PROGRAM="$into/usr/sbin/nginx" NCHAN_MODULE="$into/usr/lib/nginx/modules/ngx_nchan_module.so"
  NCHAN_VERSION=$(cat "$into/nchan-version")
  export NCHAN_VERSION
  "$NGINX_PROGRAM" -v 2>/dev/null || {
    echo 'nginx does not run; are its libraries here (libpcre2-8-0, libssl3, zlib1g)?' >&2
    return 1
  }
}

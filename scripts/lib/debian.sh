# shellcheck shell=bash
# Sourced by scripts that need a program of Debian's without its service: packages that are unpacked, not installed.
# Installed, they would start a server, or give the one that runs a new module. Wants scripts/lib/install.sh.
#
#   unpack_debian DIRECTORY PACKAGE...    puts the packages' files below the directory, anew, and their versions, one a line,
#                                         into its file `versions`

unpack_debian() {
  local into=$1
  shift
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
    echo 'not a Debian system' >&2
    return 1
  }
  rm -rf "$into" && mkdir -p "$into" || return
  # Lists may be old, or not there at all in a container.
  download_debian "$into" "$@" || { as_root apt-get update -qq && download_debian "$into" "$@"; }
}

download_debian() {
  local into=$1 packages package versions=
  shift
  packages=$(mktemp -d) || return
  (cd "$packages" && apt-get download -qq -o APT::Sandbox::User=root "$@") >&2 || {
    rm -rf "$packages"
    return 1
  }
  for package in "$@"; do
    dpkg-deb -x "$packages/$package"_*.deb "$into" || return
    versions+="$(dpkg-deb -f "$packages/$package"_*.deb Version)"$'\n'
  done
  rm -rf "$packages"
  # Last: it says that everything else is there.
  printf %s "$versions" >"$into/versions"
}

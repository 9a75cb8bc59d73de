# shellcheck shell=bash
# Sourced by scripts that need programs of the system: installs Debian's packages where commands are missing.
#
#   say TEXT                         says what happens next, on stderr
#   as_root COMMAND...               as root, by sudo where need be
#   install_missing COMMAND:PACKAGE...   installs the packages of those commands that are missing

say() { printf '\n== %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_missing() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || [ -x "/usr/sbin/${pair%%:*}" ] || missing+=("${pair##*:}")
  done
  # Where it is needed, python3 is there; its venv is a package of its own.
  python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
  [ ${#missing[@]} -gt 0 ] || return 0
  say "apt-get install ${missing[*]}"
  command -v apt-get >/dev/null || {
    echo "not a Debian system: please install ${missing[*]}" >&2
    exit 1
  }
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}"
}

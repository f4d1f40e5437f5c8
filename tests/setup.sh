#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Makes .venv from requirements.txt; does nothing when it is already what requirements.txt says.
#
#   tests/setup.sh             needs python3 (3.11 or later) with venv, and says what is missing
#   tests/setup.sh --install   installs them with apt-get first when they are missing (root or sudo)
#
# POSIX sh on purpose: it runs before there is a Python.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# Prints the first interpreter that can build the environment: new enough, with venv and ensurepip. Of an interpreter in a
# virtual environment (.venv may be activated right now) it is the one that the environment was made with.
find_python() {
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 /usr/bin/python3}; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    if "$path" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      "$path" -c 'import sys; print(getattr(sys, "_base_executable", sys.executable))'
      return 0
    fi
  done
  return 1
}

# One at a time: two runs in one directory would write into each other's environment.
mkdir -p .cache
exec 9>.cache/setup.lock
if command -v flock >/dev/null; then
  flock 9
fi

# Scripts in an environment carry its directory in their first line: one that was moved is made anew.
want="$PWD $(sha256sum requirements.txt tests/setup.sh | cut -d' ' -f1 | tr '\n' ' ')"
have=$(cat .venv/.stamp 2>/dev/null || true)
works() { .venv/bin/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
if [ "$have" = "$want" ] && works && [ -e .venv/ara/callback ] && [ -e .ara/settings.yaml ]; then
  exit 0
fi

started=$(date +%s)
case "$have" in
  "$PWD "*) reusable=works ;;
  *) reusable=false ;;
esac
if $reusable; then
  say "bringing .venv up to date with requirements.txt"
else
  if ! python=$(find_python); then
    why="no Python 3.11 or later with its venv module was found (Debian and Ubuntu: apt-get install python3 python3-venv)"
    [ "${1:-}" = --install ] || fail "$why"
    command -v apt-get >/dev/null || fail "$why"
    if [ "$(id -u)" = 0 ]; then
      sudo=
    elif command -v sudo >/dev/null; then
      sudo=sudo
    else
      fail "$why; installing it needs root or sudo"
    fi
    say "installing python3 and python3-venv, because $why"
    $sudo apt-get -qq update
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install python3 python3-venv >/dev/null
    python=$(find_python) || fail "this system's Python is older than 3.11, or PYTHON names one that cannot be used"
  fi
  say "making .venv with $("$python" -V) and the packages of requirements.txt"
  rm -rf .venv
  "$python" -m venv .venv
  # From here on it may be finished by a later run, if this one is interrupted.
  printf '%s\n' "$PWD unfinished" >.venv/.stamp
fi
if ! .venv/bin/python -m pip --disable-pip-version-check install --requirement requirements.txt \
  >.cache/setup.log 2>&1; then
  tail -n 25 .cache/setup.log >&2
  fail "pip could not install requirements.txt; its whole output is in .cache/setup.log"
fi

# ansible.cfg names ARA's plugins through this link, so that no path in it depends on a Python version.
ln -sfn "$(.venv/bin/python -m ara.setup.path)/plugins" .venv/ara

# ARA's records of this checkout. Its own defaults would be below the home directory, readable by everybody.
if [ ! -e .ara/settings.yaml ]; then
  (
    umask 077
    mkdir -p .ara
    chmod 700 .ara
    key=$(.venv/bin/python -c 'import secrets; print(secrets.token_urlsafe(48))')
    printf '%s\n' '---' 'default:' "  SECRET_KEY: $key" '  LOG_LEVEL: WARNING' >.ara/settings.yaml.new
    mv .ara/settings.yaml.new .ara/settings.yaml
  )
fi
(
  umask 077
  ARA_BASE_DIR="$PWD/.ara" .venv/bin/ara-manage migrate --verbosity 0 >/dev/null
)
printf '%s\n' "$want" >.venv/.stamp
say "done in $(($(date +%s) - started)) s"

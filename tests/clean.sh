#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Removes what `make demo` and `make test` started (the web view of ARA; test hosts and the registry with their volumes and
# network), and what can be made again (.venv, .cache, .ansible, .demo, caches of tools). It says what it keeps.
set -eu
cd "$(dirname "$0")/.."

# Only a process that is ours is ended: the number in a file left by a crash may be somebody else's by now.
if [ -f .demo/ara.pid ]; then
  pid=$(cat .demo/ara.pid)
  if [ -r "/proc/$pid/cmdline" ] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF "$PWD/.venv/bin/gunicorn"; then
    kill "$pid"
    echo "clean: stopped the web view of ARA (process $pid)"
  fi
fi

if command -v docker >/dev/null; then
  if docker version >/dev/null 2>&1; then
    "$(command -v python3 || echo .venv/bin/python)" tests/sandbox/sandbox.py down
  else
    echo "clean: no Docker Engine answers, so test hosts, the registry and their volumes stay where there are any" >&2
  fi
fi

rm -rf .demo .cache .venv .ansible .mypy_cache .pytest_cache .ruff_cache .hypothesis
find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Only what is there is named, so that nothing is looked for in vain.
kept() { [ ! -e "$1" ] || printf '  %s   %s\n' "$1" "$2"; }
echo "clean: done. Kept, and yours to remove:"
kept .ara "the records of all runs"
kept "${MULTIBASE_CACHE:-$HOME/.cache/multibase-sandbox}" "downloads and root file systems for the sandbox's images"
if command -v docker >/dev/null; then
  echo "  the Docker Engine, which goes on running, its packages, and its images (multibase-sandbox/*) and build cache"
fi
kept /usr/local/lib/docker/cli-plugins/docker-compose "Compose, where Debian's was missing or too old"
kept /var/lib/multibase-sandbox "log and process number of an Engine that the sandbox started"
echo "  Debian packages that were installed (python3 and python3-venv, for example)"

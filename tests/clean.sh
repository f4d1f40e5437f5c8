#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Removes what `make demo` and `make test` started (the web view of ARA, test hosts, the registry), and what can be made
# again (.venv, .cache). The records of runs in .ara stay, and so do the Docker Engine and its images; it says so.
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

if command -v docker >/dev/null && docker version >/dev/null 2>&1; then
  "$(command -v python3 || echo .venv/bin/python)" tests/sandbox/sandbox.py down
fi

rm -rf .demo .cache .venv .ansible
find . -name __pycache__ -type d -prune -exec rm -rf {} +
echo "clean: done; kept: the Docker Engine with its images, and the records of runs in .ara (rm -r .ara removes them)"

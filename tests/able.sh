#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Says in one line why this machine cannot run the demo, before anything is touched; says nothing when it can.
# POSIX sh on purpose: it runs before there is a Python.
set -eu
cd "$(dirname "$0")/.."

no() { printf 'demo: this machine cannot run it: %s\n' "$*" >&2; exit 3; }

[ "$(uname -s)" = Linux ] || no "it needs Linux, and this is $(uname -s)"
command -v apt-get >/dev/null || no "it needs Debian or Ubuntu, because it builds its images from their packages with apt-get"
if [ "$(id -u)" != 0 ] && ! docker version >/dev/null 2>&1; then
  no "it needs root, or a Docker Engine that $(id -un) may use; try: sudo make demo"
fi

# What a first run takes: 1 GB for .venv, 2 GB of images, the same again inside the test host, and the instances' data.
needed=8
if [ ! -e .demo/done ]; then
  for place in . /var/lib; do
    free=$(df -Pk "$place" | awk 'NR == 2 { print int($4 / 1000000) }')
    [ "$free" -ge "$needed" ] || no "it needs $needed GB of free disk, and $(df -P "$place" | awk 'NR == 2 { print $6 }') has $free GB"
  done
  memory=$(awk '/^MemAvailable:/ { print int($2 / 1000) }' /proc/meminfo)
  [ "$memory" -ge 2000 ] || no "it needs 2000 MB of free memory, and there are $memory MB"
fi

#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs `ansible-test sanity`, every test of it, on a copy of the collection.
#
# On a copy, because ansible-test wants a directory whose real path ends in ansible_collections/NAMESPACE/NAME. Its own
# environments are kept in .cache, so that only the first run builds them (about a minute).
#
#   tests/sanity.sh [ARGUMENTS of ansible-test sanity]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
cache=$root/.cache/sanity
stage=$cache/ansible_collections/multibase/supabase

rm -rf "$cache/ansible_collections"
mkdir -p "$stage" "$cache/home/.ansible/test/cache" "$cache/home/.config"
(
  cd collections/multibase
  git ls-files -z --cached --others --exclude-standard . | while IFS= read -r -d '' file; do
    # What was deleted but not yet staged is still listed.
    if [[ -e $file ]]; then
      cp --parents "$file" "$stage"
    fi
  done
)

# A home of its own keeps what ansible-test builds out of the user's; pip keeps the settings that it has there.
for settings in .config/pip .pip .netrc; do
  if [[ -e $HOME/$settings && ! -e $cache/home/$settings ]]; then
    ln -s "$HOME/$settings" "$cache/home/$settings"
  fi
done
# ansible-test fetches an installer of pip from a server of its project, which is no package registry. The same is had
# from Python's own copy and PyPI. The name holds the version of pip that this ansible-test pins.
cat >"$cache/home/.ansible/test/cache/get_pip_24_2.py" <<'PYTHON'
import subprocess
import sys

packages = [word for word in sys.argv[1:] if not word.startswith("-")]
subprocess.check_call([sys.executable, "-m", "ensurepip", "--upgrade"])
if packages:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet", *packages])
PYTHON

version=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
cd "$stage"
# A repository of its own: ansible-test lists files with git, and the project's ignores the directory of the copy.
git init --quiet
PIP_QUIET=2 HOME=$cache/home PATH=$root/.venv/bin:$PATH LC_ALL=C.UTF-8 \
  exec "$root/.venv/bin/ansible-test" sanity --local --python "$version" --color no "$@"

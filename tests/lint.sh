#!/usr/bin/env bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Runs every linter and type check, also after one has failed, and ends with their number.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
export PATH=$PWD/.venv/bin:$PATH
# Collections and roles are found in place; nothing is asked of the network, and no run is recorded.
export ANSIBLE_CONFIG=$PWD/ansible.cfg ANSIBLE_CALLBACK_PLUGINS=/nonexistent ANSIBLE_HOME=$PWD/.cache/ansible

passed=0
failed=0
check() { # name, command ...
  local name=$1 output started seconds
  shift
  started=$EPOCHREALTIME
  if output=$("$@" 2>&1); then
    passed=$((passed + 1))
    seconds=$(awk -v a="$started" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    printf 'ok      %-20s %5s s\n' "$name" "$seconds"
  else
    failed=$((failed + 1))
    printf '%s\nFAILED  %s\n' "$output" "$name"
  fi
}

# Files that git knows or would take, by pattern; those deleted but still listed are left out.
files() { git ls-files --cached --others --exclude-standard -- "$@" | while read -r file; do if [[ -e $file ]]; then printf '%s\n' "$file"; fi; done; }
mapfile -t yaml < <(files '*.yml' '*.yaml' .ansible-lint .yamllint)
mapfile -t shell < <(files '*.sh' .ci/run; files tests | xargs -r grep -lE '^#!.*\b(ba)?sh\b' -- | grep -v '\.sh$')
mapfile -t text < <(files '*.md' '*.py' '*.yml' '*.sh' '*.sql' '*.ts' multibase Makefile)

check "ruff" ruff check --quiet .
check "shellcheck" shellcheck "${shell[@]}"
check "codespell" codespell "${text[@]}"
check "yamllint" yamllint --strict "${yaml[@]}"
check "mypy" mypy
check "ansible-lint" ansible-lint --offline -q --nocolor

printf '%d passed, %d failed\n' "$passed" "$failed"
[[ $failed == 0 ]]

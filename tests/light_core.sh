#!/usr/bin/env bash
# The light core's tests without torch, once for each lock named: py3.10 or lowest, say.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=(tests/unit tests/spec tests/properties tests/guard tests/sweep
  tests/validation/test_comparison.py tests/validation/test_committed_records.py tests/test_architecture.py tests/test_locks.py)
for name in "$@"; do
  lock="locks/$name.txt"
  version=${name#py}
  extras=test
  if [ "$name" = lowest ]; then
    version=3.10
    extras=report,sweep,test
  fi
  python=""
  # a pyenv shim answers for versions that are installed but not active: look behind it too
  for candidate in "$(command -v "python$version" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    if [ -z "$python" ] && [ -n "$candidate" ] && "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
      python=$candidate
    fi
  done
  if [ -z "$python" ]; then
    echo "light core, $name: python$version is not installed, skipped"
    continue
  fi
  venv=".venv-light/$name"
  if [ ! -f "$venv/.done" ] || [ pyproject.toml -nt "$venv/.done" ] || [ "$lock" -nt "$venv/.done" ]; then
    "$python" -m venv "$venv"
    PIP_CONSTRAINT="$lock" PIP_BUILD_CONSTRAINT="$lock" \
      "$venv/bin/python" -m pip install --quiet --no-compile --editable ".[$extras]"
    touch "$venv/.done"
  fi
  echo "light core, $name: $("$python" --version)"
  "$venv/bin/python" -m pytest -n auto "${tests[@]}"
done

#!/usr/bin/env bash
# The light core's tests on every supported Python that is installed, without torch.
set -euo pipefail
cd "$(dirname "$0")/.."
done_any=0
for version in 3.10 3.12 3.13; do
  python=""
  # a pyenv shim answers for versions that are installed but not active: look behind it too
  for candidate in "$(command -v "python$version" || true)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    if [ -z "$python" ] && [ -n "$candidate" ] && "$candidate" -c 'import venv, ensurepip' 2>/dev/null; then
      python=$candidate
    fi
  done
  if [ -z "$python" ]; then
    echo "light core: python$version is not installed, skipped"
    continue
  fi
  venv=".venv-light/$version"
  if [ ! -f "$venv/.done" ] || [ pyproject.toml -nt "$venv/.done" ]; then
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --editable '.[test]'
    touch "$venv/.done"
  fi
  echo "light core: python$version"
  "$venv/bin/python" -m pytest -n auto tests/unit tests/spec tests/properties tests/guard tests/sweep tests/validation/test_comparison.py tests/validation/test_committed_records.py tests/test_architecture.py
  done_any=1
done
[ "$done_any" = 1 ] || echo "light core: no other Python found"

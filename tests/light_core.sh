#!/usr/bin/env bash
# The light core's tests without torch, once for each lock named: py3.10 or lowest, say.
# --install makes the environments alone, --brief leaves out the cases marked `check`, --unit runs tests/unit alone.
set -euo pipefail
cd "$(dirname "$0")/.."
install_only=false
tests=(tests/unit tests/spec tests/properties tests/guard tests/sweep
  tests/validation/test_comparison.py tests/validation/test_committed_records.py tests/test_architecture.py tests/test_locks.py)
marks=(-m "not check_all")
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --install) install_only=true ;;
    --brief) marks=(-m "not check and not check_all") ;;
    --unit) tests=(tests/unit) ;;
    *) echo "light core: unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
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
  if [ "$install_only" = true ]; then
    continue
  fi
  echo "light core, $name: $("$python" --version)"
  "$venv/bin/python" -m pytest -n auto "${marks[@]}" "${tests[@]}"
done

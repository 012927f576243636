#!/usr/bin/env bash
# Compile the constraints that `make run`, `make test` and CI install with; `make update-locks` calls this.
# uv only resolves. Arguments are uv's: `--upgrade`, or `--upgrade-package rich` to renew one package.
set -euo pipefail
cd "$(dirname "$0")/.."

compile() { # OUTPUT PYTHON [ARGUMENT…]
  local output=$1 python=$2
  shift 2
  uv pip compile pyproject.toml locks/build.in --output-file "$output" --python-version "$python" \
    --python-platform x86_64-unknown-linux-gnu --only-binary :all: --no-python-downloads \
    --extra report --extra sweep --no-annotate --custom-compile-command "make update-locks" --quiet "$@"
  # torch's CUDA build pins these itself, and the CPU build has none of them
  grep -v '^nvidia-\|^cuda-' "$output" >"$output.tmp" && mv "$output.tmp" "$output"
}

for python in 3.10 3.11 3.12 3.13; do
  compile "locks/py$python.txt" "$python" --constraint locks/torch.in --extra torch --extra dev --extra browser --extra docs "$@"
done
# every lower bound of pyproject.toml at once, on the oldest Python; transformers has `make test-versions`
compile locks/lowest.txt 3.10 --extra test --resolution lowest-direct --upgrade

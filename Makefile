# Two commands a newcomer needs: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := constraints-torch.txt
# What is timed runs by itself, not beside the other tests.
TIMED := tests/bench tests/validation/test_cpu_validation.py

.PHONY: run test check lint types bench docs clean

run: $(VENV)/.light
	@$(BIN)/aimcost reproduce
	@echo
	@$(BIN)/aimcost estimate llava_onevision_aim_a100

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto $(TIMED:%=--ignore=%)
	$(BIN)/python -m pytest $(TIMED)
	./tests/light_core.sh

bench: $(VENV)/.test
	$(BIN)/python -m pytest tests/bench --benchmark-enable

check: $(VENV)/.test lint types test

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

docs: $(VENV)/.test
	$(BIN)/python docs/validation.py
	$(BIN)/python docs/build.py

$(VENV)/.light: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# torch alone is pinned: any other build of it is gigabytes
$(VENV)/.test: pyproject.toml $(TORCH)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(TORCH) --editable '.[torch,report,sweep,dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

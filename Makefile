# Two commands a newcomer needs: `make run` and `make test`.
# On Linux, PyPI's torch is a CUDA build of several GB. For the CPU build:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions that were tested with this Python. As a variable they also constrain what builds the
# project (for pip 25.3 and later through a variable of its own), which pip's -c does not. Byte code is
# made on import: most of the 12,000 modules of torch, transformers and the rest are never loaded.
LOCK := locks/py$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null).txt
LOCKED := PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK)
PIP_INSTALL := $(LOCKED) $(BIN)/python -m pip install --quiet --no-compile
# An environment that forbids it would have every process compile what it imports: torch costs 10 s a process then.
export PYTHONDONTWRITEBYTECODE :=
# What is timed runs by itself, not beside the other tests.
TIMED := tests/bench tests/validation/test_cpu_validation.py

define pytest
	$(BIN)/python -m pytest -n auto --dist worksteal --durations=10 $(1) $(TIMED:%=--ignore=%)
	$(BIN)/python -m pytest $(1) $(TIMED)
endef

.PHONY: run test check check-all test-browser test-browser-smoke test-docs test-versions test-oldest test-lmms \
  lint types light light-brief light-environments bench docs processors update-locks clean

run: $(VENV)/.light
	@$(BIN)/aimcost reproduce
	@echo
	@$(BIN)/aimcost estimate llava_onevision_aim_a100

# tests/README.md says what the slowest buy.
test: $(VENV)/.test
	$(call pytest,-m 'not check and not check_all')

# What lands a change; .ci/run calls it. The tests run on the newest transformers that is supported, which is
# the locked one; the oldest runs here, those between and the newest of the index nightly.
check:
	$(MAKE) -j 2 lint types light-environments
	$(MAKE) light-brief
	$(MAKE) -j 2 test-oldest test-browser-smoke test-docs
	$(call pytest,-m 'not check_all')

# By hand and nightly.
check-all: check light test-versions test-browser bench
	$(BIN)/python -m pytest -n auto -m check_all
	$(BIN)/python docs/traced_models.py

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(VENV)/.test
	$(BIN)/mypy

# The light core on every other Python, and on the lowest version of every dependency.
LIGHT := py3.10 py3.12 py3.13 lowest
light:
	tests/light_core.sh $(LIGHT)

# Without repeated cases on Python 3.10 with the lowest versions, its unit tests on the newest; others in check-all.
LIGHT_NEWER := py3.13
light-brief:
	tests/light_core.sh --brief lowest
	tests/light_core.sh --unit $(LIGHT_NEWER)

light-environments:
	tests/light_core.sh --install lowest $(LIGHT_NEWER)

# The runtime on each supported transformers, installed beside the locked one; VERSIONS="oldest newest" picks some.
test-versions: $(VENV)/.test
	$(BIN)/python tests/versions.py $(VERSIONS)

test-oldest: $(VENV)/.test
	$(BIN)/python tests/versions.py oldest

# The explorer's page in headless Chromium (Debian's package); skipped where there is none.
BROWSER := $(VENV)-browser
test-browser: $(BROWSER)/.done
	$(BROWSER)/bin/python -m pytest tests/browser -rs -s || test $$? -eq 5

# Pages of fewer models and methods.
test-browser-smoke: $(BROWSER)/.done
	$(BROWSER)/bin/python -m pytest tests/browser -rs -s -m 'not check_all' || test $$? -eq 5

$(BROWSER)/.done: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(BROWSER)
	PIP_CONSTRAINT=$(LOCK) $(BROWSER)/bin/python -m pip install --quiet --no-compile --editable '.[browser]'
	touch $@

# The tutorial in a kernel, and the site.
DOCS := $(VENV)-docs
test-docs: $(DOCS)/.done
	$(DOCS)/bin/python -m pytest tests/docs -rs

$(DOCS)/.done: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(DOCS)
	PIP_CONSTRAINT=$(LOCK) $(DOCS)/bin/python -m pip install --quiet --no-compile --editable '.[docs]'
	touch $@

bench: $(VENV)/.test
	$(BIN)/python -m pytest tests/bench --benchmark-enable

docs: $(VENV)/.test $(DOCS)/.done
	$(DOCS)/bin/python docs/notebook.py
	$(BIN)/python docs/validation.py
	$(BIN)/python docs/gpu.py
	$(BIN)/python docs/evidence.py
	$(BIN)/python docs/methods.py
	$(BIN)/python docs/run_files.py
	$(BIN)/python docs/formulas.py
	$(BIN)/python docs/accuracy.py
	$(BIN)/python docs/frontier.py
	$(BIN)/python docs/guarding.py
	$(BIN)/python docs/build.py

# Counts of transformers' own image and video processors, which `make test` holds ours to. Video processors need
# torchvision, whose build on PyPI breaks beside this project's torch: an environment of its own (5.6 GB, Python 3.11).
# PROCESSORS=FOLDER uses one that is there.
PROCESSORS := $(VENV)-processors
processors: $(PROCESSORS)/.done
	$(PROCESSORS)/bin/python tests/golden/processors/generate.py

$(PROCESSORS)/.done:
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), "make processors needs PYTHON=python3.11"'
	$(PYTHON) -m venv $(PROCESSORS)
	$(PROCESSORS)/bin/python -m pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 transformers==5.24.0
	touch $@

# lmms-eval runs a local task through its plug-in, with the weights of tests/golden/easy_vqa: an environment like that
# of `make processors` (6.5 GB, Python 3.11). LMMS=FOLDER uses one that is there; WRITE=--write renews the fixtures.
LMMS := $(VENV)-lmms
test-lmms: $(LMMS)/.done
	$(LMMS)/bin/python tests/golden/easy_vqa/run_lmms_eval.py $(WRITE)

$(LMMS)/.done:
	$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), "make test-lmms needs PYTHON=python3.11"'
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 lmms-eval==0.7.3 decord "filelock<3.20"
	$(LMMS)/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

# UV_ARGUMENTS='--upgrade-package rich' renews one package.
UV_ARGUMENTS := --upgrade
update-locks: $(VENV)-uv/bin/uv
	PATH="$(CURDIR)/$(VENV)-uv/bin:$$PATH" locks/update.sh $(UV_ARGUMENTS)

$(VENV)-uv/bin/uv:
	$(PYTHON) -m venv $(VENV)-uv
	$(VENV)-uv/bin/python -m pip install --quiet uv

$(VENV)/.light: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.test: pyproject.toml $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable '.[torch,report,sweep,dev]'
	touch $@

# The version of a Python that does not run is empty.
locks/py.txt:
	@echo "$(PYTHON) does not run; for a Python that aimcost is tested on: make PYTHON=python3.12" >&2
	@exit 1

locks/py%.txt:
	@echo "aimcost is not tested on Python $*; for one that is: make PYTHON=python3.12" >&2
	@exit 1

clean:
	rm -rf $(VENV) $(VENV)-light $(VENV)-uv $(VENV)-lmms $(VENV)-browser $(DOCS) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

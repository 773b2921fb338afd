# Each target does all the set-up that it needs: see scripts/setup.sh.
PY := .venv/bin/python
EXAMPLES := $(sort $(wildcard examples/[0-9][0-9]_*.py))
CHECKED := $(wildcard celery_actors tests examples benchmarks conformance config)

.PHONY: demo test lint unit integration bench growth conformance setup clean

# Every example, in order, until one fails.
demo: setup
	@set -e; for example in $(EXAMPLES); do \
	    printf '\n=== %s\n' "$$example"; \
	    $(PY) -u "$$example"; \
	done

test: lint unit integration

lint: setup
	$(PY) -m ruff check $(CHECKED)
	$(PY) -m ruff format --check $(CHECKED)
	$(PY) -m mypy

unit: setup
	$(PY) -m pytest tests/unit

# Files in their order, not those with the most tests first: the last ones are then short.
integration: setup
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests --ignore=tests/unit

bench: setup
	$(PY) benchmarks/run.py

# How cost grows with actors, callers, payload, a queue's depth and the cluster's age.
growth: setup
	$(PY) benchmarks/growth.py

# Every case and program on this package and, in an environment of its own, on Ray.
conformance: setup
	$(PY) -m conformance

setup:
	@scripts/setup.sh

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache

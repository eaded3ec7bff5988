# Two commands: `make demo` runs the main job, `make test` passes the tests. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := data/demo
FONT_NOTES := 1500
FUZZ_SECONDS ?= 600
# Two files at a time: a test of several processes mostly waits for one of them.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
PACKAGES := 'import sysconfig; print(sysconfig.get_path("purelib"))'

.PHONY: setup demo test test-fast test-faults test-cluster check format bench bench-gpu study fuzz

setup: $(VENV)/.demo

$(VENV)/.demo: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[demo]'
	touch $@

$(VENV)/.test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.demo

# Render notes, pack them, train, evaluate, report. Interrupted and run again, each stage goes on where it was.
demo: $(VENV)/.demo
	$(BIN)/python -m shards render $(DEMO)/notes --notes $(FONT_NOTES)
	$(BIN)/python -m shards pack $(DEMO)/notes $(DEMO)/pack --split train
	$(BIN)/python -m shards pack $(DEMO)/notes $(DEMO)/pack --split valid
	$(BIN)/python -m shards pack $(DEMO)/notes $(DEMO)/pack --split test
	if [ -e runs/demo/config.json ]; then \
		$(BIN)/python -m trainers train --preset demo --resume demo; \
	else \
		$(BIN)/python -m trainers train --preset demo --name demo --data $(DEMO)/pack; \
	fi

# Peers live in an environment of their own: some own our import names. Their torch is ours, by a path at the end.
.venv-peers/.stamp: benchmarks/requirements-peers.txt benchmarks/requirements-writers.txt $(VENV)/.test
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements-peers.txt
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r benchmarks/requirements-writers.txt
	$(BIN)/python -c $(PACKAGES) > $$(.venv-peers/bin/python -c $(PACKAGES))/torch.pth
	touch $@

# By hand: seventeen minutes, and a quiet machine. Writes docs/benchmarks.md.
bench: $(VENV)/.test .venv-peers/.stamp
	$(BIN)/python -m benchmarks

# By hand, where a GPU is: prints Markdown.
bench-gpu: $(VENV)/.test
	$(BIN)/python -m benchmarks.gpu

# By hand: more than an hour on two cores; ended, it goes on where it was. Writes docs/study.md. Needs FluidR3.
study: $(VENV)/.test
	$(BIN)/python -m benchmarks.study --jobs 2 --tune

check: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m tests.sizes

# One thread each: two tests of several processes share the cores already.
test test-fast: export OMP_NUM_THREADS := 1

test: check
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: $(VENV)/.test
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not slow and not faults and not cluster'

# Kills ranks and whole runs for real.
test-faults: $(VENV)/.test
	$(BIN)/python -m pytest -m faults

# Clusters of their own, and two hosts on this machine, one lost. Those need root, sshd and rsync, and say so.
test-cluster: $(VENV)/.test
	$(BIN)/python -m pytest -m cluster -rs

# By hand: mutates whatever packing reads, for as long as you like.
fuzz: $(VENV)/.test
	$(BIN)/python -m tests.shards.fuzz --seconds $(FUZZ_SECONDS) --seed $$(date +%s)

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

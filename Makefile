# Needs only bash, make and Python 3.11+; scripts/venv.sh brings the rest.
# PYTHON chooses the Python, PYTEST_ARGS goes to pytest: make test PYTEST_ARGS='-k resume -x'

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

DEMO := build/demo
SCRIPTS := .ci/run $(wildcard scripts/*.sh) jobs/env.sh $(wildcard jobs/*.sbatch) docker/smoke-test
WORDS := src tests benchmarks docs mkdocs.yml docker examples jobs scripts .ci Makefile pyproject.toml $(wildcard *.md *.cff)
PYTEST_ARGS ?=
# Every rank that a test starts would otherwise compile our modules anew.
COMPILED := env -u PYTHONDONTWRITEBYTECODE
BENCH_DATA ?=
BENCH_ARGS ?=

.PHONY: help demo docs check lint types test test-long soak bench cluster-test fs-test dist image image-test format clean venvs
.PHONY: venv-mpich venv-openmpi venv-wheels

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

demo: venv-wheels ## put 1,797 small images into one HDF5 file (no root, no compiler)
	@.venv/wheels/bin/python scripts/digits.py $(DEMO)
	@.venv/wheels/bin/mpiexec -n 2 .venv/wheels/bin/h5ingest \
	  $(DEMO)/manifest.csv $(DEMO)/digits.h5 --compression zstd:3 --overwrite
	@echo
	@echo "Next, for example:"
	@echo "  .venv/wheels/bin/h5ingest --help"
	@echo "  head -n 3 $(DEMO)/manifest.csv"
	@echo "  .venv/wheels/bin/h5ingest show $(DEMO)/digits.h5 --sheet $(DEMO)/digits.png"
	@echo "  .venv/wheels/bin/h5ingest verify $(DEMO)/digits.h5 --sources"
	@echo "  .venv/wheels/bin/mpiexec -n 2 .venv/wheels/bin/h5ingest YOUR_MANIFEST.csv out.h5"

docs: venv-mpich ## the documentation as a site in build/site, with every link looked at (no network)
	@.venv/mpich/bin/python scripts/cli_page.py docs/cli.md
	@scripts/docs.sh

check: lint types test test-long docs ## everything that must pass before a merge

lint: venv-mpich ## style, spelling and length of all sources, which folder imports which
	@.venv/mpich/bin/ruff check
	@.venv/mpich/bin/ruff format --check
	@.venv/mpich/bin/lint-imports
	@.venv/mpich/bin/codespell $(WORDS)
	@find src -name '*.py' -exec awk 'FNR == 301 { print FILENAME ": more than 300 lines"; e = 1 } END { exit e }' {} +
	@PATH=.venv/mpich/bin:$$PATH; \
	  if command -v shellcheck >/dev/null; then shellcheck $(SCRIPTS); else echo "shellcheck not found, skipped"; fi

types: venv-mpich ## strict type check
	@.venv/mpich/bin/mypy

# Four at a time: each waits much of its time. PYTEST_ARGS='-n 0' runs them one after the other.
test: venvs ## the tests, on both MPIs and on PyPI's wheels (two cores: 8 minutes)
	@$(COMPILED) .venv/mpich/bin/pytest -n 4 --dist worksteal \
	  -m "not long and not soak and not cluster and not fs" $(PYTEST_ARGS)

test-long: venvs ## a few hundred kills, random jobs and flipped bytes, every filter (two cores: 10 minutes)
	@$(COMPILED) .venv/mpich/bin/pytest -n 4 --dist load -m "long and not soak" $(PYTEST_ARGS) tests/property tests


soak: venvs ## the tests that take minutes: every filter, all data, all ranks, all MPIs
	@.venv/mpich/bin/pytest -m soak $(PYTEST_ARGS)

cluster-test: venvs ## job scripts on a real SLURM, jobs over several hosts (root, Debian; 3 minutes)
	@scripts/packages.sh slurmctld slurmd slurm-client munge iproute2
	@.venv/mpich/bin/pytest -m cluster $(PYTEST_ARGS) tests/cluster

# PYTEST_ARGS='-k ceph' and H5INGEST_KILLS=100 (kills) narrow and widen it.
fs-test: venvs ## two hosts on GlusterFS, MooseFS and CephFS (root, Debian, /dev/fuse; 10 minutes)
	@scripts/packages.sh glusterfs-server glusterfs-client moosefs-master moosefs-chunkserver \
	  moosefs-client ceph-common ceph-mon ceph-mgr ceph-osd ceph-mds ceph-fuse iproute2
	@.venv/mpich/bin/pytest -m fs -s -n 2 --dist loadfile $(PYTEST_ARGS) tests/cluster

# BENCH_DATA is a folder with mnist, cifar and kodak, each with PNG files at any depth; images that are
# not there are drawn. BENCH_ARGS='--runs 3 --only MNIST', see benchmarks/against_baselines.py.
bench: venv-mpich ## h5ingest against baselines, on an idle machine: a table in build/bench (4 minutes)
	@.venv/mpich/bin/python benchmarks/against_baselines.py $(if $(BENCH_DATA),--data $(BENCH_DATA)) $(BENCH_ARGS)

dist: venv-wheels ## sdist and wheel in build/dist, installed into an empty environment and tried
	@scripts/dist.sh

image: ## the container image (docker/README.md), with docker, podman or, without a daemon, buildah
	@scripts/image.sh build

image-test: image ## does it work: ingest on 4 ranks inside the image
	@scripts/image.sh test

format: venv-mpich ## rewrite the Python sources in the project's style
	@.venv/mpich/bin/ruff check --fix
	@.venv/mpich/bin/ruff format

clean: ## remove everything made here; compiled wheels stay in the cache
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests scripts -name __pycache__ -prune -exec rm -rf {} +

# Two at a time: one file of mpi4py keeps one core and 2 GB busy for a minute.
venvs:
	@$(MAKE) --no-print-directory -j2 venv-mpich venv-openmpi venv-wheels

venv-mpich venv-openmpi venv-wheels: venv-%:
	@scripts/venv.sh $*

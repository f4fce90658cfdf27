# Two commands do everything on a fresh machine, set-up included: `make demo` and `make test`.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MXNET := .venv-mxnet
EXTRAS := train,evaluate,synth,pipeline,serve,embedded,dev

# What the demo takes, by the names of `eolgul demo`'s options.
DEMO_OPTIONS = $(if $(SOURCE),--source "$(SOURCE)") $(if $(KEEP),--keep) $(if $(WORK),--work "$(WORK)") \
  $(if $(PORT),--port $(PORT)) $(if $(PEOPLE),--people $(PEOPLE)) $(if $(MIN_IMAGES),--min-images $(MIN_IMAGES)) \
  $(if $(MAX_IDENTITIES),--max-identities $(MAX_IDENTITIES)) $(if $(RECIPE),--recipe $(RECIPE)) $(DEMO_ARGS)

.DEFAULT_GOAL := help
.PHONY: help install demo test digests lint format bench browser mxnet-env deploy render images clean

help:  ## What there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## ?/  make \1\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt requirements-nodeps.txt
	@./.ci/check-machine "$(PYTHON)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -r requirements-nodeps.txt
	@touch $@

install: $(STAMP)  ## Make .venv and install pinned versions (a second call installs nothing)

demo: $(STAMP)  ## Everything on this machine, on drawn people, or SOURCE=<folder of identity/image files>
	@$(BIN)/eolgul demo $(DEMO_OPTIONS)

test: $(STAMP)  ## Every test that this machine can run; the others say why they are skipped
	$(BIN)/pytest $(TEST_ARGS)

lint: $(STAMP)  ## ruff, mypy --strict and the layer contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

digests: $(STAMP)  ## Digests of every kind of artifact, made from a small drawn set (BASE=<commit> compares)
	@$(BIN)/python tests/digests.py $(if $(BASE),--base "$(BASE)")

format: $(STAMP)  ## Let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## Speed, against peers, in one run
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

browser:  ## Install Chromium (Debian, as root), which the web page's tests use when it is there
	@command -v chromium >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-noto-cjk >/dev/null; }

# mxnet needs an old numpy, so it has an environment of its own, and two libraries that its wheel does not bring.
mxnet-env: $(MXNET)/.installed  ## Make .venv-mxnet, which tests and `--reader mxnet` use when it is there

$(MXNET)/.installed: requirements-mxnet.txt
	@./.ci/mxnet-libraries
	@test -x $(MXNET)/bin/python || "$(PYTHON)" -m venv $(MXNET)
	$(MXNET)/bin/pip install --disable-pip-version-check -q -r requirements-mxnet.txt
	@$(MXNET)/bin/python -c 'import mxnet'
	@touch $@

deploy: $(STAMP)  ## Deploy serving, Redis and MinIO with kustomize (OVERLAY=production)
	@k8s/deploy.sh $(OVERLAY)

render: $(STAMP)  ## Print what `make deploy` would apply
	@k8s/deploy.sh --render $(OVERLAY)

images:  ## Build the container images (docker or podman; IMAGE_PREFIX=, IMAGE_TAG=)
	@for file in docker/*.Dockerfile; do name=$$(basename $$file .Dockerfile); \
	  $${CONTAINER_TOOL:-docker} build -f $$file -t $(or $(IMAGE_PREFIX),eolgul)/$$name:$(or $(IMAGE_TAG),0.2.0) . || exit 1; done

clean:  ## Remove what the demo and the tests leave (not the environments)
	rm -rf demo local_outputs build .pytest_cache .mypy_cache .ruff_cache .hypothesis

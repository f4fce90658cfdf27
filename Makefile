# `make demo` and `make test` need no set-up: every target that uses .venv makes it first.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MXNET := .venv-mxnet
EXTRAS := train,evaluate,synth,pipeline,serve,embedded,dev,docs
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# What builds a package from source is pinned, too: for pip before 25.3 and since.
PIP_INSTALL = PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/pip install --disable-pip-version-check -q

# Tests at once, of those that start no process.
JOBS ?= 2

# Variables of `make demo`, passed on as the options of `eolgul demo`.
DEMO_OPTIONS = $(if $(SOURCE),--source "$(SOURCE)") $(if $(KEEP),--keep) $(if $(FULL),--full) $(if $(WORK),--work "$(WORK)") \
  $(if $(PORT),--port $(PORT)) $(if $(PEOPLE),--people $(PEOPLE)) $(if $(MIN_IMAGES),--min-images $(MIN_IMAGES)) \
  $(if $(MAX_IDENTITIES),--max-identities $(MAX_IDENTITIES)) $(if $(RECIPE),--recipe $(RECIPE)) $(DEMO_ARGS)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast digests lint format docs openapi bench browser mxnet-env secrets deploy rotate diff undeploy \
  backup restore render cluster-test check-manifests images images-test sbom push pipelines version clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## ?/  make \1\t/' | expand -t 18

$(STAMP): pyproject.toml constraints.txt requirements-nodeps.txt
	@./.ci/check-machine "$(PYTHON)"
	@test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(PIP_INSTALL) -c constraints.txt -e '.[$(EXTRAS)]'
	$(PIP_INSTALL) --no-deps -r requirements-nodeps.txt
	@touch $@

install: $(STAMP)  ## Make .venv and install the pinned versions (a second call does nothing)

demo: $(STAMP)  ## Run everything, from data to served model, on drawn people or on SOURCE=<folder of person/image files>
	@$(BIN)/eolgul demo $(DEMO_OPTIONS)

# Two at once, in two turns: the tests that start no process, then those that start some. What asks a running service waits
# for it and has limits on its answers: those tests run one after another. Exit status 5 of pytest: TEST_ARGS chose no test.
test: $(STAMP)  ## Run every test that this machine can run; the others are skipped with a reason
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "not process and not slow" $(TEST_ARGS) || test $$? = 5
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "(process or slow) and not service" $(TEST_ARGS) || test $$? = 5
	$(BIN)/pytest -m "service" $(TEST_ARGS) || test $$? = 5

test-fast: $(STAMP)  ## Run the tests that start no process and are not slow
	$(BIN)/pytest -n $(JOBS) --dist loadfile -m "not process and not slow" $(TEST_ARGS)

lint: $(STAMP)  ## Check style, spelling, types and the layers (ruff, codespell, mypy, import-linter)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell --toml pyproject.toml
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini
	$(BIN)/lint-imports --no-cache

digests: $(STAMP)  ## Print the digests of artifacts made from a small drawn set; BASE=<commit> compares with that commit
	@$(BIN)/python tests/digests.py $(if $(BASE),--base "$(BASE)")

format: $(STAMP)  ## Format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## Build the documentation into site/, with every link and anchor checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

openapi: $(STAMP)  ## Write docs/openapi.json anew, after a change of the API that was meant
	$(BIN)/python docs/generate/openapi.py

# Those that need a place or a data set, and the module of one of them, are called by hand.
BENCHES := $(filter-out %/audit.py %/crops.py %/quality.py %/demo_model.py %/reference_training.py %/insightface_pytorch.py %/rolling.py,$(wildcard benchmarks/*.py))

bench: $(STAMP)  ## Measure speed against other implementations
	@for file in $(BENCHES); do echo "== $$file"; $(BIN)/python "$$file" || exit 1; done

browser:  ## Install Chromium for the tests of the web page (Debian, as root)
	@command -v chromium >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium fonts-noto-cjk >/dev/null; }

# mxnet needs an old numpy, so it has its own environment, and two libraries that its wheel does not contain.
mxnet-env: $(MXNET)/.installed  ## Make .venv-mxnet, for `--reader mxnet` and for the tests that compare with mxnet

$(MXNET)/.installed: requirements-mxnet.txt
	@./.ci/mxnet-libraries
	@test -x $(MXNET)/bin/python || "$(PYTHON)" -m venv $(MXNET)
	$(MXNET)/bin/pip install --disable-pip-version-check -q -r requirements-mxnet.txt
	@$(MXNET)/bin/python -c 'import mxnet'
	@touch $@

# These need kubectl and a shell (secrets: openssl), and no Python environment.
secrets:  ## Make the passwords and keys of OVERLAY, once; what is there is kept
	@k8s/deploy.sh --secrets $(OVERLAY)

rotate:  ## Make new passwords or keys and deploy them: WHAT=api, redis, s3, root, encryption or signing (OVERLAY=)
	@k8s/deploy.sh --rotate "$(WHAT)" $(OVERLAY)

deploy:  ## Deploy the service, Redis and an object store (OVERLAY=local, production, …; EOLGUL_IMAGES=docker/digests.json)
	@k8s/deploy.sh $(OVERLAY)

diff:  ## Print what `make deploy` would change in the cluster
	@k8s/deploy.sh --diff $(OVERLAY)

undeploy:  ## Remove what `make deploy` made, but not the volumes (DATA=1: the volumes, too)
	@k8s/deploy.sh --undeploy $(OVERLAY)

backup: $(STAMP)  ## Back the bucket and the gallery (sealed) up to BACKUP=<folder>; a second run copies what is new (OVERLAY=)
	@k8s/backup.sh backup "$(or $(BACKUP),backup)" $(OVERLAY)

restore: $(STAMP)  ## Restore BACKUP=<folder> into an empty cluster, and compare the counts (OVERLAY=)
	@k8s/backup.sh restore "$(or $(BACKUP),backup)" $(OVERLAY)

render:  ## Print the manifests that `make deploy` would apply
	@k8s/deploy.sh --render $(OVERLAY)

cluster-test: $(STAMP)  ## Acceptance test on a cluster to throw away: REGISTRY=<folder> PHOTOS="a.jpg b.jpg" (OVERLAY=)
	@REGISTRY="$(REGISTRY)" PHOTOS="$(PHOTOS)" k8s/cluster-test.sh $(OVERLAY)

# checkov brings many packages of its own, hence the environment.
check-manifests:  ## Scan the rendered overlays and the Dockerfiles with checkov (k8s/checkov.yaml says what is left out and why)
	@test -x .venv-checkov/bin/checkov || { "$(PYTHON)" -m venv .venv-checkov && .venv-checkov/bin/pip install --disable-pip-version-check -q checkov==3.3.30; }
	@rm -rf build/manifests && mkdir -p build/manifests
	@for path in k8s/overlays/*/kustomization.yaml; do name=$$(basename $$(dirname $$path)); \
	  k8s/deploy.sh --render $$name >build/manifests/$$name.yaml 2>/dev/null || exit 1; done
	.venv-checkov/bin/checkov --config-file k8s/checkov.yaml -d build/manifests -d docker

images:  ## Build the container images (ENGINE=docker, podman or buildah, IMAGE_PREFIX=, IMAGE_TAG=, BUILD_ARGS=)
	@ENGINE="$(ENGINE)" IMAGE_PREFIX="$(IMAGE_PREFIX)" IMAGE_TAG="$(IMAGE_TAG)" BUILD_ARGS="$(BUILD_ARGS)" docker/build.sh

# Minutes of building, then the whole pipeline twice: outside `make test`, which runs a part of it where images are there.
images-test: $(STAMP)  ## Build the images and run all of them as a cluster does (ENGINE=buildah as root; NAMES=, SKIP_BUILD=1)
	@ENGINE="$(ENGINE)" IMAGE_PREFIX="$(IMAGE_PREFIX)" IMAGE_TAG="$(IMAGE_TAG)" BUILD_ARGS="$(BUILD_ARGS)" PYTHON=$(BIN)/python docker/test.sh $(TEST_ARGS)

sbom:  ## Copy the images' bills of materials (CycloneDX) to docker/sbom (ENGINE=, IMAGE_PREFIX=, IMAGE_TAG=)
	@ENGINE="$(ENGINE)" IMAGE_PREFIX="$(IMAGE_PREFIX)" IMAGE_TAG="$(IMAGE_TAG)" docker/sbom.sh

push:  ## Push the images and write their digests to docker/digests.json (ENGINE=, IMAGE_PREFIX=, IMAGE_TAG=)
	@CONTAINER_TOOL="$${ENGINE:-$$CONTAINER_TOOL}" "$(PYTHON)" docker/push.py --out docker/digests.json \
	  $(foreach file,$(wildcard docker/*.Dockerfile),$(or $(IMAGE_PREFIX),$(EOLGUL_IMAGE_PREFIX),eolgul)/$(basename $(notdir $(file))):$(or $(IMAGE_TAG),$(EOLGUL_IMAGE_TAG),$(VERSION)))

pipelines: $(STAMP)  ## Compile every pipeline into build/pipelines (EOLGUL_IMAGES=file of images by digest, or EOLGUL_IMAGE_PREFIX=)
	@mkdir -p build/pipelines
	@for name in face-recognition evaluate-only retrain promote roll-back; do \
	  $(BIN)/eolgul pipeline compile --pipeline $$name build/pipelines/$$name.yaml || exit 1; done

version:  ## Copy the version in pyproject.toml to the manifests
	sed -i 's/newTag: "[^"]*"/newTag: "$(VERSION)"/' k8s/base/kustomization.yaml

clean:  ## Remove what the demo, the tests and the documentation leave (not the environments)
	rm -rf demo local_outputs build site .pytest_cache .mypy_cache .ruff_cache .hypothesis

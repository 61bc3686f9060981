# The front door. `make demo` and `make test` are all that a newcomer needs.

PYTHON ?= python3
LATENTE := target/release/latente
# Tests run by nextest where it is installed, else by cargo itself.
TEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo "cargo nextest run" || echo "cargo test")

.DEFAULT_GOAL := help
.PHONY: help setup setup-cuda build demo serve test check bench bench-quality resume profile beyond-memory files v2 exports likelihoods pictures clean

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: ## fetch libtorch into .libtorch/ (CPU; CUDA too where there is an NVIDIA driver)
	@command -v $(PYTHON) >/dev/null || { echo "Python 3 is missing (Debian: apt-get install python3 python3-pip)"; exit 1; }
	@$(PYTHON) scripts/libtorch.py

setup-cuda: ## the same, with CUDA in any case
	@$(PYTHON) scripts/libtorch.py --cuda

build: setup ## build target/release/latente
	cargo build --release --locked

demo: build ## train on real data with a server of its own, and look at the results
	@$(PYTHON) scripts/demo.py

serve: build ## run a server on 127.0.0.1:8080 with its data in latente-data/
	$(LATENTE) serve

test: setup ## every test
	$(TEST) --release --locked

check: setup ## formatting, lints, documentation, tests
	cargo fmt --check
	cargo clippy --release --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --release --locked --no-deps --document-private-items
	$(TEST) --release --locked

bench: build ## speed of training, answers and reading files beside their peers, start, memory, size (fetches them into .bench/)
	@$(PYTHON) bench/train.py
	@$(PYTHON) bench/speed.py
	@$(PYTHON) bench/serve.py
	@$(PYTHON) bench/pressure.py
	@$(PYTHON) bench/queued.py
	@$(PYTHON) bench/ingest.py

bench-quality: build ## figures that a right implementation reaches, beside their bars
	@$(PYTHON) bench/quality.py

resume: build ## trainers killed and paused at random instants, in every family, optimizer and schedule, and the same bytes in the end
	@$(PYTHON) bench/resume.py

profile: build ## where the time of training goes, by samples of perf (fetches MNIST into .bench/)
	@$(PYTHON) bench/time_spent.py

beyond-memory: build ## training on rows that do not fit into memory, beside PyTorch (needs root)
	@$(PYTHON) bench/beyond_memory.py

files: build ## files of packages, from upload to a model (fetches them)
	@$(PYTHON) bench/files.py

v2: build ## Triton's own client against this server, each answer compared with that of /v1 (fetches it)
	@$(PYTHON) bench/v2.py

exports: build ## exported models in onnxruntime and PyTorch beside the server's answers (fetches them into .bench/)
	@$(PYTHON) bench/exports.py

likelihoods: build ## log p(x) as the server tells it beside PyTorch's own estimate (fetches it into .bench/)
	@$(PYTHON) bench/likelihoods.py

pictures: build ## train every family on the digits in demo/ and draw what came of it into docs/pictures/
	@$(PYTHON) scripts/pictures.py

clean: ## remove what was built and fetched
	rm -rf target .libtorch .bench demo-output

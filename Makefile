# The commands of the project; each makes the environment in .venv first where it is not there.
PYTHON ?= python3
BIN := .venv/bin
COMMA := ,
# with kernels for the GPU where there is one
EXTRAS := dev$(COMMA)cluster$(if $(shell command -v nvidia-smi),$(COMMA)gpu)

.PHONY: setup search test check keys clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 2; }
	@if command -v uv >/dev/null; then \
	  uv venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv && \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	  $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi
	@touch $@

search: setup  ## the whole search on the embedded demo, without GPU or network
	$(BIN)/python tune/search.py --demo

test: setup  ## every test that this machine can run
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

keys: setup  ## what cluster.yaml ships to its nodes: Ray's token, and the Hub's out of HF_TOKEN
	@test -n "$$HF_TOKEN" || { echo "HF_TOKEN is empty: export your Hub token, the nodes download with it" >&2; exit 2; }
	@umask 077 && mkdir -p ~/.ray && printf %s "$$HF_TOKEN" >~/.ray/hub_token && \
	  $(BIN)/ray get-auth-token --generate >/dev/null && chmod 600 ~/.ray/auth_token

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache

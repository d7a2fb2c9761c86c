# The whole interface: make demo | test | lab | docs | check | hooks | bench | peers |
# autogluon | earthformer | forest | clean
# Each sets up what it needs first, in .venv; PYTHON=python3.12 picks the interpreter
# (3.11 or 3.12).
PYTHON ?= python3
BIN    := .venv/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
TORCH  := $(shell sed -n 's/^torch==//p' constraints.txt)
SITE   := smalldocs==0.5.4 fastcore==2.2.39 markdown-it-py==4.3.0 \
  mdit-py-plugins==0.7.0 pygments==2.21.0 pyyaml==6.0.3
# What looks for barriers on a page of the site: contrast, names, focus.
AXE    := axe-core@4.14.1
# The lightest set with which libpecos' XR-Linear can be imported (no torch, no
# transformers), and two more programs of its kind.
PECOS  := libpecos==1.2.8 numpy==1.26.4 scipy==1.13.1 scikit-learn==1.5.2 \
  joblib==1.4.2 threadpoolctl==3.5.0
OTHERS := omikuji==0.5.2 cffi==1.17.1 pycparser==2.22 napkinxc==0.7.2
# A chooser of forecasters by others. It brings torch and Lightning, some 2.5 GB in all.
AUTOGLUON := autogluon.timeseries==1.6.3
# A quantile regression forest on scikit-learn's trees.
FOREST := quantile-forest==1.4.2 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1 \
  joblib==1.6.0 threadpoolctl==3.8.0 cloudpickle==3.1.3 narwhals==2.29.0
# The reference's model file and what it imports; it runs on our torch.
EARTH  := earthformer==0.2.1 einops==0.8.2 omegaconf==2.3.0 \
  antlr4-python3-runtime==4.9.3 pyyaml==6.0.3
# With a CPU build of torch on offer there is no reason to download gigabytes of CUDA
# to a machine without an NVIDIA GPU.
CPU    := $(shell [ "$$(uname -s)" = Linux ] && ! nvidia-smi -L >/dev/null 2>&1 && echo yes)

.PHONY: demo test lab docs check lint hooks bench peers autogluon earthformer forest clean
.DELETE_ON_ERROR:

demo: .venv/.ready  ## the main job: a probabilistic forecast of real retail demand and the stock it implies
	$(BIN)/forecastlab run demand_forecast

test: .venv/.ready .venv-docs/.ready  ## every test: notebooks, modules, pipelines, the site and the study in a browser
	@$(MAKE) --no-print-directory .venv-docs/axe.min.js || echo 'axe-core cannot be installed here (npm): its test will be skipped.'
	@$(MAKE) --no-print-directory .venv-peers/.ready || echo 'libpecos cannot be installed here (it has wheels for Linux and Python 3.9 to 3.12): its tests will be skipped.'
	$(BIN)/python -m pytest -n auto

lab: .venv/.ready  ## JupyterLab on the home notebook
	$(BIN)/jupyter-lab nbs/index.ipynb

docs: .venv/.ready .venv-docs/.ready  ## the whole site in _docs/: with Quarto where it is installed, else with smalldocs
	$(BIN)/python .ci/site.py

check: lint  ## cheapest first: format, lint and types, the house's rules (notebooks clean and exported), then every test
	$(BIN)/python -m pytest -q tests/test_house.py
	$(MAKE) test

lint: .venv/.ready  ## format and lint of notebooks, tests and tools; types of the public surface
	$(BIN)/ruff format --check -q nbs tests .ci || { echo 'mend: $(BIN)/ruff format nbs tests .ci'; exit 1; }
	$(BIN)/ruff check -q nbs tests .ci || { echo 'mend: $(BIN)/ruff check --fix nbs tests .ci'; exit 1; }
	$(BIN)/mypy

hooks: .venv/.ready  ## once a clone: what is committed is formatted and linted
	install -m 755 .ci/pre-commit "$$(git rev-parse --git-path hooks)/pre-commit"

bench: .venv/.ready  ## make every figure of data/results/figures.csv again on this machine
	$(BIN)/forecastlab figures --run

earthformer: .peer-earthformer/.ready  ## the reference of Earthformer, for its benchmark

forest: .venv-forest/.ready  ## quantile-forest, which the sparse quantile forest is measured beside, in a Python of its own

peers: .venv-peers/.ready  ## the programs we compare ourselves with: libpecos, omikuji, napkinXC, in a Python of their own

autogluon: .venv-autogluon/.ready  ## AutoGluon's forecasters, which the development board is measured beside, in a Python of their own

clean:  ## back to a fresh clone; your runs/ stay
	rm -rf .venv .venv-docs .venv-peers .venv-autogluon .venv-forest .peer-earthformer _proc _docs build dist *.egg-info .pytest_cache .hypothesis .ruff_cache nbs/nbdev.yml nbs/sidebar.yml
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 12) or sys.exit("Python %d.%d found; the pinned versions need 3.11 or 3.12: make PYTHON=python3.12 ..." % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@[ -z "$(CPU)" ] || $(BIN)/python -c 'import torch; assert torch.__version__ == "$(TORCH)+cpu"' 2>/dev/null \
	  || $(PIP) install --no-deps 'torch==$(TORCH)+cpu' \
	  || $(PIP) install --no-deps 'torch==$(TORCH)' --index-url https://download.pytorch.org/whl/cpu \
	  || echo 'No CPU build of torch is on offer: taking the default build, which is large.'
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

.venv-docs/.ready: Makefile
	test -x .venv-docs/bin/python || $(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check install -q $(SITE)
	@touch $@

.venv-docs/axe.min.js: .venv-docs/.ready
	cd .venv-docs && npm pack --silent $(AXE) && tar xzmf axe-core-*.tgz --strip-components 1 package/axe.min.js && rm axe-core-*.tgz

.venv-peers/.ready: Makefile
	test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check install -q --no-deps --only-binary :all: $(PECOS)
	-.venv-peers/bin/python -m pip --disable-pip-version-check install -q --no-deps --only-binary :all: $(OTHERS)
	@touch $@

.venv-forest/.ready: Makefile
	test -x .venv-forest/bin/python || $(PYTHON) -m venv .venv-forest
	.venv-forest/bin/python -m pip --disable-pip-version-check install -q --no-deps --only-binary :all: $(FOREST)
	@touch $@

.peer-earthformer/.ready: .venv/.ready
	$(PIP) install -q --no-deps --target .peer-earthformer --upgrade $(EARTH)
	@touch $@

.venv-autogluon/.ready: Makefile
	test -x .venv-autogluon/bin/python || $(PYTHON) -m venv .venv-autogluon
	@[ -z "$(CPU)" ] || .venv-autogluon/bin/python -m pip --disable-pip-version-check install -q --no-deps 'torch==$(TORCH)+cpu' \
	  || .venv-autogluon/bin/python -m pip --disable-pip-version-check install -q --no-deps 'torch==$(TORCH)' --index-url https://download.pytorch.org/whl/cpu \
	  || echo 'No CPU build of torch is on offer: taking the default build, which is large.'
	.venv-autogluon/bin/python -m pip --disable-pip-version-check install -q $(AUTOGLUON)
	@touch $@

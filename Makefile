# make demo | test | ... : see `make help`.

SHELL := /bin/bash
VENV := .venv
VPY := $(VENV)/bin/python
READY := $(VENV)/.ready
NATIVE := native/build/libtvm_opencl.so
FUSED := native/build/libbatchnorm_clip.so
JPEG_BOX := native/build/libjpeg_box.so
CONVERTERS := .venv-converters
KERAS_2 := tf-keras==2.21.0  # without its dependencies: it asks for tensorflow, where tensorflow-cpu is

PRETRAINED ?= published-1_0
# a process for each of two cores, of one thread; the tests of a file share what they make
PYTEST := OMP_NUM_THREADS=1 $(VPY) -m pytest -n 2 --dist loadfile --durations 10

.PHONY: help setup demo pretrained test test-long test-converters coverage lint clean remake
.DELETE_ON_ERROR:

NEEDS_CXX := command -v $(firstword $(CXX)) >/dev/null || \
  { echo "make: no C++ compiler: install g++ (apt-get install g++)" >&2; exit 1; }

# (python, folder); --clear would empty what a link leads to
MAKE_VENV = { [ ! -L $(2) ] || { echo "make: $(2) is a link: remove it first" >&2; exit 1; }; } && \
  $(1) -m venv --clear $(2)

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PYTHON=... chooses the Python (3.10, 3.11 or 3.12) that make setup uses, MXNET=mxnet-cu117==1.9.1 a build of"
	@echo "MXNet for GPUs in place of mxnet."

setup: $(NATIVE) $(FUSED) $(JPEG_BOX)  ## make .venv, install the pinned packages, build native/ (demo and test do it by themselves)

demo: $(NATIVE) $(FUSED) $(JPEG_BOX)  ## handwritten digits from RecordIO to a trained network to the top-5 on OpenCL
	@PYTHON=$(VPY) tools/demo.sh

pretrained: $(READY)  ## download the published 1.0 weights, or PRETRAINED="NAME NAME" of models/zoo.toml
	@$(VPY) -m common.modelzoo fetch $(PRETRAINED)

test: $(NATIVE) $(FUSED) $(JPEG_BOX)  ## the tests
	@$(PYTEST)

test-long: $(NATIVE) $(FUSED) $(JPEG_BOX)  ## the long ones: complete matrices, fuzzing, kill loops
	@$(PYTEST) -m long

test-converters: $(NATIVE) $(CONVERTERS)/.ready  ## weights against torchvision, timm, Keras and TensorFlow Lite (620 MB to download)
	@MOBILENETV2_FRAMEWORKS=$(CONVERTERS)/bin/python $(VPY) -m pytest -m converters tests/converters

coverage: $(NATIVE) $(FUSED) $(JPEG_BOX)  ## the tests, and which lines and branches they never run
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered

lint: $(READY)  ## check the style and the type hints
	@$(VPY) -m ruff check . && $(VPY) -m mypy

clean:  ## remove what setup and demo made
	rm -rf $(VENV) $(CONVERTERS) native/build demo/images demo/.prepare demo/{train,val}.{rec,idx,lst} demo/synset.txt \
	  demo/skipped.csv demo/dataset.json demo/{,.}digits[-.]*
	[ ! -d demo ] || rmdir --ignore-fail-on-non-empty demo
	find . -name __pycache__ -prune -exec rm -rf {} +

# another Python asked for than the one in .venv: make it anew
MINOR := -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null
ifneq ($(PYTHON),)
  ifneq ($(shell "$(PYTHON)" $(MINOR)),$(shell $(VPY) $(MINOR)))
    $(READY): remake
  endif
endif

# another build of MXNet asked for than the one in .venv, which .ready names
INSTALLED := $(shell cat $(READY) 2>/dev/null)
BUILD := $(or $(MXNET),$(INSTALLED))
ifneq ($(BUILD),$(INSTALLED))
  $(READY): remake
endif

$(READY): requirements.txt requirements-inference.txt requirements-dev.txt constraints.txt
	@$(NEEDS_CXX)
	@python=$$(tools/find_python.sh) && \
	echo "Making $(VENV) with $$("$$python" --version)" && \
	$(call MAKE_VENV,"$$python",$(VENV)) && \
	echo "Installing the packages of requirements-dev.txt (about 450 MB to download, 1.6 GB on disk)" && \
	$(VPY) -m pip install --disable-pip-version-check -r requirements-dev.txt && \
	if [ -n "$(BUILD)" ]; then \
	  $(VPY) -m pip uninstall -q -y mxnet && \
	  $(VPY) -m pip install --disable-pip-version-check --no-deps "$(BUILD)"; \
	fi && \
	echo "$(BUILD)" > $@

$(CONVERTERS)/.ready: requirements-converters.txt | $(READY)
	@echo "Installing the packages of requirements-converters.txt (about 620 MB to download, 2.7 GB on disk)" && \
	$(call MAKE_VENV,$(VPY),$(CONVERTERS)) && \
	$(CONVERTERS)/bin/pip install --disable-pip-version-check --retries 1 -r requirements-converters.txt && \
	$(CONVERTERS)/bin/pip install --disable-pip-version-check --retries 1 --no-deps $(KERAS_2) && touch $@

$(NATIVE): $(READY) native/Makefile native/kernels.cc native/include/quiet.h native/include/tvm/support/span.h
	@$(NEEDS_CXX)
	@$(MAKE) --no-print-directory -B -C native PYTHON=../$(VPY)

# training does without it
$(FUSED): $(READY) native/Makefile native/batchnorm_clip.cc native/mxnet_operator.h
	@$(MAKE) --no-print-directory -B -C native PYTHON=../$(VPY) fused || \
	  echo "make: without BatchNorm and clip in one: training on this processor will be slower"

$(JPEG_BOX): $(READY) native/Makefile native/jpeg_box.cc
	@$(MAKE) --no-print-directory -B -C native jpeg-box || \
	  echo "make: without parts of JPEGs (apt-get install libjpeg-dev): training images will be read more slowly"

# make demo | test | ... : see `make help`.

SHELL := /bin/bash
VENV := .venv
VPY := $(VENV)/bin/python
READY := $(VENV)/.ready
NATIVE := native/build/libtvm_opencl.so
FUSED := native/build/libbatchnorm_clip.so
JPEG_BOX := native/build/libjpeg_box.so
ON_ARM := $(filter aarch64,$(shell uname -m))
PIXELS := native/build/libpixels.so
BUILT := $(NATIVE) $(FUSED) $(JPEG_BOX) $(PIXELS)
CONVERTERS := .venv-converters

PRETRAINED ?= published-1_0
# a process for each of two cores, of one thread; the tests of a file share what they make
PYTEST := OMP_NUM_THREADS=1 $(VPY) -m pytest -n 2 --dist loadfile --durations 10

.PHONY: help setup demo pretrained test test-long test-converters coverage lint lock clean remake
.DELETE_ON_ERROR:

NEEDS_CXX := command -v $(firstword $(CXX)) >/dev/null || \
  { echo "make: no C++ compiler: install g++ (apt-get install g++)" >&2; exit 1; }

# (python, folder); --clear would empty what a link leads to
MAKE_VENV = { [ ! -L $(2) ] || { echo "make: $(2) is a link: remove it first" >&2; exit 1; }; } && \
  $(1) -m venv --clear $(2)

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "PYTHON=... chooses the Python (3.10 to 3.14) that make setup uses, MXNET=mxnet-cu117==1.9.1 a build of MXNet"
	@echo "for GPUs in place of mxnet."

setup: $(BUILT)  ## make .venv, install the pinned packages, build native/ (demo and test do it by themselves)

demo: $(BUILT)  ## handwritten digits from RecordIO to a trained network to the top-5 on OpenCL
	@PYTHON=$(VPY) tools/demo.sh

pretrained: $(READY)  ## download the published 1.0 weights, or PRETRAINED="NAME NAME" of models/zoo.toml
	@$(VPY) -m common.modelzoo fetch $(PRETRAINED)

test: $(BUILT)  ## the tests
	@$(PYTEST)

test-long: $(BUILT)  ## the long ones: complete matrices, fuzzing, kill loops
	@$(PYTEST) -m long

test-converters: $(NATIVE) $(CONVERTERS)/.ready  ## weights against torchvision, timm, Keras and TensorFlow Lite (700 MB to download)
	@MOBILENETV2_FRAMEWORKS=$(CONVERTERS)/bin/python $(VPY) -m pytest -m converters tests/converters

coverage: $(BUILT)  ## the tests, and which lines and branches they never run
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered

lint: $(READY)  ## check the style and the type hints
	@$(VPY) -m ruff check . && $(VPY) -m mypy

# for every Python and platform, by uv (pip install uv). The versions of constraints.txt stay while they fit:
# make lock UPGRADE="--upgrade" takes the newest.
COMPILE := uv pip compile -q --universal --no-annotate --custom-compile-command "make lock" --python-version 3.10
HASHED := $(COMPILE) --generate-hashes

# tf-keras asks for tensorflow, in place of which is tensorflow-cpu
lock:  ## make constraints.txt and locks/ anew from requirements*.txt
	@command -v uv >/dev/null || { echo "make: no uv: pip install uv" >&2; exit 1; }
	sed '/^-/d' requirements{-inference,,-dev,-benchmarks}.txt | $(COMPILE) $(UPGRADE) - -o constraints.txt
	$(HASHED) --no-emit-package mxnet requirements-dev.txt -o locks/packages.txt
	grep -ho '^mxnet==[0-9.]*' requirements.txt | $(HASHED) --no-deps - -o locks/mxnet==1.9.1.txt
	$(HASHED) --no-deps requirements-cu117.txt -o locks/mxnet-cu117==1.9.1.txt
	{ sed '/^--/d' requirements-converters.txt; echo tf-keras==2.21.0; } | \
	  $(HASHED:3.10=3.11) --no-emit-package tensorflow - -o locks/converters.txt
	sed -i '/^\(torch\|nvidia\|cuda\|triton\)/,/[^\\]$$/d' locks/converters.txt  # see locks/pytorch.txt

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
BUILD := $(or $(MXNET),$(INSTALLED),mxnet==1.9.1)
ifneq ($(BUILD),$(INSTALLED))
  $(READY): remake
endif
LOCK := $(wildcard locks/$(BUILD).txt)  # none for other builds than those of make lock

# a lock lists all packages, so that pip has nothing to resolve: MXNet would have it look for NumPy 1
PIP_INSTALL := -m pip install --disable-pip-version-check --no-deps
NOT_INSTALLED := { echo "make: packages could not be installed (see above): without a network, or behind a proxy that" \
  "https_proxy does not name, pip finds none" >&2; exit 1; }
PACKAGES := -c 'import sysconfig; print(sysconfig.get_path("purelib"))'

$(READY): locks/packages.txt $(LOCK) symbols/_numpy.py tools/mxnet.pth
	@$(NEEDS_CXX)
	@$(if $(ON_ARM),$(MAKE) --no-print-directory -C native build/libarm.so)
	@python=$$(tools/find_python.sh) && \
	echo "Making $(VENV) with $$("$$python" --version)" && \
	$(call MAKE_VENV,"$$python",$(VENV)) && \
	echo "Installing the packages of requirements-dev.txt (about 450 MB to download, 1.6 GB on disk)" && \
	{ $(VPY) $(PIP_INSTALL) --require-hashes -r locks/packages.txt $(LOCK:%=-r %)$(if $(LOCK),, && \
	  $(VPY) $(PIP_INSTALL) "$(BUILD)") || $(NOT_INSTALLED); } && \
	packages=$$($(VPY) $(PACKAGES)) && \
	cp symbols/_numpy.py "$$packages/_mxnet_numpy.py" && cp tools/mxnet.pth "$$packages" && \
	$(if $(ON_ARM),$(MAKE) --no-print-directory -C native PYTHON=../$(VPY) arm && )\
	echo "$(BUILD)" > $@

$(CONVERTERS)/.ready: locks/converters.txt locks/pytorch.txt | $(READY)
	@$(VPY) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "make: Keras and TensorFlow need Python 3.11 to 3.13: make setup PYTHON=..." >&2; exit 1; }
	@echo "Installing the packages of requirements-converters.txt (about 700 MB to download, 3 GB on disk)" && \
	$(call MAKE_VENV,$(VPY),$(CONVERTERS)) && \
	{ $(CONVERTERS)/bin/python $(PIP_INSTALL) --require-hashes --retries 1 -r locks/converters.txt \
	  -r locks/pytorch.txt || $(NOT_INSTALLED); } && touch $@

$(NATIVE): $(READY) $(addprefix native/,Makefile include/quiet.h include/tvm/support/span.h pocl_processor.cc pocl_threads.cc)
	@$(NEEDS_CXX)
	@$(MAKE) --no-print-directory -B -C native PYTHON=../$(VPY)

# training does without it
$(FUSED): $(READY) native/Makefile native/batchnorm_clip.cc native/mxnet_operator.h
	@$(MAKE) --no-print-directory -B -C native PYTHON=../$(VPY) fused || \
	  echo "make: without BatchNorm and clip in one: training on this processor will be slower"

$(JPEG_BOX): $(READY) native/Makefile native/jpeg_box.cc
	@$(MAKE) --no-print-directory -B -C native jpeg-box || \
	  echo "make: without parts of JPEGs (apt-get install libjpeg-dev): training images will be read more slowly"

$(PIXELS): $(READY) native/Makefile native/pixels.cc
	@$(MAKE) --no-print-directory -B -C native pixels || \
	  echo "make: without native/pixels.cc: training images will be coloured more slowly"

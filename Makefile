# Builds and tests the package. The package itself is never installed into .venv, and no compiled file is written to
# src/: the tests run on src/ as it is, and on build/compiled/, where the wheel is unpacked.

PYTHON ?= python3
UV ?= $(shell command -v uv)
OTHERS ?= 3.11 3.12 3.13

export UV_PYTHON_DOWNLOADS = never
export PYTHONDONTWRITEBYTECODE = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

ifeq ($(PG_WIRED_PURE),1)
  BUILD = interpreted
  PACKAGE = src
else
  BUILD = compiled
  PACKAGE = build/compiled
endif
READY = $(PACKAGE:build/compiled=build/compiled/.ready)
# Includes the folders, so that make also notices a deleted file.
SOURCES = setup.py pyproject.toml $(shell find src/pg_wired -not -path '*__pycache__*')

.PHONY: help demo test test-quick smoke soak pgbouncer lint compilers bench bench-quick write-up count wheel clean
.NOTPARALLEL:
.SECONDARY:
.SECONDEXPANSION:

help:
	@echo "make demo         start a server, show the main features, stop the server"
	@echo "make test         run all tests, interpreted and compiled, and 'make smoke' (ARGS=... for pytest)"
	@echo "make test-quick   run the tests of most packages on one build, in under a minute (ARGS=... for pytest)"
	@echo "make smoke        run a few tests on each other Python of this machine"
	@echo "make soak         run the long tests: twenty failovers, ten minutes of faults"
	@echo "make pgbouncer    unpack the poolers for the tests into build/ (Debian only; without them, tests are skipped)"
	@echo "make lint         check format, style and types"
	@echo "make compilers    build the wheel with gcc and with clang, with warnings about types as errors"
	@echo "make bench        compare the speed with other drivers (ARGS=... for the benchmark)"
	@echo "make bench-quick  the same with small counts, to see that it works"
	@echo "make write-up     write the results of 'make bench' into the documentation"
	@echo "make count        compare instruction counts of five pieces of work with the accepted counts; needs valgrind"
	@echo "                  (ARGS=--accept accepts the new counts)"
	@echo "make wheel        build the wheel into dist/"
	@echo "make clean        remove everything that was built, except .venv"
	@echo "PYTHON=python3.12 chooses the interpreter; with PG_WIRED_PURE=1 no C compiler is needed"

# Virtual environments: .venv, and build/py3.12 and the like for the smoke run. $(call install,VENV,GROUP) uses uv if it
# is installed and works, otherwise pip, which supports dependency groups since version 25.1.
install = { [ "$(UV)" ] && "$(UV)" pip install -q --python $(1)/bin/python --group $(2); } || \
	{ $(1)/bin/python -m pip install -q --upgrade "pip>=25.1" && $(1)/bin/python -m pip install -q --group $(2); }
run = PYTHONPATH="$(CURDIR)/$(PACKAGE)" .venv/bin/python
# The compiled build is tested against another server than the interpreted one: PostgreSQL 17, which has TLS.
other = --postgres celerp
# The whole suite is distributed, file by file, over one process more than there are cores, because tests sometimes wait
# for servers. A part chosen with ARGS runs in one process.
pytest = -m pytest $(or $(ARGS),-n $(shell expr $$(nproc) + 1) --dist loadfile --no-loadscope-reorder)
old = make: pg-wired needs Python 3.11 or newer, say make PYTHON=python3.x, this is %d.%d
check = -B -c 'import sys; v = sys.version_info; v < (3, 11) and sys.exit("$(old)" % v[:2]); import setup; \
	sys.exit(setup.missing())'

.venv/made:
	@$(PYTHON) $(check)
	@echo "make: .venv, with $$($(PYTHON) -V)"
	@$(PYTHON) -m venv --clear .venv
	@touch $@

build/py%/made:
	@echo "make: $(@D), with $$($$(rig/python.sh $*) -V)"
	@$$(rig/python.sh $*) -m venv --clear $(@D)
	@touch $@

%.group: $$(@D)/made pyproject.toml
	@echo "make: $(@D), group $(basename $(@F))"
	@$(call install,$(@D),$(basename $(@F)))
	@touch $@

# Cython does not notice a changed directive, and setuptools does not notice a deleted file, so nothing of an earlier
# build is kept.
dist/.$(BUILD): .venv/build.group $(SOURCES)
	@.venv/bin/python $(check)
	@echo "make: the wheel, $(BUILD)"
	@rm -rf dist build/lib* build/bdist* build/src
	@.venv/bin/python -m pip wheel -q --no-deps --no-build-isolation -w dist .
	@touch $@

build/compiled/.ready: dist/.$(BUILD)
	@rm -rf build/compiled
	@.venv/bin/python -m pip install -q --no-deps --target build/compiled dist/*.whl
	@touch $@

# Builds from a copy, so that two builds can run at a time. The copy includes the generated C, which is the same for
# each Python. File times are copied too, because Cython generates C again if it is older than its source.
build/py%/.$(BUILD): build/py%/build.group build/py%/smoke.group $(SOURCES)
	@echo "make: $(@D), the package, $(BUILD)"
	@rm -rf $(@D)/package
	@mkdir $(@D)/package
	@cp -rp pyproject.toml setup.py README.md LICENSE* src $(@D)/package
	@[ ! build/src -nt setup.py ] || { mkdir $(@D)/package/build && cp -rp build/src $(@D)/package/build; }
	@$(@D)/bin/python -m pip install -q --no-deps --no-build-isolation --force-reinstall ./$(@D)/package
	@touch $@

demo: .venv/server.group $(READY)
	@$(run) -m rig.demo

test: .venv/test.group .venv/bench.group $(READY)
	@[ $(BUILD) = compiled ] || echo "make: PG_WIRED_PURE=1, so nothing is compiled"
	@PYTHONPATH="$(CURDIR)/src" PG_WIRED_EXPECT=interpreted .venv/bin/python $(pytest)
	@[ "$(ARGS)" ] || PYTHONPATH="$(CURDIR)/src" .venv/bin/python -m tests.project.check_coverage
	@$(MAKE) --no-print-directory smoke
	@[ $(BUILD) != compiled ] || PG_WIRED_EXPECT=compiled PG_WIRED_OTHER_BUILD="$(CURDIR)/src" $(run) $(pytest) $(other)

# The packages whose tests need one server at most, and the rules of the layout. The rest is left to `make test`.
QUICK = protocol session auth config client project/test_layers.py project/test_sizes.py project/test_state_changes.py \
	project/test_pxd.py project/test_exports.py project/test_build.py
test-quick: .venv/test.group $(READY)
	@PG_WIRED_EXPECT=$(BUILD) PG_WIRED_OTHER_BUILD="$(CURDIR)/src" $(run) $(pytest) $(addprefix tests/,$(QUICK))

# Only for the goal smoke, because looking for Pythons takes a moment.
ifneq ($(filter smoke,$(MAKECMDGOALS)),)
OWN := $(shell .venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
FOUND := $(foreach version,$(filter-out $(OWN),$(OTHERS)),$(shell \
	PG_WIRED_PURE=$(PG_WIRED_PURE) rig/python.sh $(version) >/dev/null && echo $(version)))
endif
# Exit code 5 of pytest means that no test was selected, which is no failure if ARGS chose a part.
smoke:
	@all=; for version in $(FOUND); do \
		$(MAKE) --no-print-directory build/py$$version/.$(BUILD) & all="$$all $$!"; \
	done; for one in $$all; do wait $$one || exit; done
	@for version in $(FOUND); do \
		PYTHONPATH= PG_WIRED_EXPECT=$(BUILD) build/py$$version/bin/python $(pytest) -m smoke || \
			{ failed=$$?; [ "$(if $(ARGS),chosen)" ] && [ $$failed = 5 ] || exit $$failed; }; \
	done
	@[ "$(FOUND)" ] || echo "make: no other Python ($(OTHERS)) with venv and headers here"

# The long versions of the tests marked soak; takes about fifteen minutes.
soak: .venv/test.group $(READY)
	@PG_WIRED_SOAK=1 $(run) -m pytest -m soak -s $(ARGS)

pgbouncer:
	@rig/pgbouncer.sh build

lint: .venv/lint.group .venv/test.group .venv/bench.group
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

# clang 16 and gcc 14 refuse these by default; with older ones the wheel builds here and fails elsewhere.
STRICT = -Werror=incompatible-pointer-types -Werror=int-conversion -Werror=implicit-function-declaration
compilers: .venv/build.group $(READY)
	@for compiler in gcc clang; do \
		echo "make: the wheel, with $$($$compiler --version | head -1)"; \
		rm -rf build/$$compiler; \
		mkdir -p build/$$compiler/build; \
		cp -rp pyproject.toml setup.py README.md LICENSE* src build/$$compiler; \
		cp -rp build/src build/$$compiler/build; \
		CC=$$compiler CFLAGS="$(STRICT)" .venv/bin/python -m pip wheel -q --no-deps --no-build-isolation \
			-w build/$$compiler/dist ./build/$$compiler || exit; \
	done

bench: .venv/bench.group $(READY)
	@$(run) -m benchmarks $(ARGS)

bench-quick: .venv/bench.group $(READY)
	@$(run) -m benchmarks --quick $(ARGS)

write-up: .venv/bench.group $(READY)
	@$(run) -m benchmarks.write_up $(ARGS)

count: .venv/build.group $(READY)
	@$(run) -m benchmarks.count $(ARGS)

wheel: dist/.$(BUILD)
	@ls dist/*.whl

clean:
	@rm -rf build dist src/*.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

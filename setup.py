"""Compile every module with a `.pxd` header beside it; all that is declarative is in pyproject.toml.

`PG_WIRED_PURE=1` compiles nothing. Without that word, a compile that fails fails the install.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

PURE = os.environ.get("PG_WIRED_PURE") == "1"
TWINS = ("octets", "syscalls", "table")
GO_ON = "or set PG_WIRED_PURE=1 to go on without compiling: the same answers, several times slower"


def missing() -> str | None:
    """What this machine lacks, in one line, or None. Needs nothing but Python, so that make can ask it first of all."""
    if PURE:
        return None
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    includes = [f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")]
    try:
        command = [*compiler, *includes, "-E", "-xc", "-"]
        found = subprocess.run(command, input=b"#include <Python.h>", capture_output=True).returncode == 0
    except OSError:
        return f"pg-wired needs a C compiler ({compiler[0]}): install gcc (Debian and Fedora), {GO_ON}"
    packages = "python3-dev (Debian) or python3-devel (Fedora)"
    return None if found else f"pg-wired needs Python.h of {sys.executable}: install {packages}, {GO_ON}"


def extensions() -> list[object]:
    """One for each header, but those of the TWINS: inline C, and the `.py` says the same for the interpreted build."""
    from Cython.Build import cythonize
    from setuptools import Extension

    root = Path("src")
    sources = [path.with_suffix(".py") for path in sorted(root.rglob("*.pxd")) if path.stem not in TWINS]
    names = [".".join(path.relative_to(root).with_suffix("").parts) for path in sources]
    return cythonize(
        [
            Extension(name, [str(path)], extra_compile_args=["-O3", "-g0"])
            for name, path in zip(names, sources, strict=True)
        ],
        build_dir="build",  # no generated C in the source tree
        compiler_directives={
            "language_level": 3,
            "annotation_typing": False,  # C types come from the headers alone; annotations are for readers and mypy
            "boundscheck": False,  # lengths are checked by the code itself, once per message
            "wraparound": False,
            "cdivision": True,
        },
    )


if __name__ == "__main__":
    if complaint := missing():
        sys.exit(complaint)
    from setuptools import setup

    setup(ext_modules=[] if PURE else extensions(), options={"build_ext": {"parallel": os.cpu_count()}})

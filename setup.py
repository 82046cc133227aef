"""The build script, which compiles every module that has a `.pxd` header. pyproject.toml has all declarative settings.

With `PG_WIRED_PURE=1` it compiles nothing. Otherwise, if compiling fails, the installation fails.
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
    """Return one line that names what this machine lacks for compiling, or None.

    It needs only Python, so that make can call it before anything is installed.
    """
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
    """Return an extension module for each header, except the TWINS.

    The header of a TWIN contains inline C, and its `.py` file does the same in the interpreted build.
    """
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
        build_dir="build",  # keeps generated C out of the source tree
        compiler_directives={
            "language_level": 3,
            "annotation_typing": False,  # C types come only from the headers; annotations are for readers and mypy
            "boundscheck": False,  # the code checks lengths itself, once per message
            "wraparound": False,
            "cdivision": True,
        },
    )


if __name__ == "__main__":
    if complaint := missing():
        sys.exit(complaint)
    from setuptools import setup

    setup(ext_modules=[] if PURE else extensions(), options={"build_ext": {"parallel": os.cpu_count()}})

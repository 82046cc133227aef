#!/bin/sh
# Prints the interpreter of version $1 ("3.12") that can build and test: on PATH or pyenv's, with venv and its headers.
for python in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
    "$python" -B -c 'import ensurepip, setup, sys; sys.exit(setup.missing())' 2>/dev/null || continue
    echo "$python"
    exit
done
exit 1

#!/bin/sh
# Print a Python 3.10 to 3.14 that starts and can make virtual environments: $PYTHON if it is set, else python3 if it
# will do, else the newest that does. A name on PATH may be a shim that fails, and Debian's Python comes without
# ensurepip.

check='import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))'
if [ -n "$PYTHON" ]; then
    set -- "$PYTHON"
else
    set -- python3 python3.14 python3.13 python3.12 python3.11 python3.10
fi
for python in "$@"; do
    if "$python" -c "$check" >/dev/null 2>&1; then
        command -v "$python"
        exit
    fi
done
if [ -n "$PYTHON" ]; then
    echo "PYTHON=$PYTHON is not a Python 3.10 to 3.14 with venv and ensurepip." >&2
else
    echo "No Python 3.10 to 3.14 with venv found: install one (apt-get install python3 python3-venv) or give one with" \
         "make PYTHON=..." >&2
fi
exit 1

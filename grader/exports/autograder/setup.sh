#!/usr/bin/env bash
# Gradescope runs this once, as root, when it builds the autograder: Python packages for the grader.
# Another root than /autograder: the first argument, or AUTOGRADER_ROOT.
set -euo pipefail

root="${1:-${AUTOGRADER_ROOT:-/autograder}}"
python="$root/venv/bin/python"

export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install -y --no-install-recommends python3 python3-venv
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "setup.sh: Python 3.10 is needed; choose the base image Ubuntu 22.04 or a newer one" >&2
    exit 1
}
python3 -m venv "$root/venv"
"$python" -m pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "@TORCH@" "numpy>=1.26"
"$python" -m pip install --no-cache-dir -e "$root/source/course"

"""Small C libraries that are preloaded into some daemons; built when needed, if there is a
compiler.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from grader.slurm.errors import ClusterError

HERE = Path(__file__).resolve().parent
COMPILERS = ("cc", "gcc", "clang")


def compiler() -> str | None:
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def build(name: str, folder: Path) -> Path:
    """`folder`/name.so, built from name.c next to this file. ClusterError if there is no compiler
    or it fails.
    """
    cc = compiler()
    if cc is None:
        raise ClusterError(
            f"no C compiler here ({', '.join(COMPILERS)}), which {name}.c needs; on Debian and "
            "Ubuntu: apt-get install gcc libc6-dev"
        )
    library = folder / f"{name}.so"
    command = [cc, "-shared", "-fPIC", "-O2", "-o", str(library), str(HERE / f"{name}.c"), "-ldl"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as e:
        raise ClusterError(f"{cc} didn't build {name}.c: {e}") from e
    if done.returncode:
        raise ClusterError(
            f"{cc} didn't build {name}.c: "
            f"{(done.stderr.strip().splitlines() or ['(no message)'])[-1]}"
        )
    return library

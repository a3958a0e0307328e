"""Modules that may be missing."""

from __future__ import annotations

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import numpy
    import numpy.random  # else it is imported at its first use
except ImportError:
    numpy = None

__all__ = ["fcntl", "numpy"]

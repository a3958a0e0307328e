"""Modules that may be missing."""

from __future__ import annotations

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    import numpy
except ImportError:
    numpy = None

__all__ = ["fcntl", "numpy"]

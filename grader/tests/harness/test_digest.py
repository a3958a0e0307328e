"""Digests tell any two different values apart, however they differ."""

from __future__ import annotations

import subprocess
import sys

import numpy
import pytest
import torch

from grader.harness.inside.digest import WORDS, digest, quick_digest

N = 2 * WORDS + 3  # words of 8 bytes: two whole pieces, and a rest


def values() -> torch.Tensor:
    return torch.randn(2 * N + 1, generator=torch.Generator().manual_seed(1))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int32)


def flipped(*changes: tuple[int, int]) -> torch.Tensor:
    """With these bits changed: (place, bit)."""
    new = values()
    for place, bit in changes:
        bits(new)[place] ^= 1 << bit if bit < 31 else -(1 << 31)
    return new


SIGN = 31
CHANGES = [
    *[flipped((place, bit)) for place in (0, 1, 2 * WORDS, 2 * N - 1, 2 * N) for bit in (0, SIGN)],
    # signs, in the upper halves of two words, in both halves of one, of everything
    flipped((1, SIGN), (3, SIGN)),
    flipped((1, SIGN), (2 * WORDS + 1, SIGN)),
    flipped((0, SIGN), (1, SIGN)),
    flipped((0, SIGN), (2, SIGN)),
    -values(),
    values().flip(0),
    values().roll(2 * WORDS),  # whole pieces in another order
    values()[:-1],
    values().reshape(1, -1),
    values().view(torch.int32),
]


@pytest.mark.parametrize("function", [digest, quick_digest])
def test_a_change_changes_the_digest(function):
    found = [function(value) for value in [values(), *CHANGES]]
    assert len(set(found)) == len(found)
    assert function(values()) == found[0] == function(values().reshape(1, -1)[0])


@pytest.mark.parametrize("function", [digest, quick_digest])
def test_values_that_compare_as_equal_or_never_are_told_apart(function):
    zeros = torch.zeros(N), -torch.zeros(N)
    assert function(zeros[0]) != function(zeros[1])
    nan = torch.full((N,), float("nan"))
    assert function(nan) == function(nan.clone())
    other = nan.clone()
    bits(other)[5] ^= 1
    assert function(nan) != function(other)


@pytest.mark.parametrize("function", [digest, quick_digest])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 8 * WORDS, 8 * WORDS + 1])
def test_bytes_of_any_size(function, size):
    data = numpy.arange(size, dtype=numpy.uint8)
    found = {function(data), function(numpy.append(data, numpy.uint8(0)))}
    assert len(found) == 2
    assert function(torch.from_numpy(data)) == function(torch.from_numpy(data.copy()))
    assert function([data, data[:0]]) != function([data[:0], data]) or not size


def test_another_process_finds_the_same():
    code = (
        "import torch; from grader.harness.inside.digest import quick_digest;"
        f"print(quick_digest(torch.randn({2 * N + 1}, generator=torch.Generator().manual_seed(1))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == quick_digest(values())

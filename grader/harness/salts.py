"""What a grading draws from its seed, and the salts by which a life can't know another's weights.

A salt shifts the weights before a step. A life gets only the salts of the steps that it has to run,
so no training from the start can reach the weights of a resumed run.
"""

from __future__ import annotations

import hashlib
import random

MOST_STEPS = 200  # in a run; the longest has about thirty


class Salts:
    """Step -> a secret number by which the workload shifts its weights before that step."""

    def __init__(self, seed: int | None):
        """None: no salts, for runs that aren't graded."""
        self.secret: bytes | None = None
        if seed is not None:
            # slow on purpose: student code that tries all seeds must run out of CPU time
            self.secret = hashlib.pbkdf2_hmac("sha256", str(seed).encode(), b"salts", 100_000)

    def between(self, resumed_at: int, last: int | None) -> dict[int, int]:
        """The salts of the steps after `resumed_at`, up to `last` (None: all of a run)."""
        if self.secret is None:
            return {}
        steps = range(resumed_at + 1, MOST_STEPS + 1 if last is None else last + 1)
        return {step: number_of(f"{self.secret.hex()} {step}") >> 1 for step in steps}


def number_of(text: str) -> int:
    """64 bits that depend on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def generator_of(text: str) -> random.Random:
    """A generator that depends on the text alone."""
    return random.Random(number_of(text))

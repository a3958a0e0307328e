"""Generated text for the exercises: small, real enough to learn from, equal for equal seeds.

A toy grammar writes sentences; the model reads characters. Training samples are augmented at
random, from all three generators that training code uses, so forgetting any of them changes the
run.
"""

from __future__ import annotations

import random

import numpy
import torch
from torch.utils.data import Dataset

SUBJECTS = ["the node", "a job", "my run", "the model", "one rank", "our queue"]
VERBS = ["saves", "loses", "resumes", "trains", "repeats", "keeps"]
OBJECTS = ["its state", "a step", "the batch", "every epoch", "the weights", "no time"]
ENDS = [" at night.", " again.", " and waits.", ", then stops.", "."]
# "_": unknown
ALPHABET = "_" + "".join(sorted(set("".join(SUBJECTS + VERBS + OBJECTS + ENDS) + " ")))
VOCABULARY = len(ALPHABET)
CONTEXT = 16  # characters of a sample


def text(characters: int, seed: int) -> torch.Tensor:
    """`characters` of generated text as int64 codes, shape (characters,)."""
    draw = random.Random(seed)
    out = ""
    while len(out) < characters:
        parts = [draw.choice(words) for words in (SUBJECTS, VERBS, OBJECTS)]
        out += " ".join(parts) + draw.choice(ENDS) + " "
    return torch.tensor([ALPHABET.index(c) for c in out[:characters]])


class Windows(Dataset):
    """Samples (index, inputs, targets): CONTEXT characters and the character after each.

    With `augment`, Python's generator shifts the window, NumPy's hides characters and torch's
    mistypes one. The draws come from the *global* generators, as in most real augmentation code.
    """

    def __init__(self, samples: int, seed: int, augment: bool):
        self.samples, self.augment = samples, augment
        self.codes = text(samples * 4 + CONTEXT + 9, seed)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, torch.Tensor]:
        start = 4 * index
        if not self.augment:
            window = self.codes[start : start + CONTEXT + 1]
            return index, window[:-1], window[1:]
        start += random.randrange(8)
        window = self.codes[start : start + CONTEXT + 1]
        inputs = window[:-1].clone()
        inputs[torch.from_numpy(numpy.random.rand(CONTEXT) < 0.1)] = 0
        inputs[torch.randint(CONTEXT, ())] = torch.randint(VOCABULARY, ())
        return index, inputs, window[1:]

"""Writes a small data set as nanoGPT reads it: train.bin, val.bin and meta.pkl.

    python nanogpt_data.py FOLDER

nanoGPT's own prepare.py downloads its text; this one is drawn from a fixed seed.
"""

import pickle
import sys
from pathlib import Path

import numpy as np

VOCABULARY = 64
TOKENS = {"train": 20_000, "val": 2_000}

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
generator = np.random.default_rng(1)
for split, number in TOKENS.items():
    steps = generator.choice([1, 2, 7], size=number)  # so that there is something to learn
    (steps.cumsum() % VOCABULARY).astype(np.uint16).tofile(folder / f"{split}.bin")
(folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": VOCABULARY}))

"""Prints a digest of what a checkpoint holds, for ckpt-chaos's --result-cmd.

    python digest_checkpoint.py FILE

Two files of torch.save with equal contents may differ in their bytes: after a resume, say, when
other strings are shared.
"""

import hashlib
import sys
from pathlib import Path


def add(digest, value):
    import torch

    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key, each in value.items():
            digest.update(repr(key).encode())
            add(digest, each)
    elif isinstance(value, (list, tuple)):
        digest.update(str(len(value)).encode())
        for each in value:
            add(digest, each)
    else:
        digest.update(repr(value).encode())


def main(path):
    digest = hashlib.sha256()
    if path.suffix == ".pt":
        import torch

        add(digest, torch.load(path, weights_only=False))
    else:
        digest.update(path.read_bytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

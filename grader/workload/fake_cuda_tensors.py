"""A GPU node's file without a GPU: tensors written within the context are tagged as a GPU's."""

from __future__ import annotations

from contextlib import contextmanager

import torch


@contextmanager
def living_on_gpu(tensors: list[torch.Tensor], number: int = 0):
    """torch.save writes these tensors as those of the GPU with this number.

    A copy on the CPU isn't tagged, as it wouldn't be on a real GPU node.
    """
    on_gpu = {t.untyped_storage().data_ptr() for t in tensors if t.numel()}
    real_cpu, real_to = torch.Tensor.cpu, torch.Tensor.to

    def to(tensor, *a, **k):
        moved = real_to(tensor, *a, **k)
        aims_at_cpu = any(
            isinstance(x, (str, torch.device)) and str(x) == "cpu" for x in (*a, *k.values())
        )
        return moved.clone() if aims_at_cpu and moved.data_ptr() == tensor.data_ptr() else moved

    torch.Tensor.cpu, torch.Tensor.to = (lambda t, *a, **k: real_cpu(t, *a, **k).clone()), to
    name = f"cuda:{number}"
    entry = (0, lambda storage: name if storage.data_ptr() in on_gpu else None, lambda *_: None)
    torch.serialization.register_package(*entry)
    try:
        yield
    finally:
        torch.Tensor.cpu, torch.Tensor.to = real_cpu, real_to
        torch.serialization._package_registry[:] = [
            e for e in torch.serialization._package_registry if e[0] != 0
        ]

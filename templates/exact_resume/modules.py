"""The state of modules, without what wrappers add and with what state_dict leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from .digest import CHUNK, _FileDigest
from .interfaces import Mismatch
from .packing import _identity
from .plain import _is_plain, _plain_state
from .tensorfile import _as_bytes, _memory


def bare(model: Any) -> Any:
    """The module inside DistributedDataParallel, DataParallel and torch.compile."""
    while isinstance(
        model, (torch.nn.parallel.DistributedDataParallel, torch.nn.DataParallel)
    ) or hasattr(model, "_orig_mod"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    return model


def _plain_key(key: str) -> str:
    """Without what torch.compile and activation checkpointing insert."""
    return key.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _versions(part: torch.nn.Module) -> dict[str, dict[str, Any]]:
    """Its modules' versions, by which load_state_dict converts what older ones saved."""
    return {
        _plain_key(name): dict(about)
        for name, about in getattr(bare(part).state_dict(), "_metadata", {}).items()
    }


def _state_of(part: Any) -> Any:
    if isinstance(part, torch.nn.Module):
        return {_plain_key(k): v for k, v in bare(part).state_dict().items()}
    if part is None or _is_plain(part):
        return _plain_state(part)
    return part.state_dict()


def _digest_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = _FileDigest()
    for name, t in tensors.items():
        digest.update(f"{name} {t.dtype} {list(t.shape)}\n".encode())
        data = _as_bytes(t)
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK].cpu()
            digest.update(_memory(piece), piece)
    return digest.digest().hex()


def _same_bytes(a: Any, b: torch.Tensor) -> bool:
    """Is `a` a tensor of the same type, shape and bits as `b`?"""
    if not isinstance(a, torch.Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    return bool(_as_bytes(a.detach().to(b.device)).equal(_as_bytes(b.detach())))


def _buffers_of(
    part: torch.nn.Module, held: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, torch.Tensor]:
    """Its buffers, except those that `held` holds as they are."""
    buffers = bare(part).named_buffers(remove_duplicate=False)
    found = {_plain_key(n): b for n, b in buffers if not hasattr(b, "to_local")}
    return {n: b for n, b in found.items() if not _holds(held, n, b)}


def _holds(state: Mapping[str, Any], name: str, t: torch.Tensor) -> bool:
    held = state.get(name)
    return hasattr(held, "to_local") or (
        isinstance(held, torch.Tensor) and _identity(held) == _identity(t)
    )


def _gradients_of(part: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of its parameters; of shards, this rank's."""
    named = bare(part).named_parameters()
    grads = {_plain_key(n): p.grad.detach() for n, p in named if p.grad is not None}
    return {n: g.to_local() if hasattr(g, "to_local") else g for n, g in grads.items()}


def _load_gradients(part: torch.nn.Module, saved: Mapping[str, torch.Tensor]) -> None:
    for name, p in bare(part).named_parameters():
        grad = saved.get(_plain_key(name))
        if grad is not None:
            p.grad = torch.zeros_like(p)
            (p.grad.to_local() if hasattr(p, "to_local") else p.grad).copy_(grad)


def _load_buffers(part: torch.nn.Module, saved: Mapping[str, torch.Tensor], name: str) -> None:
    """Fill its buffers; one that training has made, or changed in shape, is made again."""
    modules = {_plain_key(n): m for n, m in bare(part).named_modules(remove_duplicate=False)}
    for key, value in saved.items():
        path, _, last = key.rpartition(".")
        owner = modules.get(path)
        if owner is None or (last not in owner._buffers and hasattr(owner, last)):
            raise Mismatch(f"'{name}' has no buffer '{key}', which the checkpoint holds")
        mine = owner._buffers.get(last)
        if mine is not None and (mine.shape, mine.dtype) == (value.shape, value.dtype):
            with torch.no_grad():
                mine.copy_(value)
        else:
            persistent = last in owner._buffers and last not in owner._non_persistent_buffers_set
            device = value.device if mine is None else mine.device
            owner.register_buffer(last, value.to(device, copy=True), persistent)


def _persistent_buffers(module: torch.nn.Module) -> list[str]:
    """Names of buffers in its state_dict."""
    return [
        _plain_key(f"{path}.{name}" if path else name)
        for path, owner in bare(module).named_modules(remove_duplicate=False)
        for name, buffer in owner._buffers.items()
        if buffer is not None and name not in owner._non_persistent_buffers_set
    ]


def _make_buffers(
    part: torch.nn.Module, saved: Mapping[str, torch.Tensor], names: Iterable[str]
) -> None:
    """Make persistent buffers that training has made, or changed in shape."""
    modules = {_plain_key(n): m for n, m in bare(part).named_modules(remove_duplicate=False)}
    for key in (name for name in names if name in saved):
        path, _, last = key.rpartition(".")
        owner = modules.get(path)
        if owner is None or (last not in owner._buffers and hasattr(owner, last)):
            continue  # load_state_dict says so
        mine, value = owner._buffers.get(last), saved[key]
        if mine is None or (mine.dtype == value.dtype and mine.shape != value.shape):
            near = [mine, *owner.parameters(), *owner.buffers(), *bare(part).parameters()]
            device = next((t.device for t in near if t is not None), value.device)
            owner.register_buffer(last, torch.empty_like(value, device=device))


def _compare_types(name: str, saved: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    """Mismatch if loading would convert a parameter: the job wouldn't be the one that was saved."""
    for key, value in saved.items():
        mine = job.get(key)
        if isinstance(mine, torch.Tensor) and mine.dtype != value.dtype:
            raise Mismatch(
                f"'{name}': {key} is {value.dtype} in the checkpoint and {mine.dtype} in the job: "
                "convert the model as it was before you make the manager"
            )

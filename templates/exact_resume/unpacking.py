"""The state that JSON and tensors were made of."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from .optional import numpy


class _Unpacked:
    """The `state` that a _Packed was made of."""

    def __init__(
        self,
        tree: Any,
        about: list[list[Any]],
        tensors: Sequence[torch.Tensor | None],
        home: Collection[str] = (),
    ):
        self.about, self.tensors, self.at_home = about, tensors, False
        self.taken: dict[tuple[int, bool], torch.Tensor] = {}
        self.containers: list[Any] = []
        self.state: Any
        if home:
            self.containers.append(whole := {})
            for key, node in _items(tree["dict"]):
                self.at_home = key in home
                whole[key] = self._unpack(node)
            self.state = whole
        else:
            self.state = self._unpack(tree)

    def _unpack(self, node: Any) -> Any:
        if isinstance(node, list):
            items: list[Any] = []
            self.containers.append(items)
            items.extend(self._unpack(n) for n in node)
            return items
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind in ("dict", "ordered", "counter"):
            made: dict[Any, Any]
            made = {"ordered": collections.OrderedDict, "counter": collections.Counter}.get(
                kind, dict
            )()
            self.containers.append(made)
            for key, value in _items(content):
                made[self._unpack(key)] = self._unpack(value)
            return made
        if kind == "array":
            t = self._tensor(content)
            self.containers.append(array := t if numpy is None else t.numpy())
            return array
        others: dict[str, Callable[[Any], Any]] = {
            "float": float.fromhex,
            "int": lambda c: int(c, 16),
            "bytes": bytes.fromhex,
            "tuple": lambda c: tuple(self._unpack(n) for n in c),
            "same": lambda n: self.containers[n],
            "size": torch.Size,
            "numpy": lambda c: numpy.frombuffer(bytes.fromhex(c[1]), c[0])[0],
            "tensor": self._tensor,
            "leaf": lambda n: self._tensor(n).detach().requires_grad_(),
            "parameter": lambda c: torch.nn.Parameter(self._tensor(c[0]), c[1]),
        }
        return others[kind](content)

    def _tensor(self, n: int) -> torch.Tensor:
        if (n, self.at_home) not in self.taken:
            t, (dtype, shape, *more) = self.tensors[n], self.about[n]
            if t is None:
                number, offset, strides = more[0]["view"]
                whole = self._tensor(number)
                t = torch.empty(0, dtype=getattr(torch, dtype), device=whole.device)
                t = t.set_(whole.untyped_storage(), offset, shape, strides)
            elif self.at_home and more:
                if "strides" in more[0]:
                    strides = more[0]["strides"]
                    t = torch.empty_strided(shape, strides, dtype=t.dtype, device="cpu").copy_(t)
                if "device" in more[0]:
                    t = _at_home(t, more[0]["device"])
            self.taken[n, self.at_home] = t
        return self.taken[n, self.at_home]


def _items(content: Any) -> Any:
    """Of a dict: as an object if all keys are strings, else as pairs."""
    return content.items() if isinstance(content, dict) else content


def _at_home(t: torch.Tensor, device: str) -> torch.Tensor:
    """On the device where it was, if this machine has one like it."""
    for name in (device, device.partition(":")[0]):
        try:
            return t.to(name)
        except (RuntimeError, AssertionError):  # AssertionError: torch without CUDA
            continue
    return t

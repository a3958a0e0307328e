"""Loading one part of a job."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import torch

from .interfaces import Mismatch
from .modules import (
    _compare_types,
    _digest_of_tensors,
    _make_buffers,
    _plain_key,
    bare,
)
from .optimizers import _load_optimizer, _parameters_of
from .parameters import _frozen_in
from .plain import _fill, _is_plain


def _load_into(
    part: Any,
    state: Any,
    name: str,
    modules: Mapping[str, torch.nn.Module] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Load `state` strictly; Mismatch says what doesn't fit.

    modules  all of the job's, by which its parameters have names
    about    what the checkpoint holds about its parts
    """
    modules, about = modules or {}, about or {}
    if (part is None) != (state is None):
        held = ("checkpoint", "job") if part is None else ("job", "checkpoint")
        raise Mismatch(f"'{name}': the {held[0]} has one, the {held[1]} has none")
    try:
        if isinstance(part, torch.nn.Module):
            part = bare(part)
            _make_buffers(part, state, about.get("persistent", {}).get(name, ()))
            fresh = part.state_dict()
            own = {_plain_key(k): k for k in fresh}
            state = collections.OrderedDict((own.get(k, k), v) for k, v in state.items())
            frozen = about.get("frozen", {}).get(name)
            if frozen and frozen["names"]:
                mine = {n: p for n, p in _frozen_in(part).items() if n in frozen["names"]}
                if list(mine) != frozen["names"] or _digest_of_tensors(mine) != frozen["digest"]:
                    raise Mismatch(
                        f"'{name}' was saved without its frozen parameters, and the job's aren't "
                        "the same: load and freeze what the earlier life did"
                    )
                state |= {own[k]: fresh[own[k]] for k in mine if k in own}
            _compare_types(
                name, {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}, fresh
            )
            if (versions := about.get("versions", {}).get(name)) is not None:
                own_versions = getattr(fresh, "_metadata", {})
                state._metadata = {m: versions.get(_plain_key(m), {}) for m in own_versions}
        if isinstance(part, torch.optim.Optimizer):
            saved = about.get("parameters", {}).get(name)
            exact = saved is not None and not about.get("converted")
            _load_optimizer(part, state, saved, _parameters_of(modules), exact)
        elif _is_plain(part):
            _fill(part, state)
        elif part is not None:
            part.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
        raise Mismatch(f"'{name}' doesn't fit the checkpoint: {type(e).__name__}: {e}") from e

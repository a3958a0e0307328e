"""What a job has registered: its parts as one state, and that state put back into them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from .config import Config
from .generators import rng_state, set_rng_state
from .interfaces import Mismatch
from .loading import _load_into
from .modules import (
    _buffers_of,
    _digest_of_tensors,
    _gradients_of,
    _load_buffers,
    _load_gradients,
    _persistent_buffers,
    _plain_key,
    _state_of,
    _versions,
)
from .optimizers import _changed_by_steps, _names_of, _set
from .packing import _Packed
from .parameters import (
    _compare_ties,
    _frozen_in,
    _left_out,
    _named_parameters,
    _thaw,
    _tied_and_frozen,
)
from .plain import _is_plain, _refuse_shared
from .ranks import _rank_and_world, _Ranks
from .reporting import _few, _quoted, _say
from .sampler import ResumableSampler, _refuse_skips, _warn_of_draws
from .sharded import Modules, Optimizers, _read_shards, _sharded_parts, _shards_of

_OWN = {"rng", "gradients", "module_gradients", "buffers", "module_buffers"}


class _Job:
    def __init__(
        self,
        state: Mapping[str, Any],
        per_rank: Mapping[str, Any],
        config: Config,
    ):
        if not isinstance(state, Mapping) or not isinstance(per_rank, Mapping):
            raise TypeError("state and per_rank are dicts: give each part a name")
        self.state: dict[str, Any] = dict(state)
        self.per_rank: dict[str, Any] = dict(per_rank)
        self.gradients, self.trainable_only = config.gradients, config.trainable_only
        self.frozen: dict[str, dict[str, Any]] = {}
        self.checked: dict[str, tuple[set[str], set[str]]] = {}
        self._check_names()
        self.shards: tuple[Modules, Optimizers] = ({}, {})
        self.about: dict[str, Any] | None = None
        self.built: dict[str, object] = {}  # the modules' parameters at the last save

    def _check_names(self) -> None:
        """Refuse now what would fail hours later, at the first save or resume."""
        for name, part in (self.state | self.per_rank).items():
            if part is None or _is_plain(part):
                continue
            saves = hasattr(part, "state_dict") and hasattr(part, "load_state_dict")
            if not saves or isinstance(part, type):
                raise TypeError(
                    f"'{name}' ({type(part).__name__}) has no state_dict and load_state_dict: it "
                    "can't be saved. Put plain values into a dict"
                )
            _warn_of_draws(name, part)
        if twice := self.state.keys() & self.per_rank.keys():
            raise ValueError(f"{_quoted(twice)} is in state and in per_rank: use another name")
        taken = {"progress", "about"} & self.state.keys()
        taken |= _OWN & self.per_rank.keys()
        if taken:
            raise ValueError(f"{_quoted(taken)}: the manager saves its own under this name")
        if self.gradients and not self.modules():
            raise ValueError("gradients=True needs the model: register it")
        for name, part in self.state.items():
            if isinstance(part, ResumableSampler) and part.world != _rank_and_world()[1]:
                raise ValueError(
                    f"'{name}' was made for {part.world} ranks, but there are "
                    f"{_rank_and_world()[1]}: make it after init_process_group"
                )

    def find_shards(self) -> None:
        """Learn which models are sharded; TypeError for sharding that can't be saved."""
        self.shards = _sharded_parts(self.state)
        if any(self.shards) and self.trainable_only:
            raise ValueError("trainable_only: a sharded model is saved as a whole")
        for name, part in self.modules().items():
            for module in part.modules():
                if type(module).__name__ == "FullyShardedDataParallel":
                    raise TypeError(f"'{name}' is sharded with FSDP1: use fully_shard (FSDP2)")
        if wrong := _sharded_parts(self.per_rank)[0]:
            raise TypeError(f"{_quoted(wrong)} is sharded: put it into state, not into per_rank")

    @property
    def sharded(self) -> bool:
        return bool(self.shards[0])

    def everything(self) -> dict[str, Any]:
        return self.state | self.per_rank

    def modules(self) -> dict[str, torch.nn.Module]:
        return {n: p for n, p in self.everything().items() if isinstance(p, torch.nn.Module)}

    def samplers(self) -> list[ResumableSampler]:
        return [p for p in self.everything().values() if isinstance(p, ResumableSampler)]

    def apart(self) -> set[str]:
        """Parts that are saved in shards."""
        return {name for parts in self.shards for name in parts}

    # --- saving

    def changed_by_steps(self) -> set[object]:
        return _changed_by_steps(
            p for p in self.everything().values() if isinstance(p, torch.optim.Optimizer)
        )

    def capture(self, ranks: _Ranks, progress: dict[str, Any]) -> dict[str, _Packed]:
        """What this rank saves. TypeError by name if something can't be."""
        packed: dict[str, _Packed] = {}
        shards: dict[str, Any] = {}
        if self.sharded:
            shards = _shards_of(*self.shards)
            packed["shards"] = _Packed(shards, sharded=True)
        progress |= {"world_size": ranks.world, "gradients": self.gradients}
        modules = self.modules()
        shared: dict[str, Any] = {"progress": progress, "about": None}
        own: dict[str, Any] = {"rng": rng_state()}
        for name, part in self.state.items():
            if name not in self.apart():
                shared[name] = self._state_of(name, part)
        for name, part in self.per_rank.items():
            own[name] = self._state_of(name, part)
        shared["about"] = self._about(modules)  # after the states: they say what they leave out
        # what isn't in a state_dict (persistent=False); running means differ from rank to rank
        held = shared | own | shards
        progress["buffers"] = {n: _buffers_of(m, held[n]) for n, m in modules.items()}
        if ranks.world > 1:
            own["module_buffers"] = {n: _buffers_of(m) for n, m in modules.items()}
        if self.gradients:
            own["module_gradients"] = {n: _gradients_of(m) for n, m in modules.items()}
        packed["own"] = _Packed(own)
        if ranks.rank == 0:
            packed["shared"] = _Packed(shared)
            self._tell_of_changes(modules)
        dicts = [n for n, p in self.everything().items() if type(p) is dict]
        in_place = (torch.nn.Module, torch.optim.Optimizer)  # and tensors and arrays
        others = [
            n for n, p in self.everything().items() if isinstance(p, in_place) or _is_plain(p)
        ]
        for one in packed.values():
            _refuse_shared(one, dicts, set(others) - set(dicts))
        return packed

    def _tell_of_changes(self, modules: Mapping[str, torch.nn.Module]) -> None:
        """Say now what a resumed job would find out: training has replaced parameters."""
        named = [
            (f"{n}.{k}", p) for n, m in modules.items() for k, p in _named_parameters(m).items()
        ]
        now: dict[str, object] = {name: (id(p), p.shape) for name, p in named}
        changed = [n for n in now.keys() | self.built.keys() if now.get(n) != self.built.get(n)]
        if self.built and changed:
            _say(
                f"training has replaced, added or removed {_few(changed)}: a job can resume only "
                "if it is built like this before resume(), with the same groups in its optimizers"
            )
        self.built = now

    def _about(self, modules: Mapping[str, torch.nn.Module]) -> dict[str, Any]:
        everything = self.everything()
        if self.about is None:  # doesn't change from save to save
            kinds = {
                n: type(p).__name__
                for n, p in everything.items()
                if p is not None and n not in modules
            }
            self.about = {"kinds": kinds, "versions": {n: _versions(m) for n, m in modules.items()}}
        names = {
            n: _names_of(p, modules)
            for n, p in everything.items()
            if isinstance(p, torch.optim.Optimizer)
        }
        frozen = {"frozen": self.frozen} if self.frozen else {}
        buffers = {n: _persistent_buffers(m) for n, m in modules.items() if n not in self.apart()}
        names_of = {"parameters": names, "persistent": buffers}
        return self.about | names_of | _tied_and_frozen(modules) | frozen

    def _state_of(self, name: str, part: Any) -> Any:
        state = _state_of(part)
        if not isinstance(part, torch.nn.Module):
            return _refuse_skips(name, part, state)
        frozen = _left_out(name, part, state, self.checked)
        if self.trainable_only:
            frozen = _frozen_in(part)
        if list(frozen) != self.frozen.get(name, {}).get("names", []):  # else they haven't changed
            self.frozen[name] = {"names": list(frozen), "digest": _digest_of_tensors(frozen)}
        return {k: v for k, v in state.items() if k not in frozen}

    # --- resuming

    def check_change(self, change: Mapping[str, Mapping[str, Any]]) -> None:
        """ValueError if a part or a value of it doesn't exist."""
        for name, values in change.items():
            part = self.everything().get(name)
            if part is None:
                raise ValueError(f"change: the job has no '{name}'")
            for key in values:
                owners = part.param_groups if isinstance(part, torch.optim.Optimizer) else [part]
                if not all(key in o if isinstance(o, dict) else hasattr(o, key) for o in owners):
                    raise ValueError(f"change: '{name}' has no '{key}'")

    def change(self, change: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Set what shall differ from the checkpoint; say for each value what it was."""
        for name, values in change.items():
            part = self.everything()[name]
            for key, new in values.items():
                yield f"{name}: {key} {_set(part, key, new)} -> {new}"
                for other, scheduler in self.everything().items() if key == "lr" else ():
                    if hasattr(scheduler, "base_lrs") and "base_lrs" not in change.get(other, {}):
                        yield f"... but '{other}' computes it from base_lrs {scheduler.base_lrs}"

    def apply(
        self, where: Path, shared: dict[str, Any], own: dict[str, Any] | None, ranks: _Ranks
    ) -> dict[str, Any]:
        """Put the state of the checkpoint `where` into the parts; return the job's progress."""
        self._compare(where, shared, own)  # before anything of the job changes
        _thaw(shared.get("about", {}), self.modules())
        if self.sharded:
            _read_shards(where / "shards", *self.shards, ranks)
            if shared["progress"].get("untouched"):  # earlier versions saved empty moments
                self.state["optimizer"].state.clear()
        about, modules = shared.get("about", {}), self.modules()
        for part, target in self.state.items():
            if part not in self.apart():
                _load_into(target, shared[part], part, modules, about)
        progress: dict[str, Any] = shared["progress"]
        if progress["world_size"] != ranks.world and (progress["gradients"] or self.per_rank):
            raise Mismatch(
                f"gradients and per_rank state of {progress['world_size']} ranks can't resume "
                f"on {ranks.world}"
            )
        for part, saved in progress.get("buffers", {}).items():
            _load_buffers(modules[part], saved, part)
        if own is None:
            _say(f"rank {ranks.rank} isn't in the checkpoint: its RNGs aren't restored")
            return progress
        for part, target in self.per_rank.items():
            _load_into(target, own[part], part, modules, about)
        if progress["world_size"] == ranks.world:
            # "buffers": of an earlier version
            buffers = own.get("module_buffers", {"model": own.get("buffers", {})})
            for part in buffers.keys() & modules.keys():
                _load_buffers(modules[part], buffers[part], part)
        # "gradients": of an earlier version
        gradients = own.get("module_gradients", {"model": own.get("gradients", {})})
        for part in gradients.keys() & modules.keys():
            _load_gradients(modules[part], gradients[part])
        set_rng_state(own["rng"])  # last: undoes every draw during loading
        return progress

    def _compare(self, where: Path, shared: dict[str, Any], own: dict[str, Any] | None) -> None:
        """Raise Mismatch unless the job has exactly the parts that the checkpoint holds."""
        self._has_memory()
        holds, has = set(shared) - {"progress", "about"}, set(self.state) - self.apart()
        if self.sharded and not (where / "shards").is_dir():
            raise Mismatch(f"{where} is a checkpoint of an unsharded model")
        if not self.sharded and (where / "shards").is_dir():
            raise Mismatch(
                f"{where} is a checkpoint of a sharded model: shard yours with fully_shard or "
                "export it (templates/README.md)"
            )
        if missing := has - holds:
            raise Mismatch(f"{where} holds no {_quoted(missing)}; it holds {_quoted(holds)}")
        if extra := holds - has:
            raise Mismatch(
                f"{where} also holds {_quoted(extra)}: register what the job had, or it would "
                "resume as a different job"
            )
        if own is not None and (missing := set(self.per_rank) - set(own)):
            raise Mismatch(f"{where} holds no per_rank {_quoted(missing)}")
        _compare_ties(shared.get("about", {}), self.modules())
        for part, kind in shared.get("about", {}).get("kinds", {}).items():
            target = self.state.get(part, self.per_rank.get(part))
            if target is not None and type(target).__name__ != kind:
                raise Mismatch(
                    f"'{part}' is a {kind} in {where} but a {type(target).__name__} in the job"
                )

    def _has_memory(self) -> None:
        """Mismatch if a part has nothing to load into, which load_state_dict doesn't mind."""
        for name, module in self.modules().items():
            for key, t in itertools.chain(module.named_parameters(), module.named_buffers()):
                if t.device.type == "meta":
                    raise Mismatch(
                        f"'{name}': {_plain_key(key)} is on the meta device, without memory: call "
                        "to_empty(device=...) before you make the optimizer and the manager"
                    )

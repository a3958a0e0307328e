"""Simulates CUDA devices that don't exist, but only their random generators."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext

import torch


class Generator:
    """What torch.cuda.default_generators holds for one device."""

    def __init__(self, gpus: PretendGpus, index: int):
        self.gpus, self.device = gpus, torch.device("cuda", index)

    def get_state(self) -> torch.Tensor:
        return self.gpus.get_rng_state(self.device)

    def set_state(self, new_state: torch.Tensor) -> Generator:
        self.gpus.set_rng_state(new_state, self.device)
        return self

    def initial_seed(self) -> int:
        return 0

    def manual_seed(self, seed: int) -> Generator:
        self.gpus.states[self.device.index] = drawn(torch.Generator().manual_seed(seed))
        return self

    def seed(self) -> int:
        self.manual_seed(0)
        return 0


def drawn(generator: torch.Generator) -> torch.Tensor:
    return torch.randint(256, (16,), dtype=torch.uint8, generator=generator)


class PretendGpus:
    """Context manager: torch.cuda answers for `count` CUDA devices, with its own signatures."""

    def __init__(self, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.states = [drawn(generator) for _ in range(count)]
        self.current = 0
        self.initialized = False

    def __enter__(self):
        self.real = []
        for name, fake in self.fakes().items():
            for module in (torch.cuda, torch.cuda.random):
                if hasattr(module, name):
                    self.real.append((module, name, getattr(module, name)))
                    setattr(module, name, fake)
        return self

    def __exit__(self, *_):
        for module, name, real in self.real:
            setattr(module, name, real)

    def fakes(self) -> dict:
        return {
            "is_available": lambda: bool(self.states),
            "device_count": lambda: len(self.states),
            "current_device": lambda: self.current,
            "set_device": self.set_device,
            "device": self.device,
            "device_of": lambda _: nullcontext(),
            "init": self.initialize,
            "_lazy_init": self.initialize,
            "_lazy_call": lambda callable, **_: callable(),
            "synchronize": lambda device=None: None,
            # CUDA isn't, before something uses it; its generators are seeded all the same
            "is_initialized": lambda: self.initialized,
            "default_generators": tuple(Generator(self, i) for i in range(len(self.states))),
            "get_rng_state": self.get_rng_state,
            "get_rng_state_all": lambda: [self.get_rng_state(n) for n in range(len(self.states))],
            "set_rng_state": self.set_rng_state,
            "set_rng_state_all": self.set_rng_state_all,
        }

    def draw(self) -> None:
        """Random numbers are drawn on every device: each state becomes another one."""
        for state in self.states:
            state += 1

    def initialize(self) -> None:
        self.need_one()
        self.initialized = True

    def need_one(self) -> None:
        if not self.states:
            raise RuntimeError("No CUDA GPUs are available")

    def index(self, device) -> int:
        index = device if isinstance(device, int) else torch.device(device).index
        index = self.current if index is None else index
        if index >= len(self.states):
            self.need_one()
            raise RuntimeError(f"CUDA error: invalid device ordinal {index}")
        return index

    def set_device(self, device) -> None:
        self.current = self.index(device)

    @contextmanager
    def device(self, device):
        before, self.current = self.current, self.current if device is None else self.index(device)
        try:
            yield
        finally:
            self.current = before

    def get_rng_state(self, device="cuda") -> torch.Tensor:
        self.initialized = bool(self.states)
        return self.states[self.index(device)].clone()

    def set_rng_state(self, new_state, device="cuda") -> None:
        if new_state.dtype != torch.uint8 or new_state.device.type != "cpu":
            raise TypeError("RNG state must be a torch.ByteTensor")
        self.initialized = bool(self.states)
        self.states[self.index(device)] = new_state.clone()

    def set_rng_state_all(self, new_states) -> None:
        for index, state in enumerate(new_states):
            self.set_rng_state(state, index)

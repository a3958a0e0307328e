"""States for the storage functions of exercise 1 to save."""

from __future__ import annotations

import random

import torch

from grader.harness.inside.digest import digest

DTYPES = (
    *(
        "float64",
        "float32",
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "float8_e5m2",
        "complex64",
        "bool",
    ),
    *("uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64"),
)
EDGES = (4 << 10, 8 << 10, 64 << 10, 1 << 20)  # sizes (bytes) at which code may behave differently
LARGE = 8 << 20
TEXTS = ("", "a.b/c", "0", "\n\t\0", "naïve 日本 😀", "\u2028\ufeff", "'\"\\", "é", "e\u0301")


def made_state(seed: int | str, number: int, kind: str = "plain") -> dict:
    """State `number`; another number changes every value.

    kind  "plain": as a training job saves it; "drawn" or "large": any values that a state may hold
    """
    draw = random.Random(f"{seed} {number} {kind}")
    generator = torch.Generator().manual_seed(draw.getrandbits(60))
    return (
        _plain(number, draw, generator)
        if kind == "plain"
        else _drawn(draw, generator, kind == "large")
    )


def _plain(number: int, draw: random.Random, generator: torch.Generator) -> dict:
    def tensor(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(dtype)

    half = tensor(32, dtype=torch.bfloat16)
    return {
        "model": {
            "weight": tensor(96, 64),
            "half": half,
            "tied": half,
            "mask": tensor(9) > 0,
            "across": tensor(6, 4).t(),
        },
        "optimizer": {
            "state": {
                0: {"step": tensor(), "exp_avg": tensor(96, 64)},
                1: {"step": tensor()},
                2: {},
            },
            "param_groups": [
                {
                    "lr": draw.random(),
                    "betas": (0.9, draw.random()),
                    "params": [0, 1],
                    "foreach": None,
                }
            ],
        },
        "rng": (3, tuple(draw.getrandbits(32) for _ in range(20)), None),
        "counts": torch.tensor([number, draw.getrandbits(40)]),
        "step": number,
        "best": float("inf"),
        "worst": -0.0,
        "callbacks": [],
        "note": f"after step {number}",
    }


# --- whatever a state may hold
# ------------------------------------------------------------------------


def _drawn(draw: random.Random, generator: torch.Generator, large: bool) -> dict:
    """Any values that a state may hold; its keys describe them in words."""

    def bits(dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Random bits: NaNs of every kind, infinities, -0.0."""
        made = torch.empty(shape, dtype=dtype)
        data = torch.randint(
            256, (made.numel() * made.element_size(),), dtype=torch.uint8, generator=generator
        )
        return (data % 2 if dtype == torch.bool else data).view(dtype).reshape(shape)

    def size() -> int:
        return draw.randint(2, 7)

    found: dict = {}
    for name in DTYPES:
        if dtype := getattr(torch, name, None):
            found[f"{name} tensor"] = bits(dtype, size(), size())
    whole = bits(torch.float32, size(), size(), size())
    found |= {
        "transposed tensor": bits(torch.float32, size(), size() + 7).t(),
        "permuted tensor": whole.permute(2, 0, 1),
        "sliced tensor": bits(torch.int16, 9, 8)[1 : 1 + size(), ::3],
        "expanded tensor": bits(torch.float64, 1, size()).expand(size(), -1),
        "tensor without dimensions": bits(torch.float32),
        "tensor without elements": [torch.empty(0), torch.empty(size(), 0, 2, dtype=torch.int8)],
        "overlapping tensors": [whole, whole[0], whole.reshape(-1)[1:]],
        "one tensor twice": {"embedding": whole, "head": whole},
        "tensor and gradient": _with_gradient(bits(torch.float32, size())),
        "NaN and infinities": torch.tensor(
            [0x7FC00001, 0x7F800001, -1, 0x7F800000, -(1 << 31)], dtype=torch.int32
        ).view(torch.float32),
    }
    for edge in (*EDGES, LARGE) if large else EDGES[:3]:
        number = edge + draw.choice([-1, 0, 1]) if edge < LARGE else edge + draw.randint(1, 99)
        found[f"tensor of {edge >> 10} KiB"] = bits(torch.uint8, number)
    found |= {
        "empty containers": [{}, [], (), {"state": {}, "groups": [[], ()]}],
        "nested containers": _nested(draw, 12),
        "integer keys": {n: draw.random() for n in (0, -3, draw.randint(2, 99), 2**40)}
        | {"0": "not the number"},
        "texts": [*TEXTS, *(t * draw.randint(4000, 5000) for t in "xé")],
        "text keys": {text: n for n, text in enumerate(draw.sample(TEXTS, len(TEXTS)))},
        "large integers": [
            n * draw.choice([1, -1])
            for n in (2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64 + 1, 2**200)
        ],
        "truth values": [True, False, 1, 0, None],
        "floats": [
            float("inf"),
            float("-inf"),
            float("nan"),
            -0.0,
            0.0,
            5e-324,
            1.7e308,
            0.1,
            draw.random(),
        ],
        "1 and 1.0": [1, 1.0, {"lr": 1, "eps": 1.0}],
        "None by itself": None,
        "True by itself": True,
    }
    keys = list(found)
    draw.shuffle(keys)
    return {key: found[key] for key in keys}


def _with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    tensor.requires_grad_(True).grad = torch.ones_like(tensor)
    return tensor


def anatomy(value: object) -> object:
    """What a digest doesn't show of a state: containers' types and orders, tensors' properties."""
    if isinstance(value, dict):
        return [type(value).__name__, [[repr(key), anatomy(of)] for key, of in value.items()]]
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, [anatomy(item) for item in value]]
    if isinstance(value, torch.Tensor):
        grad = None if value.grad is None else digest(value.grad)
        return [value.requires_grad, grad, value.is_shared(), list(value.stride())]
    return type(value).__name__


def _nested(draw: random.Random, depth: int):
    value: object = draw.getrandbits(30)
    for _ in range(depth):
        value = draw.choice([lambda v: [v], lambda v: (v, None), lambda v: {"in": v, "empty": {}}])(
            value
        )
    return value

"""The expected digests of the states that exercise 1's storage functions were given to save.

given: "payload" (their seed), "key" (of the digests), "numbers" ([number, kind] of each), "values":
of which state it is also to say how files may hold its values.
"""

import struct

import torch

from grader.harness.inside import telemetry
from grader.harness.inside.digest import digest
from grader.workload.ex01.sample_states import made_state

ENOUGH = 64  # bytes by which a value is found in a file


def leaves(value, name: str = ""):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for n, item in enumerate(value):
            yield from leaves(item, f"{name}.{n}")
    else:
        yield name, value


def as_bytes(value) -> list[tuple[bytes, int, list[int]]]:
    """How formats may write a value: how it begins, its length, and bytes in which a low bit can
    flip unnoticed."""
    if isinstance(value, torch.Tensor):
        if value.dtype == torch.bool or not value.is_contiguous():
            return []
        data = value.reshape(-1).view(torch.uint8).numpy().tobytes()
        width, last = value.element_size(), value.numel() - 1
        places = [item * width for item in (0, last, last // 2, last // 3)]
        return [(data[:ENOUGH], len(data), places)] if len(data) >= 16 else []
    if isinstance(value, float) and value not in (0.9, 0.0, float("inf")):
        text = repr(value).encode()
        return [
            (struct.pack(">d", value), 8, [7]),
            (struct.pack("<d", value), 8, [0]),
            (text, len(text), [len(text) - 1]),
        ]
    if isinstance(value, str):
        return [(value.encode(), len(value.encode()), [0])] if value else []
    return []


payload, key = telemetry.given("payload"), telemetry.given("key")
states = {number: made_state(payload, number, kind) for number, kind in telemetry.given("numbers")}
telemetry.emit("digests", of={number: digest(state, key) for number, state in states.items()})
for number, kind in telemetry.given("numbers"):
    if kind != "plain":
        telemetry.emit(
            "parts",
            number=number,
            of={name: digest(part, key) for name, part in states[number].items()},
        )
for number in telemetry.given("values", []):
    values = [
        [name, begin.hex(), length, places]
        for name, leaf in leaves(states[number])
        for begin, length, places in as_bytes(leaf)
    ]
    telemetry.emit("values", number=number, values=values)
telemetry.emit("end", step=0, state={})

"""templates/checkpoint_utils.py: what is registered comes back the same, or is refused by name."""

from __future__ import annotations

import collections
import enum
import os
import shutil
from pathlib import Path

import numpy
import pytest
import torch

from grader.harness.inside.digest import digest
from grader.tests.templates.test_templates_utils import Count, cu

KEPT = Path(__file__).parent / "kept"


class Phase(enum.IntEnum):
    MAIN = 2


class Mode(str, enum.Enum):
    EASY = "easy"


class Flags(enum.Flag):
    ON = 1


class Name(str):
    pass


class Rate(float):
    pass


class Step(int):
    pass


class Items(list):
    pass


class Table(dict):
    pass


class Subclass(torch.Tensor):
    pass


Point = collections.namedtuple("Point", "x y")
WEIGHT = torch.ones(2, requires_grad=True)


def through(tmp_path, value, **options):
    """`value`, saved by one job and resumed by the next one."""
    with cu.CheckpointManager(tmp_path, {"box": Count(value)}, **options) as ckpt:
        ckpt.step()
        ckpt.save()
    box = Count()
    with cu.CheckpointManager(tmp_path, {"box": box}) as ckpt:
        assert ckpt.resume()
    return box.value


REFUSED = [
    Phase.MAIN,
    Mode.EASY,
    Flags.ON,
    Name("x"),
    Rate(0.5),
    Step(3),
    Items("ab"),
    Table(a=1),
    Point(1, 2),
    collections.defaultdict(list, a=[1]),
    collections.deque([1]),
    frozenset([1]),
    bytearray(b"x"),
    1j,
    numpy.datetime64(0, "s"),
    torch.float32,
    torch.zeros(2).as_subclass(Subclass),
    torch.nn.Parameter(torch.zeros(2).as_subclass(Subclass)),
    torch.empty(2, device="meta"),
    torch.zeros(2).to_sparse(),
    WEIGHT * 2,
]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("value", REFUSED, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("place", ["itself", "key or item"])
def test_what_would_come_back_as_something_else_is_refused_by_name(
    tmp_path, value, place, asynchronous
):
    inside = value if place == "itself" else [(0, {"deep": value})]
    with (
        pytest.raises(TypeError, match=r"state\['box'\]\['value'\]"),
        cu.CheckpointManager(tmp_path, {"box": Count(inside)}, asynchronous=asynchronous) as ckpt,
    ):
        ckpt.step()
    assert ckpt.steps == 0 and ckpt.directory.names() == []


def test_a_tensors_subclass_is_called_one(tmp_path):
    with pytest.raises(TypeError, match="subclass .*Subclass"):
        through(tmp_path, torch.zeros(2).as_subclass(Subclass))


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "value",
    [
        numpy.bool_(True),
        numpy.float64(0.1),
        numpy.float32(0.1),
        numpy.int64(-3),
        numpy.uint8(3),
        numpy.complex64(1 + 2j),
        torch.Size([2, 3]),
        collections.OrderedDict(b=1, a=2),
        collections.Counter("aab"),
        True,
        2**80,
        -0.0,
        b"\x00",
        torch.tensor(2.5),
        torch.tensor([1, 2], dtype=torch.uint16),
        torch.zeros(3, dtype=torch.float8_e4m3fn),
        torch.nn.Parameter(torch.ones(2)),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones(2, requires_grad=True),
    ],
    ids=lambda v: f"{type(v).__name__} {v!r}".splitlines()[0][:40],
)
def test_what_comes_back_is_of_the_same_type(tmp_path, value, asynchronous):
    back = through(tmp_path, value, asynchronous=asynchronous)
    assert type(back) is type(value)
    if isinstance(value, torch.Tensor):
        assert (back.dtype, back.shape, back.requires_grad) == (
            value.dtype,
            value.shape,
            value.requires_grad,
        )
        assert torch.equal(back.detach().view(-1).view(torch.uint8), cu_bytes(value))
    else:
        assert repr(back) == repr(value)


@pytest.mark.filterwarnings("ignore")
def test_tensors_without_a_shape_or_a_copy_are_refused_by_name(tmp_path):
    for value in (
        torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]),
        torch.zeros(2, dtype=torch.uint8).view(torch.uint4),
    ):
        with pytest.raises(TypeError, match=r"state\['box'\]\['value'\] is a tensor of"):
            through(tmp_path, value)


@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_may_have_more_digits_than_python_prints(tmp_path, sign):
    value = sign * (3**30_000 + 1)
    assert through(tmp_path, [value, {value: value}]) == [value, {value: value}]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("part", ["array", "tensor", "parameter", "transposed"])
def test_the_order_in_memory_comes_back(tmp_path, part, asynchronous):
    t = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    value = {
        "array": numpy.asfortranarray(t.numpy()),
        "tensor": t,
        "parameter": torch.nn.Parameter(t),
        "transposed": torch.randn(70, 90, dtype=torch.float64).t(),
    }[part]
    back = through(tmp_path, {"first": value, "again": value}, asynchronous=asynchronous)
    if part == "array":
        assert back["first"].strides == value.strides and (back["first"] == value).all()
    else:
        assert back["first"].stride() == value.stride() and back["first"].equal(value)
    assert back["first"] is back["again"] or back["first"].data_ptr() == back["again"].data_ptr()


def cu_bytes(t):
    return t.detach().view(-1).view(torch.uint8)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_is_the_same_or_shares_memory_still_does(tmp_path, asynchronous):
    flat, history = torch.arange(12.0), [1]
    value = {
        "flat": flat,
        "slice": flat[3:7],
        "column": flat.view(3, 4)[:, 1],
        "bits": flat.view(torch.int32),
        "apart": torch.arange(12.0),
        "history": history,
        "alias": [history, {"deep": history}],
    }
    value["alias"].append(value)
    back = through(tmp_path, value, asynchronous=asynchronous)
    for name in ("flat", "slice", "column", "bits", "apart"):
        assert torch.equal(back[name], value[name]) and back[name].dtype == value[name].dtype
    for whole in (value, back):
        whole["flat"] += 100
        whole["history"].append(2)
    for name in ("slice", "column", "bits", "apart"):
        assert torch.equal(back[name], value[name])
    assert back["alias"][0] is back["history"] is back["alias"][1]["deep"]
    assert back["alias"][2] is back


def test_slices_of_one_buffer_that_dont_overlap_are_written_without_the_rest(tmp_path):
    flat = torch.arange(1_000_000.0)
    cu.write_file(tmp_path / "a", [flat[:10], flat[-10:]])
    assert (tmp_path / "a").stat().st_size < 1000
    assert torch.equal(cu.read_file(tmp_path / "a")[1], flat[-10:])


# --- modules


class Buffers(torch.nn.Module):
    def __init__(self, seen=0.0, size=1):
        super().__init__()
        self.register_buffer("seen", torch.full((size,), seen), persistent=False)
        self.register_buffer("queue", None, persistent=False)
        self.inner = torch.nn.Module()
        self.inner.register_buffer("count", torch.zeros(1, dtype=torch.int64), persistent=False)


@pytest.mark.parametrize("name", ["model", "critic"])
@pytest.mark.parametrize("where", ["state", "per_rank"])
def test_buffers_outside_of_the_state_dict_come_back(tmp_path, name, where):
    def job(module):
        parts = {name: torch.compile(module, backend="eager")}
        state, own = (parts, {}) if where == "state" else ({}, parts)
        return cu.CheckpointManager(tmp_path, state, per_rank=own)

    model = Buffers(7.0)
    model.queue = torch.ones(3)
    model.inner.count += 2**40
    model.inner.register_buffer("made", torch.ones(2), persistent=False)  # by a forward pass
    model.seen = torch.full((4,), 7.0)
    with job(model) as ckpt:
        ckpt.step()
    again = Buffers()
    with job(again) as ckpt:
        ckpt.resume()
    assert digest(dict(again.named_buffers())) == digest(dict(model.named_buffers()))
    assert again.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("what", ["parameter", "buffer", "second", "part of it"])
def test_a_module_without_memory_is_a_mismatch_and_not_resumed(tmp_path, what):
    def job():
        return {"model": torch.nn.BatchNorm1d(2), "second": torch.nn.Linear(2, 2)}

    with cu.CheckpointManager(tmp_path, job()) as ckpt:
        ckpt.step()
    state = job()
    if what == "parameter":
        state["model"].weight = torch.nn.Parameter(torch.empty(2, device="meta"))
    elif what == "buffer":
        state["model"].running_mean = torch.empty(2, device="meta")
    elif what == "second":
        state["second"].to("meta")
    else:
        state["second"].bias = torch.nn.Parameter(torch.empty(2, device="meta"))
    with (
        pytest.raises(cu.Mismatch, match=r"'(model|second)': \w+ is on the meta device"),
        cu.CheckpointManager(tmp_path, state) as ckpt,
    ):
        ckpt.resume()


@pytest.mark.parametrize("saved, job", [("float32", "bfloat16"), ("float64", "float32")])
def test_a_model_of_another_type_is_a_mismatch(tmp_path, saved, job):
    def model(dtype):
        return {"net": torch.nn.Linear(2, 2, dtype=getattr(torch, dtype))}

    with cu.CheckpointManager(tmp_path, model(saved)) as ckpt:
        ckpt.step()
    with (
        pytest.raises(cu.Mismatch, match=f"'net': weight is torch.{saved} .*{job}"),
        cu.CheckpointManager(tmp_path, model(job)) as ckpt,
    ):
        ckpt.resume()


# --- optimizers


def job(order, groups=1, named=False, extra=()):
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(3, 3, bias=False) for _ in range(4)))
    params = dict(model.named_parameters())
    chosen = [(n, params[n]) if named else params[n] for n in map("{}.weight".format, order)]
    chosen += extra
    size = len(chosen) // groups
    parts = [{"params": chosen[i : i + size]} for i in range(0, len(chosen), size)]
    return model, torch.optim.AdamW(parts)


def trained(model, optimizer):
    for n, p in enumerate(p for g in optimizer.param_groups for p in g["params"]):
        p.grad = torch.full_like(p, n + 1.0)
    optimizer.step()


def moments(model, optimizer):
    return {n: digest(optimizer.state[p]) for n, p in model.named_parameters()}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_each_parameter_gets_its_own_moments_in_any_order(tmp_path, named, groups):
    model, optimizer = job([0, 1, 2, 3], groups, named)
    trained(model, optimizer)
    with cu.CheckpointManager(tmp_path, {"net": model, "adam": optimizer}) as ckpt:
        ckpt.step()
    again, fresh = job([1, 0, 3, 2], groups, named)
    with cu.CheckpointManager(tmp_path, {"net": again, "adam": fresh}) as ckpt:
        ckpt.resume()
    assert moments(again, fresh) == moments(model, optimizer)
    if named:
        assert fresh.param_groups[0]["param_names"][0] == "1.weight"


def test_parameters_of_another_group_are_a_mismatch_that_names_them(tmp_path):
    model, optimizer = job([0, 1, 2, 3], 2)
    with cu.CheckpointManager(tmp_path, {"net": model, "adam": optimizer}) as ckpt:
        ckpt.step()
    again, fresh = job([0, 2, 1, 3], 2)
    with (
        pytest.raises(cu.Mismatch, match=r"'net.1.weight'.*'net.2.weight'"),
        cu.CheckpointManager(tmp_path, {"net": again, "adam": fresh}) as ckpt,
    ):
        ckpt.resume()


def test_parameters_outside_of_any_module_are_known_by_their_shape(tmp_path):
    def build(turned):
        a, b = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(3))
        return a, b, torch.optim.AdamW([b, a] if turned else [a, b])

    a, b, optimizer = build(False)
    trained(None, optimizer)
    with cu.CheckpointManager(tmp_path, {"adam": optimizer}) as ckpt:
        ckpt.step()
    c, d, fresh = build(True)
    with cu.CheckpointManager(tmp_path, {"adam": fresh}) as ckpt:
        ckpt.resume()
    assert digest([fresh.state[c], fresh.state[d]]) == digest(
        [optimizer.state[a], optimizer.state[b]]
    )


def test_an_optimizers_state_keeps_its_types_whatever_the_parameters_is(tmp_path):
    def build():
        model = torch.nn.Linear(4, 3, dtype=torch.bfloat16)
        return model, torch.optim.SGD(model.parameters(), momentum=0.9)

    model, optimizer = build()
    for p in model.parameters():
        optimizer.state[p] = {
            "momentum_buffer": torch.randn_like(p, dtype=torch.float32),
            "row": torch.randn(len(p)),
            "codes": torch.randint(255, (2, 5), dtype=torch.uint8),
            "history": [torch.randn(2), {"scale": torch.randn(1)}],
            "name": "x",
        }
    with cu.CheckpointManager(tmp_path, {"model": model, "sgd": optimizer}) as ckpt:
        ckpt.step()
    again, fresh = build()
    with cu.CheckpointManager(tmp_path, {"model": again, "sgd": fresh}) as ckpt:
        ckpt.resume()
    for p, q in zip(model.parameters(), again.parameters(), strict=True):
        assert digest(fresh.state[q]) == digest(optimizer.state[p])


# --- the surroundings


def test_the_directory_stays_where_it_was_though_the_job_goes_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    with cu.CheckpointManager("run", {"count": Count()}) as ckpt:
        ckpt.step()
        ckpt.save()
        os.chdir(tmp_path / "elsewhere")
        ckpt.step()
        ckpt.save()
    assert os.listdir(tmp_path / "elsewhere") == []
    assert len(cu.CheckpointDirectory(tmp_path / "home" / "run").names()) == 2


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://bucket", "file:///tmp/x", "memory://x"])
def test_a_url_is_no_directory(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="URL"):
        cu.CheckpointManager(url, {})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_default_device_is_the_models_affair(tmp_path, asynchronous):
    model = torch.nn.Linear(2, 2)
    with torch.device("meta"):
        with cu.CheckpointManager(
            tmp_path, {"model": model}, asynchronous=asynchronous, every_steps=1
        ) as ckpt:
            ckpt.step()
        again = torch.nn.Linear(2, 2, device="cpu")
        with cu.CheckpointManager(tmp_path, {"model": again}) as ckpt:
            ckpt.resume()
    assert torch.equal(model.weight, again.weight)


def test_a_name_that_would_hide_another_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'a'"):
        cu.CheckpointManager(tmp_path, {"a": Count()}, per_rank={"a": Count()})
    with pytest.raises(ValueError, match="'progress'"):
        cu.CheckpointManager(tmp_path, {"progress": Count()})


# --- checkpoints of the first version


def test_a_checkpoint_of_the_first_version_is_resumed(tmp_path):
    shutil.copytree(KEPT / "one", tmp_path / "run")
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    scheduler, sampler = (
        torch.optim.lr_scheduler.StepLR(optimizer, 2),
        cu.ResumableSampler(12, 4, seed=1),
    )

    class Notes(Count):
        def load_state_dict(self, state):
            self.value = state

    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "sampler": sampler}
    with cu.CheckpointManager(tmp_path / "run", state | {"notes": (notes := Notes())}) as ckpt:
        assert ckpt.resume() and (ckpt.steps, sampler.samples) == (2, 8)
    assert notes.value["odd"] == [1, 0.5, (None, b"x")] and notes.value["count"]["a"] == 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)
    assert model[1].num_batches_tracked == 2
    assert {s["step"].item() for s in optimizer.state.values()} == {2.0}

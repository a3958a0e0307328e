"""The files of a checkpoint: safetensors beside JSON, which others open; older files still load."""

from __future__ import annotations

import json
import math
import shutil
import struct

import numpy
import pytest
import torch

from grader.harness.inside.digest import digest
from grader.tests.templates.test_templates_faithful import KEPT, through
from grader.tests.templates.test_templates_utils import EVERYTHING, Count, cu

DTYPES = sorted(
    {t for t in vars(torch).values() if isinstance(t, torch.dtype)}
    - {t for name, t in vars(torch).items() if name.startswith(("q", "bits", "uint1b"))},
    key=str,
)
# sub-byte types have no memory of their own that could be copied or compared
DTYPES = [t for t in DTYPES if t.itemsize and not str(t).endswith(("int1", "int2", "int3", "int4"))]
DTYPES = [t for t in DTYPES if not str(t).endswith(("int5", "int6", "int7", "fn_x2"))]


def raw(dtype: torch.dtype) -> torch.Tensor:
    """Tensors of any type: random bytes, but not for bool, of which only 0 and 1 are right."""
    if dtype == torch.bool:
        return torch.tensor([[True, False, True]])
    data = torch.randint(0, 255, (3 * dtype.itemsize,), dtype=torch.uint8)
    return data.view(dtype).reshape(1, 3)


def saved(tmp_path, **parts):
    with cu.CheckpointManager(tmp_path, parts) as ckpt:
        ckpt.step()
    return tmp_path / ckpt.directory.names()[0]


def load_file(path):
    """As the library does it."""
    return pytest.importorskip("safetensors.torch", reason="safetensors: pip install").load_file(
        path
    )


def test_the_weights_are_what_safetensors_loads_under_the_models_own_names(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3))
    model = model.to(memory_format=torch.channels_last)
    folder = saved(tmp_path, model=torch.compile(model, backend="eager"))
    weights = load_file(folder / "model.safetensors")
    assert digest(dict(weights)) == digest(dict(model.state_dict()))
    again = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 2), torch.nn.BatchNorm2d(3))
    again.load_state_dict(weights)


def test_every_type_of_number_comes_back_and_safetensors_reads_the_file(tmp_path):
    value = {str(t).removeprefix("torch."): raw(t) for t in DTYPES}
    assert {"bfloat16", "complex128", "float8_e4m3fn", "uint16"} < value.keys()
    for key, t in through(tmp_path, value).items():
        assert (t.dtype, t.shape) == (value[key].dtype, value[key].shape), key
        assert t.view(torch.uint8).tolist() == value[key].view(torch.uint8).tolist(), key
    (path,) = tmp_path.glob("step-*/box.safetensors")
    for key, t in load_file(path).items():
        mine = value[key.removeprefix("value.")]
        assert t.reshape(-1).view(torch.uint8).tolist() == mine.view(-1).view(torch.uint8).tolist()
        if mine.dtype in (torch.float64, torch.bfloat16, torch.float8_e5m2, torch.bool):
            assert t.dtype == mine.dtype and t.shape == mine.shape
        if mine.dtype == torch.complex64:
            assert torch.view_as_complex(t).view(torch.uint8).equal(mine.view(torch.uint8))


def test_everything_comes_back_bit_for_bit(tmp_path):
    back = through(tmp_path, EVERYTHING)
    assert digest(back) == digest(EVERYTHING | {"metric": 0.25})
    assert list(map(type, back["numbers"])) == list(map(type, EVERYTHING["numbers"]))
    assert type(back["metric"]) is numpy.float64


@pytest.mark.parametrize("size", [3, 30_000])  # in the JSON, and beside it
def test_what_a_rank_has_of_its_own_comes_back(tmp_path, size):
    value = {"t": torch.randn(size), "half": torch.randn(size).half()[::2], "empty": torch.ones(0)}
    box, again = Count(value), Count()
    with cu.CheckpointManager(tmp_path, {}, per_rank={"box": box}) as ckpt:
        ckpt.step()
    assert cu.CheckpointManager(tmp_path, {}, per_rank={"box": again}).resume()
    assert digest(again.value) == digest(value)
    assert any(tmp_path.glob("step-*/rank-0.safetensors")) is (size > 3)


def test_tied_weights_are_written_once_and_named_as_safetensors_does_it(tmp_path):
    def tied():
        model = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 3), "b": torch.nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        return model

    model, again = tied(), tied()
    folder = saved(tmp_path, model=model)
    assert "b.weight" not in load_file(folder / "model.safetensors")
    library = pytest.importorskip("safetensors.torch")
    assert library.load_model(again, folder / "model.safetensors") == (set(), [])
    assert digest(dict(again.state_dict())) == digest(dict(model.state_dict()))
    third = tied()
    assert cu.CheckpointManager(tmp_path, {"model": third}).resume()
    assert third["a"].weight is third["b"].weight and third["a"].weight.equal(model["a"].weight)


def test_overlapping_tensors_stay_so_and_their_bytes_are_written_once(tmp_path):
    whole = torch.randn(100)
    back = through(tmp_path, {"whole": whole, "part": whole[10:50:2]})
    back["whole"][10] = 7.0
    assert back["part"][0] == 7.0
    (path,) = tmp_path.glob("step-*/box.safetensors")
    assert path.stat().st_size < 100 * 4 + 400
    load_file(path)


@pytest.mark.parametrize("name", ["a/b", "..", "rank-0", "", "__metadata__", "Ärger", "shared"])
def test_parts_and_values_may_have_any_name(tmp_path, name):
    boxes = {name: Count({name: torch.ones(2), "x": {"y": 1}, "x.y": torch.zeros(3)})}
    boxes[name.upper() + "x"] = Count(torch.ones(1))
    folder = saved(tmp_path, **boxes)
    again = {key: Count() for key in boxes}
    assert cu.CheckpointManager(tmp_path, again).resume()
    assert {k: digest(b.value) for k, b in again.items()} == {
        k: digest(b.value) for k, b in boxes.items()
    }
    assert {p.parent for p in tmp_path.rglob("*.safetensors")} == {folder}
    for path in folder.glob("*.safetensors"):
        load_file(path)


def damage(path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def test_any_flipped_byte_is_found_and_no_header_fools_the_reader(tmp_path):
    folder = saved(tmp_path, box=Count({"t": torch.randn(9), "n": 3}))
    directory = cu.CheckpointDirectory(tmp_path)
    intact = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("box.safetensors", "shared.json"):
        for at in range(len(intact[name])):
            damage(folder / name, at)
            with pytest.raises(cu.CheckpointError):
                directory.read(folder.name, "shared.json")
            (folder / name).write_bytes(intact[name])
    header = b'{"value.t":{"dtype":"F32","shape":[9],"data_offsets":[0,9999999999999]}}'
    (folder / "box.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(cu.CheckpointError, match="isn't where it was"):
        directory.read(folder.name, "shared.json")
    for data in (b"", b"\xff" * 16, intact["box.safetensors"] + b"x", b"\2\0\0\0\0\0\0\0[]"):
        (folder / "box.safetensors").write_bytes(data)
        with pytest.raises(cu.CheckpointError, match="damaged"):
            directory.read(folder.name, "shared.json")


def test_a_file_of_another_checkpoint_is_found(tmp_path):
    box = Count({"t": torch.zeros(9)})
    with cu.CheckpointManager(tmp_path, {"box": box}, every_steps=1) as ckpt:
        ckpt.step()
        box.value["t"] += 1
        ckpt.step()
    new, old = (tmp_path / name for name in ckpt.directory.names())
    shutil.copy(old / "box.safetensors", new / "box.safetensors")
    with pytest.raises(cu.CheckpointError, match="belongs to another"):
        ckpt.directory.read(new.name, "shared.json")


def test_a_checkpoint_of_the_second_version_is_resumed_and_saved_in_this_format(tmp_path):
    shutil.copytree(KEPT / "views", tmp_path, dirs_exist_ok=True)

    def job():
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        parts = {"model": model, "optimizer": torch.optim.AdamW(model.parameters()), "box": Count()}
        parts["scheduler"] = torch.optim.lr_scheduler.StepLR(parts["optimizer"], 2)
        return cu.CheckpointManager(
            tmp_path, parts | {"sampler": cu.ResumableSampler(8, 2, seed=4)}
        )

    def state_of(ckpt):
        value = ckpt.state["box"].value
        assert value["f"] == 0.1 and value[3] == (1, None, b"x") and value["inf"] == math.inf
        assert value["tie"][0] is value["tie"][1] and value["part"].tolist() == [2.0, 3.0]
        assert value["part"].data_ptr() == value["w"].data_ptr() + 8
        assert ckpt.state["optimizer"].param_groups[0]["lr"] == pytest.approx(0.05)
        return [
            digest(ckpt.state[name].state_dict())
            for name in ("model", "optimizer", "scheduler", "box", "sampler")
        ]

    with job() as ckpt:
        assert ckpt.resume() and ckpt.steps == 3
        before = state_of(ckpt)
        ckpt.save()
    newest = tmp_path / ckpt.directory.names()[0]
    assert (newest / "model.safetensors").exists() and newest.name == "step-000000000003-2"
    again = job()
    assert again.resume() and state_of(again) == before


def test_the_json_is_for_people_too(tmp_path):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    folder = saved(tmp_path, model=model, optimizer=optimizer)
    tree = json.loads((folder / "shared.json").read_text())["tree"]["dict"]
    assert tree["progress"]["dict"]["steps"] == 1
    assert tree["optimizer"]["dict"]["param_groups"][0]["dict"]["lr"] == 0.25


def test_dicts_arrays_and_tensors_are_their_own_state(tmp_path):
    run, array = {"id": "a1", "tags": ["x"]}, numpy.arange(6.0).reshape(2, 3)
    noise = torch.randn(3)
    saved(tmp_path, run=run, array=array, noise=noise)
    mine = {"run": {"other": 1}, "array": numpy.zeros((2, 3)), "noise": torch.zeros(3)}
    held = dict(mine)
    assert cu.CheckpointManager(tmp_path, mine).resume()
    assert held["run"] == run and held["noise"].equal(noise)
    assert (held["array"] == array).all()


@pytest.mark.parametrize("wrong", [numpy.zeros(6), numpy.zeros((2, 3), "float32")])
def test_an_array_of_another_kind_is_a_mismatch(tmp_path, wrong):
    saved(tmp_path, array=numpy.ones((2, 3)))
    with pytest.raises(cu.Mismatch, match="'array'"):
        cu.CheckpointManager(tmp_path, {"array": wrong}).resume()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "complex128"])
def test_arrays_come_back_the_same(tmp_path, dtype):
    array = numpy.arange(12).astype(dtype).reshape(3, 4)
    given = [array, array, array.T, array[1:, ::2], numpy.array(array[0, 1])]
    back = through(tmp_path, given)
    for a, b in zip(given, back, strict=True):
        assert type(b) is numpy.ndarray and (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()
    assert back[0] is back[1] and numpy.shares_memory(back[0], back[3])


def test_a_single_number_may_have_any_stride(tmp_path):
    assert through(tmp_path, torch.tensor([2.5, 3.5])[::2]).tolist() == [2.5]
    one = torch.arange(3.0)[2:3:2]
    cu.write_file(tmp_path / "one", {"t": one})
    assert cu.read_file(tmp_path / "one")["t"].tolist() == [2.0]


@pytest.mark.parametrize(
    "array",
    [numpy.array(["a"]), numpy.array([None]), numpy.ones(2, ">i4"), numpy.ones(3)[::-1]],
    ids=["strings", "objects", "byte order", "backwards"],
)
def test_other_arrays_are_refused_by_name(tmp_path, array):
    with pytest.raises(TypeError, match=r"state\['box'\]\['value'\] is a numpy.ndarray"):
        through(tmp_path, array)

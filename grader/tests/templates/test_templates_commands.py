"""python -m exact_resume: ls, verify, diff, export and convert."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest
import torch
from safetensors.torch import save_file

from grader.harness.inside.digest import digest
from grader.tests.templates.test_templates_faithful import KEPT
from grader.tests.templates.test_templates_utils import cu, manager, train

from exact_resume.__main__ import main  # isort: skip (the import above makes it importable)


@pytest.fixture
def run(tmp_path):
    """A directory with checkpoints of steps 1 and 2, and the job that made them."""
    with manager(tmp_path / "run", keep=2) as ckpt:
        train(ckpt, 2)
    return ckpt


def model_of(ckpt) -> str:
    return digest(dict(ckpt.state["model"].state_dict()))


def test_ls_shows_each_checkpoint_and_the_last_life(run, tmp_path, capsys):
    assert main(["ls", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:2]] == run.directory.names()
    assert "step 2  1 rank" in lines[0] and lines[2] == "last life: done at step 2"


def test_verify_names_each_damaged_file(run, tmp_path, capsys):
    directory = str(tmp_path / "run")
    assert main(["verify", directory]) == 0
    newest, older = run.directory.names()
    assert capsys.readouterr().out == f"{newest}: intact\n{older}: intact\n"
    folder = tmp_path / "run" / newest
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 4
    (folder / "model.safetensors").write_bytes(data)
    (folder / "rank-0.json").unlink()
    assert main(["verify", directory]) == 1
    told = capsys.readouterr().out
    assert f"{older}: intact" in told and f"{newest}: damaged" in told
    assert f"{folder}/model.safetensors is damaged" in told
    assert f"{folder}/rank-0.json can't be read" in told and "optimizer" not in told
    assert main(["verify", str(tmp_path / "run" / older)]) == 0


def test_diff_names_what_differs(run, tmp_path, capsys):
    newest, older = (str(tmp_path / "run" / name) for name in run.directory.names())
    assert main(["diff", newest, newest]) == 0
    assert main(["diff", older, str(tmp_path / "run")]) == 1
    told = capsys.readouterr().out
    assert "progress.steps: 1 and 2\n" in told
    assert "model.weight: " in told and "numbers differ, by at most" in told
    assert "optimizer.param_groups.0.lr" not in told and "rng" not in told
    assert main(["diff", older, newest, "--rng"]) == 1


def test_diff_sees_what_is_missing_and_what_has_another_type(tmp_path, capsys):
    for name, value in {"one": {"a": 1, "b": torch.ones(2)}, "two": {"a": 1.0, "c": 2}}.items():
        with cu.CheckpointManager(tmp_path / name, {"box": value}) as ckpt:
            ckpt.step()
    assert main(["diff", str(tmp_path / "one"), str(tmp_path / "two")]) == 1
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        "box.a: a int and a float",
        "box.b: only in the first",
        "box.c: only in the second",
    ]


@pytest.mark.parametrize("to", ["all.pt", "dcp"])
def test_what_is_exported_and_converted_back_is_resumed(run, tmp_path, to, capsys):
    assert main(["export", str(tmp_path / "run"), str(tmp_path / to)]) == 0
    back = ["convert", str(tmp_path / to), str(tmp_path / "back"), "--step", "7", "--epoch", "1"]
    assert main(back) == 0
    again = manager(tmp_path / "back")
    assert again.resume() and (again.steps, again.epoch) == (7, 1)
    assert model_of(again) == model_of(run)
    moments = [digest(dict(c.state["optimizer"].state_dict()["state"])) for c in (run, again)]
    assert moments[0] == moments[1]
    assert "RNGs aren't restored" in capsys.readouterr().err


@pytest.mark.parametrize("to", ["weights.pt", "weights.safetensors"])
def test_the_weights_alone_are_exported_under_their_names(run, tmp_path, to):
    path = tmp_path / to
    assert main(["export", str(tmp_path / "run"), str(path), "--part", "model"]) == 0
    if to.endswith(".pt"):
        weights = torch.load(path, weights_only=True)
    else:
        weights = pytest.importorskip("safetensors.torch").load_file(path)
    assert digest(dict(weights)) == model_of(run)


def test_another_savers_file_is_converted_under_the_jobs_names(run, tmp_path, capsys):
    torch.save(
        {
            "model_state_dict": run.state["model"].state_dict(),
            "optimizer_state_dict": run.state["optimizer"].state_dict(),
            "count": {"value": 3},
            "epoch": 4,
        },
        tmp_path / "old.pt",
    )
    names = ["--name", "model_state_dict=model", "--name", "optimizer_state_dict=optimizer"]
    source = [str(tmp_path / "old.pt"), str(tmp_path / "new")]
    assert main(["convert", *source, "--step", "2", *names]) == 0
    assert "left out, because it isn't the state of a part: epoch" in capsys.readouterr().out
    job = {name: run.state[name] for name in ("model", "optimizer")}
    with pytest.raises(cu.Mismatch, match="also holds 'count'"):
        cu.CheckpointManager(tmp_path / "new", job).resume()


def test_a_bare_state_dict_is_the_models(run, tmp_path):
    torch.save(run.state["model"].state_dict(), tmp_path / "weights.pt")
    assert main(["convert", str(tmp_path / "weights.pt"), str(tmp_path / "n"), "--step", "0"]) == 0
    model = torch.nn.Linear(4, 4)
    assert cu.CheckpointManager(tmp_path / "n", {"model": model}).resume()
    assert digest(dict(model.state_dict())) == model_of(run)


def test_a_checkpoint_of_the_first_version_is_read_by_every_command(tmp_path, capsys):
    shutil.copytree(KEPT / "one", tmp_path / "one")
    assert main(["verify", str(tmp_path / "one")]) == 0
    assert main(["diff", str(tmp_path / "one"), str(tmp_path / "one"), "--rng"]) == 0
    assert main(["export", str(tmp_path / "one"), str(tmp_path / "x.pt")]) == 0
    assert torch.load(tmp_path / "x.pt", weights_only=True).keys() >= {"model", "optimizer"}


def test_shards_are_put_together(tmp_path, capsys):
    shutil.copytree(KEPT / "sharded", tmp_path / "s")
    assert main(["export", str(tmp_path / "s"), str(tmp_path / "w.pt"), "--part", "model"]) == 0
    weights = torch.load(tmp_path / "w.pt", weights_only=True)
    assert weights and all(type(t) is torch.Tensor for t in weights.values())


def test_shards_become_a_checkpoint_of_a_job_without_shards(tmp_path):
    shutil.copytree(KEPT / "sharded", tmp_path / "s")
    assert main(["export", str(tmp_path / "s"), str(tmp_path / "all.pt")]) == 0
    held = torch.load(tmp_path / "all.pt", weights_only=True)
    assert main(["convert", str(tmp_path / "all.pt"), str(tmp_path / "n"), "--step", "2"]) == 0
    torch.manual_seed(0)
    shapes = {key: t.shape for key, t in held["model"].items()}
    layers = [torch.nn.Linear(*reversed(s)) for key, s in shapes.items() if "weight" in key]
    model = torch.nn.Sequential(*layers)
    assert model.state_dict().keys() == shapes.keys()
    optimizer = torch.optim.AdamW(reversed(list(model.parameters())))  # in another order
    parts = {"model": model, "optimizer": optimizer}
    parts |= dict.fromkeys(held.keys() - parts.keys())
    assert cu.CheckpointManager(tmp_path / "n", parts).resume()
    assert digest(dict(model.state_dict())) == digest(held["model"])
    for key, p in model.named_parameters():
        mine, saved = optimizer.state[p], held["optimizer"]["state"][key]
        assert mine["exp_avg"].equal(saved["exp_avg"]) and mine["step"] == saved["step"]


def test_keys_that_dcp_would_change_are_refused(tmp_path, capsys):
    with cu.CheckpointManager(tmp_path / "run", {"box": {"a": [{1: 2}]}}) as ckpt:
        ckpt.step()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "dcp")]) == 2
    assert "a key in 'box.a.0'" in capsys.readouterr().err


def test_a_safetensors_file_is_converted_bit_for_bit(run, tmp_path):
    held = dict(run.state["model"].state_dict())
    save_file(held, tmp_path / "w.safetensors")
    assert main(["convert", f"{tmp_path}/w.safetensors", f"{tmp_path}/new", "--step", "7"]) == 0
    model = torch.nn.Linear(*reversed(held["weight"].shape))
    ckpt = cu.CheckpointManager(tmp_path / "new", {"model": model})
    assert ckpt.resume() and ckpt.steps == 7
    assert digest(dict(model.state_dict())) == digest(held)


def test_a_checkpoint_is_listed_by_its_own_path(run, tmp_path, capsys):
    newest = run.directory.names()[0]
    assert main(["ls", str(tmp_path / "run" / newest)]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith(f"{newest}  step 2")
    assert main(["ls", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path} holds no checkpoint\n"


@pytest.mark.parametrize("body", ["", "x\ny\n", "[]", "{}", '{"files": []}', None])
def test_a_manifest_of_any_kind_is_damage_for_every_command(run, tmp_path, capsys, body):
    newest = run.directory.names()[0]
    folder, other = tmp_path / "run" / newest, str(tmp_path / "run")
    (folder / "manifest.json").unlink()
    if body is not None:
        seal = hashlib.sha256(body.encode()).hexdigest()
        (folder / "manifest.json").write_text(f"{body}\n{seal}\n")
    assert main(["ls", other]) == 0
    assert f"{newest} is damaged" in capsys.readouterr().out
    for path in (str(folder), other):
        assert main(["verify", path]) == 1
        assert f"{newest}: damaged" in capsys.readouterr().out
        assert main(["diff", path, path]) == 2 and main(["export", path, f"{tmp_path}/x.pt"]) == 2
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 2 and all(f"{newest} is damaged" in line for line in told)
    job = cu.CheckpointManager(tmp_path / "run", run.state)
    assert job.resume() and job.steps == 1


@pytest.mark.parametrize("text", ["[]", "null", '"x"', "{", '{"outcome": 1}'])
def test_a_status_of_any_kind_stops_no_list(run, tmp_path, text):
    (tmp_path / "run" / "status.json").write_text(text)
    assert main(["ls", str(tmp_path / "run")]) == 0


def test_an_export_that_fails_leaves_no_file(run, tmp_path, monkeypatch, capsys):
    def fails(content, path):
        path.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", fails)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "x.pt")]) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


WRONG = {
    "no directory": ["ls", "{}/nowhere"],
    "no checkpoint": ["verify", "{}"],
    "nothing to compare": ["diff", "{}", "{}"],
    "no such part": ["export", "{}/run", "{}/x.pt", "--part", "critic"],
    "exists": ["export", "{}/run", "{}/run"],
    "not weights": ["export", "{}/run", "{}/x.safetensors", "--part", "optimizer"],
    "no such file": ["convert", "{}/nothing.pt", "{}/new", "--step", "1"],
    "code": ["convert", "{}/code.pt", "{}/new", "--step", "1"],
    "no parts": ["convert", "{}/list.pt", "{}/new", "--step", "1"],
    "no such name": ["convert", "{}/dict.pt", "{}/new", "--step", "1", "--name", "a=b"],
    "no DCP": ["convert", "{}/run", "{}/new", "--step", "1"],
    "not OLD=NEW": ["convert", "{}/two.pt", "{}/new", "--step", "1", "--name", "a"],
    "two of a name": ["convert", "{}/two.pt", "{}/new", "--step", "1", "--name", "a=b"],
    "the manager's name": ["convert", "{}/two.pt", "{}/new", "--step", "1", "--name", "a=about"],
    "keys that aren't names": ["convert", "{}/numbers.pt", "{}/new", "--step", "1"],
    "an older step": ["convert", "{}/two.pt", "{}/run", "--step", "1"],
    "a file in the place": ["convert", "{}/two.pt", "{}/list.pt", "--step", "1"],
    "text": ["convert", "{}/text.txt", "{}/new", "--step", "1"],
    "cut": ["convert", "{}/cut.pt", "{}/new", "--step", "1"],
    "cut safetensors": ["convert", "{}/cut.safetensors", "{}/new", "--step", "1"],
    "a directory's DCP": ["convert", "{}/dcp", "{}/new", "--step", "1"],
    "no folder for it": ["export", "{}/run", "{}/nowhere/x.pt"],
    "another ending": ["export", "{}/run", "{}/x.v2"],
    "a file, not a directory": ["verify", "{}/two.pt"],
}


@pytest.mark.parametrize("argv", WRONG.values(), ids=WRONG)
def test_what_cant_be_done_is_one_line_and_status_2(run, tmp_path, capsys, argv):
    torch.save({"model": print}, tmp_path / "code.pt")
    torch.save([1], tmp_path / "list.pt")
    torch.save({"model": {}}, tmp_path / "dict.pt")
    torch.save({"a": {}, "b": {}}, tmp_path / "two.pt")
    torch.save({0: {}}, tmp_path / "numbers.pt")
    (tmp_path / "text.txt").write_text("hello world\n")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "two.pt").read_bytes()[:-90])
    save_file({"weight": torch.ones(2)}, tmp_path / "cut.safetensors")
    os.truncate(tmp_path / "cut.safetensors", 70)
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(b"no metadata")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert main([a.format(tmp_path) for a in argv]) == 2
    told = capsys.readouterr().err
    assert told.startswith("exact_resume: ") and told.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before

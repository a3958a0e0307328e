"""templates/checkpoint_utils.py on two ranks, case by case."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import Linear, Sequential

from grader.harness.inside.digest import digest
from grader.harness.launcher import Limits
from grader.harness.ranks import run_ranks
from grader.harness.run import Process
from grader.tests.templates.test_templates_utils import cu

from exact_resume.__main__ import main  # isort: skip (the import above makes it importable)

fsdp2 = pytest.mark.skipif(
    version("torch").startswith("2.6"), reason="FSDP2 of torch 2.6 needs CUDA"
)
JOB = Path(__file__).parent / "jobs" / "rank_cases.py"


@pytest.fixture
def results(launcher, tmp_path):
    def run(case: str) -> list[dict]:
        argv, folder = [[case, str(tmp_path / "ck")]] * 2, tmp_path / "ranks"
        results = run_ranks(launcher, folder, JOB, argv, Limits(), [tmp_path / "ck"])
        ended = [Process(folder / str(rank), None, result) for rank, result in enumerate(results)]
        assert [rank.status for rank in ended] == [0, 0], "\n".join(rank.text() for rank in ended)
        return [rank.first("result") for rank in ended]

    return run


def test_a_checkpoint_damaged_for_one_rank_is_passed_over_by_all_and_displaces_none(results):
    assert [r["resumed"] for r in results("damaged_for_one_rank")] == [[90, 95]] * 2


@fsdp2
@pytest.mark.parametrize(
    "case",
    [
        "gradients_left",
        "staged_on_the_cpu",
        "staged_beside_the_training",
        "no_gradient_yet",
        "after_an_evaluation",
        "moments_of_another_type",
        "another_order",
        "several_sharded_models",
    ],
)
def test_no_moment_is_lost(results, case):
    for r in results(case):
        assert r["moments"][0] == r["moments"][1]


def test_shards_are_copied_beside_the_training(results):
    for r in results("staged_beside_the_training"):
        assert r["later"] >= r["staged"] / 2


@pytest.mark.parametrize(
    "case",
    [
        "running_means_ddp",
        "running_means_of_others",
        pytest.param("running_means_fsdp2", marks=fsdp2),
    ],
)
def test_each_rank_gets_its_own_running_means_back(results, case):
    ranks = results(case)
    for r in ranks:
        assert r["buffers"][0] == r["buffers"][1]
    assert ranks[0]["buffers"] != ranks[1]["buffers"]


def test_a_rank_that_never_comes_is_an_error_that_says_so(results):
    told = results("a_rank_that_never_comes")[0]["told"]
    assert "step" in told and "every rank" in told.lower()


@fsdp2
def test_shards_without_a_place_in_the_job_are_a_mismatch(results):
    assert [r["raised"] for r in results("a_layer_less")] == ["Mismatch"] * 2


@fsdp2
def test_a_save_before_the_first_step_leaves_no_trace(results):
    for r in results("before_the_first_step"):
        assert r["weights"][0] == r["weights"][1]


@fsdp2
def test_a_sharded_model_of_another_type_is_a_mismatch(results):
    for r in results("another_type"):
        assert "torch.float32 in the checkpoint and torch.bfloat16" in r["told"]


def test_what_one_rank_cant_save_is_refused_on_all_before_the_first_step(results):
    for r in results("refused_on_one_rank"):
        assert "rank 1: TypeError: state['part']['value'] is a builtins.set" in r["told"]
        assert r["steps"] == 0


def test_a_full_disk_of_one_rank_is_waited_for_by_all(results):
    for r in results("disk_full_on_one_rank"):
        assert r["names"] == ["step-000000000003-1"] and r["tries"] == 1
        assert "rank 1: OSError" in r["full"][0]


@fsdp2
def test_a_sharded_checkpoint_of_the_first_version_is_resumed(results):
    assert [r["found"] for r in results("the_first_versions")] == [[True, 2, 4, 2.0]] * 2


@fsdp2
def test_the_commands_see_several_sharded_models(results, tmp_path, capsys):
    results("several_sharded_models")
    directory = str(tmp_path / "ck")
    assert main(["ls", directory]) == 0 and main(["verify", directory]) == 0
    told = capsys.readouterr().out
    assert "step 1  2 ranks" in told and "intact" in told
    shutil.copytree(tmp_path / "ck", tmp_path / "other")
    assert main(["diff", directory, str(tmp_path / "other")]) == 0
    assert main(["export", directory, str(tmp_path / "all.pt")]) == 0
    held = torch.load(tmp_path / "all.pt", weights_only=True)
    models = {n: held[n] for n in ("generator", "model", "average")}
    for part in models:
        to = str(tmp_path / f"{part}.safetensors")
        assert main(["export", directory, to, "--part", part]) == 0
        assert digest(load_file(to)) == digest(models[part])
    assert not models["model"]["0.weight"].equal(models["generator"]["0.weight"])
    assert main(["convert", str(tmp_path / "all.pt"), str(tmp_path / "new"), "--step", "1"]) == 0
    assert main(["export", directory, str(tmp_path / "dcp")]) == 0
    assert main(["convert", str(tmp_path / "dcp"), str(tmp_path / "newer"), "--step", "1"]) == 0
    for folder in ("new", "newer"):
        parts = {n: Sequential(Linear(4, 4), Linear(4, 4)) for n in models}
        owners = {"first": ["generator"], "second": ["model"], "both": ["model", "generator"]}
        for name, of in owners.items():
            kind = torch.optim.SGD if name == "both" else torch.optim.AdamW
            parts[name] = kind([p for n in of for p in parts[n].parameters()], lr=0.5)
        assert cu.CheckpointManager(tmp_path / folder, parts).resume()
        assert digest([dict(parts[n].state_dict()) for n in models]) == digest([*models.values()])
        for name in owners:
            saved = held[name]["state"]
            assert len(parts[name].state) == len(saved) == 4 * len(owners[name])
            named = {f"{n}.{k}": p for n in models for k, p in parts[n].named_parameters()}
            named |= dict(parts["model"].named_parameters()) if name == "second" else {}
            for key, values in saved.items():
                assert digest(parts[name].state[named[key]]) == digest(values), (folder, name, key)


def test_a_manager_that_only_rank_0_makes_is_an_error_that_names_the_others(results):
    told = results("a_manager_on_rank_0_alone")[0]["told"]
    assert "ranks [1] made no manager" in told and "if rank == 0" in told

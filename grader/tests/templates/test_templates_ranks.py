"""templates/checkpoint_utils.py on two ranks, case by case."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest

from grader.harness.launcher import Limits
from grader.harness.ranks import run_ranks
from grader.harness.run import Process

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

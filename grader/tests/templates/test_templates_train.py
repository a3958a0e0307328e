"""templates/train_with_checkpoint.py under faults: whatever happens, it ends where an undisturbed
run ends.
"""

from __future__ import annotations

import json
import re
import signal
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest

from grader.harness import scratch
from grader.harness.launch import run_life
from grader.harness.launcher import Limits
from grader.harness.ranks import run_ranks
from grader.harness.run import Process

JOB = Path(__file__).parent / "jobs" / "template.py"
SMALL = (
    "--epochs",
    2,
    "--samples",
    48,
    "--batch-size",
    4,
    "--width",
    16,
    "--layers",
    1,
    "--save-every-steps",
    4,
)


@dataclass
class Ended:
    """One life of all its ranks."""

    lives: list[Process]
    directory: Path

    @property
    def statuses(self) -> list[int]:
        return [life.status for life in self.lives]

    @property
    def text(self) -> str:
        return "\n".join(life.text() for life in self.lives)

    @property
    def weights(self) -> str | None:
        """The fingerprint that a run tells at its end."""
        told = re.search(r"done at step (\d+); weights ([0-9a-f]{64})", self.lives[0].text())
        return told and told[2]

    @property
    def status(self) -> dict:
        return json.loads((self.directory / "status.json").read_text())

    @property
    def resumed(self) -> str | None:
        told = re.search(r"resumed from .*/(step-\d+-\d+)", self.lives[0].text())
        return told and told[1]

    @property
    def events(self) -> list[str]:
        return self.lives[0].first("events")["names"]


class Job:
    def __init__(self, launcher, top: Path, *flags, world: int = 1):
        self.launcher, self.top, self.flags, self.world = launcher, top, flags, world
        self.directory, self.number = top / "ck", 0

    def run(self, at: str = "", do: str = "kill", rank: int = 0, world: int | None = None) -> Ended:
        """One life; what happens, happens to `rank`."""
        world, self.number = world or self.world, self.number + 1
        folder = self.top / str(self.number)

        def argv(r: int) -> list[str]:
            happens = ["--at", at, "--do", do] if at and r == rank else []
            return [
                str(a)
                for a in ("--checkpoints", self.directory, *happens, "--", *SMALL, *self.flags)
            ]

        if world == 1:
            results = [
                run_life(
                    self.launcher, folder / "0", JOB, argv(0), None, Limits(), [self.directory]
                )
            ]
        else:
            results = run_ranks(
                self.launcher,
                folder,
                JOB,
                [argv(r) for r in range(world)],
                Limits(),
                [self.directory],
            )
        return Ended(
            [Process(folder / str(r), None, result) for r, result in enumerate(results)],
            self.directory,
        )


@pytest.fixture
def job(launcher, short_path):
    def make(*flags, world: int = 1, name: str = "job") -> Job:
        (short_path / name).mkdir()
        return Job(launcher, short_path / name, *flags, world=world)

    return make


@pytest.fixture(scope="module")
def undisturbed(launcher):
    """The fingerprint of a run that nothing disturbs, and its events."""
    known: dict = {}
    top = scratch.make()

    def ended(*flags, world: int = 1) -> Ended:
        if (flags, world) not in known:
            (own := top / str(len(known))).mkdir()
            known[flags, world] = Job(launcher, own, *flags, world=world).run()
            assert known[flags, world].weights, known[flags, world].text
        return known[flags, world]

    yield ended
    scratch.remove(top)


fsdp2 = pytest.mark.skipif(
    version("torch").startswith("2.6"), reason="FSDP2 of torch 2.6 needs CUDA"
)
MODES = [pytest.param((), id="DDP"), pytest.param(("--fsdp",), id="FSDP2", marks=fsdp2)]
BOTH = pytest.mark.parametrize("workers", [0, 2])


@BOTH
@pytest.mark.parametrize("step", [1, 5, 12, 17])
def test_a_run_killed_at_a_step_ends_where_an_undisturbed_one_ends(job, undisturbed, workers, step):
    flags = ("--workers", workers)
    mine = job(*flags)
    assert mine.run(f"step:{step}").statuses == [-signal.SIGKILL]
    assert mine.run(f"step:{step + 5}").statuses == [-signal.SIGKILL]  # and once more
    after = mine.run()
    assert after.statuses == [0], after.text
    assert after.weights == undisturbed(*flags).weights


@pytest.mark.parametrize("how", ["--sync-saves", "--keep"], ids=["synchronous", "asynchronous"])
def test_a_run_killed_at_any_event_of_its_saves_ends_where_an_undisturbed_one_ends(
    job, undisturbed, how
):
    flags = ("--workers", 0, *(("--sync-saves",) if how == "--sync-saves" else ("--keep", 2)))
    events = undisturbed(*flags).events
    saves = [n for n, name in enumerate(events) if name.startswith("mkdir tmp-step")]
    first, last = saves[1], saves[2]  # one whole save, with its retention, up to the next
    # written in a thread, events don't fall at the same place in every run: a third of them shows
    # as much
    for event in range(first, last, 1 if how == "--sync-saves" else 3):
        mine = job(*flags, name=f"event-{event}")
        killed = mine.run(f"event:{event}")
        assert killed.statuses == [-signal.SIGKILL] or killed.weights, killed.text
        after = mine.run()
        assert after.statuses == [0], f"{events[event]}\n{after.text}"
        assert after.weights == undisturbed(*flags).weights, events[event]


@BOTH
@pytest.mark.parametrize("do", ["term", "term-group", "term-twice"])
def test_a_signal_ends_a_run_between_steps_with_everything_saved(job, undisturbed, workers, do):
    flags = ("--workers", workers)
    mine = job(*flags)
    ended = mine.run("step:6", do)
    assert ended.statuses == [75], ended.text
    assert ended.status["outcome"] == "preempted" and ended.status["steps"] == 6
    after = mine.run()
    assert after.resumed == "step-000000000006-1"
    assert after.weights == undisturbed(*flags).weights
    assert after.status["outcome"] == "done"
    assert mine.run().weights == after.weights  # run again when it's done: nothing happens


@pytest.mark.parametrize("at", ["evaluation", "step:12", "step:24", "event:12"])
def test_a_signal_in_evaluation_at_an_epochs_end_or_in_a_save_loses_nothing(job, undisturbed, at):
    flags = ("--workers", 0)
    mine = job(*flags)
    ended = mine.run(at, "term")
    assert ended.statuses in ([75], [0]), ended.text
    after = mine.run()
    assert after.weights == undisturbed(*flags).weights, after.text


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", [2, 4])
def test_ranks_of_which_one_is_killed_end_where_undisturbed_ones_end(job, undisturbed, mode, world):
    flags = ("--workers", 0, *mode)
    mine = job(*flags, world=world)
    killed = mine.run("step:6", rank=world - 1)
    assert killed.statuses[-1] == -signal.SIGKILL and 0 not in killed.statuses
    after = mine.run()
    assert after.statuses == [0] * world, after.text
    assert after.weights == undisturbed(*flags, world=world).weights


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_in_a_save_leaves_a_checkpoint_that_all_agree_on(
    job, undisturbed, mode, rank
):
    flags = ("--workers", 0, "--sync-saves", *mode)
    whole = undisturbed(*flags, world=2)
    events = whole.lives[rank].first("events")["names"]
    # what this rank does in the second save
    mine = [n for n, name in enumerate(events) if "000000000008" in name]
    assert len(mine) >= 2
    for event in dict.fromkeys((mine[0], mine[len(mine) // 2], mine[-1])):
        ranks = job(*flags, world=2, name=f"event-{event}")
        killed = ranks.run(f"event:{event}", rank=rank)
        assert killed.statuses[rank] == -signal.SIGKILL, killed.text
        after = ranks.run()
        assert after.statuses == [0, 0], f"{events[event]}\n{after.text}"
        assert after.resumed and after.weights == whole.weights, events[event]


@pytest.mark.parametrize("mode", MODES)
def test_a_signal_to_one_rank_stops_all_at_the_same_step(job, undisturbed, mode):
    flags = ("--workers", 0, *mode)
    mine = job(*flags, world=2)
    ended = mine.run("step:3", "term", rank=1)
    assert ended.statuses == [75, 75], ended.text
    assert ended.status["steps"] == 3
    after = mine.run()
    assert after.resumed == "step-000000000003-1"
    assert after.weights == undisturbed(*flags, world=2).weights


def test_a_signal_before_the_first_step_ends_the_run_there(job, undisturbed):
    mine = job("--workers", 0)
    ended = mine.run("resume", "term")
    assert ended.statuses == [75] and ended.status["steps"] == 0
    assert mine.run().weights == undisturbed("--workers", 0).weights


@pytest.mark.parametrize("mode", MODES)
def test_a_rank_whose_disk_is_full_ends_all_and_the_last_checkpoint_stays(job, undisturbed, mode):
    flags = ("--workers", 0, "--sync-saves", *mode)
    mine = job(*flags, world=2)
    ended = mine.run("step:6", "full", rank=1)
    # rank 1 cannot even report its own end
    assert ended.statuses[0] == 1 and 0 not in ended.statuses, ended.text
    assert ended.status["outcome"] == "failed"
    after = mine.run()
    assert after.resumed == "step-000000000004-1"
    assert after.weights == undisturbed(*flags, world=2).weights


def test_one_of_four_ranks_killed_in_a_save_leaves_a_checkpoint_that_all_agree_on(job, undisturbed):
    flags = ("--workers", 0, "--sync-saves")
    whole = undisturbed(*flags, world=4)
    events = whole.lives[3].first("events")["names"]
    mine = job(*flags, world=4)
    killed = mine.run(f"event:{len(events) // 2}", rank=3)
    assert killed.statuses[3] == -signal.SIGKILL, killed.text
    after = mine.run()
    assert after.resumed and after.weights == whole.weights, after.text


@fsdp2
def test_shards_of_four_ranks_resume_on_two(job):
    mine = job("--workers", 0, "--fsdp", world=4)
    assert mine.run("step:2", "term").statuses == [75] * 4
    after = mine.run(world=2)
    assert after.statuses == [0, 0], after.text
    assert after.resumed == "step-000000000002-1" and after.weights

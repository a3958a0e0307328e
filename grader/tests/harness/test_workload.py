"""The training job that students' functions are run with: it must not forgive, nor depend on how it
is started.
"""

from __future__ import annotations

import torch

from grader.course import submissions
from grader.harness.inside.digest import digest, rng_digests
from grader.harness.lab import Lab
from grader.harness.workbench import Bench
from grader.workload import job as workload
from grader.workload.ex01.fake_cuda_rng import PretendGpus


def test_spawned_workers_train_as_forked_ones_do(launcher, ex01):
    """macOS can't fork: there, every DataLoader worker imports the training script."""
    text = b"def read_latest(directory): pass\ndef batches(job): yield from job.loader\n"
    bench = Bench(
        submissions.Submission(ex01.starter, ex01.module, {ex01.module: text}),
        launcher,
        seed=0,
        jobs=2,
    )
    try:
        flags = (
            "ex01/train.py",
            "--workers",
            2,
            "--epochs",
            1,
            "--steps-per-epoch",
            3,
            "--save-every",
            1000,
        )
        forked, spawned = (
            Lab(bench, "workers").launch(*flags, *more) for more in ((), ("--spawn",))
        )
        assert spawned.finished, spawned.last.text()
        assert spawned.trajectory == forked.trajectory
    finally:
        bench.close()


def test_a_relaunched_job_has_nothing_in_common_with_the_old_one():
    job = workload.build(seed=1, epochs=1, steps_per_epoch=2)
    before, generators = {k: digest(v) for k, v in job.model.state_dict().items()}, rng_digests()
    workload.estrange(job)
    assert all(digest(v) != before[k] for k, v in job.model.state_dict().items())
    assert all(v != generators[k] for k, v in rng_digests().items() if k != "CUDA RNG")


def test_every_part_of_the_job_moves_at_every_step():
    """What doesn't move needs no checkpoint, and its loss would go unseen."""
    job = workload.build(seed=1, epochs=1, steps_per_epoch=3)
    batch = next(iter(job.loader))
    before = {k: digest(v) for k, v in job.model.state_dict().items()}
    job.train_step(batch)
    assert all(digest(v) != before[k] for k, v in job.model.state_dict().items())


def test_pretended_gpus_answer_however_they_are_asked():
    with PretendGpus(2, seed=1) as gpus:
        assert torch.cuda.is_available() and torch.cuda.device_count() == 2
        assert not torch.cuda.is_initialized()
        first, second = (s.clone() for s in gpus.states)
        assert torch.equal(torch.cuda.get_rng_state(1), second)
        assert torch.cuda.is_initialized()
        assert torch.equal(torch.cuda.get_rng_state(), first)
        with torch.cuda.device(1):
            assert torch.equal(torch.cuda.get_rng_state(), second)
        assert torch.equal(torch.cuda.default_generators[1].get_state(), second)
        assert [s.tolist() for s in torch.cuda.random.get_rng_state_all()] == [
            first.tolist(),
            second.tolist(),
        ]
        torch.cuda.set_rng_state(new_state=first, device="cuda:1")
        assert torch.equal(gpus.states[1], first)
        torch.cuda.default_generators[0].set_state(second)
        torch.cuda.set_rng_state_all([first, second])
        assert [s.tolist() for s in gpus.states] == [first.tolist(), second.tolist()]
        torch.manual_seed(7)
        assert torch.equal(gpus.states[0], gpus.states[1])
        assert not torch.equal(gpus.states[0], first)
    with PretendGpus(0, seed=1):
        assert not torch.cuda.is_available() and torch.cuda.get_rng_state_all() == []
    assert torch.cuda.device_count() == 0 or torch.cuda.is_available()

"""The snippets of README's quick reference run, and keep what the text around them says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from grader.course.catalog import ROOT
from grader.tests.crash.traced import traced

README = ROOT / "README.md"


def snippets() -> list[str]:
    section = README.read_text().split("\n## Quick reference\n")[1].split("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)


def start(folder: Path, code: str, *args: object) -> subprocess.Popen:
    (folder / "snippets.py").write_text("\n".join(snippets()[i] for i in (0, 2)))
    (folder / "signals.py").write_text(snippets()[1])
    (folder / "script.py").write_text(textwrap.dedent(code))
    return subprocess.Popen(
        [sys.executable, "script.py", *map(str, args)],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, code: str, *args: object) -> None:
    with start(folder, code, *args) as process:
        try:
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, output


def test_the_quick_reference_has_three_snippets():
    assert len(snippets()) == 3


TRAIN = """
    import pytest
    from snippets import *

    def job():
        layers = torch.nn.Linear(4, 4), torch.nn.Dropout(), torch.nn.Linear(4, 1)
        model = torch.nn.Sequential(*layers)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)

    def train(model, optimizer, scheduler, epochs):
        for _ in range(epochs):
            loss = model(torch.randn(8, 4) + random.random()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        return [p.tolist() for p in model.parameters()]
"""


def test_a_saved_run_goes_on_bit_for_bit(tmp_path):
    run(
        tmp_path,
        TRAIN
        + """
    one = job()
    train(*one, 3)
    save_checkpoint(*one, 3, "c.pt")
    expected = train(*one, 3)
    two = job()
    random.random(), torch.rand(3)
    assert load_checkpoint(*two, "c.pt") == 3
    assert train(*two, 3) == expected
    assert "c.pt.tmp" not in os.listdir()

    # without a scheduler; and a scheduler that the file doesn't hold
    save_checkpoint(one[0], one[1], None, 4, "c.pt")
    assert load_checkpoint(one[0], one[1], None, "c.pt") == 4
    with pytest.raises(TypeError):
        load_checkpoint(*job(), "c.pt")
    with pytest.raises(RuntimeError):
        load_checkpoint(torch.nn.Linear(4, 4), one[1], None, "c.pt")
    """,
    )


@traced
def test_a_save_survives_every_crash(tmp_path):
    (tmp_path / "snippets.py").write_text(snippets()[0])
    (tmp_path / "mine.py").write_text(
        textwrap.dedent("""
            import os, torch
            from snippets import load_checkpoint, save_checkpoint

            def job(n):
                torch.manual_seed(n)
                return torch.nn.Linear(3, 2), torch.nn.Identity()  # a real optimizer takes a second

            def state(n):
                return {"n": n, "weight": job(n)[0].weight.detach().clone()}

            def save(directory, state):
                model, optimizer = job(state["n"])
                save_checkpoint(model, optimizer, None, state["n"], f"{directory}/c.pt")

            def load(directory):
                if not os.path.exists(f"{directory}/c.pt"):
                    return None
                model, optimizer = job(0)
                n = load_checkpoint(model, optimizer, None, f"{directory}/c.pt")
                return {"n": n, "weight": model.weight.detach()}
        """)
    )
    command = [sys.executable, "-m", "grader", "crashtest", "--no-flips"]
    functions = [f"--{name}=mine.py:{name}" for name in ("save", "load", "state")]
    done = subprocess.run(
        [*command, *functions],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr


STOP = """
    import sys, time
    from signals import *

    def train_step():
        print("in a step", flush=True)
        time.sleep(0.5)
        print("finished", flush=True)

    train(0, int(sys.argv[1]), train_step, lambda step: print("saved", step, flush=True))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_lets_the_step_finish_and_is_answered_with_75(tmp_path, number):
    with start(tmp_path, STOP, 100) as process:
        try:
            assert process.stdout.readline() == "in a step\n"
            process.send_signal(number)
            process.send_signal(signal.SIGTERM)  # a second one, as Slurm sends at a time limit
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert output.splitlines() == ["finished", "saved 1"]
    assert process.returncode == 75


def test_without_a_signal_the_job_is_done(tmp_path):
    with start(tmp_path, STOP, 2) as process:
        output, _ = process.communicate(timeout=60)
    assert output.splitlines()[-1] == "saved 2"
    assert process.returncode == 0


def test_ranks_resume_bit_for_bit_and_all_learn_of_a_failed_save(tmp_path):
    run(
        tmp_path,
        TRAIN
        + """
    import torch.multiprocessing as mp
    from torch.nn.parallel import DistributedDataParallel as DDP

    def wrapped():
        model, optimizer, scheduler = job()
        return DDP(model), optimizer, scheduler

    def rank_main(rank):
        dist.init_process_group("gloo", init_method="file://" + os.path.abspath("meet"),
                                rank=rank, world_size=2)
        torch.manual_seed(0)
        one, two = wrapped(), wrapped()
        train(*two, 2)  # the order in which DDP sums gradients is settled now
        torch.manual_seed(rank)
        random.seed(rank)
        train(*one, 3)
        save_checkpoint_ddp(*one, 3, rank, "c.pt")
        assert os.path.exists("c.pt")
        expected = train(*one, 3)
        assert load_checkpoint(two[0].module, two[1], two[2], "c.pt", rank) == 3
        assert train(*two, 3) == expected
        with pytest.raises(RuntimeError, match="rank 0 couldn't save"):
            save_checkpoint_ddp(*one, 4, rank, "missing/c.pt")
        dist.barrier()
        dist.destroy_process_group()
        os._exit(0)  # torch 2.13 can deadlock where the models' process group is freed

    if __name__ == "__main__":
        mp.spawn(rank_main, nprocs=2)
    """,
    )

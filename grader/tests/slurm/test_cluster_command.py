"""`grade cluster`, and what it says where a cluster can't be started."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from grader import cli
from grader.course.catalog import ROOT
from grader.errors import UsageError
from grader.processes import wait_until
from grader.slurm import Cluster, NotInstalled, config, installation, preload
from grader.tests.slurm.conftest import grade_cluster, missing, needs_slurm


@needs_slurm
def test_up_status_shell_down(place):
    def run(*args, **options):
        return grade_cluster(place / "cli", *args, env={"SHELL": "/bin/sh"}, **options)

    try:
        up = run("up", "--nodes", 1)
        assert (
            up.returncode == 0
            and f"export SLURM_CONF={place}/cli/lab/slurm.conf" in up.stdout
            and "grade cluster shell" in up.stdout
        )
        assert (
            run("shell", "--", "srun", "sh", "-c", "echo $SLURMD_NODENAME; exit 5").stdout == "n1\n"
        )
        assert run("shell", "srun", "sh", "-c", "exit 5").returncode == 5
        assert run("shell", input="squeue -h; exit 9\n").returncode == 9  # $SHELL
        again = run("up")
        assert again.returncode == 2 and "grade cluster down" in again.stderr
        run("shell", "sbatch", "-J", "mine", "-o", "/dev/null", "--wrap", "sleep 600")
        status = run("status")
        assert (
            status.returncode == 0
            and "n1 " in status.stdout
            and " mine " in status.stdout
            and str(place / "cli" / "lab") in status.stdout
        )
        os.kill(Cluster(place / "cli" / "lab").pids()["slurmctld"], signal.SIGKILL)
        assert wait_until(lambda: "slurmctld" not in Cluster(place / "cli" / "lab").pids(), 60)
        status = run("status")
        assert status.returncode == 3 and "slurmctld has died" in status.stdout
        refused = run("shell", "true")
        assert refused.returncode == 3 and len(refused.stderr.splitlines()) == 1
    finally:
        down = run("down")
    assert down.returncode == 0 and down.stderr == ""
    assert not (place / "cli").exists()
    for args in (["down"], ["down", "--all"], ["status"]):
        assert run(*args).returncode == 0


LONG = "/tmp/" + "x" * 80


@pytest.mark.parametrize(
    "args",
    [
        ["up", "--nodes", "0"],
        ["up", "--nodes", "99"],
        ["up", "--name", "A b"],
        ["up", "--name", ""],
        ["up", "--name", "../x"],
        ["up", "--grace", "-1"],
        ["up", "--proctrack", "magic"],
        ["shell", "--name", "nothing"],
        ["shell", "true"],
        ["down", "--name", "x/y"],
        ["sideways"],
        ["status", "more"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_exit_2(place, args, monkeypatch, capsys):
    monkeypatch.setenv("GRADE_CLUSTERS", str(place / "no"))
    monkeypatch.setattr(sys, "argv", ["grade", "cluster", *args])
    monkeypatch.setattr(cli, "end_in_order", lambda: None)  # not in this process
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
    assert not (place / "no").exists()


@pytest.mark.parametrize("where", [LONG, "/tmp/not a name", "/proc/x", "/dev/null"])
def test_a_place_that_cant_be_one_is_one_line_and_exit_2(where):
    done = grade_cluster(where, "up")
    assert (
        done.returncode == (2 if not missing() else done.returncode)
        and len(done.stderr.strip().splitlines()) == 1
    )
    assert not os.path.lexists(Path(where) / "lab")


@pytest.mark.parametrize(
    "options",
    [{"nodes": 0}, {"nodes": "2"}, {"grace": -1}, {"proctrack": "x"}, {"settings": {"A": "b\nc"}}],
)
def test_wrong_options_are_told(place, options):
    with pytest.raises(UsageError):
        Cluster(place / "never", **options).start()
    assert not (place / "never").exists()


@needs_slurm
def test_the_longest_directory_works_and_a_longer_one_is_refused(place):
    name = "y" * (config.LONGEST - len(str(place)) - 1)
    with Cluster(place / name, nodes=1) as cluster:
        assert cluster.run(["srun", "hostname"]).returncode == 0
    with pytest.raises(UsageError, match="bytes long"):
        Cluster(place / (name + "y")).start()


def test_where_slurm_is_missing_a_stand_in_comes_up_and_one_line_says_how_to_get_slurm(
    place, tmp_path, monkeypatch
):
    done = grade_cluster(place / "no", "up", env={"PATH": str(tmp_path)})
    assert grade_cluster(place / "no", "down").returncode == 0
    assert done.returncode == 0 and done.stdout.startswith("stand-in lab is up")
    assert (
        len(done.stderr.strip().splitlines()) == 1
        and "stand-in" in done.stderr
        and "make slurm" in done.stderr
    )
    assert not (place / "no").exists()
    monkeypatch.setattr(installation.shutil, "which", lambda *_, **__: None)
    with pytest.raises(
        NotInstalled, match="Slurm isn't installed here; on Debian and Ubuntu, `make slurm`"
    ):
        Cluster(place / "never").start()
    monkeypatch.setattr(installation.sys, "platform", "darwin")
    with pytest.raises(NotInstalled, match="Linux"):
        Cluster(place / "never").start()


@needs_slurm
def test_without_a_compiler_fast_limits_are_refused_and_say_so(place, tmp_path):
    for folder in os.environ["PATH"].split(os.pathsep):
        for file in Path(folder).glob("*") if os.path.isdir(folder) else []:
            if file.name not in preload.COMPILERS and not os.path.lexists(tmp_path / file.name):
                (tmp_path / file.name).symlink_to(file)
    env = {"PATH": str(tmp_path)}
    refused = grade_cluster(place / "cc", "up", "--fast-limits", env=env)
    assert refused.returncode == 3 and "no C compiler" in refused.stderr
    assert grade_cluster(place / "cc", "status", env=env).stdout.startswith("no cluster is up")


def test_make_slurm_says_what_it_would_need():
    if shutil.which("make") is None:
        pytest.skip("no make here")
    done = subprocess.run(["make", "-n", "slurm"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and all(
        name in done.stdout for name in ("slurmctld", "slurmd", "slurm-client", "munge")
    )

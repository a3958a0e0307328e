"""The stand-in does what the real cluster does. Where they differ, the stand-in is wrong."""

from __future__ import annotations

import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from grader.slurm import Cluster, ClusterError, StandIn, installation, preload
from grader.tests.conftest import IN_CI
from grader.tests.slurm.conformance import clients, requeue, signals  # noqa: F401  their scenarios
from grader.tests.slurm.conformance.lab import SCENARIOS, SITES, Lab


def make(
    kind: str, place: Path, nodes: int, grace: int | None = None, settings: dict | None = None
) -> Cluster:
    settings = {"FirstJobId": "7001"} | (settings or {})  # no number that anything else has
    if kind == "real":  # as short as Slurm lets it be
        return Cluster(
            place,
            nodes=nodes,
            cpus=64,
            grace=10 if grace is None else grace,
            fast_limits=True,
            settings=settings,
        )
    return StandIn(
        place,
        nodes=nodes,
        cpus=64,
        grace=8 if grace is None else grace,
        kill_wait=1.5,
        settings=settings,
    )


def missing() -> str:
    try:
        installation.find()
    except ClusterError as e:
        return f"the stand-in is checked, the expectations aren't: {e}"
    return (
        ""
        if preload.compiler()
        else "the stand-in is checked, the expectations aren't: no C compiler for --fast-limits"
    )


real = pytest.param(
    "real", marks=pytest.mark.skipif(bool(missing()) and not IN_CI, reason=missing() or "there")
)


@pytest.fixture(scope="module", params=["stand-in", real])
def results(request):
    """Every scenario at once, those of a site on one cluster: {name: what will have been seen}."""
    wanted = [
        i.callspec.params["scenario"]
        for i in request.session.items
        if getattr(i, "callspec", None) and i.callspec.params.get("results") == request.param
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp", prefix="s")))
        labs = {}
        for number, site in enumerate(dict.fromkeys(SCENARIOS[name].site for name in wanted)):
            files = folder / f"files{number}"
            files.mkdir()
            labs[site] = Lab(
                stack.enter_context(make(request.param, folder / f"c{number}", **SITES[site])),
                files,
            )
        threads = stack.enter_context(ThreadPoolExecutor(len(wanted)))
        yield {
            name: threads.submit(SCENARIOS[name].run, labs[SCENARIOS[name].site]) for name in wanted
        }


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(results: dict[str, Future], scenario: str):
    assert results[scenario].result() == SCENARIOS[scenario].expected

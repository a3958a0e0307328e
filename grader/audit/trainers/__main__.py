"""Audits trainers that other people wrote, each resumed as its documentation says.

python -m grader.audit.trainers --list                 what there is
python -m grader.audit.trainers --folder DIR           fetches and audits everything
python -m grader.audit.trainers --folder DIR --only nanogpt
python -m grader.audit.trainers --folder DIR --write   also writes docs/trainers.md
python -m grader.audit.trainers --folder DIR --chaos   ckpt-chaos and an audit, on the same scripts

It needs git, pip and the network for what isn't below DIR yet, and writes only there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from grader.audit.trainers import cases, chaos, fetching, page, running
from grader.audit.trainers.cases import Case, Trainers
from grader.errors import UsageError
from grader.files import write_atomically
from grader.harness import scratch
from grader.interrupt import Interrupted, end_in_order
from grader.report.logs import escaped


@click.command(
    help=__doc__.replace("\n\n", "\n\n\b\n", 1),  # \b: keep its lines
    context_settings={"max_content_width": 100},
)
@click.option("--list", "listing", is_flag=True, help="List the trainers; fetch and run nothing.")
@click.option("--only", multiple=True, metavar="NAME", help="Only this trainer; several are fine.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where everything goes: repositories, packages, runs and results.",
)
@click.option(
    "--budget",
    type=click.IntRange(30),
    metavar="SECONDS",
    help="Time for each audit, instead of the time that the list gives it.",
)
@click.option("--write", is_flag=True, help="Write the new results into docs/.")
@click.option("--page", "again", is_flag=True, help="Write docs/trainers.md again, run nothing.")
@click.option("--chaos", "peer", is_flag=True, help="Compare ckpt-chaos with an audit instead.")
def main(
    listing: bool,
    only: tuple[str, ...],
    folder: Path | None,
    budget: int | None,
    write: bool,
    again: bool,
    peer: bool,
) -> None:
    trainers = cases.read()
    if again:
        write_atomically(page.PAGE, page.text(trainers, page.load()))
        return None
    if peer:
        return _compare(trainers, only, _made(folder), budget or 240, write)
    chosen = _chosen(trainers, only)
    if listing:
        for case in chosen:
            click.echo(f"{case.name:<14} {case.title}: {case.uses}")
        return None
    folder = _made(folder)
    _announce(trainers, chosen, folder, budget)
    needed = dict.fromkeys(case.environment for case in chosen if case.environment)
    fetching.room(folder, [trainers.environments[name] for name in needed])
    failed = []
    for case in chosen:
        try:
            result = _audit(trainers, case, folder, budget or case.budget)
        except UsageError as e:  # the others may still work
            click.echo(f"trainers: {escaped(str(e))}", err=True)
            failed.append(case.name)
            continue
        _show(case, result)
        if write:
            _write(trainers, case, result)
    if failed:
        raise UsageError(f"{len(failed)} of {len(chosen)} failed: {', '.join(failed)}")
    return None


def _made(folder: Path | None) -> Path:
    if folder is None:
        raise UsageError("--folder DIR is missing: where everything goes")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise UsageError(f"--folder {folder}: {e.strerror}") from e
    return folder.resolve()


def _compare(
    trainers: Trainers, only: tuple[str, ...], folder: Path, budget: int, write: bool
) -> None:
    scripts = {script.name: script for script in chaos.SCRIPTS}
    if unknown := set(only) - scripts.keys():
        raise UsageError(f"--only {min(unknown)}: there are {', '.join(scripts)}")
    wanted = trainers.environments[chaos.ENVIRONMENT]
    click.echo(f"Everything goes below {folder}: pip {' '.join(wanted.packages)}, and runs of")
    chosen = [script for script in chaos.SCRIPTS if not only or script.name in only]
    for script in chosen:
        click.echo(f"  {script.train}")
    fetching.room(folder, [wanted])
    programs = fetching.environment(wanted, folder, click.echo)
    for script in chosen:
        result = chaos.run(script, programs, folder, budget, click.echo)
        click.echo(f"{script.name}: {json.dumps(result)}")
        if write:
            results = page.load()
            page.keep(results, chaos.ENVIRONMENT, scripts, script.name, result)
            table = chaos.inserted(chaos.PAGE.read_text(), results[chaos.ENVIRONMENT])
            write_atomically(chaos.PAGE, table)


def _chosen(trainers: Trainers, only: tuple[str, ...]) -> list[Case]:
    for name in only:
        if name not in trainers.cases:
            known = ", ".join(trainers.cases)
            raise UsageError(f"--only {name}: there is no such trainer; there are {known}")
    return [case for case in trainers.cases.values() if not only or case.name in only]


def _announce(trainers: Trainers, chosen: list[Case], folder: Path, budget: int | None) -> None:
    click.echo(f"Everything goes below {folder}. It fetches, where that isn't there yet:")
    for case in chosen:
        if case.repository:
            click.echo(f"  git  {case.repository} at {case.commit[:12]}")
    for name in dict.fromkeys(case.environment for case in chosen if case.environment):
        wanted = trainers.environments[name]
        click.echo(f"  pip  {' '.join(wanted.packages)} (about {wanted.disk} MB)")
    click.echo("It runs, with your rights and many times each, and kills:")
    for case in chosen:
        click.echo(f"  {case.words(case.train)}")
    total = sum(budget or case.budget for case in chosen)
    click.echo(f"The audits end after {total / 60:.0f} minutes at most, and what they began.")
    if len(str(folder / "t")) > scratch.LONGEST:
        click.echo(f"Runs are in /tmp: a socket's path below {folder}/t would be too long.")


def _audit(trainers: Trainers, case: Case, folder: Path, budget: float) -> dict[str, Any]:
    def say(text: str) -> None:
        click.echo(f"{case.name}: {text}")

    programs = None
    if case.environment:
        programs = fetching.environment(trainers.environments[case.environment], folder, say)
    where = fetching.clone(case, folder, say)
    say(f"audit, at most {budget:.0f} s (log: {folder}/logs/audit-{case.name}.log)")
    result: dict[str, Any] = running.run(case, where, folder, programs, budget)
    return result


def _show(case: Case, result: dict[str, Any]) -> None:
    harms = [finding["harm"] for finding in result["findings"]]
    counts = ", ".join(f"{harms.count(h)} {h}" for h in dict.fromkeys(harms)) or "no findings"
    click.echo(f"{case.name}: {len(result['faults'])} faults in {result['seconds']} s; {counts}")
    for finding in result["findings"]:
        click.echo(f"  {finding['harm']:<7} {finding['title']} [{finding['code']}]")


def _write(trainers: Trainers, case: Case, result: dict[str, Any]) -> None:
    results = page.load()
    page.keep(results, "trainers", trainers.cases, case.name, result)
    write_atomically(page.PAGE, page.text(trainers, results))


if __name__ == "__main__":
    end_in_order()
    try:
        main(standalone_mode=True)
    except UsageError as e:
        click.echo(f"trainers: {e}", err=True)
        sys.exit(2)
    except Interrupted as e:
        sys.exit(128 + e.number)

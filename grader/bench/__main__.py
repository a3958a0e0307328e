"""`make bench`: every figure that the course states, as ratios within one run.

python -m grader.bench                        the grader, crash testing, and the templates
                                              against other savers
python -m grader.bench --only grading         launch and grading times, and pages
python -m grader.bench --only watch           from saving a file to its first verdict
python -m grader.bench --only class           a class undisturbed, killed twice, on a cluster
                                              (--students N of --exercise EX)
python -m grader.bench --only isolation       lives and gradings with and without the sandbox
python -m grader.bench --only load            20 gradings of each solution alongside 8 busy
                                              processes (an hour)
python -m grader.bench --only crash           disk states a second, their growth, the cost of
                                              recording
python -m grader.bench --only audit           the cost of the probe a step, and an audit of the
                                              template's script
python -m grader.bench --only savers          the templates; --sizes 16,256,1024,4096 MiB
python -m grader.bench --only flakes          20 gradings of the solution and of every mutant
                                              (hours; --record adds them up)
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from grader.course import catalog

PARTS = ["grading", "watch", "class", "isolation", "load", "crash", "audit", "savers", "flakes"]


@click.command(
    help=__doc__.replace("\n\n", "\n\n\b\n", 1),  # \b: keep its lines
    context_settings={"max_content_width": 100},
)
@click.option(
    "--only",
    type=click.Choice(PARTS),
    help="One part.",
)
@click.option("--exercise", help="Exercises whose solution and mutants to grade (ex01; load: all).")
@click.option("--busy", default=8, help="Busy processes alongside the gradings under load.")
@click.option("--students", default=60, help="Of the class that is graded.")
@click.option("--rounds", default=5, help="How often to measure everything.")
@click.option(
    "--plain/--no-plain", default=True, help="Also grade with plain processes (a minute)."
)
@click.option("--flakes", "flake_rounds", default=20, help="Gradings of each submission.")
@click.option(
    "--load",
    type=click.Choice(["none", "all", "half"]),
    default="half",
    help="How many of them run with every core busy.",
)
@click.option(
    "--record",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Add up the flakes' rounds in this JSON file.",
)
@click.option("--sizes", default="16,256,1024", help="MiB of state to save.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="On the disk to measure (default: TMPDIR).",
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the savers' figures into this PNG.",
)
def main(
    only, exercise, busy, students, rounds, plain, flake_rounds, load, record, sizes, folder, plot
):
    if only in (None, "grading"):
        from grader.bench import grading

        grading.launch_times(rounds)
        grading.grade_times(catalog.find(exercise or "ex01"), plain)
        grading.page_cost(catalog.find(exercise or "ex01"))
    if only in (None, "watch"):
        from grader.bench import watch

        watch.first_verdicts(rounds)
    if only == "class":
        from grader.bench import classroom

        sys.exit(classroom.run(exercise or "ex01", students))
    if only in (None, "isolation"):
        from grader.bench import isolation

        isolation.life_cost(10 * rounds)
        isolation.grading_cost(max(1, rounds // 2))
    if only == "load":
        from grader.bench import isolation

        sys.exit(isolation.under_load(flake_rounds, busy, [exercise] if exercise else []))
    if only in (None, "crash"):
        from grader.bench import crash

        crash.run(rounds)
    if only in (None, "audit"):
        from grader.bench import audit

        audit.run()
    if only in (None, "savers"):
        from grader.bench import templates

        templates.run([int(s) for s in sizes.split(",")], rounds, folder, plot)
    if only == "flakes":
        from grader.bench import flakes

        sys.exit(flakes.run(catalog.find(exercise or "ex01"), flake_rounds, load, record))


if __name__ == "__main__":
    main()

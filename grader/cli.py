"""The `grade` command."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import textwrap
import traceback
from pathlib import Path

import click

from grader.course import catalog, derive, progress, selection, starters, submissions
from grader.course.catalog import ROOT, Exercise
from grader.course.release.cli import release
from grader.crash.cli import crashtest
from grader.errors import UsageError
from grader.exports.cli import export
from grader.harness import sandbox
from grader.interrupt import Interrupted, end_in_order
from grader.processes import reap_descendants
from grader.report.logs import escaped
from grader.slurm.cli import cluster

STATE = ROOT / ".grade"
PROGRESS = progress.Progress(STATE / "progress.json")


class DefaultToGrade(click.Group):
    """`grade ex01` is `grade run-checks ex01`: without a command's name, it grades."""

    def parse_args(self, ctx, args):
        first = next((a for a in args if not a.startswith("-")), None)
        if args[:1] not in (["--help"], ["-h"]) and first not in self.commands:
            args = ["checks", *args]
        return super().parse_args(ctx, args)

    def format_commands(self, ctx, formatter):
        rows = [(n, c.get_short_help_str(80)) for n, c in self.commands.items() if not c.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Name(click.ParamType):
    """A file's or directory's; an empty one, from an unset variable, would mean the current
    directory.
    """

    name = "path"

    def convert(self, value, param, ctx):
        return Path(value) if value else self.fail("the name is empty", param, ctx)


SYNTAX = """
\b
grade [ex01 | ex01.3 | ex01.3/CHECK ...] [--submission DIR | --solution]
      [--json FILE] [--junit FILE] [--html FILE] [--jobs N] [--seed N] [--fault F]
      [--launcher fork|plain] [--cluster slurm|stand-in|site] [--sandbox auto|require|off]

Runs your training job as real processes, kills it, and compares the resumed run with an
undisturbed one, bit for bit. Exit status: 0 all graded tasks pass, 1 some don't,
2 wrong usage, 3 inconclusive. `grade checks --help` explains the options.
"""


@click.group(
    cls=DefaultToGrade, context_settings={"help_option_names": ["-h", "--help"]}, help=SYNTAX
)
def main_group() -> None:
    pass


@main_group.command("checks", hidden=True)
@click.argument("names", nargs=-1, metavar="[EXERCISE | TASK | TASK/CHECK]...")
@click.option(
    "--task", "task_names", multiple=True, metavar="N", help="Grade only this task (repeatable)."
)
@click.option(
    "--check",
    "check_names",
    multiple=True,
    metavar="NAME",
    help="Run only this check (repeatable); a part of its name is enough. ex01.3/NAME means the "
    "same. `grade show ex01.3` lists them.",
)
@click.option(
    "--submission",
    type=Name(),
    metavar="DIR",
    help="Grade this directory: laid out like starter/, or holding ex01...",
)
@click.option("--solution", is_flag=True, help="Grade the reference solutions.")
@click.option(
    "--json",
    "json_file",
    type=Name(),
    metavar="FILE",
    help="Write the results as JSON; - for standard output.",
)
@click.option(
    "--junit",
    "junit_file",
    type=Name(),
    metavar="FILE",
    help="Write the results as JUnit XML; - for standard output.",
)
@click.option(
    "--html",
    "html_file",
    type=Name(),
    metavar="FILE",
    help="Write the results as one page, with timelines of the runs that failed; - for standard "
    "output.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Processes at a time (the number of cores).",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**31),
    metavar="N",
    help="Draw model, data and faults from this seed (a new one each time).",
)
@click.option(
    "--fault", metavar="FAULT", help="Inject only this fault, as a message prints it: kill@12."
)
@click.option(
    "--launcher",
    type=click.Choice(["fork", "plain"]),
    help="How processes start: forked from a warm server, or plainly (slower, same verdicts).",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(5, 3600),
    metavar="S",
    help="Seconds that one process may take (60).",
)
@click.option(
    "--grading-limit",
    type=click.FloatRange(5, 86400),
    metavar="S",
    help="Seconds that the grading of one exercise may take (1800).",
)
@click.option(
    "--sandbox",
    "policy",
    type=click.Choice(sandbox.POLICIES),
    default="auto",
    help="What student code may see and touch: auto takes the best sandbox that this machine "
    "has, require fails without one, off is for submissions that you trust.",
)
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "stand-in", "site"]),
    help="ex04: a real Slurm on this machine, a stand-in, or the site's (on a login node).",
)
@click.option("-s", "--stream", is_flag=True, help="Show what your code prints, as it prints it.")
@click.option("--partition", metavar="P", help="... on the site: the partition.")
@click.option("--account", metavar="A", help="... on the site: the account.")
def checks(
    names,
    task_names,
    check_names,
    submission,
    solution,
    json_file,
    junit_file,
    html_file,
    jobs,
    seed,
    fault,
    launcher,
    time_limit,
    grading_limit,
    policy,
    cluster,
    stream,
    partition,
    account,
):
    """Grade exercises (what `grade` does without a command)."""
    from grader import engine, explain
    from grader.checks.ex04.cluster_runs import Where
    from grader.harness.faults import parse_schedule
    from grader.harness.launcher import Limits, choose
    from grader.report import html, output, terminal

    def page(results):
        return html.page(results, explain.explanations())

    chosen = selection.parse(
        names or [e.id for e in _exercises(submission)], task_names, check_names
    )
    faults = _parse(parse_schedule, fault) if fault else None
    if (partition or account) and cluster != "site":
        raise UsageError("--partition and --account go with --cluster site")
    where = Where(cluster, partition, account) if cluster else None
    submissions = [_submission(each.exercise, submission, solution) for each in chosen]
    for each in chosen:
        engine.select(each)  # an error before any grading
    limits = Limits(wall=time_limit, cpu=max(5.0, time_limit / 2)) if time_limit else Limits()
    confined = sandbox.choose(policy)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    out = terminal.console()
    if "-" in (str(json_file), str(junit_file), str(html_file)):
        out.file, out.quiet = sys.stderr, True
    results, untouched = [], []
    with contextlib.ExitStack() as stack:
        files = [
            (write, stack.enter_context(contextlib.closing(output.Target(file))))
            for write, file in (
                (output.json_text, json_file),
                (output.junit_text, junit_file),
                (page, html_file),
            )
            if file
        ]
        for each, work in zip(chosen, submissions, strict=True):
            exercise = each.exercise
            if starters.untouched(exercise, work):
                untouched.append(exercise)
            # a launcher that student code has run beside serves no other submission
            launched = choose(launcher, confined.kind)
            if hasattr(launched, "start"):
                launched.start()  # torch loads while the rest is set up
            # a student's own work; a part of a task or of its faults proves no task
            remembered = not solution and not each.checks and faults is None
            with contextlib.closing(launched), terminal.Progress(out, exercise) as shown:
                grading = engine.Grading(
                    exercise,
                    work,
                    launched,
                    sandbox=confined,
                    seconds=grading_limit,
                    seed=seed,
                    jobs=jobs,
                    tasks=each.numbers,
                    only=each.checks,
                    faults=faults,
                    limits=limits,
                    logs=STATE / "logs",
                    cluster=where,
                    keep_history=html_file is not None,
                    on_change=shown.update,
                )
                if stream:
                    grading.bench.show = shown.line

                def on_task(result, shown=shown, work=work, remembered=remembered):
                    shown.show(result)
                    if remembered:
                        PROGRESS.remember(work, result, seed)

                try:
                    results.append(grading.start().result(on_task))
                finally:
                    grading.close()
        terminal.show_summary(out, results, untouched)
        for text, target in files:
            target.write(text(results))
    sys.exit(output.exit_code(results))


def _submission(
    exercise: Exercise, submission: Path | None, solution: bool
) -> submissions.Submission:
    if submission and solution:
        raise UsageError("--submission and --solution exclude each other")
    return submissions.submission(exercise, submission, solution)


def _exercises(submission: Path | None) -> list[Exercise]:
    """Those that the submission holds; without one, all."""
    known = list(catalog.exercises().values())
    if submission is None:
        return known
    if not submission.is_dir():
        raise UsageError(f"no such submission directory: {submission}")
    inside = [
        e for e in known if (submission / e.id).is_dir() or (submission / e.folder.name).is_dir()
    ]
    if inside:
        return inside
    fitting = [e for e in known if (submission / e.module).exists()]
    if not fitting:
        raise UsageError(
            f"{submission} doesn't look like a submission; name the exercise: grade ex01 "
            f"--submission {submission}"
        )
    return fitting


def _parse(parse, text):
    try:
        return parse(text)
    except ValueError as e:
        raise UsageError(str(e)) from e


@main_group.command()
@click.argument("name", required=False, metavar="[EXERCISE | TASK | TASK/CHECK]")
@click.option("--submission", type=Name(), metavar="DIR", help="Watch this directory.")
@click.option(
    "--poll/--no-poll",
    default=None,
    help="Look for changes three times a second: where no events arrive, as on NFS (found out).",
)
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N", help="Processes at a time.")
@click.option("--launcher", type=click.Choice(["fork", "plain"]), help="How processes start.")
@click.option(
    "--sandbox",
    "policy",
    type=click.Choice(sandbox.POLICIES),
    default="auto",
    help="As for grading.",
)
def watch(name, submission, poll, jobs, launcher, policy):
    """Grade again whenever you save: the task that you work on first.

    Without a name: the exercise that you graded last.
    """
    from grader import engine
    from grader.watch.session import Session

    (selected,) = selection.parse([name or _to_work_on(submission).id])
    selection.choose(engine.collect(selected.exercise), selected.checks)
    Session(
        selected,
        submission,
        PROGRESS,
        folder=STATE,
        sandbox=sandbox.choose(policy),
        launcher=launcher,
        jobs=jobs,
        poll=poll,
    ).run()


def _to_work_on(submission: Path | None) -> Exercise:
    if submission:
        return _exercises(submission)[0]
    last = PROGRESS.last_worked_on(catalog.exercises().values())
    if PROGRESS.first_not_passed(last, last.starter):
        return last
    return catalog.after(last) or last


# --- beside grading -------------------------------------------------------------------------------


@main_group.command()
@click.argument("name", required=False, metavar="[EXERCISE | TASK]")
@click.option("--submission", type=Name(), metavar="DIR", help="Progress of this directory.")
def show(name, submission):
    """Tasks, points, progress, and where to begin; of a task, its checks."""
    from grader import engine
    from grader.report import terminal

    out = terminal.console()
    if name and "." in name:
        exercise, task = catalog.find_task(name)
        out.print(f"[bold]{task.id}[/bold]  {task.title}  ({task.points} points)")
        for check in engine.collect(exercise):
            if check.task == task.id:
                out.print(f"\n  {task.id}/{check.slug}", markup=False)
                terminal.show_row(out, "", check.title)
        return
    for exercise in [catalog.find(name)] if name else catalog.exercises().values():
        last, files = _last_verdicts(exercise, submission)
        out.print(f"[bold]{exercise.id}[/bold]  {exercise.title}  ({exercise.points} points)")
        for task in exercise.tasks:
            needs = f"   builds on {', '.join(task.needs)}" if task.needs else ""
            out.print(f"  {task.id}  {task.title}  ({task.points}){needs}")
            terminal.show_row(out, "", ", ".join(task.functions))
            if task.id in last:
                terminal.show_row(out, "", last[task.id].says(files))
        out.print(f"  read   {exercise.folder.name}/README.md")
        out.print(f"  edit   {exercise.folder.name}/starter/{exercise.module}")
        out.print(
            f"  grade  grade {exercise.id}            one task alone: grade {exercise.id} --task 1"
        )
        out.print(f"  stuck  grade hint {exercise.id}\n")


def _last_verdicts(
    exercise: Exercise, submission: Path | None
) -> tuple[dict[str, progress.Last], str]:
    """Its tasks' last verdicts, and the digest of the files now.

    The course is shown whatever has become of a starter.
    """
    try:
        work = submissions.submission(exercise, submission)
    except UsageError:
        if submission:
            raise
        return {}, ""
    return PROGRESS.of(work.folder), progress.digest(work)


@main_group.command()
@click.argument("name", required=False, metavar="[EXERCISE | TASK]")
@click.option("--again", is_flag=True, help="Begin again at the first rung.")
def hint(name, again):
    """The next hint: for a task, or for an exercise's first task that isn't passed yet.

    Without a name: for the exercise that you graded last.
    """
    from grader.course.hints import Seen
    from grader.report import terminal

    out = terminal.console()
    if name and "." in name:
        _, task = catalog.find_task(name)
    else:
        known = catalog.exercises().values()
        exercise = catalog.find(name) if name else PROGRESS.last_worked_on(known)
        found = PROGRESS.first_not_passed(exercise, exercise.starter)
        if found is None:
            out.print(f"{exercise.id}: every task is passed. {catalog.what_next(exercise)}")
            return
        task = found
    seen = Seen(STATE / "hints.json")
    rung = 0 if again else seen.next_rung(task)
    terminal.show_hint(out, task, rung)
    seen.remember(task, rung)


@main_group.command("explain")
@click.argument("code", required=False)
def explain_command(code):
    """What a finding's code means in production, with an example. Without a code: all codes."""
    from grader import explain
    from grader.report import terminal

    out = terminal.console()
    if code is None:
        for known in explain.explanations().values():
            out.print(f"{known.code:<20} {known.summary}", highlight=False, markup=False)
        return
    known = explain.find(code)
    out.print(f"[bold]{known.code}[/bold]   {known.exercise or 'all exercises'}\n", highlight=False)
    for text in (known.summary, known.production):
        out.print(text.replace("\n", " "), highlight=False, markup=False)
        out.print()
    out.print(textwrap.indent(known.example, "    "), highlight=False, markup=False)


@main_group.command()
@click.argument("name", metavar="EXERCISE")
def reset(name):
    """Restore an exercise's starter; your version is kept."""
    exercise = catalog.find(name)
    where = exercise.starter.relative_to(ROOT)
    kept = starters.reset(exercise)
    if kept is None:
        click.echo(f"{where} is already as it was handed out")
        return
    if kept.exists():
        click.echo(f"your version is kept in {kept.relative_to(ROOT)}")
    click.echo(f"{where} is as it was handed out")


def _steps(option: str, text: str):
    return click.option(option, type=int, multiple=True, metavar="STEP", help=text)


@main_group.command("run")
@click.argument("name", metavar="EXERCISE | TASK")
@click.option(
    "--kill-after",
    type=int,
    multiple=True,
    metavar="STEP",
    help="SIGKILL after this step, then relaunch (repeatable).",
)
@click.option(
    "--stop-in",
    type=int,
    multiple=True,
    metavar="STEP",
    help="SIGTERM in the middle of this step, then relaunch (ex03; repeatable).",
)
@click.option(
    "--workers", type=click.Choice(["0", "2"]), default="0", help="DataLoader workers (ex01, ex03)."
)
@click.option(
    "--ranks",
    type=click.IntRange(1, 8),
    metavar="N",
    help="Ranks (ex02: 2; ex03: one process without it). Faults strike the last one.",
)
@click.option(
    "--save-every", type=click.IntRange(1), default=4, metavar="N", help="Save every N steps (4)."
)
@_steps("--preempt-at", "ex04: preempt the job at this step (repeatable).")
@_steps("--limit-at", "ex04: let its time limit come near at this step (repeatable).")
@click.option(
    "--pace", type=click.FloatRange(0, 10), default=0.3, metavar="S", help="ex04: s a step takes."
)
@click.option("--cluster", type=click.Choice(["slurm", "stand-in", "site"]), help="ex04: which.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0)
@click.option("--submission", type=Name(), metavar="DIR")
@click.option("--solution", is_flag=True)
def run_command(
    name,
    kill_after,
    stop_in,
    workers,
    ranks,
    save_every,
    preempt_at,
    limit_at,
    pace,
    cluster,
    seed,
    submission,
    solution,
):
    """Run the training job with your functions, and kill it where you like.

    A task (ex01.1) chooses the training that calls its functions.
    """
    from grader.run_command import STEPS, play

    (chosen,) = selection.parse([name])
    exercise = chosen.exercise
    task = chosen.numbers[0] if chosen.numbers else None
    work = _submission(exercise, submission, solution)
    if exercise.id == "ex04":
        sys.exit(
            _run_on_cluster(
                work,
                task,
                {"kill": kill_after, "preempt": preempt_at, "limit": limit_at},
                pace,
                cluster,
            )
        )
    for option, steps in (("--kill-after", kill_after), ("--stop-in", stop_in)):
        if out := [step for step in steps if not 1 <= step <= STEPS]:
            raise UsageError(f"{option} {out[0]}: the run has steps 1 to {STEPS}")
    if work.problem:
        raise UsageError(work.problem)
    sys.exit(
        play(
            chosen.tasks[0].id if chosen.tasks else exercise.id,
            work,
            kill_after,
            stop_in,
            int(workers),
            ranks,
            save_every,
            seed,
        )
    )


@main_group.command("debug")
@click.argument("name", metavar="TASK/CHECK")
@click.option("--life", metavar="RUN.N", help="Life N of this run, as a message names it.")
@click.option("--rank", type=click.IntRange(0, 63), metavar="N", help="This rank of the life.")
@click.option("--seed", type=click.IntRange(0, 2**31), metavar="N", help="The grading's seed.")
@click.option("--debugpy", is_flag=True, help="Wait for an IDE's debugger, at a printed address.")
@click.option("--submission", type=Name(), metavar="DIR")
@click.option("--solution", is_flag=True)
def debug_command(name, life, rank, seed, debugpy, submission, solution):
    """Run a check's failing life on this terminal: breakpoint(), pdb and prints work.

    The check runs as in a grading up to that life, which finds the directory as it was and meets
    the same fault. Without --life, the one that fails.
    """
    from grader import debug_command as debugging
    from grader import engine

    (chosen,) = selection.parse([name])
    found = engine.select(chosen)
    if chosen.checks and len(found) > 1:
        raise UsageError(f"name one of {', '.join(check.slug for check in found)}")
    if not chosen.checks:
        raise UsageError(f"name a check: grade debug {name}/NAME; `grade show {name}` lists them")
    work = _submission(chosen.exercise, submission, solution)
    if work.problem:
        raise UsageError(work.problem)
    seed = random.SystemRandom().randrange(2**31) if seed is None else seed
    how = debugging.DEBUGPY if debugpy else debugging.TERMINAL
    sys.exit(debugging.debug(found[0], work, seed, life, rank, how))


def _run_on_cluster(work, task, steps: dict[str, tuple[int, ...]], pace, kind) -> int:
    from grader import run_on_cluster
    from grader.checks.ex04.cluster_runs import STEPS, Where

    if work.problem:
        raise UsageError(work.problem)
    strikes = [(step, do) for do, at in steps.items() for step in at]
    if wrong := [step for step, _ in strikes if not 1 <= step < STEPS]:
        raise UsageError(f"step {wrong[0]}: the job has steps 1 to {STEPS}")
    return run_on_cluster.play(work, task, strikes, pace, Where(kind) if kind else Where())


main_group.add_command(cluster)
main_group.add_command(crashtest)
main_group.add_command(release)
main_group.add_command(export)


@main_group.group()
def dev():
    """Commands for course authors."""


@dev.command("derive")
@click.argument("names", nargs=-1)
def derive_command(names):
    """Derive every starter from its solution, and the samples in READMEs from snapshots."""
    from grader.authoring import samples

    for exercise in [catalog.find(n) for n in names] or catalog.exercises().values():
        for file in derive.write_starter(exercise):
            click.echo(f"wrote {file.relative_to(ROOT)}")
    for page in _parse(samples.write, ROOT):
        click.echo(f"wrote the samples in {page.relative_to(ROOT)}")


@dev.command("check")
@click.option("--grade", "grading", is_flag=True, help="Also grade starters and solutions.")
def check_command(grading):
    """Check that the course is consistent: starters, titles, hints, samples, mutants ..."""
    from grader.authoring import dev_check

    sys.exit(dev_check.main(grading))


@dev.command()
@click.argument("names", nargs=-1)
@click.option("--write", is_flag=True, help="Write the tables: grader/mutants/ex01/README.md ...")
@click.option("--seed", type=int, help="Grade with this seed.")
@click.option(
    "--mutant",
    "only",
    multiple=True,
    metavar="NAME",
    help="Only this one (repeatable); the table's other rows stay.",
)
def matrix(names, write, seed, only):
    """Grade every mutant and print the table of mutants and the tasks that catch them."""
    from grader.authoring import kill_matrix

    chosen = [catalog.find(name) for name in names] or catalog.exercises().values()
    if only and len(chosen) != 1:
        raise UsageError("--mutant goes with one exercise: grade dev matrix ex01 --mutant in-place")
    sys.exit(max([kill_matrix.main(exercise, write, seed, only) for exercise in chosen]))


@dev.command()
@click.argument("names", nargs=-1)
def notebook(names):
    """Build and execute the notebooks from their sources."""
    from grader.authoring.build_notebooks import build

    for exercise in [catalog.find(n) for n in names] or catalog.exercises().values():
        click.echo(f"wrote {build(exercise).relative_to(ROOT)}")


def main() -> None:
    """Entry point: our own errors are one line on stderr and exit status 2 or 3, never a
    traceback.
    """
    try:
        end_in_order()
        sandbox.hide_from_others()
        # processes that outlive a killed guardian become ours, and end with the launcher
        reap_descendants()
        main_group.main(prog_name="grade", standalone_mode=False)
    except UsageError as e:
        _leave(2, str(e))
    except click.exceptions.Exit as e:
        sys.exit(e.exit_code)
    except click.ClickException as e:
        _leave(2, f"{e.format_message()}  (grade --help)")
    except Interrupted as e:
        _leave(128 + e.number, "interrupted; every process has been ended")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as e:
        _leave(3, f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}")
    except Exception as e:
        at = traceback.extract_tb(e.__traceback__)[-1]
        where = f"{type(e).__name__}: {e} ({os.path.basename(at.filename)}:{at.lineno})"
        _leave(3, f"this is a bug in the grader: {where}{_kept(traceback.format_exc())}")


def _kept(text: str) -> str:
    """Keep the traceback for a bug report; says where."""
    file = STATE / "error.log"
    with contextlib.suppress(OSError):
        STATE.mkdir(exist_ok=True)
        file.write_text(text)
        return f"; please report it with {file.relative_to(ROOT)}"
    return ""


def _leave(status: int, text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"grade: {escaped(text)}", err=True)
    sys.exit(status)

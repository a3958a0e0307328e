"""Expectations on runs. Each returns quietly or raises a Finding with its evidence.

Every resume check asserts three things: the earlier lives really died of their faults and the last
one finished (`finished`), progress was kept (`progress_kept`), and the trajectory is that of the
undisturbed run, bit for bit (`same_trajectory`).
"""

from __future__ import annotations

import re
import signal
from typing import Protocol

from grader.checks.explanations import meaning
from grader.harness import scratch
from grader.harness.faults import show_schedule
from grader.harness.launcher import Limits
from grader.harness.run import Life, Run
from grader.harness.trajectory import Divergence
from grader.verdicts import FAIL, Finding, Inconclusive


class Controls(Protocol):
    """Runs that decide whose fault a difference is, asked for only when there is one.

    A Lab launches them; a test of these functions has them as literals.
    """

    @property
    def limits(self) -> Limits: ...

    def again(self, undisturbed: Run) -> Run:
        """The undisturbed run once more."""

    def bare(self, number: int) -> Run:
        """A run without the student's code; equal numbers give the same run."""

    def too_slow(self) -> bool:
        """Is a run without the student's code too slow, too?"""


def rejoins(controls: Controls, run: Run, undisturbed: Run) -> None:
    """The three assertions of a resume check, in the order in which they make sense."""
    finished(controls, undisturbed)
    try:
        finished(controls, run)
    except Finding as ended:
        _explained_by_its_course(controls, run, undisturbed, ended)
        raise
    progress_kept(run)
    same_trajectory(controls, run, undisturbed)


def _explained_by_its_course(
    controls: Controls, run: Run, undisturbed: Run, ended: Finding
) -> None:
    """A run that lost state may crash much later: report what was lost, not where it ended."""
    if len(run.lives) < 2 or not run.last.steps or ended.verdict != FAIL:
        return
    try:
        progress_kept(run)
        same_trajectory(controls, run, undisturbed, partly=True)
    except Finding as lost:
        raise told_later(lost, ended) from None


def told_later(lost: Finding, ended: Finding) -> Finding:
    """`lost`, with a row that says how the run ended."""
    lost.rows.append(("later", f"the run ended early: {ended.error or ended.rows[-1][1]}"))
    return lost


# --- ends -----------------------------------------------------------------------------------------


def finished(controls: Controls, run: Run) -> None:
    """Each life ended as its fault says, and the last one reached the end of training."""
    for life in run.lives:
        if life.fault is None:
            if not life.finished:
                raise ended_early(controls, run, life)
        elif not life.died_of_fault:
            if life.finished or life.first("end"):
                raise Inconclusive(
                    "fault",
                    [("fault", life.fault.story), ("but", "it never fired: nothing was proved")],
                    schedule_of(run),
                )
            raise ended_early(controls, run, life)


def ended_early(controls: Controls, run: Run, life: Life) -> Finding:
    when = [("fault", run.story)] if run.schedule else []
    if life.ended:
        return over_limit(controls, run, life, when)
    if crash := life.first("crash"):
        return crashed(crash, when, schedule_of(run), life)
    rows = [
        *when,
        ("ended", f"the process ended with {left_with(life.status)} before training was done"),
    ]
    if leaving := life.first("exit"):
        rows += student_frames(leaving)
    means = "a scheduler that sees exit 0 believes that the job is done" if life.status == 0 else ""
    return Finding("exit", rows, schedule_of(run), about=f"{life.status}", means=means)


def crashed(crash: dict, when: list, fault: str | None = None, life: Life | None = None) -> Finding:
    """A crash as the student should see it: their own frames, the exception last."""
    frames = student_frames(crash)
    if not frames and crash["frames"]:
        last = [f for f in crash["frames"] if "/grader/workload/" in f["file"]][-1:] or crash[
            "frames"
        ][-1:]
        where = f"{last[0]['file'].rpartition('/')[2]}:{last[0]['line']}"
        frames = [
            (
                "crashed",
                f"in the training script, {where}, with what your functions gave it: "
                f"{last[0]['text']}",
            )
        ]
    errors = _error_rows(crash)
    rows = [*when, *frames, *errors]
    at = frames[-1][1].split(" ")[0] if frames else ""
    unsafe = REFUSED in crash["message"]
    return Finding(
        "crashed",
        rows,
        fault,
        error=errors[0][1],
        means=CODE_IN_IT if unsafe else "",
        think=WHICH_VALUE if unsafe else "",
        about=f"{crash['type']}:{at}",
    )


REFUSED = "Weights only load failed"  # says torch.load
CODE_IN_IT = (
    "the checkpoint holds more than plain data: to load it, Python would have to run code from it"
)
WHICH_VALUE = (
    "which saved value isn't a tensor, a number, a string, or a list, tuple or dict of them?"
)


def _error_rows(crash: dict) -> list[tuple[str, str]]:
    message = re.sub(r"\x1b\[[0-9;]*m", "", crash["message"]).strip()
    if REFUSED in message:
        culprit = re.search(r"Unsupported [a-z]+: (.*?) was not an allowed", message) or re.search(
            r"Unpickler error: (.*)", message
        )
        what = f": {culprit[1]}" if culprit else ""
        return [
            (
                "error",
                f"{crash['type']}: a safe load (weights_only=True) refuses what was saved{what}"[
                    :300
                ],
            ),
        ]
    lines = [line for line in message.splitlines() if line.strip()]
    if any(line.startswith("Traceback (most recent") for line in lines[1:]):
        # DCP's message holds the tracebacks of all ranks: what they end in, once each
        lines = list(
            dict.fromkeys(
                line for line in lines if not line.startswith((" ", "Traceback (most recent"))
            )
        )
    first, *more = lines or [""]
    return [
        ("error", f"{crash['type']}: {first}"[:300]),
        *(("", line.strip()[:200]) for line in more[:5]),
    ]


def student_frames(crash: dict) -> list[tuple[str, str]]:
    """The frames of the student's own files: where, in which function, and the line."""
    rows: list[tuple[str, str]] = []
    for frame in crash["frames"]:
        if name := scratch.submitted(frame["file"]):
            where = f"{name}:{frame['line']}" + (
                f" in {frame['function']}" if frame["function"] else ""
            )
            rows.append(("crashed" if not rows else "", f"{where}: {frame['text']}"))
    return rows[-5:]


def over_limit(controls: Controls, run: Run, life: Life, when: list) -> Finding:
    limits = controls.limits
    if life.ended == "stopped":
        return Inconclusive("stopped", [("stopped", "the life was stopped from outside")])
    if life.ended == "wall" and starved(limits.wall, life.result.get("waited", 0.0)):
        waited = (
            f"busy: of {limits.wall:g} s, your code waited {life.result['waited']:.0f} s "
            "for a processor"
        )
        return Inconclusive("starved", [*when, ("machine", waited)])
    if life.ended == "wall" and controls.too_slow():
        return Inconclusive(
            "slow",
            [
                *when,
                (
                    "machine",
                    f"too slow now: {limits.wall:g} s weren't enough, even for a run without "
                    "your code",
                ),
            ],
        )
    what = {
        "wall": f"still running after {limits.wall:g} s; a whole run takes about 1 s",
        "cpu": f"used {life.result['cpu']:.0f} s of CPU time; a whole run takes about 1 s",
        "memory": f"needed more than {limits.memory >> 20} MiB of memory",
        "output": f"printed more than {limits.output >> 20} MiB",
        "disk": f"wrote more than {limits.disk >> 20} MiB to disk, or thousands of files",
    }[life.ended or ""]
    rows = [*when, ("ended", what)]
    if where := _stands_at(life):
        rows.append(("stood at", where))
    return Finding("limit", rows, schedule_of(run), about=f"{life.ended}")


def starved(allowed: float, waited: float) -> bool:
    """Did a process that used its `allowed` seconds spend many of them waiting for a processor?"""
    return waited > 0.3 * allowed


def _stands_at(life: Life) -> str:
    """Where in the student's code the main thread was when the time was up."""
    for file, line, function in re.findall(
        r'File "(.*)", line (\d+) in (.*)', life.text("stack", 20_000)
    ):
        if own := scratch.submitted(file):
            return f"{own}:{line} in {function}"
    return ""


def left_with(status: int) -> str:
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    return f"exit status {status}"


def schedule_of(run: Run) -> str | None:
    return show_schedule(run.schedule) if run.schedule else None


def imports_cleanly(run: Run, functions: list[str]) -> None:
    """The module imports, doesn't end the process, and has the functions that the tasks name."""
    life = run.last
    imported = life.first("imported")
    if imported is None:
        if crash := life.first("crash"):
            # a file with a NUL byte has no line to show
            where = student_frames(crash)[-1:] or [("file", life.first("importing")["file"])]
            unreadable = crash["type"] == "SyntaxError" or "null byte" in crash["message"]
            label = "can't parse" if unreadable else "can't import"
            raise Finding(
                "import",
                [(label, where[-1][1]), ("error", f"{crash['type']}: {crash['message']}"[:300])],
            )
        if life.ended:
            raise Finding(
                "import",
                [
                    ("can't import", f"importing it exceeded a limit: {life.ended}"),
                    ("stood at", _stands_at(life) or "its top level"),
                ],
            )
        raise Finding(
            "import",
            [
                ("can't import", f"importing it ended the process with {left_with(life.status)}"),
                *student_frames(life.first("exit") or {"frames": []}),
            ],
        )
    missing = [name for name in functions if name not in imported["functions"]]
    if missing:
        raise Finding(
            "import", [("missing", f"no function {', '.join(missing)}: the tasks call it")]
        )


# --- progress -------------------------------------------------------------------------------------


def progress_kept(run: Run) -> None:
    """Each relaunch began at the last finished save, or at the one in progress when the fault
    struck.
    """
    for life, after in zip(run.lives, run.lives[1:], strict=False):
        saved = [e["step"] for e in life.all("saved")]
        begun = [e["step"] for e in life.all("saving")]
        last = max(saved, default=life.resumed_at)
        if after.resumed_at in (last, max(begun, default=last)):
            continue
        rows = [
            ("fault", run.story),
            (
                "resumed",
                f"at step {after.resumed_at}; the last checkpoint was saved after step {last}",
            ),
        ]
        if after.resumed_at < last:
            again = f"{life.reached - after.resumed_at} of {life.reached} finished steps"
            over = ": the run started over" if after.resumed_at == 0 else ""
            means = f"{again} are done again{over}"
            think = "which numbers say how far the run has come, and who restores them?"
        else:
            means = "the relaunched job counts steps that were never trained"
            think = "what is the step counter at the moment of the save, and after the load?"
        raise Finding("progress", rows, schedule_of(run), means=means, think=think)


# --- trajectories ---------------------------------------------------------------------------------


def same_trajectory(controls: Controls, run: Run, undisturbed: Run, partly: bool = False) -> None:
    """The run's trajectory is the undisturbed one's, bit for bit; `partly`: as far as it got."""
    found = run.trajectory.diverges_from(undisturbed.trajectory, partly)
    if found is None:
        return
    again = controls.again(undisturbed)
    if again.finished and (noise := again.trajectory.diverges_from(undisturbed.trajectory)):
        raise not_reproducible(controls, noise)
    means, think = meaning(found.different)
    raise Finding(
        "state-lost",
        divergence_rows(run, found),
        schedule_of(run),
        means=means,
        think=think,
        step=found.step,
        different=found.different,
        same=found.same,
        about=found.component,
    )


def not_reproducible(controls: Controls, noise: Divergence) -> Finding:
    """Two undisturbed runs differ. Runs without the student's code show if the machine is why."""
    bare = [controls.bare(number) for number in (0, 1)]
    machine = not all(b.finished for b in bare) or bare[0].trajectory != bare[1].trajectory
    rows = [
        (
            "undisturbed",
            f"two undisturbed runs differ at step {noise.step}: {noise.cause}",
        ),
        ("same", "two runs without your code"),
    ]
    if machine:
        return Inconclusive(
            "machine", [("machine", "two undisturbed runs differ even without your code")]
        )
    return Finding("not-reproducible", rows)


def divergence_rows(run: Run, found: Divergence, rank: str = "") -> list[tuple[str, str]]:
    """Where a run parts from the undisturbed one, and in what; `rank`: whose run it is."""
    rows = [("fault", run.story)] if run.schedule else []
    if rank:
        rows.append(("rank", rank))
    when = ", the first step after resuming" if found.first_after_resume else ""
    last = max(run.trajectory.steps, default=0)
    at = (
        f"at step {found.step}{when}"
        if found.step <= last
        else "only in the final state, after the last step"
    )
    rows.append(("diverged", at))
    roots = [c for c in found.different if c not in ("loss", "augmented inputs")] or found.different
    if found.same:
        rows.append(("same", ", ".join(_condensed(found.same, found.different))))
    rows.append(("different", ", ".join(roots)))
    if "batch indices" in roots:
        got, want = (_some(r["batch indices"]) for r in (found.got, found.expected))
        rows.append(("batch", f"{got} ... expected {want} ..."))
    return rows


COUNTERS = {"global step", "epoch", "position in the epoch"}


def _condensed(same: list[str], different: list[str]) -> list[str]:
    """What is equal, in few words: the counters as one, the optimizer as one if all of it is
    equal.
    """
    names = [n for n in same if n not in ("loss", "augmented inputs")]
    if set(names) >= COUNTERS:
        names = ["counters", *(n for n in names if n not in COUNTERS)]
    if not any(d.startswith("optimizer") for d in different):
        names = list(dict.fromkeys("optimizer" if n.startswith("optimizer") else n for n in names))
    return names


def _some(indices: list[int]) -> str:
    return "samples " + ", ".join(map(str, indices[:4]))


NEVER = "a run that saves, and the same run that never saves"


def quiet(controls: Controls, run: Run, bare: Run, compared: str = NEVER) -> None:
    """Saving changed nothing in an undisturbed run."""
    finished(controls, run)
    finished(controls, bare)
    found = run.trajectory.diverges_from(bare.trajectory)
    if found:
        rows = divergence_rows(run, found)
        rows.append(("compared", f"{compared}; both undisturbed"))
        raise Finding(
            "save-changes-run",
            rows,
            about=found.cause,
        )

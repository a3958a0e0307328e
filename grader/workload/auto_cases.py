"""Questions to the functions of exercise 4, each in processes of its own.

An answer is a list of rows that say what was found wrong: [] is right.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

from grader.harness import fsevents, watch
from grader.workload import auto_checkpoints as checkpoints
from grader.workload import student
from grader.workload.forked import ask_each

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's auto_resume.py")
p.add_argument("--directory", required=True)
p.add_argument("--seed", type=int, default=0)
p.add_argument("--case", action="append", required=True)


def elsewhere(work) -> tuple:
    """`work()` in a process of its own, as another life of the job: ("returned", value), ("raised", type's name, text)
    or ("died", signal or status). What it returns goes through JSON."""
    sys.stdout.flush()
    r, w = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            try:
                out = ("returned", work())
            except BaseException as e:
                out = ("raised", type(e).__name__, str(e)[:300])
            os.write(w, json.dumps(out).encode())
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(w)
    with os.fdopen(r, "rb") as f:
        said = f.read()
    _, status = os.waitpid(pid, 0)
    return tuple(json.loads(said)) if said else ("died", os.waitstatus_to_exitcode(status))


def told(outcome: tuple) -> str:
    if outcome[0] == "returned":
        return f"returned {outcome[1]!r}"
    return f"raised {outcome[1]}: {outcome[2]}" if outcome[0] == "raised" else f"died ({outcome[1]})"


# --- 4.1  which checkpoint ------------------------------------------------------------------------------------


def some(directory: Path, *steps: int) -> None:
    """Each of two files."""
    for step in steps:
        folder = checkpoints.write(directory, step, {"step": step, "x": [random.random() for _ in range(200)]})
        (folder / "optimizer.json").write_text(json.dumps([random.random() for _ in range(200)]))
        checkpoints.seal(folder, step)


def chosen(ck, directory: Path, *, want: str | None, what: str) -> list:
    """newest_intact gives `want`, a folder's name, and changes nothing."""
    before = listing(directory)
    outcome = elsewhere(lambda: ck.newest_intact(str(directory)))
    rows = [("directory", what)]
    if outcome[0] != "returned":
        return [*rows, ("found", f"newest_intact {told(outcome)}"), ("expected", f"it returns {want or 'None'}")]
    got = outcome[1] and os.path.basename(str(outcome[1]).rstrip("/"))
    if got != want:
        return [*rows, ("found", f"it chose {got}"), ("expected", f"{want}")]
    if outcome[1] is not None and not os.path.isdir(outcome[1]):
        return [*rows, ("found", f"it returned {outcome[1]!r}, which is no folder's path")]
    if listing(directory) != before:
        return [*rows, ("found", "newest_intact changed the directory"), ("expected", "it only looks")]
    return []


def listing(directory: Path) -> dict:
    return {str(f.relative_to(directory)): f.read_bytes() if f.is_file() else None for f in sorted(directory.rglob("*"))}


def fresh(top: Path) -> Path:
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir(parents=True)
    return top


def the_highest_step_counts(ck, top: Path, draw) -> list:
    for old, new in ((9, 10), (99, 100), (95, 1000)):
        d = fresh(top / "d")
        some(d, new, old)  # the older one is written last
        os.utime(d / f"step-{new}", (1, 1))
        if wrong := chosen(ck, d, want=f"step-{new}", what=f"step-{old} and step-{new}, both intact; step-{old}'s files are newer"):
            return wrong
    return []


DAMAGE = {
    "cut short": lambda f: f.write_bytes(f.read_bytes()[: len(f.read_bytes()) // 2]),
    "with one bit flipped": lambda f: f.write_bytes(bytes([*f.read_bytes()[:-40], f.read_bytes()[-40] ^ 4, *f.read_bytes()[-39:]])),
    "gone": lambda f: f.unlink(),
    "empty": lambda f: f.write_bytes(b""),
}


def a_damaged_one_is_passed_over(ck, top: Path, draw) -> list:
    for file in ("state.json", "optimizer.json", "manifest.json"):
        for how, damage in DAMAGE.items():
            if (file, how) == ("manifest.json", "with one bit flipped"):
                continue  # it may hit a blank
            d = fresh(top / "d")
            some(d, 8, 9, 10)
            damage(d / "step-10" / file)
            if wrong := chosen(ck, d, want="step-9", what=f"step-8, step-9, step-10; {file} of step-10 is {how}"):
                return wrong
    return []


def odd_manifests_are_no_proof(ck, top: Path, draw) -> list:
    names = {"names no file": {"step": 10, "files": {}}, "is a list": [], "is a number": 7, "names no step": {"files": {}}}
    for how, manifest in names.items():
        d = fresh(top / "d")
        some(d, 9, 10)
        (d / "step-10" / "manifest.json").write_text(json.dumps(manifest))
        if wrong := chosen(ck, d, want="step-9", what=f"step-9, step-10; the manifest of step-10 {how}"):
            return wrong
    d = fresh(top / "d")
    some(d, 9, 10)
    shutil.copytree(d / "step-9", d / "step-11")
    return chosen(ck, d, want="step-10", what="step-9, step-10, and step-11: a copy of step-9, as its manifest says")


def the_search_goes_back(ck, top: Path, draw) -> list:
    d = fresh(top / "d")
    some(d, *range(5, 12))
    for step in range(11, 6, -1):
        draw.choice([DAMAGE["cut short"], DAMAGE["gone"]])(d / f"step-{step}" / draw.choice(["state.json", "manifest.json"]))
    return chosen(ck, d, want="step-6", what="step-5 to step-11; the newest five are damaged")


def what_was_never_finished_is_none(ck, top: Path, draw) -> list:
    d = fresh(top / "d")
    some(d, 9)
    shutil.copytree(d / "step-9", d / "step-10.tmp")
    if wrong := chosen(ck, d, want="step-9", what="step-9, and step-10.tmp"):
        return wrong
    shutil.rmtree(d / "step-9")
    return chosen(ck, d, want=None, what="step-10.tmp alone: no save has ever finished")


def other_things_may_lie_there(ck, top: Path, draw) -> list:
    d = fresh(top / "d")
    some(d, 9, 10)
    for name in ("status.json", "step-99.log", "step-best", "lock"):
        (d / name).write_text("something else")
    (d / "step-old").mkdir()
    os.symlink("step-9", d / "latest")
    return chosen(ck, d, want="step-10", what="step-9, step-10, and other files and folders")


def nothing_there_means_fresh(ck, top: Path, draw) -> list:
    d = fresh(top / "d")
    return chosen(ck, d, want=None, what="empty") or chosen(ck, d / "missing", want=None, what="doesn't exist yet")


def none_intact_is_an_error(ck, top: Path, draw) -> list:
    d = fresh(top / "d")
    some(d, 9, 10)
    for folder in d.iterdir():
        (folder / "state.json").unlink()
    outcome = elsewhere(lambda: ck.newest_intact(str(d)))
    if outcome[:2] != ("raised", "NothingIntact"):
        return [
            ("directory", "step-9 and step-10, both damaged"),
            ("found", f"newest_intact {told(outcome)}"),
            ("expected", "NothingIntact is raised"),
            ("means", "the run starts over at step 0, and its next saves bury what could still be rescued"),
        ]
    return []


# --- 4.3  knowing when to stop ----------------------------------------------------------------------------------


def life(ck, directory: Path, step: int, outcome: str | None, tries: int = 3) -> tuple:
    """One life, in a process of its own, which trains nothing; outcome None: it ends without a word."""

    def work():
        may = ck.begin_life(str(directory), step, tries)
        if may and outcome is not None:
            ck.end_life(str(directory), outcome)
        return may

    return elsewhere(work)


def lives(ck, top: Path, *course: tuple, tries: int = 3) -> list:
    """Each of the course: (step, outcome, what begin_life must do: True, False or "CrashLoop")."""
    d, story = fresh(top / "d"), []
    for step, outcome, want in course:
        got = life(ck, d, step, outcome, tries)
        well = got == ("returned", want) if isinstance(want, bool) else got[:2] == ("raised", want)
        if not well:
            before = f"lives before it: {'; '.join(story)}" if story else "the first life"
            return [
                ("life", f"begins at step {step}, tries={tries}; {before}"),
                ("found", f"begin_life {told(got)}"),
                ("expected", f"it returns {want}" if isinstance(want, bool) else f"{want} is raised"),
            ]
        ended = {"failed": "crashed", None: "killed without a word"}.get(outcome, outcome)
        story.append(f"began at step {step}, {ended}")
    return []


def a_finished_job_has_nothing_to_do(ck, top: Path, draw) -> list:
    return lives(ck, top, (0, "preempted", True), (10, "done", True), (40, None, False), (40, "done", False))


def a_crash_loop_ends(ck, top: Path, draw) -> list:
    for how in ("failed", None):
        for tries in (3, 2):
            course = [(10, how, True)] * tries + [(10, how, "CrashLoop")] * 2
            if wrong := lives(ck, top, *course, tries=tries):
                return wrong
    return []


def progress_starts_the_count_anew(ck, top: Path, draw) -> list:
    course = [(0, "failed", True), (0, None, True), (10, "failed", True), (10, None, True), (20, "failed", True), (20, None, True), (20, "failed", True)]
    if wrong := lives(ck, top, *course, (20, None, "CrashLoop")):
        return wrong
    # there and back again, after a checkpoint that was torn: what counts are the last lives, and not all that began there
    crash, later = (10, "failed", True), (20, "failed", True)
    if wrong := lives(ck, top, later, later, crash, crash, crash, (10, "failed", "CrashLoop")):
        return wrong
    return lives(ck, top, crash, crash, later, crash, crash, crash, (10, "failed", "CrashLoop"))


def a_preemption_is_no_crash(ck, top: Path, draw) -> list:
    return lives(ck, top, *[(10, "preempted", True)] * 6) or lives(
        ck, top, (10, "failed", True), (10, "failed", True), (10, "preempted", True), (10, "failed", True), (10, "failed", True)
    )


def a_life_killed_in_its_notes_confuses_nobody(ck, top: Path, draw) -> list:
    """Killed just before each file-system event of begin_life and end_life."""
    for call in ("begin_life", "end_life"):
        for k in range(30):
            d = fresh(top / "d")
            life(ck, d, 5, "failed")
            if call == "end_life":
                life(ck, d, 10, None)
            seen = []

            def work(d=d, k=k, seen=seen, call=call):
                def on_event(name):
                    seen.append(name)
                    if len(seen) > k:
                        os.kill(os.getpid(), signal.SIGKILL)

                with fsevents.watching(str(d), on_event):
                    ck.begin_life(str(d), 10, 3) if call == "begin_life" else ck.end_life(str(d), "failed")

            if elsewhere(work)[0] != "died":
                break
            after = life(ck, d, 10, "failed")
            if after != ("returned", True):
                return [
                    ("killed", f"in {call}, before its file-system event {k}"),
                    ("then", f"the next life's begin_life {told(after)}"),
                    ("expected", "it returns True: one crash more or less, but no confusion"),
                ]
    return []


# --- 4.4  only one ------------------------------------------------------------------------------------------------


def enters(ck, directory: Path, then=None) -> tuple:
    def work():
        with ck.only_one(str(directory)):
            return then() if then else True

    return elsewhere(work)


def the_second_one_is_refused(ck, top: Path, draw) -> list:
    d = fresh(top / "d")
    with ck.only_one(str(d)):
        outcome, there = enters(ck, d), listing(d)
    if not there:
        return [("held", "by one process"), ("found", "nothing of it lies in the directory"), ("expected", "all nodes see the directory; what else tells them?")]
    if outcome[:2] != ("raised", "Busy"):
        return [("held", "by one process"), ("found", f"in another, only_one {told(outcome)}"), ("expected", "Busy is raised")]
    return _free(ck, d, "its holder has left the block")


def _free(ck, d: Path, when: str) -> list:
    outcome = enters(ck, d)
    return [] if outcome == ("returned", True) else [("when", when), ("found", f"only_one {told(outcome)}"), ("expected", "the next one may enter")]


def a_block_that_raised_is_left(ck, top: Path, draw) -> list:
    d = fresh(top / "d")

    def fails():
        raise KeyError("training failed")

    outcome = enters(ck, d, fails)
    if outcome[:2] != ("raised", "KeyError"):
        return [("found", f"a block that raised KeyError {told(outcome)}")]
    return _free(ck, d, "the block has raised an error")


def a_killed_holder_is_in_nobodys_way(ck, top: Path, draw) -> list:
    d = fresh(top / "d")
    outcome = enters(ck, d, lambda: os.kill(os.getpid(), signal.SIGKILL))
    if outcome[0] != "died":
        return [("found", f"a block that is killed {told(outcome)}")]
    return _free(ck, d, "its holder was killed by SIGKILL in the block")


CASES = {
    f.__name__: f
    for f in (
        the_highest_step_counts, a_damaged_one_is_passed_over, odd_manifests_are_no_proof, the_search_goes_back,
        what_was_never_finished_is_none, other_things_may_lie_there, nothing_there_means_fresh, none_intact_is_an_error,
        a_finished_job_has_nothing_to_do, a_crash_loop_ends, progress_starts_the_count_anew, a_preemption_is_no_crash,
        a_life_killed_in_its_notes_confuses_nobody, the_second_one_is_refused, a_block_that_raised_is_left,
        a_killed_holder_is_in_nobodys_way,
    )
}  # fmt: skip


def main() -> None:
    args = p.parse_args()
    ck = student.load(args.checkpoint)
    fsevents.install()
    top = Path(args.directory)

    def answer(case: str) -> None:
        watch.emit("answer", case=case, rows=CASES[case](ck, fresh(top / case), random.Random(f"{args.seed} {case}")))

    ask_each(args.case, answer)
    watch.emit("end", step=0, state={})


if __name__ == "__main__":
    main()

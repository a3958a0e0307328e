"""ex02.5: one rank dies at any point of a save, and all ranks find the same complete checkpoint."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grader.checks import power_loss
from grader.checks.ex02.rank_plan import (
    AFTER_GOOD,
    LARGE,
    Seen,
    agrees,
    all_hear_of_failures_of,
    copied,
    goes_on,
    later_steps,
    loads,
    nobody_left_early_of,
    place,
    raises_what_it_says,
    refused,
    saves,
    secrets,
    steps,
    works,
)
from grader.checks.fault_points import moment, selected
from grader.harness import scratch
from grader.harness.faults import Fault, KillInSave
from grader.harness.inside.fsevents import FROM_OUTSIDE
from grader.harness.lab import Lab
from grader.verdicts import Damaged, Finding, Found, Gist, Inconclusive, Struck

MOST = 24  # crash points of one rank's save; of more, so many
FEW = 4  # of a save that is like another one
MOST_BYTES = 1 << 30  # of one file
ODD = "run[1] of 3"  # a directory's name, full of what glob and shells take for something else
RELATIVE = (
    "a job that is started with a relative path stops saving, or saves elsewhere",
    "a relative path begins at the working directory. Does your code leave that as it is?",
)
LOADS = [{"op": "load"}]
GOES_ON = [{"op": "load"}, {"op": "next"}, {"op": "load"}]


def save(step: int, **more) -> dict:
    return {"op": "save", "step": step} | more


class Undisturbed:
    """Saves that nothing disturbs, and the directories that they leave; made once for all checks.

    "one", "two" and "three" is what lay there after each save of one run, "many" after all of them.
    """

    def __init__(self, lab: Lab):
        first, second, third = steps(lab)
        later = later_steps(lab)
        half = len(later) // 2
        points = {
            "run": [
                *(save(first), {"op": "copy", "to": "one"}),
                *(save(second), {"op": "copy", "to": "two"}),
                *(save(third), {"op": "copy", "to": "three"}),
                *(save(step) for step in later[:half]),
                {"op": "copy", "to": "half"},
                *(save(step) for step in later[half:]),
                {"op": "copy", "to": "many"},
            ],
            "again": [save(first), save(second), save(second, version=1)],
            "zero": [save(0)],
            "large": [save(LARGE), save(LARGE + 1)],
            f"odd/{ODD}": [save(first), save(second)],
        }
        self.folder = place(lab)
        self.seen = saves(
            lab,
            [{"name": name, "ops": ops} for name, ops in points.items()],
            self.folder,
            judged=False,
        )

    @classmethod
    def of(cls, lab: Lab) -> Undisturbed:
        return lab.once(("rank points", lab.bench.submission.key), lambda: cls(lab))

    def events(self, name: str) -> list[list[str]]:
        """For each rank, the file-system events of this directory's last save."""
        number = {"one": 0, "two": 1, "three": 2}.get(name, -1)
        seen = self.seen[name if number < 0 else "run"]
        works(seen)
        return [seen.all(rank, "saved point")[number]["events"] for rank in seen.ranks]

    def new(self, name: str, since: str) -> list[str]:
        """The files of this point's directory that aren't, or aren't like that, in the other's."""
        before = _files(self.folder / since)
        return [
            file for file, what in _files(self.folder / name).items() if before.get(file) != what
        ]


def _files(folder: Path) -> dict[str, bytes]:
    """Path below the folder -> what the regular file holds. No link is followed."""
    found = {}
    for path in _entries(folder):
        if path.is_file() and not path.is_symlink():
            found[str(path.relative_to(folder))] = scratch.read(path, MOST_BYTES)
    return found


def _entries(folder: Path) -> list[Path]:
    """All names below the folder; links are names, and lead nowhere."""
    return sorted(
        Path(at, name) for at, folders, files in os.walk(folder) for name in folders + files
    )


# --- nothing is wrong -----------------------------------------------------------------------------


def newest_on_every_rank(lab: Lab) -> None:
    first, second, third = steps(lab)
    ready, folder = Undisturbed.of(lab), place(lab)
    for one in ready.seen.values():
        works(one)
    two = f"steps {first} and {second}"
    asked = {  # name -> (whose directory, what is done to it, what all ranks must find, rows)
        "one": ("one", None, f"step {first}", [("saved", f"step {first}")]),
        "two": ("two", None, f"step {second}", [("saved", two)]),
        "three": ("three", None, f"step {third}", [("saved", f"{two}, then {third}")]),
        "again": (
            "again",
            None,
            f"step {second}, saved again",
            [("saved", f"{two}, then {second} again, with other values")],
        ),
        "zero": ("zero", None, "step 0", [("saved", "step 0, before any training")]),
        "large": (
            "large",
            None,
            f"step {LARGE + 1}",
            [("saved", f"steps {LARGE} and {LARGE + 1}")],
        ),
        "odd": (
            f"odd/{ODD}",
            None,
            f"step {second}",
            [("saved", two), ("but", f"the directory is called '{ODD}'")],
        ),
        "relative": (
            "two",
            None,
            f"step {second}",
            [("saved", two), ("but", "`directory` is a relative path, 'relative'")],
        ),
        "dates": (
            "two",
            older_look_newer,
            f"step {second}",
            [
                ("saved", two),
                (
                    "but",
                    "the files' dates were changed, as a copy to another disk does: older "
                    "files look newer",
                ),
            ],
        ),
    }
    points = []
    for name, (whose, change, _, _) in asked.items():
        at = f"{name}/{ODD}" if name == "odd" else name
        copied(ready.folder / whose, folder / at)
        if change:
            change(folder / at)
        whole = name in ("two", "odd", "relative")
        ops = GOES_ON if whole else LOADS
        points.append({"name": name, "at": at, "ops": ops, "relative": name == "relative"})
    (folder / "empty").mkdir()
    seen = loads(lab, [*points, {"name": "empty", "ops": GOES_ON}], folder)
    for name, (_, _, expected, rows) in asked.items():
        agrees(
            seen[name],
            (expected,),
            rows,
            "a resumed job isn't the job that was saved",
            "which parts of the job does each rank get back, and by what is the newest chosen?",
        )
        if name == "relative":
            with advising(*RELATIVE):
                goes_on(seen[name], expected, rows)
        elif name in ("two", "odd"):
            goes_on(seen[name], expected, rows, texts=AFTER_GOOD)
    rows = [("directory", "empty: nothing was ever saved")]
    agrees(
        seen["empty"],
        ("nothing",),
        rows,
        "a new job can't begin",
        "what does resume find in a new directory?",
    )
    goes_on(seen["empty"], "nothing", rows, texts=AFTER_GOOD)


def older_look_newer(folder: Path) -> None:
    """Every name's date is earlier, the later the step in it."""
    for depth, path in enumerate(
        sorted(_entries(folder), key=lambda p: [int(n) for n in re.findall(r"\d+", p.name)])
    ):
        os.utime(path, (10**9 - 100 * depth,) * 2, follow_symlinks=False)


# --- what others put there ------------------------------------------------------------------------


def others_files(lab: Lab) -> None:
    """Names that look like the submission's own, and aren't, are neither read, counted nor
    deleted."""
    first, second, _ = steps(lab)
    ready, folder = Undisturbed.of(lab), place(lab)
    works(ready.seen["run"])
    for name in ("two", "one"):
        copied(ready.folder / name, folder / name)
    (folder / "empty").mkdir()
    own = sorted(p.name for p in (ready.folder / "one").iterdir())
    put = {
        name: look_alikes(ready.folder / "one", own, first, folder / name)
        for name in ("two", "empty")
    }
    for at in [p for p in _entries(folder / "one") if p.is_dir() and not p.is_symlink()]:
        (at / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        (at / ".nfs000000000a0b1c2d").write_bytes(b"held open by another node")
    before = {
        name: {path: content for path, content in _files(folder / name).items() if path in files}
        for name, files in put.items()
    }
    seen = loads(lab, [{"name": name, "ops": GOES_ON} for name in ("two", "one", "empty")], folder)
    for name, expected in (
        ("two", f"step {second}"),
        ("one", f"step {first}"),
        ("empty", "nothing"),
    ):
        point = seen[name]
        beside = (
            ", ".join(sorted({p.partition("/")[0] for p in put.get(name, [])}))
            or ".DS_Store and .nfs... in each folder"
        )
        rows = [
            (
                "saved",
                {"two": f"steps {first} and {second}", "one": f"step {first}", "empty": "nothing"}[
                    name
                ],
            ),
            ("but", f"the directory also holds what others put there: {beside}"),
        ]
        agrees(
            point,
            (expected,),
            rows,
            "a file that isn't yours decides what the job resumes from",
            "by what do you know your own files?",
        )
        goes_on(
            point,
            expected,
            rows,
            texts=(
                "a file that isn't yours decides what the job resumes from",
                "by what do you know your own files?",
            ),
        )
        for path, content in before.get(name, {}).items():
            now = folder / name / path
            if now.is_symlink() or not now.is_file() or scratch.read(now, MOST_BYTES) != content:
                gone = "is gone" if not now.exists() else "isn't what it was"
                raise Finding(
                    "foreign-files",
                    [
                        *rows,
                        Found(f"after the next save, {path} {gone}"),
                        ("expected", "what others put there stays as it is"),
                    ],
                    think="which files are yours, and how do you tell?",
                )


def look_alikes(origin: Path, own: list[str], step: int, folder: Path) -> list[str]:
    """Copies of a checkpoint's files and folders, under names that resemble theirs; the copies'
    paths.
    """
    before = set(_files(folder))
    for name in own:
        later = re.sub(str(step), str(step + 1000), name)
        final = re.sub(r"\d+", "final", name, count=1)
        names = [f"{name}.bak", f"{later}.old", f"{later} (copy)"]
        for other in [*names, final if final != name else f"{name}_final"]:
            if os.path.lexists(folder / other):
                continue
            if (origin / name).is_dir() and not (origin / name).is_symlink():
                copied(origin / name, folder / other)
            else:
                shutil.copyfile(origin / name, folder / other, follow_symlinks=False)
    (folder / "notes.tmp").write_bytes(b"mine")
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "logs" / "a.log").write_bytes(b"step 99999")
    return [path for path in _files(folder) if path not in before]


# --- a rank dies ----------------------------------------------------------------------------------


def _kills(
    lab: Lab, step: int, events: list[list[str]], most: int, size: int
) -> list[tuple[Fault, int | None]]:
    """(fault, late): a kill before each event of each rank, and two for each file that it opens:
    when it is empty, and when something of it is written, of `size` bytes at most."""
    faults: list[tuple[Fault, int | None]] = []
    for rank, of_rank in enumerate(events):
        numbers = spread(len(of_rank), most, lab.draw.random())
        faults += [(KillInSave(step, event, rank), None) for event in numbers]
    if not faults:
        raise Inconclusive(
            "blind", [("watching", "the save raised no file-system event that Python can see")]
        )
    for rank, of_rank in enumerate(events):
        opened = [n for n, e in enumerate(of_rank) if e.startswith(("open ", "torch.save begins"))]
        # torch.save into a file that was opened just before writes no other file
        opened = [
            n for n in opened if not (of_rank[n].startswith("torch.save") and n - 1 in opened)
        ]
        picked = [opened[n] for n in spread(len(opened), 4, lab.draw.random())]
        for n in picked if most == MOST else opened[-1:]:
            for byte in dict.fromkeys((0, lab.draw.choice([1, 20, size // 2]))):
                faults.append((Fault("tear", step, byte=byte, rank=rank), n))
    chosen = selected(lab, [fault for fault, _ in faults])
    return [pair for pair in faults if pair[0] in chosen]


def spread(number: int, most: int, begin: float) -> list[int]:
    """All of so many, or `most` of them at equal distances."""
    return (
        list(range(number))
        if number <= most
        else [int((n + begin) * number / most) for n in range(most)]
    )


def _stamps(folder: Path) -> dict[str, tuple]:
    """Everything from the folder on, and what changes when it is written to. (A sandbox may change
    owners and modes, and so no ctime.)
    """
    found = {}
    for path in [folder, *_entries(folder)]:
        stat = path.lstat()
        found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def _first_trace(events: list[str], before: Path | None) -> int:
    """The number of the first event that can't leave the directory as it was: a name comes, or
    goes.
    """
    for n, event in enumerate(events):
        what, _, path = event.removesuffix(FROM_OUTSIDE).partition(" ")
        if what in ("mkdir", "rename", "remove", "rmdir", "link", "symlink"):
            return n
        if what == "open" and not (before and os.path.lexists(before / path)):
            return n
    return len(events)


def killed_at_every_event(lab: Lab) -> None:
    first, second, _ = steps(lab)
    _killed(lab, "two", "one", save(second), (f"step {first}", f"step {second}"), MOST)


def first_save_killed(lab: Lab) -> None:
    first = steps(lab)[0]
    _killed(lab, "one", None, save(first), ("nothing", f"step {first}"), FEW)


def save_again_killed(lab: Lab) -> None:
    """The step was saved already: the old one may be gone meanwhile, and so the step before it
    counts."""
    first, second, _ = steps(lab)
    allowed = (f"step {first}", f"step {second}", f"step {second}, saved again")
    _killed(lab, "again", "two", save(second, version=1), allowed, FEW)


def _killed(
    lab: Lab, like: str, before: str | None, last: dict, allowed: tuple[str, ...], most: int
) -> None:
    ready, folder = Undisturbed.of(lab), place(lab)
    events = ready.events(like)
    new = ready.new(like, before) if before else list(_files(ready.folder / like))
    size = max([(ready.folder / like / file).stat().st_size for file in new], default=2)
    step, points = last["step"], []
    faults = _kills(lab, step, events, most, size)
    was = []
    for n, (fault, late) in enumerate(faults):
        if before:
            copied(ready.folder / before, folder / f"run-{n}")
        else:
            (folder / f"run-{n}").mkdir()
        was.append(_stamps(folder / f"run-{n}"))
        with_fault = last | {"fault": fault.to_json() | {"late": late}}
        # every other time, the launcher ends the rank that is left as soon as it notices; else it
        # sees the error
        points.append({"name": f"run-{n}", "ops": [with_fault], "node": bool(n % 2)})
    died = saves(lab, points, folder, judged=False)
    is_now = [_stamps(folder / f"run-{n}") for n in range(len(faults))]
    seen = loads(lab, [{"name": f"run-{n}", "ops": GOES_ON} for n in range(len(faults))], folder)
    # after which of a rank's events something in the directory must look different
    traced = [
        _first_trace(of_rank, (ready.folder / before) if before else None) for of_rank in events
    ]
    for n, (fault, late) in enumerate(faults):
        then, point = died[f"run-{n}"], seen[f"run-{n}"]
        rank = fault.rank or 0
        if then.first(rank, "fault") is None:
            raise Inconclusive(
                "fault", [Struck(f"{fault} never fired: two saves did different things")]
            )
        dead = then.first(rank, "ended point")["status"] < 0
        if fault.kind == "kill" and not dead:
            raise Inconclusive("fault", [Struck(f"{fault} fired, and the rank went on")])
        happened = late if late is not None else fault.event or 0
        if dead and is_now[n] == was[n] and happened > traced[rank]:
            raise Inconclusive(
                "fault",
                [
                    Struck(f"SIGKILL of rank {rank} in the save of step {step}"),
                    ("but", "it died before it had written anything: nothing was interrupted"),
                ],
            )
        where = (
            moment(fault, events[rank])
            if late is None
            else f"when the file had {fault.byte} bytes: {events[rank][late]}"
        )
        again = " again" if last.get("version") else ""
        rows = [Struck(f"SIGKILL of rank {fault.rank} in the save of step {step}{again}, {where}")]
        means = (
            "a partial checkpoint is taken for a whole one"
            if "nothing" not in allowed
            else "what an interrupted first save left counts, or keeps the job from starting"
        )
        resumed = agrees(
            point,
            allowed,
            rows,
            means,
            "what makes a checkpoint complete, and when does it begin to exist for all ranks?",
            str(fault),
        )
        goes_on(point, resumed, rows, str(fault))


# --- a rank fails, waits, sees less ---------------------------------------------------------------


def disk_full_at_one_rank(lab: Lab) -> None:
    """Of three ranks: the last one's failure is known to nobody else at first."""
    selected(lab, [])
    Undisturbed.of(lab).events("two")
    points = [
        {
            "name": f"rank {rank}",
            "ops": [{"op": "fail", "rank": rank, "step": 100, "byte": lab.draw.randint(0, 8)}],
        }
        for rank in (0, 2)
    ]
    seen = saves(lab, points, place(lab), ranks=3, judged=False)
    all_hear_of_failures_of(list(seen.values()), "save_step")
    for rank in (0, 2):
        earlier_ones_stay(seen[f"rank {rank}"], rank)


def earlier_ones_stay(seen: Seen, sweeper: int) -> None:
    """After a save that failed, a load finds the one before it (or the new one, if it is
    complete all the same)."""
    for number, fault in enumerate(seen.all(0, "failing")):
        at = {
            rank: [e["step"] for e in seen.all(rank, "loaded point")[number : number + 1]]
            for rank in seen.ranks
        }
        steps_found = {step for of_rank in at.values() for step in of_rank}
        failed = [e for e in seen.all(sweeper, "loaded point")[number : number + 1] if e["raised"]]
        if (
            failed
            or not steps_found
            <= {fault["step"], fault["step"] - 1 if number else fault["step"] - 2}
            or len(steps_found) != 1
        ):
            rows = [
                Struck(refused(fault, sweeper)),
                *(
                    (f"rank {rank}", f"resumes from step {found[0]}")
                    for rank, found in at.items()
                    if found
                ),
                *(
                    Gist("error", f"{e['raised']['type']}: {e['raised']['message'][:150]}")
                    for e in failed
                ),
                ("expected", "on every rank, the checkpoint before the one that failed"),
            ]
            raise Finding(
                "last-good-lost",
                rows,
                means=(
                    "a save that fails costs the last good checkpoint, or leaves a partial "
                    "one that counts"
                ),
                think="what becomes of the parts that the other ranks have written?",
            )


def nobody_leaves_early(lab: Lab) -> None:
    Undisturbed.of(lab).events("two")
    points = [
        {"name": f"rank {rank}", "ops": [{"op": "hold", "rank": rank, "step": 100}]}
        for rank in (0, 1)
    ]
    nobody_left_early_of(list(saves(lab, points, place(lab), judged=False).values()), "save_step")


def ranks_see_different_listings(lab: Lab) -> None:
    first, second, _ = steps(lab)
    ready, folder = Undisturbed.of(lab), place(lab)
    ready.events("two")
    names = [sorted(os.listdir(ready.folder / name)) for name in ("one", "two")]
    hidden = sorted(set(names[1]) - set(names[0]))
    points = []
    for rank in (0, 1):
        copied(ready.folder / "two", folder / f"run-{rank}")
        points.append(
            {"name": f"run-{rank}", "ops": LOADS, "stale": {"rank": rank, "hidden": hidden}}
        )
    seen = loads(lab, points, folder)
    for rank in (0, 1):
        point = seen[f"run-{rank}"]
        rows = [
            ("saved", f"steps {first} and {second}"),
            (
                "but",
                f"rank {rank} doesn't see the new names in `directory` yet, as on a node "
                "whose file system lags (it can open them)",
            ),
        ]
        means = (
            "ranks that choose for themselves resume from different steps, or wait for "
            "each other for ever"
        )
        allowed = (
            (f"step {second}",) if rank else (f"step {first}", f"step {second}")
        )  # what rank 0 sees counts at least
        agrees(
            point,
            allowed,
            rows,
            means,
            "who decides which checkpoint it is, and how do the others get to know?",
        )


HARMS = {
    "remove": ("deleted", os.remove),
    "truncate": ("cut in half", lambda path: os.truncate(path, os.path.getsize(path) // 2)),
    "garbage": (
        "overwritten with bytes that mean nothing",
        lambda path: Path(path).write_bytes(os.urandom(8) + b"\xff\xfe\x80" * 40),
    ),
    "empty": ("emptied", lambda path: os.truncate(path, 0)),
}


def damaged_for_one_rank(lab: Lab) -> None:
    first, second, third = steps(lab)
    ready, folder = Undisturbed.of(lab), place(lab)
    ready.events("two")
    written = ready.new("two", "one")
    if not written:
        raise Finding(
            "nothing-written",
            [
                ("saved", f"step {second}"),
                Found("no file in `directory` was written or changed"),
                ("expected", "a checkpoint"),
            ],
        )
    points: list[dict] = []
    harmed = {}
    for n, file in enumerate(written[:8]):
        for how in ("remove", "truncate", "empty" if n % 2 else "garbage"):
            (done, harm), name = HARMS[how], f"{how} {n}"
            harm(copied(ready.folder / "two", folder / name) / file)
            harmed[name] = f"{file}: {done}"
            points.append({"name": name, "ops": GOES_ON if how == "truncate" else LOADS})
    for file in _files(copied(ready.folder / "two", folder / "all")):
        HARMS["truncate"][1](folder / "all" / file)
    last_two = ready.new("three", "one")
    copied(ready.folder / "three", folder / "last two")
    for file in last_two:
        HARMS[lab.draw.choice(["truncate", "remove"])][1](folder / "last two" / file)
    seen = loads(
        lab, [*points, {"name": "all", "ops": LOADS}, {"name": "last two", "ops": GOES_ON}], folder
    )
    means = "one rank's part is missing, and the ranks don't pass over that checkpoint together"
    think = "how does each rank get to know that another one's part is no good?"
    for point in points:
        found = seen[point["name"]]
        rows = [("saved", f"steps {first} and {second}"), Damaged(harmed[point["name"]])]
        resumed = agrees(found, (f"step {first}", f"step {second}"), rows, means, think)
        if point["ops"] is GOES_ON:
            goes_on(found, resumed, rows)
    rows = [("saved", f"steps {first} and {second}"), Damaged("every file: cut in half")]
    agrees(
        seen["all"],
        ("an error",),
        rows,
        "the run starts over, and nothing says that it ever got this far",
        "what is the difference between nothing saved and nothing intact?",
    )
    raises_what_it_says(seen["all"], rows)
    rows = [
        ("saved", f"steps {first}, {second} and {third}"),
        Damaged(f"every file of steps {second} and {third}"),
    ]
    resumed = agrees(
        seen["last two"],
        (f"step {first}",),
        rows,
        "an older checkpoint isn't what it was when it was saved",
        "what does a save do to the checkpoints before the last one?",
    )
    goes_on(seen["last two"], resumed, rows)


def all_earlier_ones_stay(lab: Lab) -> None:
    """Of many checkpoints, only the oldest is intact, or only those of the first half: it is found,
    however many lie after it.
    """
    selected(lab, [])
    first, later = steps(lab)[0], later_steps(lab)
    half = later[len(later) // 2 - 1]
    ready, folder = Undisturbed.of(lab), place(lab)
    works(ready.seen["run"])
    points = {"one": first, "half": half}
    for name in points:
        copied(ready.folder / "many", folder / name)
        for file in ready.new("many", name):
            HARMS["truncate"][1](folder / name / file)
    seen = loads(lab, [{"name": name, "ops": GOES_ON} for name in points], folder)
    for name, step in points.items():
        there = _files(ready.folder / "many")
        gone = [file for file in _files(ready.folder / name) if file not in there]
        rows = [
            ("saved", f"{len(later) + 3} checkpoints: steps {first} to {later[-1]}"),
            Damaged(f"every file that was written after the save of step {step}"),
        ]
        if gone:
            rows.append(("deleted", f"by later saves: {', '.join(gone[:3])}"))
        means, think = (
            "weeks of training are lost with a checkpoint that is deleted, changed or never tried",
            "what does a save do to older checkpoints, and how many does resume try?",
        )
        with advising(means, think):
            resumed = agrees(seen[name], (f"step {step}",), rows, means, think)
        goes_on(seen[name], resumed, rows)


@contextmanager
def advising(means: str, think: str) -> Iterator[None]:
    """What a finding means and asks here, whatever it says elsewhere."""
    try:
        yield
    except Finding as finding:
        finding.means, finding.think = means, think
        raise


def power_lost(lab: Lab) -> None:
    first, second, _ = steps(lab)
    _power_lost(lab, [first, second])


def power_lost_again(lab: Lab) -> None:
    first, second, _ = steps(lab)
    _power_lost(lab, [first, second, second], "--again")


def _power_lost(lab: Lab, numbers: list[int], *flags: object) -> None:
    selected(lab, [])  # no fault is asked for
    ready = Undisturbed.of(lab)
    # what fails with nothing wrong is told as that
    works(ready.seen["again" if flags else "run"])
    power_loss.survives(
        lab,
        "ex02/power_loss.py",
        "--ranks",
        2,
        *flags,
        given={"payload": secrets(lab)["saved"]},
        steps=numbers,
        saves="save_step",
        load="resume",
    )

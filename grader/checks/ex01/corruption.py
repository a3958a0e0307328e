"""ex01.3: checkpoints that were damaged after their save."""

from __future__ import annotations

from grader.checks.directory_damage import Harm
from grader.checks.ex01.observations import Look, Seen
from grader.checks.ex01.operations import FOREIGN, READ, SPOIL, again, cut, steps_of_a_run, write
from grader.checks.ex01.storage_assertions import fails, reads_while_saving, works
from grader.checks.ex01.storage_plan import observed
from grader.harness.lab import Lab
from grader.verdicts import Damaged, Finding, Found

SAVES = 6  # more than many keep by default
MANY = 24  # more than anyone keeps or tries by default
WRONG_VALUES = "training silently continues from wrong values: torch.load verifies no checksum"
YOUR_BYTES = "how would you know that the bytes you read are the bytes you wrote?"


def _seen(lab: Lab) -> dict[str, Seen]:
    """Every kind of damage, done once for all checks."""
    return observed(lab, "damage", lambda: _points(lab.shared))


def _points(draw) -> list[dict]:
    steps = steps_of_a_run(draw, SAVES)
    first, second, third = steps[:3]
    bad = {how: draw.uniform(0.3, 0.6) for how in ("truncate", "flip")} | {"empty": 0.0}
    everything = [
        {"op": "harm", "how": "truncate" if how == "empty" else how, "to": to, "of": None}
        for how, to in bad.items()
    ]
    many = steps_of_a_run(draw, MANY)
    return [
        {
            "name": "newest",
            "ops": [write(first), write(second), write(third)],
            "harms": [{"each": [third], "state": third}],
        },
        {
            "name": "refused",
            "ops": [write(first), write(second)],
            "refusals": [["."], None, [second]],
        },
        {"name": "lone", "ops": [write(first)], "harms": [{"each": [first], "state": first}]},
        {
            "name": "row",
            "ops": [*map(write, steps)],
            "harms": [
                *(cut(*steps[n:], to=draw.uniform(0.2, 0.8)) for n in range(SAVES - 1, 0, -1)),
                *(cut(step) for step in steps[:-1]),
            ],
        },
        {
            "name": "many",
            "ops": [*map(write, many)],
            "harms": [cut(*many[1:])],
        },
        # in one process: what it knew of the files isn't true any more
        {
            "name": "spoiled",
            "ops": [write(first), READ, write(second), READ, SPOIL, READ, again(second), READ],
        },
        {
            "name": "again",
            "ops": [*map(write, steps[:3]), cut(second, third), again(second)],
        },
        {"name": "empty", "ops": [{"op": "age"}]},
        {"name": "gone", "at": "here", "made": False, "ops": [{"op": "age"}]},
        {"name": "foreign", "ops": [FOREIGN]},
        {
            "name": "everything",
            "ops": [write(first), write(second)],
            "harms": everything,
            "reads": ["latest", "latest"],
        },
    ]


def in_words(harm: Harm) -> str:
    """What was done to a file, in words."""
    if harm.how == "truncate":
        return f"cut off at byte {harm.at} of {harm.size}"
    where = f", in the value of {harm.what}" if harm.what else ""
    return f"one bit flipped in byte {harm.at} of {harm.size}{where}"


def newest_gives_way(lab: Lab) -> None:
    point = _seen(lab)["newest"]
    _first, second, third = (op["step"] for op in point.point["ops"])
    works(point)
    for seen in point.harmed:
        # or the damage does no harm to this format
        if seen.found() in (f"step {second}", f"step {third}"):
            continue
        harm = seen.harm[0]
        rows = [Damaged(f"{harm.file}, of the newest checkpoint: {in_words(harm)}")]
        expected = f"the checkpoint before it, of step {second}, bit for bit"
        if seen.found() == "another state":
            raise fails(
                "damage-unnoticed", seen, rows, expected, means=WRONG_VALUES, think=YOUR_BYTES
            )
        raise fails(
            "no-fallback",
            seen,
            rows,
            expected,
            means=(
                "one bad file stops the resume, although an older checkpoint is there"
                if seen.found() == "error"
                else "there is an intact older checkpoint, but it isn't used"
            ),
            think="which errors may a damaged file raise, and what do you do then?",
        )


def search_goes_back(lab: Lab) -> None:
    for name in ("row", "many"):
        _goes_back(_seen(lab)[name])
    reads_while_saving(_seen(lab)["spoiled"])


def _goes_back(point: Seen) -> None:
    steps = [op["step"] for op in point.point["ops"]]
    works(point)
    for done, seen in zip(point.point["harms"], point.harmed, strict=False):
        bad = done["of"]
        want = max(set(steps) - set(bad))
        if seen.found() == f"step {want}":
            continue
        listed = f"step {bad[0]}" if len(bad) == 1 else f"steps {bad[0]} to {bad[-1]}"
        # of some formats, a save rewrites what belongs to all checkpoints
        harmed = list(dict.fromkeys(h.file for h in seen.harm)) or ["no file"]
        more = f" and {len(harmed) - SAVES} more" if len(harmed) > SAVES else ""
        files = ", ".join(harmed[:SAVES]) + more
        rows = [
            ("saved", f"steps {steps[0]} to {steps[-1]}"),
            Damaged(f"what the save of {listed} wrote, cut short: {files}"),
        ]
        expected = f"the checkpoint of step {want}, bit for bit"
        if want == steps[-1]:
            raise fails(
                "older-one-damaged",
                seen,
                rows,
                expected,
                means="an old file that you no longer need blocks the newest checkpoint",
                think="what do you read before the newest checkpoint, and may it be damaged?",
            )
        raise fails(
            "no-fallback",
            seen,
            rows,
            expected,
            means="the last checkpoint that could be loaded is ignored, or a save deleted it",
            think=(
                "how far back does your search go, and which earlier checkpoints does a save leave?"
            ),
        )


def saved_again(lab: Lab) -> None:
    point = _seen(lab)["again"]
    works(point)
    step = point.point["ops"][-1]["step"]
    if point.found() != f"step {step} again":
        damaged = (
            f"the files of step {step} and of the one after it, cut short; then the job reached "
            f"step {step} and saved it again"
        )
        raise fails(
            "not-saved-again",
            point,
            [Damaged(damaged)],
            f"the checkpoint of step {step}, bit for bit",
            means="the checkpoint stays damaged, and the job counts it as saved",
            think="what does your save do when a checkpoint of that step already exists?",
        )


def none_intact(lab: Lab) -> None:
    seen = _seen(lab)
    _nothing_saved(seen)
    works(seen["lone"])
    step = seen["lone"].point["ops"][0]["step"]
    for look in seen["lone"].harmed:
        if look.found() not in ("error", f"step {step}"):
            harm = look.harm[0]
            raise _silent(look, f"{harm.file}, of the only checkpoint: {in_words(harm)}")
    _everything_damaged(seen["everything"])
    _refused(seen["refused"])


def _nothing_saved(seen: dict[str, Seen]) -> None:
    fresh = {
        "empty": "empty",
        "gone": "it doesn't exist",
        "foreign": "holds only notes.txt and a folder logs",
    }
    for name, told in fresh.items():
        works(seen[name])
        if seen[name].found() != "none":
            raise fails(
                "fresh-start",
                seen[name],
                [("directory", told)],
                "None: the job starts fresh",
                think="what does a run's very first job find?",
            )


def _refused(point: Seen) -> None:
    """An error of the disk is no fresh start, and no damage that could be told from it."""
    works(point)
    first, second = (op["step"] for op in point.point["ops"])
    told = {
        "the directory can't be listed: an input/output error": ("error",),
        "no file can be opened: an input/output error": ("error", f"step {second}"),
        f"the files of step {second} can't be opened: an input/output error": (
            "error",
            f"step {first}",
            f"step {second}",
        ),
    }
    for look, (what, allowed) in zip(point.refused, told.items(), strict=True):
        if look.found() not in allowed:
            raise _silent(look, f"steps {first} and {second} are saved; {what}")


def _everything_damaged(point: Seen) -> None:
    works(point)
    for look, told in zip(point.harmed, ("cut short", "one bit flipped", "emptied"), strict=False):
        files = f"every file in the directory, {told}: {', '.join(harm.file for harm in look.harm)}"
        if told == "one bit flipped" and look.found().startswith("step "):
            continue  # this format doesn't need that bit: the state is as it was saved
        if look.found() != "error":
            raise _silent(look, files)
        if (read := look.read()) and not read["own"]:
            error = read["error"]["type"]
            rows = [
                Damaged(files),
                Found(f"read_latest raised {error}"),
                ("expected", "CheckpointError, which your file already defines"),
            ]
            raise Finding("wrong-error", rows, about=error)
        if len(look.all("read")) > 1 and look.all("read")[-1]["outcome"] != "error":
            rows = [
                Damaged(files),
                Found(
                    "read_latest raised at the first call, but not at the second",
                ),
                ("expected", "an error, every time"),
            ]
            raise Finding(
                "silent-restart",
                rows,
                means="the job crashes once; relaunched, it silently starts over",
                think="does reading change what is on the disk?",
            )


def _silent(look: Look, damaged: str) -> Finding:
    return fails(
        "silent-restart",
        look,
        [Damaged(damaged)],
        "an error",
        means=(
            "after a disk problem the job silently starts over, or trains on garbage, and its "
            "checkpoints then replace files that you could have rescued"
        ),
        think="how does 'no checkpoint' differ from 'no good checkpoint' for your users?",
    )

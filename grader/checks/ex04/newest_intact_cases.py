"""Task 4.1: directories of checkpoints, and what newest_intact must return for each."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from grader.checks.ex04.odd_manifests import odd_manifests_are_no_proof
from grader.checks.ex04.sample_checkpoints import DAMAGE, checkpoint, copy, damage, several
from grader.checks.ex04.scenes import ERROR, RAISES, Scene

ODD = ("step--70", "step-+70", "step-7_0", "step 70", "Step-70", "step-70 ", "step-70\n")


def _damaged(how: str, file: str | None, size: int = 0) -> Callable[[Path, Random], None]:
    def build(d: Path, draw: Random) -> None:
        several(d, draw, 8, 9)
        large = {"model.pt": draw.randbytes(size), "state.json": b"{}"} if size else None
        damage(checkpoint(d, draw, 10, large), draw, how, file)

    return build


def the_highest_step_counts(draw: Random) -> list[Scene]:
    pairs = [
        (9, 10),
        (99, 100),
        (draw.randint(2, 9) * 100 + 5, 1000),
        (999_999, 1_000_000),
        (99_999_999, 100_000_000),
        (10**15 - 1, 10**15),
        sorted(draw.sample(range(1, 5000), 2)),
    ]

    def pair(old: int, new: int) -> Callable[[Path, Random], None]:
        def build(d: Path, draw: Random) -> None:
            several(d, draw, old, new)
            os.utime(d / f"step-{new}", (1, 1))
            os.utime(d / f"step-{old}")
            for file in (d / f"step-{new}").iterdir():
                os.utime(file, (1, 1))

        return build

    what = "step-{0} and step-{1}, both intact; step-{0}'s files are newer"
    scenes = [Scene(what.format(*p), f"step-{p[1]}", pair(*p)) for p in pairs]
    return [*scenes, Scene("step-0 alone, intact", "step-0", lambda d, draw: several(d, draw, 0))]


def a_damaged_one_is_passed_over(draw: Random) -> list[Scene]:
    what = "step-8, step-9, step-10; {} of step-10: {}"
    scenes = [
        Scene(what.format("state.json", how), "step-9", _damaged(how, "state.json"))
        for how in DAMAGE
    ]
    scenes += [Scene(what.format("a file", how), "step-9", _damaged(how, None)) for how in DAMAGE]
    gone = ("cut short", "gone", "empty", "a folder")
    scenes += [
        Scene(what.format("manifest.json", how), "step-9", _damaged(how, "manifest.json"))
        for how in gone
    ]
    for size in (70_000, 1_100_000, 17_000_000):
        text = what.format(f"model.pt ({size} bytes)", "with its last byte changed")
        scenes.append(
            Scene(text, "step-9", _damaged("with its last byte changed", "model.pt", size))
        )

    def emptied(d: Path, draw: Random) -> None:
        several(d, draw, 8, 9, 10)
        for file in (d / "step-10").iterdir():
            if file.name != "manifest.json":
                file.unlink()

    def exchanged(d: Path, draw: Random) -> None:
        several(d, draw, 9)
        folder = checkpoint(
            d, draw, 10, {"a.bin": draw.randbytes(500), "b.bin": draw.randbytes(500)}
        )
        one, other = (folder / "a.bin").read_bytes(), (folder / "b.bin").read_bytes()
        (folder / "a.bin").write_bytes(other)
        (folder / "b.bin").write_bytes(one)

    def last_of(*names: str) -> Callable[[Path, Random], None]:
        def build(d: Path, draw: Random) -> None:
            several(d, draw, 9)
            files = {name: draw.randbytes(draw.randint(200, 900)) for name in names}
            damage(checkpoint(d, draw, 10, files), draw, "with one bit flipped", names[-1])

        return build

    shards = [f"model-{n:05}-of-00040.safetensors" for n in range(1, 41)]
    return [
        *scenes,
        Scene("step-8, step-9, step-10; step-10 holds nothing but its manifest", "step-9", emptied),
        Scene(
            "step-9, step-10; .metadata, which the manifest of step-10 names, with one bit flipped",
            "step-9",
            last_of("state.json", ".metadata"),
        ),
        Scene(
            "step-9, step-10; the last of step-10's 40 files with one bit flipped",
            "step-9",
            last_of(*shards),
        ),
        Scene(
            "step-9, step-10; a file of step-10 is emptied after a first call",
            "step-9",
            lambda d, draw: several(d, draw, 9, 10),
            spoiled="step-10/state.json",
        ),
        Scene(
            "step-9, step-10; two files of step-10 have each other's content", "step-9", exchanged
        ),
    ]


def the_search_goes_back(draw: Random) -> list[Scene]:
    def scene(bad: int) -> Scene:
        def build(d: Path, draw: Random) -> None:
            several(d, draw, *range(5, 6 + bad + 1))
            for step in range(7, 7 + bad):
                file = draw.choice(["state.json", "manifest.json"])
                damage(d / f"step-{step}", draw, draw.choice(["cut short", "gone", "empty"]), file)

        return Scene(f"step-5 to step-{6 + bad}; the newest {bad} are damaged", "step-6", build)

    def between(d: Path, draw: Random) -> None:
        several(d, draw, 6, 7, 8, 9, 10)
        for step in (7, 8, 10):
            damage(d / f"step-{step}", draw, "cut short", "state.json")

    def empty(d: Path, draw: Random) -> None:
        several(d, draw, 6)
        for step in range(7, 127):
            (d / f"step-{step}").mkdir()

    return [
        scene(draw.randint(3, 6)),
        scene(draw.randint(11, 15)),
        Scene("step-6 to step-10; step-7, step-8 and step-10 are damaged", "step-9", between),
        Scene("step-6, and 120 empty folders: step-7 to step-126", "step-6", empty),
    ]


def what_was_never_finished_is_none(draw: Random) -> list[Scene]:
    def beside(d: Path, draw: Random) -> None:
        several(d, draw, 9, 10)
        os.rename(d / "step-10", d / "step-10.tmp")

    def alone(d: Path, draw: Random) -> None:
        several(d, draw, 10)
        os.rename(d / "step-10", d / "step-10.tmp")

    return [
        Scene("step-9, and step-10.tmp", "step-9", beside),
        Scene("step-10.tmp alone: no save has ever finished", None, alone),
        Scene(
            "step-9, and step-10.tmp, which the job finishes after a first call: step-10",
            "step-10",
            beside,
            finished="step-10",
        ),
    ]


def other_things_may_lie_there(draw: Random) -> list[Scene]:
    def others(d: Path) -> None:
        for name in (
            "status.json",
            "step-99.log",
            "step-best",
            "lock",
            "step-",
            "step",
            "mystep-70",
        ):
            (d / name).write_text("something else")
        (d / "step-old").mkdir()
        (d / "archive").mkdir()
        checkpoint(d / "archive", draw, 70)

    def copies(d: Path, of: str) -> None:
        """Names that people and programs give to copies of a checkpoint, each intact."""
        for name in (
            f"{of}.bak",
            f"{of}~",
            f"copy of {of}",
            f"{of}-copy",
            "step-7e1",
            f".{of}",
            f"{of}.old",
            *ODD,
        ):
            copy(d / of, d / name)

    def files(d: Path, draw: Random) -> None:
        several(d, draw, 9, 10)
        others(d)

    def backups(d: Path, draw: Random) -> None:
        several(d, draw, 9, 10)
        copies(d, "step-10")

    def named_alike(d: Path, draw: Random) -> None:
        several(d, draw, 9, 10)
        (d / "step-70").write_text("a file")
        os.symlink("step-9", d / "latest")
        os.symlink("step-9", d / "step-71")
        os.symlink("nowhere", d / "step-72")

    def only_others(d: Path, draw: Random) -> None:
        several(d, draw, 10)
        others(d)
        copies(d, "step-10")
        for file in (d / "step-10").iterdir():
            file.unlink()
        (d / "step-10").rmdir()

    def inside(d: Path, draw: Random) -> None:
        several(d, draw, 9, 10)
        for name in (
            ".nfs0000000000a1b2c300000001",
            ".DS_Store",
            "Thumbs.db",
            "state.json.bak",
            "notes.txt",
        ):
            (d / "step-10" / name).write_bytes(draw.randbytes(20))
        (d / "step-10" / ".snapshot").mkdir()

    def empty_file(d: Path, draw: Random) -> None:
        several(d, draw, 9)
        checkpoint(d, draw, 10, {"state.json": b"{}", "no-buffers.bin": b""})

    return [
        Scene("step-9, step-10, and other files and folders", "step-10", files),
        Scene("step-9, step-10, and copies of step-10 under other names", "step-10", backups),
        Scene(
            "step-9, step-10; a file called step-70, links called latest, step-71, step-72",
            "step-10",
            named_alike,
        ),
        Scene(
            f"no checkpoint; files, folders, and copies under other names: {ascii(ODD)[1:-1]} ...",
            None,
            only_others,
        ),
        Scene(
            "step-9, step-10; step-10 also holds .nfs..., .DS_Store and others that its "
            "manifest doesn't name",
            "step-10",
            inside,
        ),
        Scene(
            "step-9, step-10; one file of step-10 is empty, as its manifest says",
            "step-10",
            empty_file,
        ),
    ]


def nothing_there_means_fresh(draw: Random) -> list[Scene]:
    def nothing(d: Path, draw: Random) -> None:
        pass

    return [
        Scene("empty", None, nothing),
        Scene("doesn't exist yet", None, nothing, missing=True),
        *(
            Scene(
                f"step-9, step-10; the directory can't be listed: {why}",
                ERROR,
                lambda d, draw: several(d, draw, 9, 10),
                unlisted=why,
            )
            for why in ("EIO", "ESTALE", "EACCES", "EPERM")
        ),
    ]


def none_intact_is_an_error(draw: Random) -> list[Scene]:
    def all_of(
        steps: list[int], how: str, file: str | None, beside: str = ""
    ) -> Callable[[Path, Random], None]:
        def build(d: Path, draw: Random) -> None:
            several(d, draw, *steps)
            if beside:
                copy(d / f"step-{steps[0]}", d / beside)
            for step in steps:
                damage(d / f"step-{step}", draw, how, file)

        return build

    return [
        Scene("step-9 and step-10, both damaged", RAISES, all_of([9, 10], "gone", "state.json")),
        *(
            Scene(
                f"step-7 alone; its manifest.json: {how}",
                RAISES,
                all_of([7], how, "manifest.json"),
            )
            for how in ("cut short", "gone")
        ),
        Scene(
            "three checkpoints, all damaged",
            RAISES,
            all_of([3, 20, 100], "with one bit flipped", None),
        ),
        Scene(
            "step-9, damaged; an intact step-12.tmp",
            RAISES,
            all_of([9], "empty", None, "step-12.tmp"),
        ),
    ]


def the_directory_may_be_called_anything(draw: Random) -> list[Scene]:
    def build(d: Path, draw: Random) -> None:
        several(d, draw, 9, 10)
        damage(d / "step-10", draw, "cut short", "state.json")

    def scene(what: str, **more) -> Scene:
        return Scene(f"{what}: step-9, and a damaged step-10", "step-9", build, **more)

    names = ["my run", "lr=[0.1]*", "step-77", "Läufe für $HOME"]
    scenes = [scene(f"called {name!r}", called=name) for name in names]
    return [
        *scenes,
        scene("given relative to the working directory", relative=True),
        scene("given with a slash at its end", slash=True),
    ]


CASES = {
    f.__name__: f
    for f in (
        the_highest_step_counts, a_damaged_one_is_passed_over, odd_manifests_are_no_proof,
        the_search_goes_back, what_was_never_finished_is_none, other_things_may_lie_there,
        nothing_there_means_fresh, none_intact_is_an_error, the_directory_may_be_called_anything,
    )
}  # fmt: skip

"""Drives save_step and resume of exercise 2 through a plan of points, on all ranks.

At each point the ranks do something in a directory, under a fault at one of them perhaps; then, in new processes, they
resume from what is left, save the next step, and resume again. The processes are forked here, one for each rank and
part of a point, and meet in a file of that part's own: whole lives would cost ten times as much.

--plan FILE holds JSON: [{"name", "at", "from", "since", "saves": [step...], "fault": fault or null, "node": bool, "harm": harm or null,
"stale": rank or null, "next": bool, "hold": n or null}]. It happens in the directory `at`, which begins as a copy of the directory `from`. The last of
`saves` is done under `fault`; with `node`, ranks whose collective fails are killed, as by a launcher, else they see
the error. A harm is {"how": "remove" | "truncate", "file": n} for the n-th of the files that the directory
`since` hasn't (that is `from`, unless it is named; "all": every file there is). `stale`: this rank sees none of the
names that `since` hasn't. `next`: save once more. `hold`: in the last save, rank 0 stands still before its n-th
file-system event until rank 1 shows what it does.
"""

import argparse
import json
import os
import shutil
from pathlib import Path

import torch.distributed as dist

from grader.harness import child, collectives, fsevents, ranks, watch
from grader.workload import rank_job, rank_states, student
from grader.workload.forked import Helper
from grader.workload.hold import Hold
from grader.workload.rank_states import digests

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", required=True, help="the student's distributed.py")
p.add_argument("--directory", required=True, help="holds the points' directories")
p.add_argument("--plan", required=True)
p.add_argument("--seed", type=int, default=0)
args = p.parse_args()
RANK = int(os.environ["RANK"])
INTERVAL = 4  # steps between two saves


def job_of(step: int | None) -> rank_job.RankJob:
    return rank_states.job_of(args.seed, step, RANK)


# --- parts of a point, each in processes of its own -------------------------------------------------


def _joined(asked: dict):
    """The student's module, in a rank that has joined the others of this part."""
    ranks.join_watched(store=asked["store"])
    collectives.die_with_peers = asked.get("node", False)
    return student.load(args.checkpoint, quiet=True)


def save(asked: dict) -> None:
    ck = _joined(asked)
    for step in asked["saves"]:
        last = step == asked["saves"][-1]
        fault = asked["fault"] if last and asked["fault"] and asked["fault"]["rank"] == RANK else None
        job = job_of(step)
        before = digests(job)
        hold = Hold(asked["store"] + "-says")
        if asked["hold"] is None or not last:
            around = watch.saving(step, asked["directory"], fault or {"step": -1})
        else:
            if RANK == 0:
                hold.make(hold.pipe)
            dist.barrier()
            around = hold.held(asked["directory"], asked["hold"]) if RANK == 0 else hold.tells()
        with around:
            try:
                ck.save_step(job, asked["directory"])
            except Exception as e:
                watch.emit("raised", point=asked["name"], step=step, **child.describe(e))
        watch.emit("held", point=asked["name"], shown=hold.shown)
        watch.emit("state", point=asked["name"], step=step, changed=before != digests(job))
    if not asked["fault"]:
        dist.barrier()


def resume(asked: dict) -> None:
    ck = _joined(asked)
    if asked["stale"] == RANK:
        _see_an_older_listing(asked["directory"], set(asked["new"]))

    def look(when: str) -> rank_job.RankJob:
        job = job_of(None)
        found, error = None, None
        try:
            found = ck.resume(job, asked["directory"])
        except Exception as e:
            error = child.describe(e)
        watch.emit("resumed", point=asked["name"], when=when, found=repr(found), error=error, step=job.step, state=digests(job))
        dist.barrier()
        return job

    job = look("first")
    if asked["next"]:
        step = job.step + INTERVAL if isinstance(job.step, int) else INTERVAL
        try:
            ck.save_step(job_of(step), asked["directory"])
            watch.emit("saved next", point=asked["name"], step=step, error=None)
        except Exception as e:
            watch.emit("saved next", point=asked["name"], step=step, error=child.describe(e))
        dist.barrier()
        look("again")
    dist.barrier()


def _see_an_older_listing(directory: str, hidden: set[str]) -> None:
    """As on another node, whose file system tells of new names later; the files themselves can be opened."""
    listdir, scandir = os.listdir, os.scandir

    def here(path) -> bool:
        return not isinstance(path, int) and os.path.abspath(os.fsdecode(path)) == os.path.abspath(directory)

    class Scan:
        def __init__(self, path):
            self.entries = scandir(path)

        def __iter__(self):
            return (e for e in self.entries if e.name not in hidden)

        def __next__(self):
            return next(iter(self))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.close()

        def close(self):
            self.entries.close()

    os.listdir = lambda path=".": [n for n in listdir(path) if not (here(path) and n in hidden)]
    os.scandir = lambda path=".": Scan(path) if here(path) else scandir(path)


# --- the points, one after another; every rank goes through all of them ------------------------------


def files(folder: str | None) -> dict[str, tuple]:
    """Every file below the folder: (size, time of its last change), which a copy has as well."""
    found = {}
    for path in sorted(Path(folder).rglob("*")) if folder else ():
        if path.is_file() and not path.is_symlink():
            s = path.stat()
            found[str(path.relative_to(folder))] = (s.st_size, s.st_mtime_ns)
    return found


def run_point(point: dict, saver: Helper, resumer: Helper) -> None:
    name, folder = point["name"], os.path.join(args.directory, point["at"])
    watch.emit("point", point=name)
    meet = os.path.join(args.directory, "meet", point["at"])
    origin, since = (point[key] and os.path.join(args.directory, point[key]) for key in ("from", "since"))
    since = since or origin
    if RANK == 0:
        os.makedirs(folder)
        if origin:
            shutil.copytree(origin, folder, dirs_exist_ok=True)
    _all_here(f"{meet}-made")
    before, names = files(since), set(os.listdir(since) if since else ())
    asked = point | {"directory": folder}
    if point["saves"]:
        saver.ask(name, asked | {"store": f"{meet}-save"})
        saver.close()
    _all_here(f"{meet}-saved")
    new = [f for f, what in files(folder).items() if before.get(f) != what]
    if RANK == 0:
        watch.emit("wrote", point=name, files=new)
        if harm := point["harm"]:
            for file in sorted(files(folder)) if harm["file"] == "all" else [new[harm["file"]]]:
                path = os.path.join(folder, file)
                watch.emit("harmed", point=name, how=harm["how"], file=file)
                os.remove(path) if harm["how"] == "remove" else os.truncate(path, os.path.getsize(path) // 2)
    newer = sorted(set(os.listdir(folder)) - names)
    _all_here(f"{meet}-ready")
    resumer.ask(name, asked | {"store": f"{meet}-resume", "new": newer, "node": False})
    resumer.close()


def _all_here(path: str) -> None:
    """Every rank has come to this place in the plan."""
    store = dist.FileStore(path, int(os.environ["WORLD_SIZE"]))
    store.set(str(RANK), "here")
    store.wait([str(rank) for rank in range(int(os.environ["WORLD_SIZE"]))])


def main() -> None:
    fsevents.install()
    plan = json.loads(Path(args.plan).read_text())
    os.makedirs(os.path.join(args.directory, "meet"), exist_ok=True)
    saver, resumer = Helper("save", save), Helper("resume", resume)
    for point in plan:
        run_point(point, saver, resumer)
    watch.emit("point", point=None)
    saved = {step for point in plan for step in point["saves"]} or {0}
    expected = Helper("expected", tell_expected)
    steps = sorted(saved | {step + INTERVAL for step in saved} | {INTERVAL})
    expected.ask("expected", {"store": os.path.join(args.directory, "meet", "expected"), "steps": steps})
    expected.close()
    watch.emit("end", step=0, state={})


def tell_expected(asked: dict) -> None:
    """What this rank's job is after each of the steps."""
    ranks.join_watched(store=asked["store"])
    for step in asked["steps"]:
        watch.emit("expected", step=step, state=digests(job_of(step)))
    dist.barrier()


if __name__ == "__main__":
    main()

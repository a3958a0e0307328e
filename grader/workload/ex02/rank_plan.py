"""Has ranks save and load drawn jobs at many points, under faults, and reports what they did.

telemetry.given("points") holds JSON objects; every rank goes through all of them in order. At each
point the ranks are forked for it and meet at its own store; whole lives would cost ten times as
much. A point:

    id      the name in its events
    call    the function that saves: save_checkpoint_ddp, save_job or save_step
    at      its directory, below --directory
    node    true: a rank whose collective fails is killed, as by a launcher; else it gets the error
    stale   {"rank", "hidden": [names]}: this rank doesn't see these names in its directory
    unreadable  {"rank", "files": [paths below its directory]}: this rank can't open these files
    relative  the ranks call with relative paths, and work in this folder: "above" `at`, or
            "inside" it
    file    the name of save_checkpoint_ddp's file, if not checkpoint.pt
    ops     what the ranks do there, one after another, in one process each:

    {"op": "save", "step", "version", "fault": fault or null}
                                    "gpu": the number of the GPU that its tensors are tagged as
    {"op": "load"}                  into a job that was just built; "of": save_checkpoint_ddp's or
                                    save_job's checkpoint of that step, else the last one
    {"op": "next"}                  save the step after the one that was loaded
    {"op": "copy", "to"}            copy its directory, as it is now, to `to` below --directory
    {"op": "show", "payload", "step", "version"}   the digests of such a job, without student code
    {"op": "hold", "rank", "step"}  one save for each event of a save, that rank held before it
    {"op": "fail", "rank", "step", "byte"}  saves that fail: one for each event of a save, one for
                                    each opened file, with a full disk, and some with ERRORS; then
                                    one in which every rank fails; "once": only at the first
                                    event; "again": some that replace an older checkpoint, too

Values are drawn from telemetry.given("payload"); telemetry.given("key") is the digests' key.
"""

import argparse
import math
import os
import select
import shutil
import signal
import time
from contextlib import nullcontext
from datetime import timedelta

import torch
import torch.distributed as dist

from grader.harness.inside import child, collectives, fsevents, ranks, telemetry
from grader.harness.inside.digest import digest
from grader.workload import left_open, load_submission, refusals
from grader.workload.ex02.pause_rank import holding
from grader.workload.ex02.rank_faults import ERRORS, odd_errors, refusing, see_an_older_listing
from grader.workload.ex02.sample_jobs import digests, job_of
from grader.workload.fake_cuda_tensors import living_on_gpu
from grader.workload.questions import outcome

p = argparse.ArgumentParser()
p.add_argument("--checkpoint", help="the student's distributed.py")
p.add_argument("--directory", required=True, help="holds the points' directories")
p.add_argument("--seed", type=int, default=0)
args = p.parse_args()
RANK, WORLD = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
ALONE = 2.0  # s after another rank's death within which a rank that waits for it must see the error
INTERVAL = 4  # steps between two saves
MOST = 24  # events of one save before which a rank is held or fails
HANGS = 3  # exit status if the ranks waited for each other until they gave up
OPENS = ("open ", "torch.save begins")  # how the events of a file's first write begin
MOST_AGAIN = 4  # events at which a save fails that replaces an older checkpoint of its step
HOLD_NOTHING = 2  # holds that show nothing; each costs its patience


# --- what the ranks do at a point, in processes of its own


class Point:
    def __init__(self, point: dict, meet: str):
        self.id, self.call, self.meet = point["id"], point["call"], meet
        self.directory = os.path.join(args.directory, point["at"])
        if point.get("relative") == "above":
            above, self.directory = os.path.split(self.directory)
            os.chdir(above)
        elif point.get("relative") == "inside":
            os.chdir(self.directory)
            self.directory = "."
        ranks.join_watched(store=f"{meet}-store")
        collectives.die_with_peers = point.get("node", False)
        if args.checkpoint:
            self.student = load_submission.load(args.checkpoint, quiet=True)
        stale = point.get("stale")
        if stale and stale["rank"] == RANK:
            see_an_older_listing(self.directory, set(stale["hidden"]))
        self.name = point.get("file", "checkpoint.pt")
        self.file = self.name  # save_checkpoint_ddp's newest
        self.saved_in = self.directory  # save_job's newest folder
        self.loaded = 0  # step

    def emit(self, event: str, **fields) -> None:
        telemetry.emit(event, id=self.id, **fields)

    def run(self, ops: list[dict]) -> None:
        for n, op in enumerate(ops):
            self.n = n
            getattr(self, op["op"])(op)
        dist.barrier()  # rank 0 holds the store, which others may still need

    # --- ops

    def save(self, op: dict, around=None) -> dict:
        """One save; `around` it, a context manager watches or disturbs it."""
        step, version = op["step"], op.get("version", 0)
        job = job_of(args.seed, telemetry.given("payload"), step, version)
        in_mid_training(job)
        before, looked = self.digests(job), looks(job)
        fault = op.get("fault")
        if not fault or (fault["rank"] != RANK and not fault.get("everyone")):
            fault = {"step": -1}  # no fault, not even the life's own
        elif fault.get("error"):
            around = refusing(step, self.directory, fault["event"], ERRORS[fault["error"]])
        if self.call == "save_job":
            self.saved_in = self._place_of(step)
            if RANK == 0:
                os.makedirs(self.saved_in, exist_ok=True)
            dist.barrier()
        self.file = self.name
        if (op.get("fault") or {}).get("kind") == "blocked":  # the same path for every rank
            self.file = os.path.join("a file", self.file)
            if RANK == 0:
                open(os.path.join(self.directory, "a file"), "w").close()
            if fault.get("kind") == "blocked":
                self.emit("fault", step=step)
            fault = {"step": -1}
        elif op.get("apart"):
            self.file = self._file_of(step)
        gpu = op.get("gpu")
        on_gpu = living_on_gpu(tensors_of(job), gpu) if gpu else nullcontext()
        with around or telemetry.saving(step, self.directory, fault) as seen, on_gpu:
            did = outcome(lambda: self._save(job))
        events = seen if isinstance(seen, list) else []
        now, was = self.digests(job) | looks(job), before | looked
        changed = [part for part, value in now.items() if value != was[part]]
        returned = repr(did["returned"])[:100] if "returned" in did else None
        self.emit(
            "saved point", n=self.n, step=step, returned=returned, raised=did.get("raised"),
            events=events, changed=changed, holds=before, held=left_open.held(),
        )  # fmt: skip
        return {"events": events, "raised": "raised" in did, "seen": seen}

    def _save(self, job) -> object:
        if self.call == "save_checkpoint_ddp":
            path = os.path.normpath(os.path.join(self.directory, self.file))
            return self.student.save_checkpoint_ddp(job.model, job.optimizer, job.step, RANK, path)
        if self.call == "save_job":
            return self.student.save_job(job, self.saved_in)
        return self.student.save_step(job, self.directory)

    def _file_of(self, step: int) -> str:
        return f"checkpoint-{step}.pt"

    def _place_of(self, step: int) -> str:
        return os.path.join(self.directory, f"after-{step}")

    def load(self, op: dict) -> None:
        if "of" in op:
            self.file, self.saved_in = self._file_of(op["of"]), self._place_of(op["of"])
        job = job_of(args.seed, None)
        did = outcome(lambda: repr(self._load(job))[:100])
        step = self.loaded = job.step if isinstance(job.step, int) else 0
        self.emit(
            "loaded point", n=self.n, of=op.get("of"), step=step,
            returned=did.get("returned"), raised=did.get("raised"),
            holds=self.digests(job), classes=classes_of(self.student),
        )  # fmt: skip
        dist.barrier()

    def _load(self, job) -> object:
        if self.call == "save_checkpoint_ddp":
            path = os.path.normpath(os.path.join(self.directory, self.file))
            return self.student.load_checkpoint_ddp(job.model, job.optimizer, path)
        if self.call == "save_job":
            return self.student.load_job(job, self.saved_in)
        return self.student.resume(job, self.directory)

    def next(self, op: dict) -> None:
        self.save({"step": self.loaded + INTERVAL})

    def copy(self, op: dict) -> None:
        dist.barrier()
        if RANK == 0:
            shutil.copytree(self.directory, os.path.join(args.directory, op["to"]), symlinks=True)
        dist.barrier()

    def show(self, op: dict) -> None:
        job = job_of(args.seed, op["payload"], op["step"], op.get("version", 0))
        self.emit(
            "shown",
            n=self.n,
            step=op["step"],
            version=op.get("version", 0),
            holds=self.digests(job),
        )

    def hold(self, op: dict) -> None:
        self.save(op)  # this op doesn't hold anything, so it doesn't wait
        events = self._events_of(op["rank"], self.save(op | {"step": op["step"] + 1})["events"])
        nothing = 0
        for event in range(-1, min(len(events), MOST)):
            step = op["step"] + 3 + event
            around = holding(f"{self.meet}-{self.n}-{event}", self.directory, op["rank"], event)
            found = self.save(op | {"step": step}, around)["seen"]
            if op["rank"] == RANK:
                self.emit(
                    "held", n=self.n, step=step, rank=RANK, before=found.before, shown=found.shown
                )
            self.load(op)
            nothing += self._events_of(op["rank"], [found.shown]) == ["nothing"]
            if nothing == HOLD_NOTHING:
                break

    def fail(self, op: dict) -> None:
        mine = self.save(op)["events"]
        events = self._events_of(op["rank"], mine)
        # torch.save into a file that was just opened fails as the open does
        own = [
            n
            for n, e in enumerate(events)
            if not (e.startswith("torch.save") and n and events[n - 1].startswith("open "))
        ]
        own = [n for n in own if not events[n].startswith("torch.save ended")]
        opened = [n for n in own if events[n].startswith(OPENS)]
        faults = [{"kind": "error", "event": n} for n in own[:MOST]]
        faults += [{"kind": "error", "event": n, "error": e} for n, e in odd_errors(own[:MOST])]
        faults += [{"kind": "full", "byte": op["byte"], "late": n} for n in opened[:MOST]]
        if self.call == "save_checkpoint_ddp":
            faults.append({"kind": "blocked"})
        elif own:
            first = next((n for n, e in enumerate(mine) if e.startswith(OPENS)), len(mine))
            faults.append({"kind": "error", "event": first, "error": "silent", "everyone": True})
        if op.get("once"):
            faults = faults[:1]
        good = op["step"]
        for number, fault in enumerate(faults, 1):
            step = op["step"] + 2 * number
            at = fault.get("event", fault.get("late"))
            before = None if at is None or fault.get("everyone") else events[at]
            # the same step again, or the one after it
            then = step + (self.call != "save_step" or number % 2 == 0)
            if not self._fails(number, {"step": step}, fault, before, op, good, then):
                return
            good = then
        if op.get("again"):
            self._fail_again(op, op["step"] + 2 * len(faults) + 2, len(events), len(faults))
        self.load(op)

    def _fail_again(self, op: dict, step: int, usual: int, number: int) -> None:
        """Errors in the part of a save that removes an older checkpoint of the same step, and what
        a failed save has left.

        usual   the number of events of a save that removes nothing
        number  of the saves that have failed so far
        """
        if not self._saved_and_left_over(op, step, usual):
            return
        events = self._events_of(op["rank"], self.save({"step": step, "version": 1})["events"])
        more = range(len(events) - usual)
        picked = [more[at * len(more) // MOST_AGAIN] for at in range(MOST_AGAIN) if more]
        good = step
        for event in dict.fromkeys(picked):
            step, number = step + 2, number + 1
            if not self._saved_and_left_over(op, step, usual):
                return
            save, fault = {"step": step, "version": 1}, {"kind": "error", "event": event}
            if not self._fails(number, save, fault, events[event], op, good, step + 1):
                return
            good = step + 1

    def _saved_and_left_over(self, op: dict, step: int, usual: int) -> bool:
        """Save this step, and fail halfway in the next one. False if that one was tried again:
        then it is a newer checkpoint.
        """
        self.save({"step": step})
        leaves = {"kind": "error", "event": usual // 2, "step": step + 1, "rank": op["rank"]}
        raised = [False] * WORLD
        dist.all_gather_object(raised, self.save({"step": step + 1, "fault": leaves})["raised"])
        return all(raised)

    def _fails(
        self,
        number: int,
        save: dict,
        fault: dict,
        before: str | None,
        op: dict,
        good: int,
        then: int,
    ) -> bool:
        """One save that fails, and the save of step `then`; False if the ranks can't go on.

        before  the event that fails
        good    the step before this save's, of those that are complete
        """
        step = save["step"]
        self.emit("failing", n=self.n, step=step, good=good, fault=fault, before=before)
        fault = fault | {"step": step, "rank": op["rank"]}
        raised = self.save(save | {"apart": True, "fault": fault})["raised"]
        how = self.all_are_back(number, raised)
        if how is None:
            return False
        late = then == step and number % 4 == 3  # a load may remove what a failed save has left
        if not late and (self.call == "save_step" or not any(how)):
            self.load(op)
        self.save({"step": then, "apart": True})
        if late:
            self.load(op)
        return True

    def all_are_back(self, number: int, raised: bool) -> list[bool] | None:
        """Wait for the others, but not in a collective: it would serve a rank that is still saving.

        Returns which ranks' saves raised; None if the ranks can't continue together. If one doesn't
        come back at all, this process ends.
        """
        store = dist.FileStore(f"{self.meet}-{self.n}-back", WORLD)
        store.set(f"{number} {RANK}", "lost" if collectives.failed else str(raised))
        try:
            store.wait(
                [f"{number} {rank}" for rank in range(WORLD)], timedelta(seconds=ranks.PATIENCE + 1)
            )
        except RuntimeError:
            os._exit(HANGS)
        told = [store.get(f"{number} {rank}").decode() for rank in range(WORLD)]
        return None if "lost" in told else [text == "True" for text in told]

    def _events_of(self, rank: int, mine: list) -> list:
        everybodys = [None] * WORLD
        dist.all_gather_object(everybodys, mine)
        return everybodys[rank]

    def digests(self, job) -> dict[str, str]:
        return digests(job, job.model.module, telemetry.given("key", ""))


def in_mid_training(job) -> None:
    """Give a drawn job what a step leaves: gradients; and a layer that isn't trained."""
    network = job.model.module
    for n, p in enumerate(network.parameters()):
        p.grad = torch.full_like(p, n)
    network.block.dropout.eval()
    network.head.bias.requires_grad_(False)


def looks(job) -> dict[str, str]:
    """Digests of what a save could change without a difference in the checkpoint."""
    network = job.model.module
    return {
        "gradients": digest([p.grad for p in network.parameters()]),
        "training mode": digest([m.training for m in network.modules()]),
        "requires_grad": digest([p.requires_grad for p in network.parameters()]),
        "gradient mode": digest(torch.is_grad_enabled()),
        "default dtype": digest(str(torch.get_default_dtype())),
    }


def tensors_of(job) -> list[torch.Tensor]:
    moments = [t for s in job.optimizer.state.values() for t in s.values() if torch.is_tensor(t)]
    return [*job.model.state_dict().values(), *moments]


def classes_of(module) -> list[str]:
    """The names of the exceptions that the submission defines."""
    found = (name for name, value in list(vars(module).items()) if isinstance(value, type))
    return [name for name in found if issubclass(vars(module)[name], BaseException)]


# --- the points, one after another; every rank goes through all of them ---------------------------


def run_point(point: dict) -> bool:
    """Run one point, in a fork; return whether ranks hung in it.

    When another rank has died, this one gets time to see it and is then ended, too: outside a
    collective it would wait forever.
    """
    telemetry.emit("point", id=point["id"])
    meet = os.path.join(args.directory, "meet", point["id"])
    if RANK == 0:
        os.makedirs(os.path.join(args.directory, point["at"]), exist_ok=True)
    all_here(f"{meet}-made")
    pid = os.fork()
    if pid == 0:
        os._exit(answer(point, meet))
    deadline, stack = math.inf, None
    while not ended_within(pid, 0.05):
        now = time.monotonic()
        if os.path.exists(f"{meet}-gone"):
            deadline = min(deadline, now + ALONE)
        if now > deadline:
            stack = telemetry.where_it_stands(pid)
            os.kill(pid, signal.SIGKILL)
            break
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        open(f"{meet}-gone", "w").close()
    if status == HANGS:
        open(f"{meet}-hangs", "w").close()
    telemetry.emit("ended point", id=point["id"], status=status, stack=stack)
    all_here(f"{meet}-done")
    return os.path.exists(f"{meet}-hangs")


def answer(point: dict, meet: str) -> int:
    began, status = time.monotonic(), 0
    try:
        with refusals.refusing(unreadable_by_this_rank(point), []):
            Point(point, meet).run(point["ops"])
    except BaseException as e:
        telemetry.emit("crash", id=point["id"], **child.describe(e))
        status = 1
    hung = collectives.failed and time.monotonic() - began > ranks.PATIENCE
    return HANGS if hung else status


def unreadable_by_this_rank(point: dict) -> list[str]:
    unreadable = point.get("unreadable")
    if not unreadable or unreadable["rank"] != RANK:
        return []
    return [os.path.join(args.directory, point["at"], file) for file in unreadable["files"]]


def ended_within(pid: int, seconds: float) -> bool:
    """Whether this child has ended; doesn't reap it."""
    if hasattr(os, "pidfd_open"):
        fd = os.pidfd_open(pid)
        try:
            return bool(select.select([fd], [], [], seconds)[0])
        finally:
            os.close(fd)
    if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        return True
    time.sleep(0.005)
    return False


def all_here(path: str) -> None:
    """Wait until every rank has reached this place."""
    store = dist.FileStore(path, WORLD)
    store.set(str(RANK), "here")
    store.wait([str(rank) for rank in range(WORLD)])


def main() -> None:
    fsevents.install()
    os.makedirs(os.path.join(args.directory, "meet"), exist_ok=True)
    for point in telemetry.given("points"):
        if run_point(point):
            break  # the others would hang as long
    telemetry.emit("point", id=None)
    telemetry.emit("end", step=0, state={})


if __name__ == "__main__":
    main()

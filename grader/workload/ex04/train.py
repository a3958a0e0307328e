"""The training job of exercise 4: a random walk of sixteen numbers, which starts quickly.

    python train.py --directory D [--code auto_resume.py [--uses lives]] [--witness ADDRESS]

It behaves as exercise 3 taught it: after SIGUSR1 or SIGTERM, it finishes the step and saves. Exit
status: 0 done, 75 preempted, 70 a person has to look (don't run me again), 1 failed. With --code,
your functions decide what it resumes from, whether it may start, and that it is alone.

The grader's witness is at the other end of a socket. It gives a secret number for each step,
without which no job gets the right walk, says what happens at which step, and writes down what it
hears. Without a witness (to play), the numbers are 0 and nothing happens.

It needs no other file of the grader and no torch.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import select
import shutil
import signal
import socket
import sys
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path

MANIFEST = "manifest.json"  # {"step": 40, "files": {"state.json": {"bytes": 12, "sha256": "..."}}}
DONE, PREEMPTED, GAVE_UP, FAILED = 0, 75, 70, 1
SAYS_LIFE = "life "  # begins the first line that a life prints
PATIENCE = (
    900.0  # s that it stands still: a site checks time limits every 30 s and warns when it likes
)
WOKEN, WAKES = os.pipe()  # readable when a signal has come

p = argparse.ArgumentParser()
p.add_argument("--directory", required=True, help="where checkpoints go")
p.add_argument("--code", help="the student's auto_resume.py")
p.add_argument(
    "--uses",
    default="checkpoint,lives,lock",
    help="what to use of it: newest_intact, begin_life and end_life, only_one",
)
p.add_argument("--witness", help="unix:PATH, or files:FOLDER, which both sides see")
p.add_argument("--steps", type=int, default=40)
p.add_argument("--save-every", type=int, default=5)
p.add_argument("--tries", type=int, default=3)
p.add_argument("--pace", type=float, default=0, help="s that a step takes (to play: 1)")


class Walk:
    """Sixteen numbers and the generator that moves them."""

    def __init__(self):
        self.draw, self.step = random.Random(0), 0
        self.x = [self.draw.random() for _ in range(16)]

    def advance(self, salt: float) -> None:
        self.x[0] += salt
        self.x = [
            0.9 * a + 0.1 * self.draw.gauss(0, 1) * b
            for a, b in zip(self.x, [*self.x[1:], self.x[0]], strict=False)
        ]
        self.step += 1

    def state(self) -> dict:
        return {"step": self.step, "x": [v.hex() for v in self.x], "rng": self.draw.getstate()}

    def restore(self, state: dict) -> None:
        self.step, self.x = state["step"], [float.fromhex(v) for v in state["x"]]
        version, numbers, gauss = state["rng"]
        self.draw.setstate((version, tuple(numbers), gauss))

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.state()).encode()).hexdigest()


# --- checkpoints; deciding which one is intact is task 4.1
# -----------------------------------------


def write_checkpoint(directory: str | Path, step: int, state: dict) -> Path:
    """Write the checkpoint of `step`, whole or not at all."""
    final = Path(directory, f"step-{step}")
    temporary = final.with_name(final.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    _write(temporary / "state.json", json.dumps(state).encode())
    _seal(temporary, step)
    shutil.rmtree(final, ignore_errors=True)  # the same step, saved by an earlier life
    os.rename(temporary, final)
    return final


def _seal(folder: Path, step: int) -> None:
    """Write the manifest of the files in `folder`."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            data = path.read_bytes()
            files[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _write(folder / MANIFEST, json.dumps({"step": step, "files": files}).encode())


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def read_checkpoint(folder: str | Path) -> dict:
    return json.loads(Path(folder, "state.json").read_text())


# --- the witness ----------------------------------------------------------------------------------


class Nobody:
    """Stands in for the witness when there is none."""

    def ask(self, event: str, **fields) -> dict:
        return {"salt": 0.0}

    def note(self, event: str, **fields) -> None:
        pass

    def fileno(self) -> int:
        return WOKEN


class Witness:
    """The witness: a line of JSON for each event, most of them answered by another line."""

    def __init__(self, address: str):
        kind, _, where = address.partition(":")
        if kind == "unix":
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(where)
        else:
            self._socket, theirs = socket.socketpair()
            name = os.path.join(where, f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}")
            threading.Thread(
                target=pump, args=(theirs, f"{name}.out", f"{name}.in"), daemon=True
            ).start()
        self._answers = self._socket.makefile()
        self.note("hello", job=os.environ.get("SLURM_JOB_ID"), pid=os.getpid())

    def ask(self, event: str, **fields) -> dict:
        self.note(event, **fields)
        if not (line := self._answers.readline()):
            raise ConnectionError("the witness left")
        return json.loads(line)

    def note(self, event: str, **fields) -> None:
        self._socket.sendall(json.dumps({"event": event, **fields}).encode() + b"\n")

    def fileno(self) -> int:
        return self._socket.fileno()


BEAT = 1.0  # s between two heartbeats in the files
# s without a heartbeat after which the other side is gone; a network file system may be late
SILENT = 60.0


def pump(sock: socket.socket, incoming: str, outgoing: str) -> None:
    """Connect two machines that share a folder but open no port, through two growing files.

    What comes from `sock` is appended to `outgoing`, and what appears in `incoming` goes to `sock`,
    until either side is gone. A blank line is a heartbeat.
    """
    sock.setblocking(False)
    read, rest, heard, beaten = 0, b"", time.monotonic(), 0.0
    while time.monotonic() - heard < SILENT:
        waiting = select.select([sock], [], [], 0.05)[0]
        data = sock.recv(1 << 16) if waiting else b""
        if waiting and not data:
            break
        if not waiting and time.monotonic() - beaten > BEAT:
            data, beaten = b"\n", time.monotonic()
        if data:
            with open(outgoing, "ab") as f:
                f.write(data)
        # opened again each time: it may be cached otherwise
        with suppress(FileNotFoundError), open(incoming, "rb") as f:
            f.seek(read)
            if new := f.read(1 << 16):
                read, heard = read + len(new), time.monotonic()
                *lines, rest = (rest + new).split(b"\n")
                sock.setblocking(True)
                sock.sendall(b"".join(line + b"\n" for line in lines if line))
                sock.setblocking(False)
    sock.close()


def main() -> int:
    args = p.parse_args()
    witness = Witness(args.witness) if args.witness else Nobody()
    came: list[int] = []
    os.set_blocking(WAKES, False)
    signal.set_wakeup_fd(WAKES)

    def note(number, frame) -> None:
        came.append(number)
        witness.note("signal", signal=signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, note)
    os.makedirs(args.directory, exist_ok=True)
    ck, uses = None, args.uses.split(",") if args.code else []
    mark = witness.ask("life").get("mark", "")
    job, restart = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", 0)
    print(f"{SAYS_LIFE}{mark} of job {job}, restart {restart}", flush=True)
    try:
        ck = module_at(args.code) if args.code else None
        with ck.only_one(args.directory) if "lock" in uses else nullcontext():
            status = _live(args, ck, uses, witness, came)
    except BaseException as e:
        frames = _frames(e, args.code)
        witness.note("error", type=type(e).__name__, message=str(e)[:500], frames=frames)
        if not ck or not isinstance(e, (ck.CrashLoop, ck.NothingIntact, ck.Busy)):
            raise
        print(f"{type(e).__name__}: {e}", flush=True)
        status = FAILED if isinstance(e, ck.Busy) else GAVE_UP
    witness.ask("left", status=status)
    return status


def _frames(error: BaseException, code: str | None) -> list[dict]:
    """Where in the student's file an error came from."""
    import traceback  # only here: a job starts without it

    frames = traceback.extract_tb(error.__traceback__)
    found = [(f.lineno, f.name, f.line) for f in frames if f.filename == code]
    return [{"line": n, "function": name, "text": (text or "")[:300]} for n, name, text in found][
        -5:
    ]


def _live(args, ck, uses: list[str], witness, came: list[int]) -> int:
    walk = Walk()
    if "checkpoint" in uses:
        found = ck.newest_intact(args.directory)
    else:
        found = witness.ask("where").get("checkpoint")
    if found is not None:
        walk.restore(read_checkpoint(found))
    over = (
        not ck.begin_life(args.directory, walk.step, args.tries)
        if "lives" in uses
        else walk.step == args.steps
    )
    if over:
        witness.note("nothing to do", step=walk.step)
        return DONE
    outcome = "failed"
    try:
        status = _train(args, walk, witness, came)
        outcome = {DONE: "done", PREEMPTED: "preempted"}.get(status, "failed")
        return status
    finally:
        if "lives" in uses:
            ck.end_life(args.directory, outcome)


def _train(args, walk: Walk, witness, came: list[int]) -> int:
    print(f"starting at step {walk.step}", flush=True)

    def save() -> None:
        witness.ask("saving", step=walk.step)  # answered after the time that this save takes
        write_checkpoint(args.directory, walk.step, walk.state())
        witness.ask("saved", step=walk.step)

    answer = witness.ask("resumed", step=walk.step)
    while True:
        if (status := _obey(answer, args.directory, witness, came, walk.step)) is not None:
            return status
        if came:
            save()
            print(f"stopped at step {walk.step}, saved", flush=True)
            return PREEMPTED
        if walk.step == args.steps:
            print(f"done at step {walk.step}", flush=True)
            return DONE
        time.sleep(args.pace)
        walk.advance(answer["salt"])
        witness.ask("step", step=walk.step, digest=walk.digest())
        if walk.step % args.save_every == 0 or walk.step == args.steps:
            save()
        answer = witness.ask("ready", step=walk.step)


def _obey(answer: dict, directory: str, witness, came: list[int], step: int) -> int | None:
    """Do what the witness says about this step; return the exit status if it is the end."""
    do = answer.get("do")
    if do == "tear":
        _tear(Path(directory, answer["folder"]), answer["how"])
        do = witness.ask("torn").get("do")
    if do == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if do == "exit" and answer["status"] == FAILED:
        raise RuntimeError(f"step {step} crashes")
    if do == "exit" and answer["status"] != GAVE_UP:
        os._exit(answer["status"])
    if do == "exit":
        return GAVE_UP
    if do == "wait" and not came:
        select.select([WOKEN, witness], [], [], PATIENCE)
        if not came:
            raise TimeoutError(f"step {step}: no signal")
    return None


def _tear(folder: Path, how: str) -> None:
    """Do to a checkpoint what a dying node or a disk may do."""
    file = folder / ("manifest.json" if how.startswith("manifest") else "state.json")
    data = file.read_bytes()
    if how.endswith("cut"):
        file.write_bytes(data[: len(data) // 2])
    elif how.endswith("zeros"):
        file.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    else:
        file.unlink()


def module_at(path: str):
    """The student's module."""
    spec = importlib.util.spec_from_file_location("auto_resume", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["auto_resume"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())

"""ex02.3 and ex02.4: models that are spread over all ranks."""

from __future__ import annotations

from importlib.metadata import version

from grader.checks import trajectories
from grader.checks.crashes import crashed
from grader.checks.endings import finished
from grader.checks.ex02 import rank_plan, sweeps
from grader.checks.ranks import left_early
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Found, Gist, Inconclusive

MEMORY_RANKS = 8
# A rank of eight holds an eighth of everything. What a save or a load may take beyond that, of the
# model's bytes: three
# copies of all its own shards, the momentum's included, are three quarters of it; the whole model
# is more.
WHOLE = 0.97


def can_shard() -> None:
    """Inconclusive on a torch version in which FSDP2 needs a GPU."""
    if tuple(map(int, version("torch").split(".")[:2])) < (2, 7):
        raise Inconclusive(
            "torch-too-old",
            [
                (
                    "torch",
                    f"{version('torch')} shards on GPUs only; on the CPU, fully_shard needs "
                    "torch 2.7 or newer",
                )
            ],
        )


def trains_as_without_checkpoints(lab: Lab) -> None:
    can_shard()
    args = ("ex02/train_sharded.py", "--seed", lab.seed)
    bare = lab.trusted(*args, "--bare", ranks=2)
    trajectories.quiet(
        lab,
        lab.undisturbed(*args, ranks=2),
        bare,
        "a run that saves, and the same run that never saves",
    )


def nobody_holds_the_whole_model(lab: Lab) -> None:
    can_shard()
    run = lab.launch("ex02/sharded.py", "--do", "memory", ranks=MEMORY_RANKS, slow=True)
    finished(lab, run)
    for rank, life in enumerate(run.last.processes):
        took = life.first("memory")
        for what in ("save", "load"):
            if took[what] is None:
                raise Inconclusive(
                    "memory-unknown", [("memory", "can't be measured on this system (Linux only)")]
                )
            if took[what] > WHOLE * took["weights"]:
                each = took["weights"] // MEMORY_RANKS >> 20
                rows = [
                    (
                        "measured",
                        f"a model of {took['weights'] >> 20} MiB, spread over {MEMORY_RANKS} "
                        f"ranks, each holding {each} MiB of it, and as much of its momentum",
                    ),
                    Found(f"in {what}_sharded, rank {rank} took {took[what] >> 20} MiB more"),
                ]
                raise Finding(
                    "whole-model-saved" if what == "save" else "whole-model-loaded",
                    rows,
                    means=(
                        "that rank holds the whole model. Models are sharded because no GPU, "
                        "and often no node, can"
                    ),
                    think="which call puts the shards of all ranks together? Does any rank need "
                    "them all?",
                )


def nobody_leaves_early(lab: Lab) -> None:
    """Each rank is held before each of its file-system events, once."""
    can_shard()
    run = lab.launch("ex02/sharded.py", "--do", "hold", "--seed", lab.seed, ranks=2)
    held = [e for life in run.last.processes for e in life.all("held") if e["shown"]]
    for e in held:
        if e["shown"] == "returned":
            think = "what do the ranks wait for at the end of your save?"
            raise left_early(
                sweeps.stands_still(e),
                "another rank",
                "save_sharded",
                think,
                until="every rank's part is complete",
            )
    finished(lab, run)
    for rank, life in enumerate(run.last.processes):
        for e in life.all("saved held"):
            if e["raised"]:
                raise crashed(
                    e["raised"],
                    [("called", "save_sharded, with no fault"), ("rank", str(rank))],
                )
    _loaded_as_saved(run, "by the same 2 ranks, a rank that was held in the save")
    if not held:
        raise Inconclusive(
            "blind", [("watching", "the saves raised no file-system event that Python can see")]
        )


def _loaded_as_saved(run: Run, how: str) -> None:
    for rank, life in enumerate(run.last.processes):
        for e in life.all("loaded"):
            if e["different"]:
                raise _lost(e["different"], [("saved and loaded", how), ("rank", str(rank))])


# --- drawn jobs -----------------------------------------------------------------------------------


def _saved(lab: Lab, ranks: int) -> Run:
    def make(lab: Lab) -> Run:
        payload = rank_plan.secrets(lab)["saved"]
        return lab.launch(
            "ex02/sharded.py", "--do", "save", ranks=ranks, given={"payload": payload}
        )

    run = lab.once(("sharded", ranks), make)
    finished(lab, run)
    for rank, life in enumerate(run.last.processes):
        if changed := life.first("whole")["changed"]:
            rows = [
                (
                    "changed",
                    f"rank {rank}'s model or optimizer isn't what it was before "
                    f"save_sharded: {', '.join(changed[:3])}",
                )
            ]
            raise Finding("save-changes-the-job", rows)
    return run


def _want(lab: Lab) -> dict[str, str]:
    drawn = rank_plan.secrets(lab)
    run = lab.trusted(
        "ex02/sharded.py", "--do", "whole", given={"payload": drawn["saved"], "key": drawn["key"]}
    )
    finished(lab, run)
    return run.last.first("whole")["digests"]


def loads(lab: Lab, saved_by: int, loaded_by: int) -> None:
    """Every tensor and setting that was saved is there, on every rank."""
    can_shard()
    saved, want = _saved(lab, saved_by), _want(lab)
    given = {"key": rank_plan.secrets(lab)["key"]}
    run = lab.launch(
        "ex02/sharded.py", "--do", "load", ranks=loaded_by, directory=saved.directory, given=given
    )
    when = (
        "resharded" if saved_by != loaded_by else "sharded",
        f"saved by {saved_by} ranks, loaded by {loaded_by}",
    )
    try:
        finished(lab, run)
    except Finding as finding:
        finding.rows = [when, *finding.rows]
        raise
    for rank, life in enumerate(run.last.processes):
        got = life.first("whole")["digests"]
        if different := [name for name in want if got.get(name) != want[name]]:
            raise _lost(
                different,
                [
                    when,
                    ("rank", f"{rank} (of {loaded_by})"),
                    (
                        "same",
                        f"{len(want) - len(different)} tensors, each gathered from all ranks "
                        "and compared bit for bit",
                    ),
                ],
                resharded=saved_by != loaded_by,
            )


def each_folder_is_whole(lab: Lab) -> None:
    """The first of several checkpoints is copied elsewhere, alone, and loaded there."""
    can_shard()
    drawn = rank_plan.secrets(lab)
    saved = lab.launch(
        "ex02/sharded.py", "--do", "several", ranks=2, given={"payload": drawn["saved"]}
    )
    finished(lab, saved)
    _loaded_as_saved(saved, "by the same 2 ranks, which saved others in between")
    folder = rank_plan.place(lab)
    rank_plan.alone(saved.directory / "saved-0", folder / "a copy", "save_sharded")
    run = lab.launch(
        "ex02/sharded.py",
        *("--do", "load", "--folder", "a copy"),
        ranks=2,
        directory=folder,
        given={"key": drawn["key"]},
    )
    want = _want(lab)
    for rank, life in enumerate(run.last.processes):
        whole, crash = life.first("whole"), life.first("crash")
        got = whole["digests"] if whole else {}
        if crash or any(got.get(name) != want[name] for name in want):
            different = list(dict.fromkeys(_kind(n) for n in want if got.get(n) != want[n]))
            loaded = {"raised": crash} if crash else None
            if crash or whole:
                raise rank_plan.not_whole(different, loaded, "save_sharded", rank)
    finished(lab, run)


def _kind(name: str) -> str:
    return " ".join(name.split()[: 2 if name.startswith("optimizer") else 1])


def _lost(different: list[str], when: list, resharded: bool = False) -> Finding:
    kinds = list(dict.fromkeys(map(_kind, different)))
    rows = [
        *when,
        Gist(
            "different",
            f"{', '.join(kinds)}: {', '.join(name.split()[-1] for name in different[:4])}",
        ),
    ]
    return Finding(
        "state-lost",
        rows,
        about=kinds[0].split()[0],
        means=(
            "on fewer or more nodes than before, the job continues in a different state"
            if resharded
            else "the job continues in a different state"
        ),
        think=(
            "do your files say which rank wrote them, or which part of which tensor they "
            "hold? What if a tensor has fewer rows than there are ranks?"
        ),
    )


def exports(lab: Lab) -> None:
    can_shard()
    saved = _saved(lab, 4)
    given = {"key": rank_plan.secrets(lab)["key"]}
    run = lab.launch("ex02/sharded.py", "--do", "export", directory=saved.directory, given=given)
    when = ("exported", "what 4 ranks saved, by one process without a process group")
    if crash := run.last.first("crash"):
        raise crashed(crash, [when])
    finished(lab, run)
    answer = run.last.first("exported")
    kinds = answer["kinds"]
    if not isinstance(kinds, dict) or set(kinds.values()) != {"Tensor"}:
        holds = (
            ", ".join(f"{k}: {v}" for k, v in list(kinds.items())[:3])
            if isinstance(kinds, dict)
            else kinds
        )
        rows = [
            when,
            Found(f"the file isn't a dict of plain tensors: {holds}"[:200]),
        ]
        raise Finding("not-plain", rows, think="what does load_state_dict of a plain model take?")
    want = {k: v for k, v in _want(lab).items() if k.startswith("weights ")}
    for what, got in (("file", answer["digests"]), ("model", answer["filled"])):
        if got != want:
            missing = [k.split()[1] for k in want if k not in got]
            wrong = [k.split()[1] for k in want if k in got and got[k] != want[k]]
            extra = [k.split()[1] for k in got if k not in want]
            told = [
                (f"lacks {', '.join(missing[:3])}", missing),
                (f"has other values in {', '.join(wrong[:3])}", wrong),
                (f"has {', '.join(extra[:3])} as well", extra),
            ]
            think = "under which names does the network itself know its weights?"
            if what == "model":
                think = "the file is right. What else must export_model fill?"
            elif wrong:
                think = (
                    "whose values does the file hold: those that were saved, or those of "
                    "the fresh model?"
                )
            rows = [
                when,
                Found(f"the {what} " + "; ".join(text for text, names in told if names)),
            ]
            raise Finding(
                "wrong-export" if what == "file" else "model-not-filled", rows, think=think
            )

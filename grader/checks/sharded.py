"""ex02.3 and ex02.4: models that are spread over all ranks."""

from __future__ import annotations

from importlib.metadata import version

from grader.checks.expect import crashed, finished
from grader.checks.rank_runs import finished as all_finished
from grader.checks.rank_runs import left_early
from grader.harness.lab import Lab
from grader.harness.run import Run
from grader.verdicts import Finding, Inconclusive

# A rank of four holds a quarter of everything. What a save or a load may take beyond that, of the model's bytes:
# copies of its own shards are fine (with momentum, half of the model), the whole model isn't.
WHOLE = 0.95


def can_shard() -> None:
    """Inconclusive on a torch whose FSDP2 needs a GPU."""
    if tuple(map(int, version("torch").split(".")[:2])) < (2, 7):
        raise Inconclusive("torch", [("torch", f"{version('torch')} shards on GPUs only; on the CPU, fully_shard needs torch 2.7 or newer")])


def nobody_holds_the_whole_model(lab: Lab) -> None:
    can_shard()
    run = lab.launch("sharded_cases.py", "--do", "memory", ranks=4)
    all_finished(lab, run)
    for rank, life in enumerate(run.last.ranks):
        took = life.first("memory")
        for what in ("save", "load"):
            if took[what] is None:
                raise Inconclusive("memory", [("memory", "can't be measured on this system (Linux only)")])
            if took[what] > WHOLE * took["weights"]:
                rows = [
                    ("measured", f"a model of {took['weights'] >> 20} MiB, spread over 4 ranks, each holding {took['weights'] >> 22} MiB of it"),
                    ("found", f"in {what}_sharded, rank {rank} took {took[what] >> 20} MiB more"),
                    ("means", "that rank holds the whole model. Models are sharded because no GPU, and often no node, can"),
                    ("think", "which call puts the shards of all ranks together? Does anybody have to?"),
                ]
                raise Finding(f"whole model in {what}", rows)


def nobody_leaves_early(lab: Lab) -> None:
    """Rank 1 is held just before it writes."""
    can_shard()
    run = lab.launch("sharded_cases.py", "--do", "together", "--seed", lab.seed, ranks=2)
    shown = run.last.ranks[1].first("together")
    if shown and shown["shown"] == "returned":
        held, think = "rank 1 stands still just before it writes", "what do the ranks wait for at the end of your save?"
        raise left_early(held, "rank 0", "save_sharded", think, until="every rank's part is complete")
    all_finished(lab, run)


def _saved(lab: Lab, ranks: int) -> Run:
    run = lab.undisturbed("sharded_cases.py", "--do", "save", "--seed", lab.seed, ranks=ranks)
    all_finished(lab, run)
    return run


def reshards(lab: Lab, saved_by: int, loaded_by: int) -> None:
    can_shard()
    saved = _saved(lab, saved_by)
    run = lab.launch("sharded_cases.py", "--do", "load", "--seed", lab.seed, ranks=loaded_by, directory=saved.directory)
    when = ("resharded", f"saved by {saved_by} ranks, loaded by {loaded_by}")
    try:
        all_finished(lab, run)
    except Finding as finding:
        finding.rows.insert(0, when)
        raise
    want, got = (r.last.ranks[0].first("whole")["digests"] for r in (saved, run))
    different = [name for name in want if got.get(name) != want[name]]
    if different or got.keys() != want.keys():
        kinds = list(dict.fromkeys(" ".join(name.split()[:-1]) if name != "optimizer settings" else name for name in different or got.keys() - want.keys()))
        rows = [
            when,
            ("different", f"{', '.join(kinds)}: {len(different)} of {len(want)} tensors"),
            ("same", f"{len(want) - len(different)} tensors, each gathered from all ranks and compared bit for bit"),
            ("means", "the job goes on as another one when it gets fewer or more nodes than it had"),
            ("think", "do your files say which rank wrote them, or which part of which tensor they hold?"),
        ]
        raise Finding(f"component:{(kinds or ['weights'])[0].split()[0]}", rows)


def exports(lab: Lab) -> None:
    can_shard()
    saved = _saved(lab, 4)
    run = lab.launch("sharded_cases.py", "--do", "export", "--seed", lab.seed, directory=saved.directory)
    when = ("exported", "what 4 ranks saved, by one process without a process group")
    if crash := run.last.first("crash"):
        raise crashed(crash, [when], life=run.last)
    finished(lab, run)
    answer = run.last.first("exported")
    if not answer["plain"]:
        rows = [when, ("found", f"the file holds something else than a dict of plain tensors: {answer['holds']}"), ("think", "what does load_state_dict of a plain model take?")]
        raise Finding("not plain", rows)
    want = {k: v for k, v in saved.last.ranks[0].first("whole")["digests"].items() if k.startswith("weights ")}
    for what, got in (("file", answer["digests"]), ("model", answer["filled"])):
        if got != want:
            missing = [k.split()[1] for k in want if k not in got]
            wrong = [k.split()[1] for k in want if k in got and got[k] != want[k]]
            extra = [k.split()[1] for k in got if k not in want]
            told = [(f"lacks {', '.join(missing[:3])}", missing), (f"has other values in {', '.join(wrong[:3])}", wrong), (f"has {', '.join(extra[:3])} as well", extra)]
            think = "under which names does the network itself know its weights?"
            if what == "model":
                think = "the file is right. Who was to be filled as well?"
            elif wrong:
                think = "whose values does the file hold: those that were saved, or those of the fresh model?"
            rows = [when, ("found", f"the {what} " + "; ".join(text for text, names in told if names)), ("think", think)]
            raise Finding("export", rows)

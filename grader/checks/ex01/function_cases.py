"""Questions that no training run asks of exercise 1's functions
(grader/workload/ex01/function_cases.py), and the right answers.

One life saves, and another one loads: it doesn't know which job was saved, and its key is new. A
life without student code says what must come back.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

from grader.checks.crashes import crashed
from grader.checks.questions import Answer, ask
from grader.harness import scratch
from grader.harness.lab import Lab
from grader.verdicts import Finding, Gist, Inconclusive

THINK = "what do your functions take for granted about their arguments?"
OTHER_MODELS = {
    "layer more": "with one more layer",
    "layer less": "with one fewer layer",
    "layer renamed": "with one layer renamed",
    "layer reshaped": "in which one layer has another shape",
    "buffer more": "with one more buffer",
    "buffer less": "with one fewer buffer",
}
PLANTED = ("scheduler", "optimizer", "epoch", "torch", "pickle")
READ = {"newest": "read_latest", "best": "read_best"}  # what is read -> by which function
GPUS = (
    (2, 1),
    (2, 0),
    (1, 2),
    (0, 2),
)  # devices of the machine that saves, and of the one that loads


@dataclass
class Probe:
    """One thing that is saved, and what is loaded from it."""

    save: dict
    reference: str = ""  # what the life without student code is asked about it
    loads: dict[str, dict] = field(default_factory=dict)
    saved: Answer = field(init=False)  # there once it was asked
    expected: dict = field(default_factory=dict)
    loaded: dict[str, Answer] = field(default_factory=dict)

    def returned(
        self, name: str = "", when: tuple[str, str] | None = None, think: str = THINK
    ) -> dict:
        """What the loading life reported; a crash of either is a Finding."""
        self.saved.given(think, when)
        return self.loaded[name].given(think, when)


def _drawn(lab: Lab) -> dict[str, Probe]:
    draw = lab.shared

    def seed() -> int:
        return draw.getrandbits(30)

    def job(**more) -> dict:
        name = draw.choice(["here", "model 3", "epoch[7]", "a.b"])
        return {
            "seed": seed(), "steps": draw.randint(2, 5), "epoch": draw.randint(2, 999),
            "file": f"{name}-{draw.getrandbits(20):05x}.pt",
        } | more  # fmt: skip

    def probe(saved: dict, load: str, reference: str, loads: dict[str, dict]) -> Probe:
        same = {
            key: saved[key]
            for key in ("file", "scheduler", "optimizer", "bare", "planted")
            if key in saved
        }
        return Probe(
            saved,
            reference,
            {name: same | {"ask": load, "seed": seed()} | more for name, more in loads.items()},
        )

    found = {
        "plain": probe(
            job(ask="save"),
            "load",
            "reference",
            {"": {"saves_first": True}, "evaluated": {"scheduler": False}}
            | {change: {"change": change} for change in OTHER_MODELS},
        ),
        "without scheduler": probe(
            job(ask="save", scheduler=False, bare=True),
            "load",
            "reference",
            {"": {}, "scheduled": {"scheduler": True}},
        ),
        "gpu": probe(job(ask="save", gpu=True), "load", "reference", {"": {}}),
        "nowhere": probe(job(ask="save_nowhere"), "load", "reference", {"": {}}),
        "other": probe(
            job(ask="save", optimizer=draw.choice(["sgd", "amsgrad"]), epoch=0, file="epoch0"),
            "load",
            "reference",
            {"": {}},
        ),
        "untrained": probe(job(ask="save", steps=0, epoch=0), "load", "reference", {"": {}}),
    }
    for planted in PLANTED:
        how = "plant_raw" if planted in ("torch", "pickle") else "plant"
        found[f"planted {planted}"] = probe(
            job(ask=how, planted=planted, flag=secrets.token_hex(6)), "load", "", {"": {}}
        )
    for planted in READ:
        found[f"planted {planted}"] = probe(
            job(ask="plant_newest", planted=planted, flag=secrets.token_hex(6)),
            "load_newest",
            "",
            {"": {}},
        )
    for there, here in ((0, 0), (0, 0), (2, 2), *GPUS):
        gauss = next(n for n in (1, 2) if f"generators {there} {here} {n}" not in found)
        saved = {
            "ask": "save_generators",
            "gpus": there,
            "seed": seed(),
            "gauss": gauss,
            "numbers": draw.randint(1, 9),
        }
        load = {"": {"gpus": here}}
        file = {"file": f"rng-{there}-{here}-{gauss}.pt"}
        found[f"generators {there} {here} {gauss}"] = probe(
            saved | file, "load_generators", "reference_generators", load
        )
    for scheduler in (True, False):
        saved = job(
            ask="capture", scheduler=scheduler, at_epoch=draw.randint(0, 1), best=draw.uniform(1, 3)
        )
        found[f"captured {scheduler}"] = probe(saved, "restore", "reference_job", {"": {}})
    return found


def _run(lab: Lab) -> dict[str, Probe]:
    probes, key, load_key = _drawn(lab), secrets.token_hex(8), secrets.token_hex(8)
    own = [p for p in probes.values() if p.save["ask"] != "plant_raw"]
    raw = [p for p in probes.values() if p.save["ask"] == "plant_raw"]
    for p, answer in zip(
        own,
        ask(lab, "ex01/function_cases.py", [p.save | {"key": key} for p in own], alike=_function),
        strict=True,
    ):
        p.saved = answer
    directory = own[0].saved.run.directory
    asked = [p for p in own if p.reference]
    questions = [_reference(p, key, load_key) for p in asked]
    trusted = ask(
        lab,
        "ex01/function_cases.py",
        [*questions, *(p.save for p in raw)],
        directory=directory,
        trusted=True,
    )
    for p, answer in zip([*asked, *raw], trusted, strict=True):
        if answer.status != 0:
            raise Inconclusive(
                "machine",
                [
                    (
                        "machine",
                        f"a life without your code can't do '{answer.question['ask']}'",
                    )
                ],
            )
        p.expected = answer.values
    for p in raw:
        p.saved = Answer(p.save, {"": ""}, status=0)
    for p in probes.values():
        if "flag" in p.save:  # a save that copies the state makes it, too: that isn't loading
            scratch.remove(directory / p.save["flag"])
    loads = [(p, name) for p in probes.values() for name in p.loads]
    lab.draw.shuffle(loads)
    questions = [p.loads[name] | {"key": load_key} for p, name in loads]
    for (p, name), answer in zip(
        loads,
        ask(lab, "ex01/function_cases.py", questions, directory=directory, alike=_function),
        strict=True,
    ):
        p.loaded[name] = answer
    return probes


def _function(question: dict) -> str:
    """What it asks of: questions of one task are of one function, those of another task aren't."""
    return question["ask"]


def _reference(p: Probe, key: str, load_key: str) -> dict:
    q = p.save | {"ask": p.reference, "key": key, "load_key": load_key}
    if p.reference == "reference_generators":
        q |= {"gpus_there": p.loads[""]["gpus"], "seed_there": p.loads[""]["seed"]}
    return q


def probes(lab: Lab) -> dict[str, Probe]:
    """All of them, asked once a grading."""
    return lab.once(("probes",), _run)


# --- what is right --------------------------------------------------------------------------------


def same_parts(got: dict[str, str], want: dict[str, str], when: str) -> None:
    """No part of a job differs."""
    if different := [name for name in want if got.get(name) != want[name]]:
        raise Finding(
            "state-lost",
            [Gist("different", f"{when}: {', '.join(different)}")],
            about=different[0].split()[0],
        )


def epoch_came_back(p: Probe, name: str = "", **texts) -> None:
    """load_checkpoint returned the epoch that was saved."""
    values, when = p.returned(name, **texts), [texts["when"]] if "when" in texts else []
    if "raised" in values:
        raise crashed(values["raised"], when)
    if values["returned"] != repr(p.save["epoch"]):
        rows = [
            *when,
            ("saved", f"epoch {p.save['epoch']}"),
            Gist("returned", f"load_checkpoint returned {values['returned']}"),
        ]
        raise Finding("epoch", rows)


def looked_only(
    p: Probe, function: str, means: str = "the job that continues isn't the job that was saved"
) -> None:
    """A save changes nothing in the job or in torch."""
    answer = p.saved.given(THINK)
    after, before = answer["looks"] | answer["after"], p.expected["looks"] | answer["before"]
    if changed := [name for name in before if after.get(name) != before[name]]:
        raise Finding(
            "save-changes-run",
            [("changed", f"after {function}: {', '.join(changed)}")],
            about=changed[0],
            means=means,
            think=(
                "does a function that should only read draw a number, or change a mode, a "
                "tensor or a setting?"
            ),
        )


def changes_no_settings(p: Probe, function: str) -> None:
    """A load changes only what is the checkpoint's: not which parameters are frozen, say."""
    values = p.returned()
    before, after = values["before"], values["after"]
    if changed := [name for name in before if after.get(name) != before[name]]:
        raise Finding(
            "load-changes-settings",
            [Gist("changed", f"after {function}: {', '.join(changed)}")],
            about=changed[0],
        )


def accepted(p: Probe, name: str) -> bool:
    """A load that must fail succeeded."""
    return "raised" not in p.returned(name)


def runs_no_code(probes: list[Probe], function: str) -> None:
    """No code from the files ran: it would have made a folder."""
    for p in probes:
        directory: Path = p.loaded[""].run.directory
        if not (directory / p.save["flag"]).exists():
            continue
        raise Finding(
            "code-in-the-file",
            [
                ("loaded", "a file in which somebody hid a call"),
                Gist("happened", f"{function} made that call: code from the file ran"),
            ],
            means="anyone who can write to your checkpoint directory can run code as you",
            think=(
                "which argument of torch.load lets only data through, and what did you set it to?"
            ),
        )


def device_kept(p: Probe) -> None:
    """Reading or restoring every device's generator doesn't move the process to another device."""
    current = {
        "get_rng_state": p.saved.given(THINK)["device"],
        "set_rng_state": p.returned()["device"],
    }
    for function, device in current.items():
        if device == 0:
            continue
        raise Finding(
            "load-changes-settings",
            [
                ("pretended", "two CUDA devices; the current one is cuda:0"),
                Gist("changed", f"after {function}: the current one is cuda:{device}"),
            ],
            about="current device",
            means="from then on, tensors for 'cuda' land on another device",
            think=(
                "which function reads or sets a device's generator without making it the current "
                "one?"
            ),
        )


def generators(
    p: Probe, when: tuple[str, str] | None = None, think: str = THINK
) -> tuple[list[str], list[str]]:
    """(generators that get_rng_state moved, generators that weren't restored or that changed on
    other devices)
    """
    got, after = p.returned(when=when, think=think)["generators"], p.saved.values["generators"]
    want = p.expected["there"] | {
        name: d
        for name, d in p.expected["restored"].items()
        if "cuda" not in name or name in p.expected["there"]
    }
    drew = [name for name, digest in p.expected["saved"].items() if after.get(name) != digest]
    return drew, [name for name, digest in want.items() if got.get(name) != digest]

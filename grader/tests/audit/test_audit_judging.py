"""Judging on literal histories: no process is started here."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import replace

import pytest

from grader.audit import (
    compare,
    faults,
    findings,
    history,
    judge,
    judge_files,
    plan,
    problems,
    words,
)
from grader.audit.compare import Comparable, Difference
from grader.audit.history import File, FileEvent, Life, Process, Save, Saved, Step
from grader.audit.session import ends_badly, sampling, spoiled

TOTAL = 12
SAVES = (4, 8)


def step(n: int, **parts: str) -> Step:
    """The step after n steps of the undisturbed run."""
    usual = {
        "weights": f"w{n}",
        "optimizer exp_avg": f"m{n}",
        "learning rate": f"{0.5 ** (n // 4)}",
        "batch": f"b{n}",
        "torch RNG": f"t{n}",
        "Python RNG": "never drawn from",
        "gradients": f"g{n}",
    }
    return Step(0, usual | {name.replace("_", " "): value for name, value in parts.items()})


def events(*steps: int) -> list[FileEvent]:
    names = [(n, f"{what} step-{n}.pt") for n in steps for what in ("open", "rename")]
    return [FileEvent(n, number, name, 100) for number, (n, name) in enumerate(names)]


def life(steps, status=0, fault=None, end="w12", **more) -> Life:
    saves = events(*[n for n in SAVES if n <= len(steps)])
    return Life({0: Process(0, list(steps), saves, fault, end=end)}, status, **more)


BASE = life([step(n) for n in range(TOTAL)])
FAIR = compare.compare_undisturbed(BASE, BASE)
FAULT = {"kind": "fault", "step": 10}


def struck(at=10, fault=FAULT, status=-9, **more) -> Life:
    return life([step(n) for n in range(at)], status, fault, **more)


def judged(*relaunches, fault=None, first=None, comparable=FAIR, base=BASE):
    lives = [first or struck(), *relaunches]
    outcome = judge.judge(base, lives, fault or faults.kill_after(10), comparable)
    return outcome, [problem.code for problem in outcome.problems]


def resumed(at=8, **of_the_first) -> Life:
    first, *rest = [step(n) for n in range(at, TOTAL)]
    return life([Step(0, first.parts | of_the_first), *rest])


# --- fair to compare ------------------------------------------------------------------------------


def test_only_generators_that_are_drawn_from_count():
    assert Comparable(frozenset({"Python RNG", *FAIR.ignored}), None, (TOTAL, TOTAL)) == FAIR
    assert "torch RNG" not in FAIR.ignored


def test_two_undisturbed_runs_that_differ_are_not_comparable():
    other = life([step(n, **({"batch": "x"} if n >= 2 else {})) for n in range(TOTAL)])
    found = compare.compare_undisturbed(BASE, other)
    assert found.difference == Difference(3, ["batch"]) and not found.reproducible
    assert "DataLoader" in " ".join(findings.unfair(found))


def test_a_generator_that_changes_nothing_is_no_difference():
    other = life([step(n, torch_RNG=f"x{n}") for n in range(TOTAL)])
    found = compare.compare_undisturbed(BASE, other)
    assert found.reproducible and "torch RNG" in found.ignored


def test_runs_of_different_lengths_are_not_comparable():
    found = compare.compare_undisturbed(BASE, life([step(n) for n in range(9)]))
    assert not found.reproducible and "12 and 9 steps" in findings.unfair(found)[0]


# --- where a life goes on -------------------------------------------------------------------------


def test_a_step_is_found_by_its_weights():
    assert compare.place(BASE.first.steps, step(8, optimizer_exp_avg="x")) == 8
    assert compare.place(BASE.first.steps, step(8, weights="x", optimizer_exp_avg="x")) is None


def test_weights_that_are_lost_are_no_start_from_step_0():
    steps = BASE.first.steps
    assert compare.place(steps, step(8, weights="w0")) == 8
    lost = step(8, weights="w0").parts
    assert compare.place(steps, Step(0, {k: lost[k] for k in lost if "exp_avg" not in k})) == 8
    over = step(0, torch_RNG="x").parts | {"optimizer exp_avg": "none"}
    assert compare.place(steps, Step(0, over)) == 0


def test_a_batch_in_the_wrong_place_is_named():
    outcome, codes = judged(resumed(batch="b9"))
    assert codes == ["state-lost"] and "that of step 10" in outcome.problems[0].text
    assert judged(resumed(batch="x"))[0].problems[0].text == ""


def test_targets_are_no_batch():
    """What a loss module is given may come from a teacher."""
    base = [step(n, batch=f"b{n} none", targets=f"none t{n}") for n in range(TOTAL)]
    lost = [step(8, batch="b8 none", targets="none x", gradients="x"), *base[9:]]
    outcome, codes = judged(life(lost), base=life(base))
    assert codes == ["state-lost"] and outcome.problems[0].what == "targets"


@pytest.mark.parametrize(
    "batch, case", [("b9", "repeats some"), ("x", "augments"), (None, "wasn't seen")]
)
def test_a_finding_says_only_what_is_known_of_the_batch(batch, case):
    base, relaunch = life([step(n) for n in range(TOTAL)]), resumed(batch=batch, gradients="x")
    if batch is None:
        for each in (*base.first.steps, *relaunch.first.steps):
            del each.parts["batch"]
    outcome, _ = judged(relaunch, base=base)
    (finding,) = findings.collect([outcome])
    assert case in finding.means


def test_of_steps_with_equal_weights_the_one_that_agrees_in_most_counts():
    steps = [step(0, weights="same"), step(1, weights="same"), step(2)]
    assert compare.place(steps, step(0, weights="same")) == 0
    assert compare.place(steps, step(1, weights="same", batch="x")) == 1


def test_passes_before_a_resume_do_not_count():
    base = [step(n, batch=f"a{n} b{n}", torch_RNG=f"t{n} u{n}", buffers=f"x{n} y{n}") for n in (3,)]
    warm = step(3, batch="w a3 b3", torch_RNG="w t3 u3", buffers="w x3 y3")
    assert compare.different(base[0], warm) == []
    cut = {"batch": "b3", "torch_RNG": "u3", "buffers": "y3"}
    assert compare.different(base[0], step(3, **cut, gradients="x"))[0] == "accumulated gradients"
    assert compare.different(base[0], step(3, **cut)) == []  # the first pass was an evaluation
    # an evaluation before the step, and a warm-up before the resume
    assert compare.different(base[0], step(3, batch="w b3", torch_RNG="w u3", buffers="w y3")) == []
    lost = step(3, batch="w b3", torch_RNG="w u3", buffers="w lost")
    assert compare.different(base[0], lost) == ["buffers"]
    # the second pass only follows from the first
    later = step(3, batch="a3 c", torch_RNG="t3 c", buffers="x3 c", gradients="x")
    assert compare.different(base[0], later) == ["batch", "gradients"]


def test_of_equal_steps_the_one_of_the_same_optimizer_counts():
    steps = [Step(0, step(0).parts), Step(1, step(0).parts)]
    assert [compare.place(steps, each) for each in steps] == [0, 1]


def test_an_optimizer_may_be_the_first_one_of_a_resumed_run():
    """Such as that of a second phase of training."""
    base = life([Step(int(n >= 6), step(n).parts) for n in range(TOTAL)])
    outcome, codes = judged(resumed(8), base=base, first=struck())
    assert codes == [] and outcome.resumed == 8 and outcome.identical


# --- what a fault did -----------------------------------------------------------------------------


def test_a_right_resume_has_no_problem():
    outcome, codes = judged(resumed())
    assert codes == [] and outcome.identical and outcome.word == "fine"
    assert (outcome.reached, outcome.resumed, outcome.lost, outcome.save) == (10, 8, 2, 8)


@pytest.mark.parametrize(
    "parts, cause",
    [
        ({"optimizer exp_avg": "x", "gradients": "x"}, "optimizer"),
        ({"learning rate": "1.0"}, "learning rate"),
        ({"torch RNG": "x", "gradients": "x"}, "torch RNG"),
        ({"batch": "x", "torch RNG": "x", "gradients": "x"}, "batch"),
        ({"gradients": "x"}, "gradients"),
        ({"weights": "x", "gradients": "x"}, "weights"),
        ({"weights": "w0", "gradients": "x"}, "weights"),
    ],
)
def test_lost_state_is_named_by_its_first_component(parts, cause):
    outcome, codes = judged(resumed(**parts))
    assert codes == ["state-lost"] and outcome.word == "silent" and outcome.identical is False
    difference = outcome.problems[0].difference
    assert difference.step == 9 and difference.cause == cause


def test_a_generator_alone_is_no_problem():
    assert judged(resumed(**{"torch RNG": "x"}))[1] == []
    assert judged(resumed(**{"Python RNG": "x", "gradients": "x"}))[1] == ["state-lost"]


def test_state_lost_on_another_rank_is_found():
    def two(first, second):
        both = Life({0: first.first, 1: second.first}, first.status)
        both.ranks[1].rank = 1
        return both

    base = two(BASE, life([step(n) for n in range(TOTAL)]))
    bad = two(resumed(), resumed(**{"optimizer exp_avg": "x"}))
    outcome, codes = judged(bad, base=base, first=two(struck(), struck()))
    assert codes == ["state-lost"] and outcome.problems[0].difference.rank == 1


@pytest.mark.parametrize(
    "relaunch, code",
    [
        (resumed(0), "starts-over"),
        (life([], status=0), "ends-early"),
        (life([], status=1), "no-restart"),
        (life([step(8)], status=-9, ended="wall"), "hangs"),
        (life([step(8, weights="x", optimizer_exp_avg="x")]), "unknown-weights"),
        (resumed(gradients="none"), "not-trained"),
        (life([step(n) for n in range(8, 11)]), "steps-missing"),
        (life([step(n) for n in range(8, 14)]), "steps-repeated"),
        (life([step(n) for n in range(8, TOTAL)], end="x"), "state-lost"),
    ],
)
def test_other_ways_to_go_wrong(relaunch, code):
    assert judged(relaunch)[1] == [code]


@pytest.mark.parametrize(
    "how, code",
    [({"ended": "wall", "status": -9}, "hangs-at-exit"), ({"status": -6}, "fails-at-exit")],
)
def test_a_run_that_has_done_its_last_step_and_does_not_end_well(how, code):
    whole = life(resumed().first.steps, **how)
    outcome, codes = judged(whole)
    assert codes == [code] and outcome.resumed == 8 and outcome.identical
    cut = life(resumed().first.steps[:-1], **how)
    assert judged(cut)[1] == ["hangs" if code == "hangs-at-exit" else "stops-again"]
    told = struck(TOTAL)  # SIGTERM came at the last step
    told.first.grace_over = True
    late = faults.send(signal.SIGTERM, TOTAL - 1, 30)
    assert judged(life([]), first=told, fault=late)[1] == ["hangs-at-exit"]


def test_starting_over_is_right_before_the_first_save():
    outcome, codes = judged(resumed(0), first=struck(3), fault=faults.kill_after(3))
    assert codes == [] and outcome.lost == 3 and outcome.save is None


def test_a_save_that_destroys_the_last_checkpoint_is_told_from_a_job_that_never_resumes():
    (torn,) = (f for f in faults.at_events(BASE.first.saves()[1]) if f.kind == faults.TEAR)
    lost = judged(resumed(0), first=struck(8, end=None), fault=torn)[0]
    for crash, says in (resumed(), "a save destroys"), (resumed(0), "all work before the fault"):
        outcomes = [lost, judged(crash)[0]]
        problems.settle(outcomes)
        assert says in findings.collect(outcomes)[0].means


def test_a_job_that_saves_nothing_while_it_trains():
    base = life([step(n) for n in range(TOTAL)])
    base.first.files = events(TOTAL)
    first = struck()
    first.first.files = []
    over, codes = judged(resumed(0), base=base, first=first)
    assert codes == []
    judge_files.judge_never_saves([over, judged(resumed())[0]], base)  # a save that isn't seen
    judge_files.judge_never_saves([over], BASE)
    assert over.word == "fine"
    judge_files.judge_never_saves([over], base)
    assert [problem.code for problem in over.problems] == ["never-saves"] and over.word == "loss"


def test_a_log_is_no_save_that_was_complete():
    base = life([step(n) for n in range(TOTAL)])
    base.first.files = [FileEvent(n, n, "open log.txt") for n in range(1, TOTAL)]
    first = struck()
    first.first.files = base.first.files[:9]
    (problem,) = judged(resumed(0), base=base, first=first)[0].problems
    assert problem.code == "starts-over" and "log.txt" in problem.text


def test_a_fault_that_never_came_is_not_judged():
    outcome, codes = judged(first=life([step(n) for n in range(TOTAL)]))
    assert not outcome.happened and outcome.word == "not judged" and codes == []


def test_each_relaunch_is_judged():
    second = struck(2)
    second.first.steps = [step(8, optimizer_exp_avg="x"), step(9)]
    outcome, codes = judged(second, resumed(), fault=faults.kill_twice(10, 2))
    assert codes == ["state-lost"] and outcome.resumed == 8


def test_a_life_may_go_on_from_what_one_that_differs_has_saved():
    own = [step(n, weights=f"own{n}", **{"optimizer exp_avg": f"own{n}"}) for n in range(9, TOTAL)]
    second = struck(2, fault=FAULT | {"optimizer": 0, "parts": own[1].parts})
    second.first.steps = [step(8, batch="x"), own[0]]
    twice = faults.kill_twice(10, 2)
    for third, at in (own, 9), (own[1:], 10):  # at its first own step, and after its last one
        outcome, codes = judged(second, life(third), fault=twice)
        assert codes == ["state-lost"] and outcome.problems[0].what == "batch"
        assert outcome.resumed == at and outcome.identical is False
    assert judged(second, life(own[2:]), fault=twice)[1] == ["state-lost", "unknown-weights"]
    lost = [step(9, weights="own9", optimizer_exp_avg="x"), *own[1:]]
    assert judged(second, life(lost), fault=twice)[1] == ["state-lost", "state-lost"]
    assert judged(second, life(own[:1]), fault=twice)[1] == ["state-lost", "steps-missing"]


def test_without_reproducible_runs_the_struck_life_is_the_reference():
    unfair = Comparable(frozenset(), Difference(1, ["weights"]), (TOTAL, TOTAL))
    base = life([step(n, weights=f"other{n}") for n in range(TOTAL)])
    outcome, codes = judged(resumed(batch="x"), comparable=unfair, base=base)
    assert codes == [] and outcome.resumed == 8 and outcome.identical is None
    lost = resumed(**{"optimizer exp_avg": "x"})
    assert judged(lost, comparable=unfair, base=base)[1] == ["state-lost"]
    after = struck(8, fault=FAULT | {"optimizer": 0, "parts": step(8).parts})
    assert judged(resumed(), first=after, comparable=unfair, base=base)[0].resumed == 8
    over = life([step(n, weights=f"new{n}", optimizer_exp_avg=f"new{n}") for n in range(TOTAL)])
    assert judged(over, comparable=unfair, base=base)[1] == ["starts-over"]


# --- several optimizers ---------------------------------------------------------------------------


def turns(*differs, shared=False) -> list[Step]:
    """Two optimizers in turn. differs: (step from 0, its parts that differ)."""
    found = [step(n) for n in range(TOTAL)]
    for n, parts in differs:
        found[n] = step(n, **parts)
    return [Step(n % 2, each.parts, shared=shared) for n, each in enumerate(found)]


def whats(*differs, shared=False) -> list[str]:
    outcome, _ = judged(life(turns(*differs, shared=shared)[8:]), base=life(turns(shared=shared)))
    return [problem.what for problem in outcome.problems]


def test_each_optimizer_is_judged_at_its_own_first_step():
    follows = {"gradients": "x"}
    assert whats((9, {"optimizer_exp_avg": "x"} | follows)) == ["optimizer"]
    assert whats((8, {"optimizer_exp_avg": "x"}), (9, {"weights": "x"})) == ["optimizer", "weights"]
    assert whats((9, {"weights": "x", "learning_rate": "x"})) == ["weights", "learning rate"]


def test_what_follows_from_another_optimizers_weights_is_not_lost():
    """The fakes that a critic is given come from the generator."""
    fakes = {"batch": "x", "gradients": "x"}
    assert whats((8, fakes), (9, {"weights": "x", "gradients": "x"})) == ["weights"]
    assert whats((8, fakes | {"torch_RNG": "x"}), (9, {"weights": "x"})) == ["batch", "weights"]
    assert whats((8, fakes), (9, {"weights": "x"}), shared=True) == ["batch"]
    assert whats((8, fakes), (9, {"gradients": "x"})) == ["batch"]


def test_a_finding_says_whose_step_it_is():
    outcome, _ = judged(life(turns((9, {"weights": "x"}))[8:]), base=life(turns()))
    assert "optimizer 2 of 2" in outcome.problems[0].text


# --- signals --------------------------------------------------------------------------------------


TERM = faults.send(signal.SIGTERM, 5, 30)


def test_a_graceful_stop_has_no_problem():
    outcome, codes = judged(resumed(6), first=struck(6, status=75), fault=TERM)
    assert codes == [] and outcome.lost == 0


def test_a_save_in_the_middle_of_a_step_is_due_to_the_signal():
    crash, _ = judged(resumed())
    stopped = judged(resumed(6, batch="b5"), first=struck(6, status=75), fault=TERM)[0]
    problems.settle([stopped, crash])
    (finding,) = findings.collect([stopped, crash])
    assert finding.component == "batch" and "signal handler" in finding.fix
    crash, _ = judged(resumed(batch="b7"))
    stopped.problems[0].at_signals = False
    problems.settle([stopped, crash])
    (finding,) = findings.collect([stopped, crash])
    assert "signal handler" not in finding.fix


@pytest.mark.parametrize(
    "first, relaunches, code",
    [
        (struck(TOTAL, status=0), [], "ignores-signal"),
        (struck(6, status=0), [resumed(6)], "exit-status"),
        (struck(5, status=-15), [resumed(4)], "no-save-at-signal"),
    ],
)
def test_signals_that_are_taken_badly(first, relaunches, code):
    assert judged(*relaunches, first=first, fault=TERM)[1] == [code]


def test_a_job_that_outlasts_the_grace_ignores_the_signal():
    first = struck(9)
    first.first.grace_over = True
    assert judged(resumed(8), first=first, fault=TERM)[1] == ["ignores-signal"]


def test_a_stop_at_the_last_steps_is_no_problem():
    late = faults.send(signal.SIGTERM, TOTAL - 1, 30)
    assert judged(first=struck(TOTAL, status=0), fault=late)[1] == []


# --- older checkpoints ----------------------------------------------------------------------------


def test_an_older_checkpoint_counts_only_among_saves_for_resuming():
    files = {4: frozenset({"last.pt"}), 8: frozenset({"last.pt"})}
    right, old = judged(resumed(8))[0], judged(resumed(4))[0]
    judge_files.judge_older([right, old], files)
    assert [p.code for p in old.problems] == ["loses-more"] and right.problems == []
    power = judged(resumed(4), fault=faults.Fault(faults.POWER, "power", 10, {"promised": 8}))[0]
    judge_files.judge_older([right, power], files)
    assert [p.code for p in power.problems] == ["power-loss-older"]
    # the newer one is the best model, which no run resumed from
    alone = judged(resumed(4))[0]
    judge_files.judge_older([alone], files | {8: frozenset({"best.pt"})})
    assert alone.problems == []


def test_logs_are_no_saves_to_resume_from():
    early = judged(resumed(0), first=struck(4), fault=faults.kill_after(4))[0]
    late = judged(resumed(8))[0]
    assert [p.code for p in early.problems] == ["starts-over"]
    judge_files.excuse_starts([early], {4: frozenset({"log"}), 8: frozenset({"log", "last.pt"})})
    assert [p.code for p in early.problems] == ["starts-over"]  # no run has resumed
    both = [early, late]
    judge_files.excuse_starts(both, {n: frozenset({"log", "last.pt"}) for n in (4, 8)})
    assert [p.code for p in early.problems] == ["starts-over"]
    judge_files.excuse_starts(both, {4: frozenset({"log"}), 8: frozenset({"log", "last.pt"})})
    assert early.problems == [] and early.identical
    # the same, where a checkpoint is renamed and a log isn't
    only_logs = struck(4)
    only_logs.ranks[0].files = [FileEvent(4, 0, "open log-4")]
    outcome, codes = judged(resumed(0), first=only_logs, fault=faults.kill_after(4))
    assert codes == [] and outcome.save is None


def test_the_save_that_a_fault_interrupts_does_not_count():
    inside = faults.Fault(faults.KILL, "inside", 8, {"kind": "kill", "event": 3, "rank": 0})
    assert judge.last_save(struck().first, inside) == 4
    assert judge.last_save(struck().first, faults.kill_after(10)) == 8
    assert judge.last_save(struck().first, faults.damage(faults.TRUNCATE, 10)) == 4


# --- damage, power, files -------------------------------------------------------------------------


DRAWS = {"torch RNG": "x", "gradients": "x"}
OLDER = [File("step-4.pt", 100, -0.5), File("step-8.pt", 100, 0.9)]


@pytest.mark.parametrize(
    "kind, relaunch, files, code",
    [
        (faults.TRUNCATE, life([], status=1), OLDER, "damaged-newest"),
        (faults.TRUNCATE, life([], status=1), OLDER[1:], "only-checkpoint"),
        (faults.TRUNCATE, resumed(**{"optimizer exp_avg": "x"}), OLDER, "damage-unnoticed"),
        (faults.FLIP, resumed(weights="x"), OLDER, "flip-unnoticed"),
        (faults.FLIP, resumed(batch="x"), OLDER, "state-lost"),  # no file holds batches
        (faults.MISSING, resumed(0), OLDER, "starts-over"),
        (faults.FLIP, resumed(4, **DRAWS), OLDER, "state-lost"),  # an older checkpoint
        (faults.TRUNCATE, resumed(**DRAWS), OLDER, "damage-unnoticed"),
    ],
)
def test_damage(kind, relaunch, files, code):
    first = struck(left=files)
    assert judged(relaunch, first=first, fault=faults.damage(kind, 10))[1] == [code]


def test_a_fallback_to_an_older_checkpoint_is_right():
    outcome, codes = judged(resumed(4), fault=faults.damage(faults.TRUNCATE, 10))
    assert codes == [] and (outcome.save, outcome.lost) == (4, 6)


def test_what_a_plain_crash_shows_too_is_not_due_to_the_disk():
    bad = resumed(**{"optimizer exp_avg": "x"})
    outcomes = [
        judged(bad, fault=fault, first=struck(left=OLDER))[0]
        for fault in (faults.kill_after(10), faults.damage(faults.FLIP, 10))
    ]
    problems.settle(outcomes)
    assert [f.code for f in findings.collect(outcomes)] == ["state-lost"]


@pytest.mark.parametrize("error, number", [("OSError: no ckpt.pt", 2), ("ValueError: 2", 1)])
def test_a_relaunch_may_stop_for_another_reason(error, number):
    stop = life([], status=1, tail=["Traceback", error])
    plain = judged(stop, fault=faults.at_events(BASE.first.saves()[0])[0], first=struck(4))[0]
    damaged = life([], status=1, tail=["Traceback", "ValueError: ckpt.pt is damaged"])
    cut = judged(damaged, fault=faults.damage(faults.TRUNCATE, 10), first=struck(left=OLDER))[0]
    problems.settle([plain, cut])
    assert len(findings.collect([plain, cut])) == number


def test_a_power_loss_may_cost_only_the_save_under_way():
    fault = faults.Fault(faults.POWER, "power loss", 9, {"promised": 4})
    assert judged(resumed(4), first=struck(9), fault=fault)[1] == []
    assert judged(resumed(0), first=struck(9), fault=fault)[1] == ["power-loss-silent"]
    assert judged(life([], status=1), first=struck(9), fault=fault)[1] == ["power-loss-stops"]
    early = faults.Fault(faults.POWER, "power loss", 5, {"promised": 0})
    assert judged(resumed(0), first=struck(5), fault=early)[1] == []


def test_a_full_disk_may_end_the_job_but_not_with_0():
    fault = faults.Fault(faults.FULL, "disk full", 8, {"event": 2, "rank": 0})
    assert judged(resumed(4), first=struck(8, status=1), fault=fault)[1] == []
    assert judged(resumed(4), first=struck(8, status=0), fault=fault)[1] == ["exit-status"]


def test_a_job_that_watches_its_time_limit_stops_by_itself():
    fault = faults.time_limit(8, 20, 1.0)
    outcome, codes = judged(resumed(3), first=struck(3, fault=None, status=75), fault=fault)
    assert outcome.happened and codes == []


def test_a_life_that_got_no_processor_is_not_judged():
    slow = life([], status=-9, ended="wall", seconds=90.0)
    assert spoiled([struck(), slow]) == ""
    slow.waited = 60.0
    assert "60 s for a processor" in spoiled([struck(), slow])
    slow.ended = None
    assert spoiled([struck(), slow]) == ""


@pytest.mark.parametrize(
    "seconds, waited, hangs", [(100, 0, True), (100, 80, False), (13, 0, False)]
)
def test_a_run_whose_time_is_over_soon_after_its_last_step_does_not_hang(seconds, waited, hangs):
    steps = [replace(step(n), time=float(n)) for n in range(TOTAL)]
    well = life(steps, seconds=12.0)
    late = life(steps, status=-9, ended="wall", seconds=float(seconds), waited=float(waited))
    assert ends_badly(late, well) == hangs
    assert ends_badly(life(steps, status=1), well) and not ends_badly(well, well)


def test_ranks_that_wait_for_a_dead_one():
    first = struck(ended="wall")
    assert judged(resumed(), first=first, fault=faults.lose_rank(1, 10))[1] == ["rank-loss-hangs"]


def test_on_another_number_of_ranks_only_what_a_checkpoint_carries_counts():
    fault = faults.resume_elsewhere(10, 4)
    assert judged(resumed(batch="x", gradients="y"), fault=fault)[1] == []
    assert judged(resumed(**{"learning rate": "x"}), fault=fault)[1] == ["state-lost"]


def test_work_is_counted_in_seconds():
    first, again = struck(), resumed()
    first.ranks[0].steps = [Step(0, s.parts, float(n)) for n, s in enumerate(first.first.steps)]
    first.ranks[0].fault = FAULT | {"t": 10.5}
    again.ranks[0].steps = [Step(0, s.parts, 103.0) for s in again.first.steps]
    again.began = 100.0
    outcome = judged(again, first=first)[0]
    assert (outcome.lost, outcome.seconds_lost, outcome.restart) == (2, 2.5, 3.0)


def test_the_steps_that_are_only_counted_do_not_differ():
    counted = life([step(8), Step(0, {}), *[step(n) for n in range(10, TOTAL)]])
    assert judged(counted)[1] == []


def test_a_saved_value_that_is_lost_is_found_by_the_save_of_the_same_step():
    def saved(*values):
        return [Saved({"model": f"m{n}", "ema": v}, frozenset({"model"}), n) for n, v in values]

    base, again = life([step(n) for n in range(TOTAL)]), resumed()
    base.ranks[0].saved, again.ranks[0].saved = saved((4, "a"), (8, "b")), saved((8, "x"))
    outcome = judged(again, base=base)[0]
    judge_files.judge_saved(outcome, base, base, again)
    assert [problem.key for problem in outcome.problems] == [("saved-state-lost", "ema")]
    # a file with nothing but tensors, at the same step
    for one, made, value in ((base, 8, "a"), (again, 0, "x")):
        one.ranks[0].saved = [Saved({"ema.pt": value}, frozenset({"ema.pt"}), made)]
    outcome = judged(again, base=base)[0]
    judge_files.judge_saved(outcome, base, base, again)
    assert [problem.key for problem in outcome.problems] == [("saved-state-lost", "ema.pt")]
    # a rate that no step has used yet
    for one, made, value in ((base, 8, "0.1"), (again, 0, "0.2")):
        one.ranks[0].saved = [Saved({"optimizer": "o", "learning rate": value}, frozenset(), made)]
    outcome = judged(again, base=base)[0]
    judge_files.judge_saved(outcome, base, base, again)
    assert [problem.key for problem in outcome.problems] == [("state-lost", "learning rate")]


def test_a_database_is_no_checkpoint():
    left = [File("step-8.pt", 100, 8.5), File("metrics.db", 900, 9.5), File("log.txt", 300, 9.5)]
    struck_life = struck(left=left)
    process = struck_life.first
    process.files.append(FileEvent(9, 9, "open log.txt"))
    assert judge_files.of_newest_save(struck_life)[0].name == "metrics.db"
    process.kept_open = {"metrics.db"}
    assert [f.name for f in judge_files.of_newest_save(struck_life)] == ["step-8.pt"]


@pytest.mark.parametrize(
    "event, path",
    [
        ("open a file.pt", "a file.pt"),
        ("torch.save begins a b.pt", "a b.pt"),
        ("rename x y from another directory", "x y"),
    ],
)
def test_a_path_may_hold_spaces(event, path):
    assert FileEvent(1, 1, event).path == path


def test_an_asynchronous_save_is_not_taken_as_complete():
    first = struck()
    first.ranks[0].files = [replace(event, background=True) for event in first.first.files]
    assert judge.last_save(first.first, faults.kill_after(10)) is None


def test_each_start_of_a_launcher_is_a_life(tmp_path):
    line = {"kind": "step", "rank": 0, "t": 0.5, "optimizer": 0, "parts": {"weights": "w"}}
    line["shared"] = False
    for restart, steps in enumerate((3, 2)):
        record = json.dumps(line | {"took": 0.1, "restart": restart})
        (tmp_path / f"{9 - restart}.jsonl").write_text((record + "\n") * steps)
    assert [len(ranks[0].steps) for ranks in history.read(tmp_path)] == [3, 2]


def test_long_steps_are_sampled_where_digests_take_too_long():
    def with_steps(seconds, cost):
        steps = [Step(0, {}, n * (seconds + cost)) for n in range(10)]
        return Life({0: Process(0, steps, costs=[*[cost] * 9, 5.0])})

    assert sampling(with_steps(0.1, 0.006)) == 1
    assert sampling(with_steps(0.1, 0.05)) == 8
    assert sampling(with_steps(0.01, 0.05)) == 1  # a short step


# --- findings, records, faults --------------------------------------------------------------------


def test_one_finding_for_a_mistake_under_several_faults():
    lost = resumed(**{"optimizer exp_avg": "x"})
    outcomes = [judged(lost, fault=faults.kill_after(n))[0] for n in (9, 10)]
    outcomes.append(judged(life([], status=1, tail=["EOFError"]))[0])
    found = findings.collect(outcomes)
    assert [f.title for f in found] == ["loses state: optimizer", "can't restart"]
    assert found[0].faults == ["SIGKILL after step 9", "SIGKILL after step 10"]
    assert "first after the resume" in found[0].evidence[1] and "ex01.1" in found[0].fix
    assert found[1].printed == ["EOFError"]


@pytest.mark.parametrize(
    "parts, means",
    [
        ({"optimizer settings": "x"}, "weight decay"),
        ({"optimizer settings": "x", "optimizer exp_avg": "x"}, "starts cold"),
        ({"learning rate": "1.0"}, "is at the wrong step: the resumed run uses other rates"),
        ({"learning rate": "7"}, "the rate of a parameter group was set again"),
    ],
)
def test_a_finding_says_what_is_lost_of_an_optimizer(parts, means):
    base = life([step(n, optimizer_settings="s") for n in range(TOTAL)])
    outcome, _ = judged(life([step(8, **{"optimizer settings": "s"} | parts)]), base=base)
    assert means in findings.collect([outcome])[0].means


def test_every_problem_has_its_words():
    for code in problems.HARM:
        said = words.of(code, "optimizer")
        assert all(vars(said).values()), code
        assert said.shows in findings._lines(), code


def test_a_record_that_was_cut_off_is_left_out():
    line = {
        "kind": "step",
        "rank": 1,
        "t": 0.5,
        "optimizer": 0,
        "parts": {"weights": "w"},
        "shared": False,
        "took": 0.1,
    }
    found = history.process([json.dumps(line), json.dumps(line)[:30]])
    assert (found.rank, len(found.steps), found.cost) == (1, 1, 0.1)


def test_faults_are_drawn_around_saves_and_the_first_ones_differ_in_kind():
    for seed in range(20):
        drawn = plan.Draw(BASE, random.Random(seed)).all()
        groups = [fault.group for fault in drawn]
        assert len(set(groups[:9])) == 9, groups
        assert all(0 < fault.step < TOTAL for fault in drawn if fault != plan.RECORD)
        assert drawn == plan.Draw(BASE, random.Random(seed)).all()


def test_a_checkpoint_may_lack_a_small_file():
    names = {"step-8/model.pt": 100, "step-8/state.json": 2, "log.json": 2}
    base = replace(BASE, left=[File(name, size, 8.5) for name, size in names.items()])
    drawn = [f.file for f in plan.Draw(base, random.Random(1)).all() if f.kind == faults.MISSING]
    assert drawn == ["step-N/model.pt", "step-N/state.json"]
    base.left.pop(1)
    assert not [f for f in plan.Draw(base, random.Random(1)).all() if f.kind == faults.MISSING]


def test_a_save_is_torn_and_killed_at_each_event():
    names = ["torch.save begins a.pt", "torch.save ended a.pt", "open b.json"]
    save = Save(4, [FileEvent(4, n, name, 50) for n, name in enumerate(names, 7)])
    found = faults.at_events(save)
    assert [(f.kind, f.spec["event"]) for f in found] == [
        ("tear", 7),
        ("kill", 7),
        ("kill", 9),
    ]
    assert found[0].spec["bytes"] == 25


def test_each_missing_piece_of_state_is_a_finding_of_its_own():
    """The optimizer and the data at once; the gradients follow from them."""
    relaunch = resumed(**{"optimizer exp_avg": "cold", "batch": "other", "gradients": "other"})
    outcome, codes = judged(relaunch)
    assert codes == ["state-lost", "state-lost"]
    assert [problem.what for problem in outcome.problems] == ["optimizer", "batch"]


def test_a_lost_optimizer_takes_the_learning_rate_with_it():
    found = Difference(9, ["optimizer exp_avg", "learning rate", "batch"])
    assert [one.cause for one in compare.by_cause(found)] == ["optimizer", "batch"]
    # a scheduler may change the momentum, too
    found = Difference(9, ["optimizer settings", "learning rate", "gradients"])
    assert [one.cause for one in compare.by_cause(found)] == ["learning rate"]


def test_later_one_missing_piece_spreads_to_the_others():
    found = Difference(12, ["optimizer exp_avg", "batch"])
    assert compare.causes(found, 8, BASE.first.steps, []) == [found]

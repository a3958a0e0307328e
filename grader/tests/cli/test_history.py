"""The history of a run as data, asked of literal histories and of forged ones."""

from __future__ import annotations

import json
import random

from grader.checks.ex04.job_record import ClusterRun
from grader.harness.faults import Kill
from grader.harness.preemption import Preempt, Sent
from grader.report import history
from grader.slurm.target import Where
from grader.tests.checks.test_run_assertions import KILL, UNDISTURBED, group, life, resumed, run
from grader.verdicts import FAIL, Finding, Outcome


def of(*runs, fault: str | None = "kill@3", translate=str, **data) -> dict:
    """The history of a check with these runs."""
    finding = Finding("state-lost", [("found", "this")], fault, about="torch RNG", **data)
    outcome = Outcome("test_x[two_workers]", "x", "ex01.2", FAIL, 0, 1, finding, {}, list(runs))
    (check,) = history.of_task([outcome], translate, lambda outcome: "grade ex01.2/x")
    json.dumps(check)
    return check


def test_a_killed_run_has_its_saves_its_fault_and_where_it_resumed():
    check = of(UNDISTURBED, resumed())
    first, second = check["runs"][0]["lanes"]
    assert (check["case"], check["replay"]) == ("two workers", "grade ex01.2/x")
    assert (first["from"], first["to"], first["end_kind"]) == (0, 3, "killed")
    assert [(m["kind"], m["step"]) for m in first["marks"]] == [("save", 2), ("fault", 3)]
    assert (second["from"], second["again"], second["to"]) == (2, 3, 6)
    assert second["marks"][0]["kind"] == "resume" and second["end"] == "finished"


def test_the_failing_run_comes_first_and_is_compared_with_the_undisturbed_one():
    check = of(UNDISTURBED, resumed(lost=3))
    subject, undisturbed = check["runs"]
    assert subject["subject"] and undisturbed["undisturbed"]
    ((strip),) = subject["strips"]
    rows = {row["name"]: row for row in strip["rows"]}
    assert rows["torch RNG"]["different"] == [3, 4, 5, 6] and rows["torch RNG"]["same"] == [1, 2]
    assert rows["weights"]["different"] == [] and strip["resumes"] == [2]


def test_steps_that_were_never_trained_are_missing_not_different():
    ((strip),) = of(UNDISTURBED, resumed(first=6))["runs"][0]["strips"]
    assert strip["missing"] == [4, 5]


def test_samples_that_were_seen_twice_and_never_are_counted():
    other = resumed()
    for e in other.lives[1].all("step"):
        e["indices"] = [e["step"] - 1]  # one batch too late: sample 2 again, sample 6 never
    (epoch,) = of(UNDISTURBED, other)["runs"][0]["epochs"]
    assert (epoch["missed"], epoch["more"]) == ([6], [2])


def test_samples_beyond_the_end_of_a_run_that_broke_off_are_not_missed():
    short = run(life(1, 3, fault=KILL), life(3, 4, end=False, status=1), faults=(KILL,))
    (epoch,) = of(UNDISTURBED, short)["runs"][0]["epochs"]
    assert (epoch["missed"], epoch["more"], epoch["whole"]) == ([], [], False)


def test_each_rank_has_a_lane_and_a_strip():
    fault = Kill(3, rank=1)
    lives = [
        group(life(1, 3), life(1, 3, fault=fault), fault=fault),
        group(life(3), life(3, lost=4)),
    ]
    undisturbed = run(group(life(), life()))
    subject = of(undisturbed, run(*lives, faults=(fault,)), fault="kill@3:rank1")["runs"][0]
    lanes = [lane["who"] for lane in subject["lanes"]]
    assert lanes == ["life 1 rank 0", "life 1 rank 1", "life 2 rank 0", "life 2 rank 1"]
    one, other = subject["strips"]
    assert not any(row["different"] for row in one["rows"])
    assert any(row["different"] == [4, 5, 6] for row in other["rows"])


def test_a_signal_is_in_the_middle_of_its_step_and_the_exit_is_said():
    fault = Preempt((Sent("term", 3),))
    left = life(1, 3, end=False, status=75)
    left.fault = left.process.fault = fault
    left.events.append(
        {"event": "signal", "signal": "term", "step": 3, "phase": "", "number": None}
    )
    (lane,) = of(run(left, faults=(fault,)), fault="term@3")["runs"][0]["lanes"]
    assert {"kind": "signal", "step": 2.5} in [
        {key: mark[key] for key in ("kind", "step")} for mark in lane["marks"]
    ]
    assert lane["end_kind"] == "left" and "75" in lane["end"]


def test_a_save_that_did_not_return_is_marked():
    lane = of(run(life(1, 3, end=False, status=1, saving={"step": 3})))["runs"][0]["lanes"][0]
    assert [mark["kind"] for mark in lane["marks"]] == ["save", "unfinished"]


def test_a_run_on_a_cluster_is_told_by_its_witness(tmp_path):
    events = [
        {"event": "life", "life": 1, "job": "7"},
        *({"event": "step", "life": 1, "step": n, "digest": f"d{n}"} for n in (1, 2, 3)),
        {"event": "saving", "life": 1, "step": 2},
        {"event": "saved", "life": 1, "step": 2},
        {"event": "fault", "life": 1, "do": "kill", "step": 3},
        {"event": "life", "life": 2, "job": "7"},
        {"event": "resumed", "life": 2, "step": 2},
        {"event": "step", "life": 2, "step": 3, "digest": "other"},
        {"event": "left", "life": 2, "status": 0},
    ]
    cluster = ClusterRun(tmp_path, {}, False, Where(), events=events)
    cluster.undisturbed = {n: f"d{n}" for n in range(1, 5)}
    (told,) = of(cluster, fault=None)["runs"]
    assert [(lane["who"], lane["from"], lane["to"]) for lane in told["lanes"]] == [
        ("life 1 job 7", 0, 3),
        ("life 2 job 7", 2, 3),
    ]
    assert told["strips"][0]["rows"] == [
        {"name": "training state", "same": [1, 2], "different": [3]}
    ]
    assert told["story"] == "kill after step 3" and not told["problem"]


ODD = (None, True, -1, 10**12, 2.5, "x" * 5_000, "\ud800<b>", [], [[1]], {}, {"a": [1]})


def test_forged_events_break_nothing_and_stay_small():
    draw = random.Random(3)
    for _ in range(300):
        forged = resumed()
        for one in forged.lives:
            for e in draw.sample(one.events, 4):
                e[draw.choice([*e, "step", "state", "loss"])] = draw.choice(ODD)
            names = ("life", "step", "loss", "fault", "signal", "saving", "crash", "end")
            fields = ("step", "state", "indices", "loss", "signal", "phase", "number", "type")
            for _ in range(5):
                made = {field: draw.choice(ODD) for field in draw.sample(fields, 4)}
                one.events.append({"event": draw.choice(names), "t": 1.0, **made})
        # what isn't an event of any kind never comes here (run.read_events)
        for one in forged.lives:
            one.events[:] = [e for e in one.events if isinstance(e["event"], str)]
        check = of(UNDISTURBED, forged)
        assert len(json.dumps(check)) < 100_000
        json.dumps(check, ensure_ascii=False).encode()  # no lone surrogates


def test_a_run_that_cannot_be_read_at_all_leaves_the_others():
    broken = resumed()
    broken.lives.append(None)
    check = of(UNDISTURBED, broken)
    assert "can't be drawn" in check["runs"][0]["problem"] and check["runs"][1]["lanes"]


def test_a_disk_state_is_compared_file_by_file():
    state = {
        "events": [f"write {n}" for n in range(20)],
        "crash": "the power fails",
        "on": ["ext4"],
        "lost": ["the name a"],
        "load": "raised ValueError",
        "promised": "save 1",
        "files": {
            "returned": [["b", "9 bytes", "x"]],
            "as_called": [["a", "3 bytes", "x"], ["b", "3 bytes", "y"]],
            "on_disk": [["b", "3 bytes", "z"], ["odd"]],
        },
    }
    disk = of(disk_state=state)["disk"]
    columns = ("path", "returned", "before", "after", "same", "lost")
    assert [tuple(f[column] for column in columns) for f in disk["files"]] == [
        ("a", "", "3 bytes", "", False, True),
        ("b", "9 bytes", "3 bytes", "3 bytes", False, True),
    ]
    assert disk["earlier"] + len(disk["events"]) == 20


def test_a_disk_state_of_the_wrong_type_is_left_out():
    assert of(disk_state="forged")["disk"] is None
    assert of(disk_state={"files": {"as_called": 3}, "events": 1})["disk"]["files"] == []

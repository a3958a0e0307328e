"""Exercise 3: a job that is told to stop."""

from __future__ import annotations

import pytest

from grader.checks import cases, grace, graceful, task, together
from grader.checks.preempted import any_signal, between_saves, job, steps_per_epoch, stopped_and_resumed
from grader.harness.faults import Kill
from grader.harness.preemption import both, send

# ---------------------------------------------------------------- ex03.1  the handler

CASES = (
    "each_signal_is_noted",
    "the_first_one_counts",
    "it_does_nothing_else",
    "a_save_survives_signals",
    "the_old_handlers_come_back",
    "one_within_another",
    "only_its_own_signals",
)


def handles(lab, case: str, think: str) -> None:
    cases.right(lab, "signal_cases.py", CASES, case, think, ("when", "a signal came in a `with StopSignal()` block"))


@task("ex03.1")
def test_a_signal_is_noted_with_its_time(lab):
    handles(lab, "each_signal_is_noted", "which signals come before a job is killed, and what must be known of them?")


@task("ex03.1")
def test_the_first_signal_counts(lab):
    handles(lab, "the_first_one_counts", "when did the grace begin?")


@task("ex03.1")
def test_the_handler_does_nothing_else(lab):
    handles(lab, "it_does_nothing_else", "in the middle of what may a handler run?")


@task("ex03.1")
def test_a_save_in_which_signals_come_is_whole(lab):
    handles(lab, "a_save_survives_signals", "what does the second signal do to your job, and to the save that it interrupts?")


@task("ex03.1")
def test_the_handlers_from_before_come_back(lab):
    handles(lab, "the_old_handlers_come_back", "what does signal.signal return, and who runs when a block raises?")


@task("ex03.1")
def test_two_of_them_do_not_share_anything(lab):
    handles(lab, "one_within_another", "where does the flag live: with the object, the class, or the module?")


@task("ex03.1")
def test_it_takes_the_signals_that_it_is_given_and_no_others(lab):
    handles(lab, "only_its_own_signals", "which signals, and from when to when?")


# ---------------------------------------------------------------- ex03.2  the graceful stop


@task("ex03.2")
def test_a_job_that_nobody_stops_trains_as_it_should(lab):
    graceful.trains_like_the_yardstick(lab)


@task("ex03.2")
def test_a_signal_in_the_middle_of_a_step_stops_the_job_after_it(lab):
    for schedule in lab.schedules((send(any_signal(lab), between_saves(lab)),)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_a_job_stopped_twice_in_one_epoch_rejoins(lab):
    step = steps_per_epoch(lab)
    for schedule in lab.schedules((send("usr1", step + 1), send("term", step + 3))):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
@pytest.mark.parametrize("epoch", [1, 2], ids=["the_first", "the_last"])
def test_a_signal_in_an_evaluation_stops_the_job_there(lab, epoch):
    for schedule in lab.schedules((send(any_signal(lab), epoch * steps_per_epoch(lab), "evaluation", lab.draw.randint(1, 5)),)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_a_signal_before_the_first_step_stops_the_job_there(lab):
    for schedule in lab.schedules((send("term", 0, "start"), send("usr1", 0, "resume"))):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
@pytest.mark.parametrize("epoch", [1, 2], ids=["of_an_epoch", "of_the_run"])
def test_a_signal_in_the_last_step_stops_the_job_after_it(lab, epoch):
    for schedule in lab.schedules((send(any_signal(lab), epoch * steps_per_epoch(lab)),)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_signals_in_a_save_do_it_no_harm(lab):
    for schedule in lab.schedules((both(send("usr1", 8, "event", 1), send("term", 8, "event", 2)),)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_another_signal_while_it_leaves_changes_nothing(lab):
    step = between_saves(lab)
    for schedule in lab.schedules((both(send("usr1", step), send("term", step, "leaving")),)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_a_job_that_has_just_finished_is_done(lab):
    graceful.just_finished(lab)


@task("ex03.2")
def test_an_error_is_neither_done_nor_preempted(lab):
    graceful.error_is_told(lab)


@task("ex03.2")
def test_an_error_after_a_signal_is_an_error(lab):
    graceful.error_is_told(lab, told_to_stop=True)


@task("ex03.2")
def test_the_status_of_the_life_before_is_not_this_ones(lab):
    graceful.status_is_fresh(lab, (send("usr1", steps_per_epoch(lab) + 1), Kill(steps_per_epoch(lab) + 3)))


# ---------------------------------------------------------------- ex03.3  workers


@task("ex03.3")
@pytest.mark.parametrize("signal", ["term", "usr1"])
def test_a_signal_to_the_process_group_stops_the_job_after_its_step(lab, signal):
    for schedule in lab.schedules((send(signal, between_saves(lab), to="group"),)):
        stopped_and_resumed(lab, job(lab, "--workers", 2), schedule)


@task("ex03.3")
def test_a_signal_to_the_process_group_harms_no_save(lab):
    for schedule in lab.schedules((send(any_signal(lab), 8, "event", lab.draw.randint(0, 2), to="group"),)):
        stopped_and_resumed(lab, job(lab, "--workers", 2), schedule)


# ---------------------------------------------------------------- ex03.4  all ranks together


@task("ex03.4")
def test_a_signal_to_one_rank_stops_all_after_the_same_step(lab):
    together.stops(lab, send(any_signal(lab), between_saves(lab), rank=lab.draw.randrange(2)))


@task("ex03.4")
def test_signals_to_all_ranks_at_different_moments_stop_all_after_the_same_step(lab):
    step, first = between_saves(lab), lab.draw.randrange(2)
    together.stops(lab, both(send("term", step, rank=first), send("term", step + 1, rank=1 - first), send("term", step, "event", 1, rank=1 - first)))


@task("ex03.4")
def test_a_signal_to_one_rank_in_an_evaluation_stops_all_there(lab):
    together.stops(lab, send(any_signal(lab), steps_per_epoch(lab), "evaluation", lab.draw.randint(1, 5), rank=lab.draw.randrange(2)))


@task("ex03.4")
def test_a_signal_to_one_rank_before_the_first_step_stops_all(lab):
    together.stops(lab, send("term", 0, "start", rank=1))


@task("ex03.4")
def test_four_ranks_stop_together(lab):
    together.stops(lab, send("usr1", between_saves(lab), rank=lab.draw.randrange(1, 4)), ranks=4)


@task("ex03.4")
def test_ranks_that_have_just_finished_are_done(lab):
    together.just_finished(lab)


@task("ex03.4")
def test_an_error_of_all_ranks_is_told(lab):
    graceful.error_is_told(lab, ranks=2)


@task("ex03.4")
def test_the_status_of_the_ranks_before_is_not_these_ones(lab):
    graceful.status_is_fresh(lab, (send("usr1", steps_per_epoch(lab) + 1, rank=0), Kill(steps_per_epoch(lab) + 3)), ranks=2)


@task("ex03.4")
def test_agreeing_costs_little(lab):
    together.costs_little(lab)


@task("ex03.4")
def test_under_torchrun_the_job_stops_as_well(lab):
    together.under_torchrun(lab)


# ---------------------------------------------------------------- ex03.5  the grace period


@task("ex03.5")
def test_a_job_stops_by_itself_before_its_time_limit(lab):
    grace.before_the_time_limit(lab)


@task("ex03.5")
def test_a_job_stops_by_itself_in_an_evaluation(lab):
    grace.in_an_evaluation(lab)


@task("ex03.5")
def test_a_grace_that_is_known_does_not_hide_the_time_limit(lab):
    grace.with_a_grace_known(lab)


@task("ex03.5")
def test_saves_that_become_slower_still_fit(lab):
    grace.slower_saves(lab)


@task("ex03.5")
def test_a_grace_that_is_long_enough_is_used(lab):
    grace.long_enough(lab)


@task("ex03.5")
def test_a_grace_that_is_too_short_for_a_save_leaves_the_last_one(lab):
    grace.too_short(lab)


@task("ex03.5")
def test_the_grace_counts_from_the_signal(lab):
    grace.counts_from_the_signal(lab)


@task("ex03.5")
def test_a_rank_that_has_no_time_for_a_save_decides_for_all(lab):
    grace.too_short(lab, ranks=2)


@task("ex03.5")
def test_the_rank_with_the_least_time_decides_in_an_evaluation(lab):
    grace.in_an_evaluation(lab, ranks=2)


@task("ex03.5")
def test_the_rank_with_the_least_time_decides(lab):
    grace.before_the_time_limit(lab, ranks=2)

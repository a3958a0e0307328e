"""Exercise 3: signal handling, graceful shutdown."""

from __future__ import annotations

import pytest

from grader.checks import task
from grader.checks.ex03 import (
    coordinated_stop,
    grace_periods,
    job_errors,
    loader_workers,
    signal_handler,
    small_lives,
    status_faults,
    time_limits,
    undisturbed,
)
from grader.checks.ex03.stop_assertions import stopped_and_resumed
from grader.checks.ex03.stop_runs import (
    SAVE_EVERY,
    all_steps,
    any_signal,
    between_saves,
    each_signal,
    job,
    steps_per_epoch,
)
from grader.harness.preemption import both, send

# ---------------------------------------------------------------- ex03.1  the handler


@task("ex03.1")
def test_a_signal_is_recorded_with_its_time(lab):
    """A signal is recorded with its time"""
    signal_handler.right(
        lab,
        "each_noted",
        "which signals come before a job is killed, and what must you know about them?",
    )


@task("ex03.1")
def test_the_first_signal_counts(lab):
    """The first signal counts"""
    signal_handler.right(lab, "first_counts", "when did the grace begin?")


@task("ex03.1")
def test_the_handler_does_nothing_else(lab):
    """The handler does nothing else"""
    signal_handler.right(
        lab, "nothing_else", "what may the program be in the middle of when a handler runs?"
    )


@task("ex03.1")
def test_a_save_interrupted_by_signals_is_complete(lab):
    """A save interrupted by signals is complete"""
    signal_handler.right(
        lab,
        "whole_save",
        "what does the second signal do to your job, and to the save that it interrupts?",
    )


@task("ex03.1")
def test_the_earlier_handlers_are_restored(lab):
    """The earlier handlers are restored"""
    signal_handler.right(
        lab, "back_again", "what does signal.signal return, and what runs when a block raises?"
    )


@task("ex03.1")
def test_two_handlers_share_nothing(lab):
    """Two handlers share nothing"""
    signal_handler.right(
        lab, "nested", "where does the flag live: in the object, the class, or the module?"
    )


@task("ex03.1")
def test_it_takes_the_signals_that_it_is_given_and_no_others(lab):
    """It takes the signals that it is given, and no others"""
    signal_handler.right(lab, "only_its_own", "which signals, and from when to when?")


@task("ex03.1")
def test_a_signal_at_any_moment_is_recorded_and_blocks_nothing(lab):
    """A signal at any moment is recorded and blocks nothing"""
    signal_handler.right(
        lab,
        "any_moment",
        "a handler can run between any two instructions, including its own: what may be half done "
        "or locked at that point?",
    )


# ---------------------------------------------------------------- ex03.2  the graceful stop


@task("ex03.2")
def test_an_undisturbed_job_trains_as_it_should(lab):
    """An undisturbed job trains as it should"""
    undisturbed.trains_like_the_yardstick(lab)


@task("ex03.2")
def test_a_signal_in_the_middle_of_a_step_stops_the_job_after_it(lab):
    """A signal in the middle of a step stops the job after it"""
    for schedule in lab.schedules((send(any_signal(lab), between_saves(lab)),)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_a_job_stopped_twice_in_one_epoch_rejoins(lab):
    """A job stopped twice in one epoch rejoins

    The second time in a step after which a regular save is due.
    """
    due = 2 * SAVE_EVERY if steps_per_epoch(lab) + 1 < 2 * SAVE_EVERY else 3 * SAVE_EVERY
    for schedule in lab.schedules((send("usr1", steps_per_epoch(lab) + 1), send("term", due))):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
@pytest.mark.parametrize("which", ["the_first", "the_last"])
def test_a_signal_in_an_evaluation_stops_the_job_there(lab, which):
    """A signal in an evaluation stops the job there"""
    step, parts = (
        (steps_per_epoch(lab), (8, 9)) if which == "the_first" else (all_steps(lab), (0, 5))
    )
    signal = each_signal(lab)[which == "the_last"]
    for schedule in lab.schedules((send(signal, step, "evaluation", lab.draw.randint(*parts)),)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_a_signal_before_the_first_step_stops_the_job_there(lab):
    """A signal before the first step stops the job there

    In the very first life, and in one that continues an earlier one's work.
    """
    for schedule in lab.schedules(
        (send("term", 0, "start"), send("usr1", between_saves(lab)), send("usr1", 0, "resume"))
    ):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
@pytest.mark.parametrize("which", ["of_an_epoch", "of_the_run"])
def test_a_signal_in_the_last_step_stops_the_job_after_it(lab, which):
    """A signal in the last step stops the job after it"""
    step = steps_per_epoch(lab) if which == "of_an_epoch" else all_steps(lab)
    signal = each_signal(lab)[which == "of_the_run"]
    for schedule in lab.schedules((send(signal, step),)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_signals_during_a_save_dont_harm_it(lab):
    """Signals during a save don't harm it"""
    first, second = sorted(lab.draw.sample(range(4), 2))
    for schedule in lab.schedules(
        (both(send("usr1", 8, "event", first), send("term", 8, "event", second)),)
    ):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_more_signals_while_the_job_exits_change_nothing(lab):
    """More signals while the job exits change nothing

    In its last save, and before each thing that it does afterwards.
    """
    step = between_saves(lab)
    leaving = (send(("term", "usr1")[n % 2], step, "leaving", n) for n in range(3))
    signals = both(send("usr1", step), send("term", step, "event", lab.draw.randrange(4)), *leaving)
    for schedule in lab.schedules((signals,)):
        stopped_and_resumed(lab, job(lab), schedule)


@task("ex03.2")
def test_a_job_that_has_just_finished_is_done(lab):
    """A job that has just finished is done"""
    undisturbed.just_finished(lab)


@task("ex03.2")
def test_a_save_that_is_due_before_an_evaluation_isnt_the_last_one(lab):
    """A save that is due before an evaluation isn't the last one"""
    undisturbed.due_at_the_end(lab)


@task("ex03.2")
def test_a_second_job_in_the_same_process_starts_afresh(lab):
    """A second job in the same process starts afresh"""
    undisturbed.second_in_its_process(lab)


@task("ex03.2")
def test_an_error_is_neither_done_nor_preempted(lab):
    """An error is neither done nor preempted"""
    job_errors.error_is_reported(lab)


@task("ex03.2")
def test_an_error_after_a_signal_is_an_error(lab):
    """An error after a signal is an error"""
    job_errors.error_after_a_signal(lab)


@task("ex03.2")
def test_the_status_of_an_earlier_life_isnt_taken_for_this_ones(lab):
    """The status of an earlier life isn't taken for this one's"""
    status_faults.status_is_fresh(lab)


@task("ex03.2")
def test_the_status_is_whole_at_every_moment(lab):
    """The status is whole at every moment"""
    status_faults.status_is_whole(lab)


@task("ex03.2")
def test_an_error_of_any_type_reaches_the_caller(lab):
    """An error of any type reaches the caller"""
    small_lives.any_error(lab)


@task("ex03.2")
def test_each_life_in_a_process_stands_alone(lab):
    """Each life in a process stands alone"""
    small_lives.any_signal(lab)


# ---------------------------------------------------------------- ex03.3  workers


@task("ex03.3")
def test_workers_draw_as_the_loader_seeds_them(lab):
    """Workers draw as the loader seeds them"""
    loader_workers.draw_apart(lab)


@task("ex03.3")
@pytest.mark.parametrize("signal", ["term", "usr1"])
def test_a_signal_to_the_process_group_stops_the_job_after_its_step(lab, signal):
    """A signal to the process group stops the job after its step"""
    epoch = loader_workers.epoch_of(lab, signal)
    steps = [n for n in loader_workers.settled(lab, epoch) if n % SAVE_EVERY]
    loader_workers.stops(lab, send(signal, lab.draw.choice(steps), to="group"))


@task("ex03.3")
def test_signals_to_the_process_group_dont_harm_a_save(lab):
    """Signals to the process group don't harm a save"""
    first, second = lab.draw.sample(["term", "usr1"], 2)
    event = lab.draw.randint(0, 2)
    step = lab.draw.choice([n for n in loader_workers.settled(lab) if n % SAVE_EVERY == 0])
    loader_workers.stops(
        lab,
        both(
            send(first, step, "event", event, to="group"),
            send(second, step, "event", event + 1, to="group"),
            send(first, step, "event", event + 1, to="group"),
        ),
    )


# ---------------------------------------------------------------- ex03.4  all ranks together


@task("ex03.4")
def test_a_signal_to_one_rank_or_to_all_stops_all_after_the_same_step(lab):
    """A signal to one rank or to all stops all after the same step"""
    one, last = lab.shared.randrange(2), all_steps(lab) - 1
    coordinated_stop.stops(
        lab, send(any_signal(lab), steps_per_epoch(lab) + 1, rank=one), send(any_signal(lab), last)
    )


@task("ex03.4")
def test_signals_to_all_ranks_at_different_moments_stop_all_after_the_same_step(lab):
    """Signals to all ranks at different moments stop all after the same step

    In the first step: ranks that agree at every third step only stop too late.
    """
    step, first = 1, lab.draw.randrange(2)
    coordinated_stop.stops(
        lab,
        both(
            send("term", step, rank=first),
            send("term", step + 1, rank=1 - first),
            send("term", step, "event", 1, rank=1 - first),
        ),
    )


@task("ex03.4")
def test_a_signal_to_one_rank_in_an_evaluation_stops_all_there(lab):
    """A signal to one rank in an evaluation stops all there"""
    other = 1 - lab.shared.randrange(2)  # than the one that gets a signal in a step
    coordinated_stop.stops(
        lab,
        send(
            any_signal(lab), steps_per_epoch(lab), "evaluation", lab.draw.randint(1, 5), rank=other
        ),
    )


@task("ex03.4")
def test_a_signal_to_one_rank_before_the_first_step_stops_all(lab):
    """A signal to one rank before the first step stops all

    And one in the last part of an evaluation, after which nothing of the epoch is left to train.
    """
    late = send(any_signal(lab), steps_per_epoch(lab), "evaluation", 11, rank=0)
    coordinated_stop.stops(lab, send("term", 0, "start", rank=1), late)


@task("ex03.4")
def test_four_ranks_on_two_nodes_stop_together(lab):
    """Four ranks on two nodes stop together

    One of them gets the signal in a regular save.
    """
    coordinated_stop.stops(
        lab,
        send("usr1", 2 * SAVE_EVERY, "event", 1, rank=lab.draw.randrange(2, 4)),
        ranks=4,
        ranks_per_node=2,
    )


@task("ex03.4")
def test_ranks_that_have_just_finished_are_done(lab):
    """Ranks that have just finished are done"""
    coordinated_stop.just_finished(lab)


@task("ex03.4")
def test_an_error_on_all_ranks_is_reported(lab):
    """An error on all ranks is reported"""
    job_errors.error_of_ranks(lab)


@task("ex03.4")
def test_an_error_on_one_rank_is_reported(lab):
    """An error on one rank is reported"""
    job_errors.error_of_one_rank(lab)


@task("ex03.4")
def test_an_error_on_one_rank_after_a_signal_is_an_error(lab):
    """An error on one rank after a signal is an error"""
    job_errors.error_of_one_rank_after_a_signal(lab)


@task("ex03.4")
def test_agreeing_costs_little(lab):
    """Agreeing costs little"""
    coordinated_stop.costs_little(lab)


@task("ex03.4")
def test_the_job_also_stops_under_torchrun(lab):
    """The job also stops under torchrun"""
    coordinated_stop.under_torchrun(lab)


@task("ex03.4")
def test_stop_together_gives_all_ranks_the_same_answer(lab):
    """stop_together gives all ranks the same answer"""
    coordinated_stop.same_answer(lab)


# ---------------------------------------------------------------- ex03.5  the grace period


@task("ex03.5")
def test_a_job_stops_by_itself_before_its_time_limit(lab):
    """A job stops by itself before its time limit"""
    time_limits.before_a_step(lab)


@task("ex03.5")
def test_a_time_limit_before_the_first_save_is_respected(lab):
    """A time limit before the first save is respected"""
    time_limits.before_the_first_save(lab)


@task("ex03.5")
def test_a_job_stops_by_itself_in_an_evaluation(lab):
    """A job stops by itself in an evaluation"""
    time_limits.in_an_evaluation(lab)


@task("ex03.5")
def test_a_known_grace_period_does_not_hide_the_time_limit(lab):
    """A known grace period does not hide the time limit"""
    time_limits.with_a_grace_known(lab)


@task("ex03.5")
def test_a_signal_with_a_long_grace_period_does_not_hide_the_time_limit(lab):
    """A signal with a long grace period does not hide the time limit"""
    grace_periods.end_before_the_grace(lab, told=True)


@task("ex03.5")
def test_a_signal_with_an_unknown_grace_period_does_not_hide_the_time_limit(lab):
    """A signal with an unknown grace period does not hide the time limit"""
    grace_periods.end_before_the_grace(lab, told=False)


@task("ex03.5")
def test_a_time_limit_does_not_hide_the_grace_period(lab):
    """A time limit does not hide the grace period"""
    grace_periods.grace_before_the_end(lab)


@task("ex03.5")
def test_saves_that_become_slower_still_fit(lab):
    """Saves that become slower still fit"""
    time_limits.slower_saves(lab)


@task("ex03.5")
def test_durations_that_fall_and_rise_still_fit(lab):
    """Durations that fall and rise still fit"""
    time_limits.uneven(lab)


@task("ex03.5")
@pytest.mark.parametrize("due", [False, True], ids=["no_save_due", "a_save_due"])
def test_no_save_begins_that_might_not_fit_before_the_time_limit(lab, due):
    """No save begins that might not fit before the time limit"""
    time_limits.after_a_long_step(lab, due)


@task("ex03.5")
def test_a_grace_period_that_is_long_enough_is_used(lab):
    """A grace period that is long enough is used"""
    grace_periods.long_enough(lab)


@task("ex03.5")
def test_an_unknown_grace_period_is_long_enough(lab):
    """An unknown grace period is long enough"""
    grace_periods.not_told(lab)


@task("ex03.5")
@pytest.mark.parametrize("ranks", [None, 2], ids=["one_process", "two_ranks"])
def test_a_long_grace_period_isnt_used_up(lab, ranks):
    """A long grace period isn't used up"""
    grace_periods.not_used_up(lab, ranks)


@task("ex03.5")
def test_a_save_of_unknown_duration_is_started(lab):
    """A save of unknown duration is started"""
    grace_periods.unknown_save(lab)


@task("ex03.5")
def test_a_grace_period_that_is_too_short_for_a_save_keeps_the_last_one(lab):
    """A grace period that is too short for a save keeps the last one"""
    grace_periods.too_short(lab)


@task("ex03.5")
def test_the_grace_period_counts_from_the_signal(lab):
    """The grace period counts from the signal"""
    grace_periods.counts_from_the_signal(lab)


@task("ex03.5")
def test_the_grace_period_counts_from_the_first_signal(lab):
    """The grace period counts from the first signal"""
    grace_periods.counts_from_the_first(lab)


@task("ex03.5")
def test_a_rank_that_has_no_time_for_a_save_decides_for_all(lab):
    """A rank that has no time for a save decides for all"""
    grace_periods.too_short(lab, ranks=2)


@task("ex03.5")
def test_the_rank_with_the_least_time_decides_in_an_evaluation(lab):
    """The rank with the least time decides in an evaluation"""
    time_limits.in_an_evaluation_of_ranks(lab)


@task("ex03.5")
def test_the_rank_with_the_least_time_decides(lab):
    """The rank with the least time decides"""
    time_limits.of_slower_ranks(lab)

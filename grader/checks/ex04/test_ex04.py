"""Exercise 4: automatic job resubmission."""

from __future__ import annotations

from grader.checks import task
from grader.checks.ex04 import (
    job_endings,
    life_notes,
    locks,
    newest_intact,
    resubmission,
    resubmission_runs,
)

AT_ONCE = 48  # checks that wait for a cluster need no core

# ---------------------------------------------------------------- ex04.1  which checkpoint


@task("ex04.1")
def test_the_highest_step_counts_whatever_the_dates_say(lab):
    """The highest step counts whatever the dates say"""
    newest_intact.right(
        lab,
        "the_highest_step_counts",
        "what makes a checkpoint newer than another, and how do 9 and 10 compare as text?",
    )


@task("ex04.1")
def test_a_damaged_checkpoint_gives_way_to_the_one_before(lab):
    """A damaged checkpoint gives way to the one before"""
    newest_intact.right(
        lab,
        "a_damaged_one_is_passed_over",
        "what does your function compare with the manifest, and what if there is none?",
    )


@task("ex04.1")
def test_a_manifest_must_be_valid(lab):
    """A manifest must be valid"""
    newest_intact.right(
        lab,
        "odd_manifests_are_no_proof",
        "what does a manifest prove if it names nothing, or another step?",
    )


@task("ex04.1")
def test_the_search_goes_back_to_the_newest_intact_one(lab):
    """The search goes back to the newest intact one"""
    newest_intact.right(lab, "the_search_goes_back", "how far back does your search go?")


@task("ex04.1")
def test_what_was_never_finished_is_no_checkpoint(lab):
    """What was never finished is no checkpoint"""
    newest_intact.right(
        lab, "what_was_never_finished_is_none", "which names in the directory are checkpoints?"
    )


@task("ex04.1")
def test_other_files_in_the_directory_dont_matter(lab):
    """Other files in the directory don't matter"""
    newest_intact.right(
        lab, "other_things_may_lie_there", "which names in the directory are checkpoints?"
    )


@task("ex04.1")
def test_where_nothing_was_saved_the_run_starts_fresh(lab):
    """Where nothing was saved, the run starts fresh"""
    newest_intact.right(lab, "nothing_there_means_fresh", "what does the very first life find?")


@task("ex04.1")
def test_where_no_checkpoint_is_intact_the_run_doesnt_start_fresh(lab):
    """Where no checkpoint is intact, the run doesn't start fresh"""
    newest_intact.right(
        lab,
        "none_intact_is_an_error",
        "what is the difference between no checkpoint, and none that can be read?",
    )


@task("ex04.1")
def test_the_directory_may_have_any_name(lab):
    """The directory may have any name"""
    newest_intact.right(
        lab,
        "the_directory_may_be_called_anything",
        "how do you list the directory, and how do you turn its names into paths?",
    )


# ---------------------------------------------------------------- ex04.2  the job script


@task("ex04.2")
def test_a_preempted_job_loses_nothing(lab):
    """A preempted job loses nothing"""
    resubmission.kept(
        resubmission_runs.preempted_and_out_of_time(lab),
        "preempt",
        "which of the job's processes get SIGTERM when it's preempted? And what does srun do "
        "with a signal that you send to it?",
    )


@task("ex04.2")
def test_before_its_time_limit_the_job_is_warned_and_saves(lab):
    """Before its time limit the job is warned and saves"""
    resubmission.kept(
        resubmission_runs.preempted_and_out_of_time(lab),
        "limit",
        "which process is warned, how long before the limit, and what passes the signal on to the "
        "training? When does bash run a trap?",
    )


@task("ex04.2")
def test_nothing_disturbs_a_save(lab):
    """Nothing disturbs a save"""
    resubmission.undisturbed_saves(resubmission_runs.preempted_and_out_of_time(lab))


@task("ex04.2")
def test_the_log_continues(lab):
    """The log continues"""
    resubmission.log_goes_on(resubmission_runs.preempted_and_out_of_time(lab))


@task("ex04.2")
def test_it_finishes_by_itself_where_an_undisturbed_run_ends(lab):
    """It finishes by itself where an undisturbed run ends"""
    run = resubmission_runs.preempted_and_out_of_time(lab)
    job_endings.finished(run)
    resubmission.same_course(run)
    job_endings.ended_well(run)


# ---------------------------------------------------------------- ex04.3  knowing when to stop


@task("ex04.3")
def test_a_job_that_is_done_has_nothing_to_do(lab):
    """A job that is done has nothing to do"""
    life_notes.right(
        lab,
        "a_finished_job_has_nothing_to_do",
        "how does a life learn that an earlier one has finished?",
    )


@task("ex04.3")
def test_a_crash_loop_ends_after_the_given_number_of_tries(lab):
    """A crash loop ends after the given number of tries"""
    life_notes.right(lab, "a_crash_loop_ends", "what counts a life that is killed, and when?")


@task("ex04.3")
def test_progress_resets_the_count(lab):
    """Progress resets the count"""
    life_notes.right(
        lab,
        "progress_starts_the_count_anew",
        "what does a crash at step 20 have to do with one at step 10?",
    )


@task("ex04.3")
def test_a_preemption_is_no_crash(lab):
    """A preemption is no crash"""
    life_notes.right(
        lab,
        "a_preemption_is_no_crash",
        "which endings of a life mean that something is wrong with the job?",
    )


@task("ex04.3")
def test_a_life_killed_while_it_writes_its_notes_leaves_them_whole(lab):
    """A life killed while it writes its notes leaves them whole"""
    life_notes.a_kill_leaves_them_whole(
        lab, "what does the next life read if this one is killed while it writes?"
    )


@task("ex04.3")
def test_the_notes_stay_with_their_job(lab):
    """The notes stay with their job"""
    life_notes.notes_stay_with_their_job(
        lab, "where are your notes, and what tells one job's notes from another's?"
    )


@task("ex04.3")
def test_files_that_look_like_the_notes_are_ignored(lab):
    """Files that look like the notes are ignored"""
    life_notes.look_alikes_are_passed_over(lab, "which of the files in the directory are yours?")


@task("ex04.3")
def test_notes_that_cant_be_read_or_written_are_an_error(lab):
    """Notes that can't be read or written are an error"""
    life_notes.a_failing_disk_is_an_error(
        lab, "what does the count become if your notes are there, and the disk refuses them?"
    )


@task("ex04.3")
def test_a_job_whose_training_was_killed_is_run_again(lab):
    """A job whose training was killed is run again"""
    run = resubmission_runs.killed_then_requeued_when_done(lab)
    job_endings.finished(run)
    resubmission.same_course(run)


@task("ex04.3")
def test_a_finished_job_that_is_requeued_does_nothing(lab):
    """A finished job that is requeued does nothing"""
    resubmission.does_nothing_when_done(resubmission_runs.killed_then_requeued_when_done(lab))


@task("ex04.3")
def test_a_job_that_crashes_every_time_is_given_up(lab):
    """A job that crashes every time is given up"""
    resubmission.gives_up(resubmission_runs.crash_loop(lab))


# ------------------------------------------------------------- ex04.4  a chain instead of a requeue


@task("ex04.4")
def test_a_second_life_is_refused(lab):
    """A second life is refused"""
    locks.second_is_refused(lab, "how does a second process learn that there is a first one?")


@task("ex04.4")
def test_an_error_in_the_block_releases_the_lock(lab):
    """An error in the block releases the lock"""
    locks.errors_leave_the_block(lab, "what releases the lock when training fails?")


@task("ex04.4")
def test_a_killed_holder_doesnt_block_the_next_process(lab):
    """A killed holder doesn't block the next process"""
    locks.killed_holders_block_nobody(lab, "what releases the lock when its holder can't?")


@task("ex04.4")
def test_only_one_of_two_simultaneous_processes_is_let_in(lab):
    """Only one of two simultaneous processes is let in"""
    locks.only_one_wins(lab, "what may another process do between your check and your next call?")


@task("ex04.4")
def test_a_holder_on_another_node_counts(lab):
    """A holder on another node counts"""
    locks.other_nodes_are_seen(
        lab, "what does a process id mean on another machine, or when its process is gone?"
    )


@task("ex04.4")
def test_the_chain_continues_however_one_of_its_jobs_ended(lab):
    """The chain continues however one of its jobs ended"""
    run = resubmission_runs.chained(lab)
    resubmission.generations(run)
    job_endings.finished(run)
    resubmission.same_course(run)
    job_endings.ended_well(run)


@task("ex04.4")
def test_a_job_of_the_chain_is_warned_before_its_time_limit_and_saves(lab):
    """A job of the chain is warned before its time limit and saves"""
    resubmission.kept(
        resubmission_runs.chained(lab),
        "limit",
        "what does auto_resume.sbatch do about the time limit that chain.sbatch doesn't?",
    )


@task("ex04.4")
def test_the_log_of_the_chain_continues(lab):
    """The log of the chain continues"""
    resubmission.log_goes_on(resubmission_runs.chained(lab))


@task("ex04.4")
def test_no_two_jobs_of_the_chain_run_at_once(lab):
    """No two jobs of the chain run at once"""
    run = resubmission_runs.chained(lab)
    resubmission.one_at_a_time(run)
    job_endings.finished(run)


@task("ex04.4")
def test_the_chain_ends_when_a_person_has_to_look(lab):
    """The chain ends when a person has to look"""
    resubmission.chain_ends(resubmission_runs.hopeless_chain(lab))


@task("ex04.4")
def test_a_chain_that_makes_progress_continues_however_long_it_is(lab):
    """A chain that makes progress continues however long it is"""
    run = resubmission_runs.many_lives(lab, resubmission_runs.CHAIN)
    resubmission.generations(run)
    job_endings.finished(run)


# ---------------------------------------------------------------- ex04.5  chaos


@task("ex04.5")
def test_after_all_of_these_faults_the_job_finishes_by_itself(lab):
    """After all of these faults the job finishes by itself"""
    resubmission.chaos_survived(lab, resubmission_runs.chaos(lab))


@task("ex04.5")
def test_a_job_that_makes_progress_is_run_again_however_often(lab):
    """A job that makes progress is run again however often"""
    run = resubmission_runs.many_lives(lab, resubmission_runs.REQUEUE)
    job_endings.finished(run)
    resubmission.same_course(run)

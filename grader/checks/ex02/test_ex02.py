"""Exercise 2: DDP and FSDP checkpoints."""

from __future__ import annotations

import pytest

from grader.checks import endings, task, trajectories
from grader.checks.ex02 import (
    corruption,
    ddp,
    interrupted_saves,
    newest_checkpoint,
    one_rank_fails,
    sharded,
)
from grader.harness.faults import Kill, KillInSave

# ---------------------------------------------------------------- ex02.1  DDP: one writes, all know


@task("ex02.1")
def test_a_run_whose_rank_was_killed_rejoins_the_undisturbed_one(lab):
    """A run whose rank was killed rejoins the undisturbed one"""
    args = ddp.basic(lab)
    per_epoch = args[-1]
    fault = Kill(per_epoch + lab.draw.randint(1, per_epoch - 1), rank=lab.draw.randrange(2))
    for schedule in lab.schedules((fault,)):
        ddp.resumes(
            lab, args, schedule, ranks=2, kept=lambda fault: fault.step // per_epoch * per_epoch
        )


@task("ex02.1")
def test_saving_changes_nothing_in_the_run(lab):
    """Saving changes nothing in the run"""
    ddp.trains_as_without_checkpoints(lab)


@task("ex02.1")
def test_rank_0_alone_writes(lab):
    """Rank 0 alone writes"""
    ddp.rank_0_alone_writes(lab)


@task("ex02.1")
def test_one_process_alone_loads_what_ranks_saved(lab):
    """One process alone loads what ranks saved"""
    ddp.loads_alone(lab, "plain")


@task("ex02.1")
def test_no_rank_leaves_the_save_before_it_is_done(lab):
    """No rank leaves the save before it is done"""
    ddp.nobody_leaves_early(lab, "save_checkpoint_ddp", held=(0,))


@task("ex02.1")
def test_a_failed_save_is_an_error_on_every_rank(lab):
    """A failed save is an error on every rank"""
    ddp.failure_reaches_all(lab, "save_checkpoint_ddp", failing=(0,))


@task("ex02.1")
def test_a_file_saved_on_a_gpu_loads_anywhere(lab):
    """A file saved on a GPU loads anywhere"""
    ddp.loads_alone(lab, "gpu")


# -------------------------------------------------------------------- ex02.2  each rank's own state


@task("ex02.2")
@pytest.mark.parametrize("ranks", [2, 4], ids=["two_ranks", "four_ranks"])
def test_a_run_killed_in_mid_epoch_rejoins_on_every_rank(lab, ranks):
    """A run killed in mid-epoch rejoins on every rank"""
    per_epoch, args = ddp.mid_epoch(lab)
    epoch = 1 if ranks == 2 else 0  # a whole epoch follows, or two
    step = epoch * per_epoch + lab.draw.choice(
        [n for n in range(3, per_epoch) if (epoch * per_epoch + n) % 3]
    )
    for schedule in lab.schedules((Kill(step, rank=lab.draw.randrange(ranks)),)):
        ddp.resumes(lab, args, schedule, ranks)


@task("ex02.2")
def test_a_run_killed_twice_within_one_epoch_rejoins(lab):
    """A run killed twice within one epoch rejoins"""
    per_epoch, args = ddp.mid_epoch(lab)
    first = -(-(per_epoch + 1) // 3) * 3  # the first save in epoch 1
    for schedule in lab.schedules(
        (Kill(first, rank=1), Kill(first + 3 + lab.draw.randrange(2), rank=0))
    ):
        ddp.resumes(lab, args, schedule, ranks=2)


@task("ex02.2")
def test_a_run_resumed_at_the_last_step_of_an_epoch_rejoins(lab):
    """A run resumed at the last step of an epoch rejoins"""
    per_epoch, args = ddp.mid_epoch(lab, save_every=1)
    for schedule in lab.schedules((Kill(per_epoch, rank=lab.draw.randrange(2)),)):
        ddp.resumes(lab, args, schedule, ranks=2)


@task("ex02.2")
def test_saving_more_often_changes_nothing_in_the_run(lab):
    """Saving more often changes nothing in the run"""
    often, seldom = (lab.undisturbed(*ddp.mid_epoch(lab, save_every=n)[1], ranks=2) for n in (1, 3))
    trajectories.quiet(
        lab, often, seldom, "a run that saves after every step, and one that saves less often"
    )


@task("ex02.2")
def test_the_run_trains_on_the_batches_that_it_reports(lab):
    """The run trains on the batches that it reports"""
    ddp.trains_what_it_says(lab)


@task("ex02.2")
def test_all_ranks_together_see_every_sample_once_in_a_new_order(lab):
    """All ranks together see every sample once in a new order"""
    per_epoch, args = ddp.mid_epoch(lab)
    for ranks in (2, 4):
        run = lab.undisturbed(*args, ranks=ranks)
        endings.finished(lab, run)
        ddp.every_sample_once(run, per_epoch)


@task("ex02.2")
def test_no_rank_leaves_before_every_part_is_complete(lab):
    """No rank leaves before every part is complete"""
    ddp.nobody_leaves_early(lab, "save_job", held=(0, 1))


@task("ex02.2")
def test_every_checkpoint_is_complete_in_its_own_folder(lab):
    """Every checkpoint is complete in its own folder"""
    ddp.each_folder_is_whole(lab)


@task("ex02.2")
def test_a_part_that_one_rank_cannot_write_is_an_error_on_every_rank(lab):
    """A part that one rank cannot write is an error on every rank"""
    ddp.failure_reaches_all(lab, "save_job", failing=(0, 1, 2))


# ---------------------------------------------------------------- ex02.3  sharded with FSDP2


@task("ex02.3")
def test_a_sharded_run_whose_rank_was_killed_rejoins(lab):
    """A sharded run whose rank was killed rejoins"""
    sharded.can_shard()
    args = ("ex02/train_sharded.py", "--seed", lab.seed)
    for schedule in lab.schedules((Kill(lab.draw.randint(5, 7), rank=lab.draw.randrange(2)),)):
        ddp.resumes(lab, args, schedule, ranks=2, kept=lambda fault: fault.step // 4 * 4)


@task("ex02.3")
def test_saving_shards_changes_nothing_in_the_run(lab):
    """Saving shards changes nothing in the run"""
    sharded.trains_as_without_checkpoints(lab)


@task("ex02.3")
def test_every_shard_comes_back_whatever_its_size(lab):
    """Every shard comes back whatever its size"""
    sharded.loads(lab, 4, 4)


@task("ex02.3")
def test_every_sharded_checkpoint_is_complete_in_its_own_folder(lab):
    """Every sharded checkpoint is complete in its own folder"""
    sharded.each_folder_is_whole(lab)


@task("ex02.3")
def test_no_rank_leaves_before_every_rank_has_written(lab):
    """No rank leaves before every rank has written"""
    sharded.nobody_leaves_early(lab)


@task("ex02.3")
def test_no_rank_ever_holds_the_whole_model(lab):
    """No rank ever holds the whole model"""
    sharded.nobody_holds_the_whole_model(lab)


# ---------------------------------------------------- ex02.4  another number of ranks, and one file


@task("ex02.4")
@pytest.mark.parametrize("ranks", [(4, 2), (4, 1), (2, 4)], ids=["4_to_2", "4_to_1", "2_to_4"])
def test_a_checkpoint_loads_on_another_number_of_ranks(lab, ranks):
    """A checkpoint loads on another number of ranks"""
    sharded.loads(lab, *ranks)


@task("ex02.4")
def test_the_model_is_exported_to_one_plain_file(lab):
    """The model is exported to one plain file"""
    sharded.exports(lab)


# ---------------------------------------------------------------- ex02.5  all or nothing


@task("ex02.5")
def test_all_ranks_find_the_newest_checkpoint(lab):
    """All ranks find the newest checkpoint"""
    newest_checkpoint.newest_on_every_rank(lab)


@task("ex02.5")
def test_a_save_in_which_one_rank_dies_is_all_or_nothing(lab):
    """A save in which one rank dies is all or nothing"""
    interrupted_saves.killed_at_every_event(lab)


@task("ex02.5")
def test_a_first_save_in_which_one_rank_dies_is_no_checkpoint(lab):
    """A first save in which one rank dies is no checkpoint"""
    interrupted_saves.first_save_killed(lab)


@task("ex02.5")
def test_a_save_of_the_same_step_again_in_which_one_rank_dies_leaves_a_whole_checkpoint(lab):
    """A save of the same step again in which one rank dies leaves a whole checkpoint"""
    interrupted_saves.save_again_killed(lab)


@task("ex02.5")
def test_a_full_disk_on_one_rank_is_an_error_on_all(lab):
    """A full disk on one rank is an error on all"""
    one_rank_fails.disk_full_at_one_rank(lab)


@task("ex02.5")
def test_no_rank_leaves_the_save_before_the_checkpoint_exists(lab):
    """No rank leaves the save before the checkpoint exists"""
    one_rank_fails.nobody_leaves_early(lab)


@task("ex02.5")
def test_other_peoples_files_in_the_directory_stay_as_they_are(lab):
    """Other people's files in the directory stay as they are"""
    newest_checkpoint.others_files(lab)


@task("ex02.5")
def test_ranks_that_see_different_listings_resume_from_one_checkpoint(lab):
    """Ranks that see different listings resume from one checkpoint"""
    one_rank_fails.ranks_see_different_listings(lab)


@task("ex02.5")
def test_a_checkpoint_damaged_for_one_rank_is_skipped_by_all(lab):
    """A checkpoint damaged for one rank is skipped by all"""
    corruption.damaged_for_one_rank(lab)


@task("ex02.5")
def test_all_earlier_checkpoints_stay_loadable(lab):
    """All earlier checkpoints stay loadable"""
    corruption.all_earlier_ones_stay(lab)


@task("ex02.5")
def test_a_training_run_killed_in_mid_save_rejoins_the_undisturbed_one(lab):
    """A training run killed in mid-save rejoins the undisturbed one"""
    args = ddp.of_save_step(lab)
    undisturbed = lab.undisturbed(*args, ranks=2)
    endings.finished(lab, undisturbed)
    third = [life.all("saved")[2] for life in undisturbed.last.processes]
    rank = lab.draw.choice([r for r, saved in enumerate(third) if saved["events"]] or [0])
    saved = third[rank]
    event = lab.draw.randrange(max(1, len(saved["events"])))
    for schedule in lab.schedules((KillInSave(saved["step"], event, rank),)):
        ddp.resumes(lab, args, schedule, ranks=2)


@task("ex02.5")
def test_all_ranks_resume_correctly_from_whatever_a_power_loss_leaves_of_the_saves(lab):
    """All ranks resume correctly from whatever a power loss leaves of the saves"""
    interrupted_saves.power_lost(lab)


@task("ex02.5")
def test_all_ranks_resume_correctly_from_whatever_a_power_loss_leaves_of_a_step_saved_again(lab):
    """All ranks resume correctly from whatever a power loss leaves of a step saved again"""
    interrupted_saves.power_lost_again(lab)

"""Exercise 1: PyTorch model checkpointing."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from grader.checks import task
from grader.checks.endings import finished
from grader.checks.ex01 import best, corruption, interrupted_saves, retention
from grader.checks.ex01.function_cases import (
    GPUS,
    OTHER_MODELS,
    PLANTED,
    READ,
    accepted,
    changes_no_settings,
    device_kept,
    epoch_came_back,
    generators,
    looked_only,
    probes,
    runs_no_code,
    same_parts,
)
from grader.checks.ex01.replay import augmented_afresh, replayed, yardstick
from grader.checks.ex01.shuffling import every_epoch_is_a_fresh_shuffle
from grader.checks.trajectories import quiet, rejoins
from grader.harness.faults import Kill, KillInSave
from grader.verdicts import FAIL, Finding, Gist, Inconclusive

# ---------------------------------------------------------------- ex01.1  round trip


def _epochs(lab, *flags: str) -> tuple[int, tuple]:
    """(steps per epoch, the arguments) of a run that saves once an epoch."""
    per_epoch = lab.shared.randint(5, 7)
    return per_epoch, (
        "ex01/train_epochs.py",
        "--seed",
        lab.seed,
        "--steps-per-epoch",
        per_epoch,
        *flags,
    )


def _saved_before(per_epoch: int):
    """Fault -> the end of the last epoch whose save was finished before it."""
    return lambda fault: (fault.step - fault.in_save) // per_epoch * per_epoch


def _rejoins_its_course(lab, args: tuple, schedules: list, per_epoch: int, *bare: str) -> None:
    """Each disturbed run equals the undisturbed one, which equals the run without student code."""
    undisturbed = lab.undisturbed(*args)
    for schedule in schedules:
        run = lab.launch(*args, faults=schedule, kept=_saved_before(per_epoch))
        rejoins(lab, run, undisturbed)
    quiet(lab, undisturbed, yardstick(lab, *_epochs(lab, *bare)[1], "--bare"))


@task("ex01.1")
def test_saving_changes_nothing_in_the_run(lab):
    """Saving changes nothing in the run"""
    _, args = _epochs(lab, "--randomness")
    quiet(lab, lab.undisturbed(*args), yardstick(lab, *args, "--bare"))


@task("ex01.1")
def test_a_run_killed_between_saves_rejoins_the_undisturbed_one(lab):
    """A run killed between saves rejoins the undisturbed one"""
    per_epoch, args = _epochs(lab)
    step = per_epoch + lab.draw.randint(1, per_epoch - 1)
    _rejoins_its_course(lab, args, lab.schedules((Kill(after_step=step),)), per_epoch)


@task("ex01.1")
def test_a_job_without_a_scheduler_is_saved_too(lab):
    """A job without a scheduler is saved too"""
    probe = probes(lab)["without scheduler"]
    epoch_came_back(probe, when=("asked for", "scheduler=None and a path without a directory"))
    same_parts(probe.returned()["parts"], probe.expected["parts"], "after a save and a load")


@task("ex01.1")
def test_a_scheduler_on_one_side_only_is_handled_as_promised(lab):
    """A scheduler on one side only is handled as promised"""
    plain, unscheduled = (probes(lab)[name] for name in ("plain", "without scheduler"))
    epoch_came_back(
        plain, "evaluated", think="what does your load do with a part that the caller doesn't want?"
    )
    parts = {
        name: digest for name, digest in plain.expected["parts"].items() if name != "scheduler"
    }
    same_parts(
        plain.returned("evaluated")["parts"],
        parts,
        "saved with a scheduler, loaded with scheduler=None",
    )
    if accepted(unscheduled, "scheduled"):
        raise Finding(
            "schedule-restarted",
            [
                ("loaded", "the checkpoint of a job without a scheduler into a job that has one"),
                Gist("happened", "nothing was raised"),
            ],
            means="the learning rate warms up again in mid-training, and nothing says so",
            think="what is your scheduler's state after this load?",
        )


@task("ex01.1")
def test_saving_only_looks(lab):
    """Saving only looks"""
    looked_only(probes(lab)["plain"], "save_checkpoint")


@task("ex01.1")
def test_loading_changes_only_what_was_saved(lab):
    """Loading changes only what was saved"""
    changes_no_settings(probes(lab)["plain"], "load_checkpoint")


@task("ex01.1")
def test_a_save_that_fails_raises(lab):
    """A save that fails raises"""
    probe = probes(lab)["nowhere"]
    answer = probe.saved.given(
        "what does a failed save leave behind, on the disk or in a variable?"
    )
    if "raised" not in answer:
        raise Finding(
            "error-swallowed",
            [
                ("path", "a folder is there, so no file can be written"),
                Gist("happened", "save_checkpoint returned, as if nothing was wrong"),
                ("expected", "an error"),
            ],
            think="what does the caller learn about a failed save?",
        )
    epoch_came_back(probe, when=("saved", "again, by the same process, after a save that failed"))
    same_parts(probe.returned()["parts"], probe.expected["parts"], "after a save that failed")


@task("ex01.1")
def test_another_optimizer_and_epoch_0_come_back_too(lab):
    """Another optimizer and epoch 0 come back too"""
    probe, untrained = probes(lab)["other"], probes(lab)["untrained"]
    epoch_came_back(probe, when=("asked for", "a path without a suffix, epoch 0"))
    same_parts(
        probe.returned()["parts"],
        probe.expected["parts"],
        f"a job with {probe.save['optimizer'].upper()}, two groups and a frozen layer",
    )
    epoch_came_back(untrained, when=("asked for", "a job with a scheduler, before its first step"))
    same_parts(
        untrained.returned()["parts"], untrained.expected["parts"], "a job before its first step"
    )


@task("ex01.1")
def test_a_file_from_a_gpu_node_loads_on_this_machine(lab):
    """A file from a GPU node loads on this machine"""
    probe = probes(lab)["gpu"]
    think = "where does torch.load put a tensor that was saved on cuda:0?"
    epoch_came_back(
        probe, when=("loaded", "the file of a GPU node, on a machine without GPUs"), think=think
    )
    same_parts(
        probe.returned()["parts"], probe.expected["parts"], "after loading a GPU node's file"
    )


@task("ex01.1")
def test_loading_runs_no_code_from_the_file(lab):
    """Loading runs no code from the file"""
    runs_no_code([probes(lab)[f"planted {planted}"] for planted in PLANTED], "load_checkpoint")


@task("ex01.1")
def test_a_checkpoint_of_another_model_is_refused(lab):
    """A checkpoint of another model is refused"""
    probe = probes(lab)["plain"]
    when = ("loaded", "a file of another process, after this one has saved another file")
    epoch_came_back(probe, when=when)
    same_parts(probe.returned()["parts"], probe.expected["parts"], "after a save and a load")
    if models := [text for change, text in OTHER_MODELS.items() if accepted(probe, change)]:
        raise Finding(
            "lenient-load",
            [
                ("loaded", f"the checkpoint into a model {models[0]}"),
                Gist("happened", "nothing was raised"),
            ],
            means="a renamed layer keeps its random weights, and nobody notices for days",
            think="how strict is your load_state_dict?",
        )


# ---------------------------------------------------------------- ex01.2  randomness


@task("ex01.2")
def test_reading_the_generators_draws_from_none(lab):
    """Reading the generators draws from none"""
    bare = yardstick(lab, *_epochs(lab, "--randomness")[1], "--bare")
    quiet(lab, lab.undisturbed(*_epochs(lab, "--rng")[1]), bare)


@task("ex01.2")
def test_a_run_with_randomness_rejoins_the_undisturbed_one(lab):
    """A run with randomness rejoins the undisturbed one"""
    per_epoch, args = _epochs(lab, "--rng")
    step = per_epoch + lab.draw.randint(1, per_epoch - 1)
    _rejoins_its_course(
        lab, args, lab.schedules((Kill(after_step=step),)), per_epoch, "--randomness"
    )


@task("ex01.2")
def test_every_generator_survives_a_file(lab):
    """Every generator survives a file"""
    for gauss in (1, 2):
        probe = probes(lab)[f"generators 0 0 {gauss}"]
        drew, lost = generators(probe)
        if name := next(iter([*lost, *drew]), None):
            verb = "wasn't restored" if lost else "was moved by get_rng_state"
            row = Gist(
                "different",
                f"{name} {verb}, after torch.save and torch.load(weights_only=True)",
            )
            raise Finding("state-lost", [row], about=name)


@task("ex01.2")
def test_the_generator_of_every_gpu_is_saved(lab):
    """The generator of every GPU is saved"""
    drew, lost = generators(probes(lab)["generators 2 2 1"])
    if lost or drew:
        what = (
            f"the generator of {', '.join(lost)} wasn't restored"
            if lost
            else f"get_rng_state moved the generator of {', '.join(drew)}"
        )
        raise Finding(
            "state-lost",
            [
                ("pretended", "two CUDA devices (as far as their generators go)"),
                Gist("different", what),
            ],
            about="CUDA RNG",
            means=(
                "on a GPU, dropout draws from it: a resume on the cluster diverges, although "
                "it's exact on your laptop"
            ),
            think="how many CUDA generators does a machine with two GPUs have?",
        )


@task("ex01.2")
def test_a_machine_with_fewer_or_more_gpus_restores_what_it_can(lab):
    """A machine with fewer or more GPUs restores what it can"""
    device_kept(probes(lab)["generators 2 2 1"])
    for there, here in GPUS:
        when = ("pretended", f"saved with {there} CUDA devices, loaded with {here}")
        _, lost = generators(
            probes(lab)[f"generators {there} {here} 1"],
            when,
            "which of the saved states have a counterpart here?",
        )
        if lost:
            raise Finding(
                "state-lost",
                [
                    when,
                    Gist(
                        "different",
                        f"both machines have it, but it wasn't restored: {', '.join(lost)}",
                    ),
                ],
                about="CUDA RNG",
            )


# -------------------------------------------------------- ex01.3  an interrupted save costs nothing


@task("ex01.3")
def test_the_newest_checkpoint_comes_back_bit_for_bit(lab):
    """The newest checkpoint comes back bit for bit"""
    interrupted_saves.newest_wins(lab)


@task("ex01.3")
def test_a_save_killed_at_any_event_leaves_the_last_good_checkpoint(lab):
    """A save killed at any event leaves the last good checkpoint"""
    interrupted_saves.killed_at_every_event(lab)


@task("ex01.3")
def test_a_torn_save_or_one_on_a_full_disk_leaves_the_last_good_checkpoint(lab):
    """A torn save, or one on a full disk, leaves the last good checkpoint"""
    interrupted_saves.torn_at_bytes(lab)


@task("ex01.3")
def test_a_first_save_that_never_finished_is_no_checkpoint(lab):
    """A first save that never finished is no checkpoint"""
    interrupted_saves.first_save_killed(lab)


@task("ex01.3")
def test_a_save_that_finds_no_room_raises_an_error(lab):
    """A save that finds no room raises an error"""
    interrupted_saves.no_place_to_save(lab)


@task("ex01.3")
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(lab):
    """A damaged newest checkpoint gives way to the one before"""
    corruption.newest_gives_way(lab)


@task("ex01.3")
def test_the_search_goes_back_to_the_newest_intact_checkpoint(lab):
    """The search goes back to the newest intact checkpoint"""
    corruption.search_goes_back(lab)


@task("ex01.3")
def test_a_damaged_checkpoint_is_whole_when_its_step_was_saved_again(lab):
    """A damaged checkpoint is whole when its step was saved again"""
    corruption.saved_again(lab)


@task("ex01.3")
def test_no_intact_checkpoint_is_an_error_no_checkpoint_at_all_is_none(lab):
    """No intact checkpoint is an error; no checkpoint at all is None"""
    corruption.none_intact(lab)


@task("ex01.3")
def test_every_kind_of_value_comes_back_and_every_byte_is_guarded(lab):
    """Every kind of value comes back and every byte is guarded"""
    interrupted_saves.every_value_survives(lab)


@task("ex01.3")
def test_a_step_saved_again_under_any_fault_keeps_a_checkpoint_of_it(lab):
    """A step saved again under any fault keeps a checkpoint of it"""
    interrupted_saves.saved_again_under_every_fault(lab)


@task("ex01.3")
def test_reading_the_newest_checkpoint_runs_no_code_from_it(lab):
    """Reading the newest checkpoint runs no code from it"""
    runs_no_code([probes(lab)["planted newest"]], READ["newest"])


@task("ex01.3")
def test_a_training_run_killed_in_mid_save_rejoins_the_undisturbed_one(lab):
    """A training run killed in mid-save rejoins the undisturbed one"""
    per_epoch, args = _epochs(lab, "--store")
    undisturbed = lab.undisturbed(*args)
    finished(lab, undisturbed)
    saved = {e["step"]: e["events"] for e in undisturbed.last.all("saved")}
    events = saved.get(2 * per_epoch, [])
    if not events:
        raise Inconclusive(
            "blind", [("watching", "the save caused no file-system event that Python can see")]
        )
    fault = KillInSave(2 * per_epoch, lab.draw.randrange(len(events)))
    _rejoins_its_course(lab, args, lab.schedules((fault,)), per_epoch)


@task("ex01.3")
def test_whatever_a_power_loss_leaves_of_a_save_is_read_correctly(lab):
    """Whatever a power loss leaves of a save is read correctly"""
    interrupted_saves.power_lost(lab)


# --------------------------------------------------------- ex01.4  resume in the middle of an epoch


# the faults strike in epoch 1; an epoch after it shows whether they leave something behind (with
# workers only two epochs: forking them takes most of the time)
EPOCHS = {0: 3, 2: 2}


def _mid_epoch(lab, workers: int, save_every: int | None = None) -> tuple[int, int, tuple]:
    """(steps per epoch, steps between saves, the arguments): shared by the checks of a grading."""
    shared = lab.shared
    per_epoch, interval = shared.choice([8, 9]), save_every or shared.choice([2, 3])
    flags = (
        "--epochs",
        EPOCHS[workers],
        "--workers",
        workers,
        "--steps-per-epoch",
        per_epoch,
        "--save-every",
        interval,
        *(["--witness"] if save_every == 1 else []),
    )
    return per_epoch, interval, ("ex01/train.py", "--seed", lab.seed, *flags)


@contextmanager
def _where_workers_work(lab, workers: int):
    """A failure with workers is nobody's mistake if a run without student code can't have workers
    here.
    """
    try:
        yield
    except Finding as found:
        if workers and found.verdict == FAIL:
            yardstick(lab, *_epochs(lab, "--randomness")[1], "--bare", "--workers", workers)
        raise


OFTEN = "a run that saves after every step, and one that saves less often"
BOTH = pytest.mark.parametrize("workers", [0, 2], ids=["no_workers", "two_workers"])


@task("ex01.4")
@BOTH
def test_a_run_killed_between_saves_in_mid_epoch_rejoins(lab, workers):
    """A run killed between saves in mid-epoch rejoins"""
    with _where_workers_work(lab, workers):
        per_epoch, save_every, args = _mid_epoch(lab, workers)
        step = per_epoch + lab.draw.randint(save_every + 1, per_epoch - 2)
        step += step % save_every == 0
        for schedule in lab.schedules((Kill(after_step=step),)):
            rejoins(lab, lab.launch(*args, faults=schedule), lab.undisturbed(*args))


@task("ex01.4")
@BOTH
def test_a_run_killed_twice_within_one_epoch_rejoins(lab, workers):
    """A run killed twice within one epoch rejoins"""
    with _where_workers_work(lab, workers):
        per_epoch, save_every, args = _mid_epoch(lab, workers)
        first = -(-(per_epoch + 1) // save_every) * save_every  # the first save in epoch 1
        twice = (Kill(first), Kill(first + save_every + lab.draw.randint(0, save_every - 1)))
        for schedule in lab.schedules(twice):
            rejoins(lab, lab.launch(*args, faults=schedule), lab.undisturbed(*args))


@task("ex01.4")
@BOTH
def test_a_run_resumed_at_the_first_and_last_step_of_an_epoch_rejoins(lab, workers):
    """A run resumed at the first and last step of an epoch rejoins"""
    with _where_workers_work(lab, workers):
        per_epoch, _, args = _mid_epoch(lab, workers, save_every=1)
        edges = (Kill(after_step=per_epoch), Kill(after_step=per_epoch + 1))
        if not workers:
            edges += (Kill(after_step=2 * per_epoch),)
        for schedule in lab.schedules(edges):
            rejoins(lab, lab.launch(*args, faults=schedule), lab.undisturbed(*args))


@task("ex01.4")
def test_a_run_resumed_from_a_save_after_validation_rejoins(lab):
    """A run resumed from a save after validation rejoins"""
    per_epoch, _, args = _mid_epoch(lab, workers=0, save_every=1000)
    step = per_epoch + lab.draw.randint(1, 3)
    for schedule in lab.schedules((Kill(after_step=step),)):
        flags = (*args, "--save-after-epochs")
        run = lab.launch(*flags, faults=schedule, kept=_saved_before(per_epoch))
        rejoins(lab, run, lab.undisturbed(*flags))
    often = lab.undisturbed(*_mid_epoch(lab, workers=0, save_every=1)[2])
    quiet(lab, lab.undisturbed(*args, "--save-after-epochs"), often, OFTEN)


@task("ex01.4")
@BOTH
def test_saving_more_often_changes_nothing_in_the_run(lab, workers):
    """Saving more often changes nothing in the run"""
    with _where_workers_work(lab, workers):
        often, seldom = (
            lab.undisturbed(*_mid_epoch(lab, workers, save_every=n)[2]) for n in (1, None)
        )
        quiet(lab, often, seldom, OFTEN)


@task("ex01.4")
@pytest.mark.parametrize("scheduler", [True, False], ids=["with_a_scheduler", "without"])
def test_a_captured_job_is_restored_in_another_process(lab, scheduler):
    """A captured job is restored in another process"""
    probe = probes(lab)[f"captured {scheduler}"]
    what = "capture and restore of a job" + ("" if scheduler else " whose scheduler is None")
    same_parts(
        probe.returned(when=("asked for", what))["parts"], probe.expected["parts"], f"after {what}"
    )
    looked_only(probe, "capture", "every save changes the training after it")
    changes_no_settings(probe, "restore")


@task("ex01.4")
@BOTH
def test_every_epoch_shows_every_sample_in_a_new_order(lab, workers):
    """Every epoch shows every sample in a new order"""
    with _where_workers_work(lab, workers):
        per_epoch, _, args = _mid_epoch(lab, workers, save_every=1)
        run = lab.undisturbed(*args)
        finished(lab, run)
        every_epoch_is_a_fresh_shuffle(run, per_epoch)
        augmented_afresh(replayed(lab, run, lab.seed, EPOCHS[workers], per_epoch))


# ----------------------------------------------------------- ex01.5  when to save, and what to keep


@task("ex01.5")
def test_checkpoints_are_saved_when_they_are_due(lab):
    """Checkpoints are saved when they are due"""
    best.saved_when_due(lab)


@task("ex01.5")
def test_the_best_state_by_validation_is_kept_apart(lab):
    """The best state by validation is kept apart"""
    best.best_kept_apart(lab)


@task("ex01.5")
def test_a_killed_keep_best_leaves_a_best_state(lab):
    """A killed keep_best leaves a best state"""
    best.best_killed_at_every_event(lab)


@task("ex01.5")
def test_a_damaged_best_state_is_an_error(lab):
    """A damaged best state is an error"""
    best.damaged_best(lab)
    runs_no_code([probes(lab)["planted best"]], READ["best"])


@task("ex01.5")
def test_whatever_a_power_loss_leaves_of_the_best_state_is_read_correctly(lab):
    """Whatever a power loss leaves of the best state is read correctly"""
    best.power_lost(lab)


@task("ex01.5")
def test_the_last_checkpoints_stay_and_older_ones_go(lab):
    """The last checkpoints stay and older ones go"""
    retention.last_ones_stay(lab)


@task("ex01.5")
def test_the_only_good_checkpoint_is_never_deleted(lab):
    """The only good checkpoint is never deleted"""
    retention.only_good_one_stays(lab)


@task("ex01.5")
def test_leftovers_of_interrupted_saves_are_cleared_away(lab):
    """Leftovers of interrupted saves are cleared away"""
    retention.leftovers_go(lab)


@task("ex01.5")
def test_pruning_touches_nothing_else(lab):
    """Pruning touches nothing else"""
    retention.nothing_else_goes(lab)


@task("ex01.5")
def test_pruning_killed_at_any_event_leaves_the_newest_checkpoint(lab):
    """Pruning killed at any event leaves the newest checkpoint"""
    retention.prune_killed_at_every_event(lab)

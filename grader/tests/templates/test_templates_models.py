"""templates/checkpoint_utils.py and what a model's state_dict doesn't say; also plain dicts."""

from __future__ import annotations

import collections

import numpy
import pytest
import torch
from torch import nn

from grader.harness.inside.digest import digest
from grader.tests.templates.test_templates_utils import cu


def saved(path, **parts):
    with cu.CheckpointManager(path, parts) as ckpt:
        ckpt.step()


def resumed(path, **parts) -> bool:
    return cu.CheckpointManager(path, parts).resume()


# --- tied parameters


def pair(tied: bool) -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    if tied:
        model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize("before", [True, False])
def test_weights_tied_only_before_or_only_after_are_a_mismatch(tmp_path, before):
    saved(tmp_path, model=pair(before))
    assert resumed(tmp_path, model=torch.compile(pair(before), backend="eager"))
    with pytest.raises(cu.Mismatch, match=r"'0\.weight', '1\.weight' are one tied parameter"):
        resumed(tmp_path, model=pair(not before))


def twins(shared: str):
    """Two models that have a parameter, a buffer, or nothing in common."""
    model, critic = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    if shared == "parameter":
        critic.weight = model.weight
    elif shared == "memory":
        critic.weight.data = model.weight.data
    elif shared == "buffer":
        critic.running_mean = model.running_mean
    return {"model": model, "critic": critic}


@pytest.mark.parametrize("shared", ["parameter", "memory", "buffer"])
@pytest.mark.parametrize("before", [True, False])
def test_what_two_models_share_only_before_or_only_after_is_a_mismatch(tmp_path, shared, before):
    was, now = (shared, "nothing") if before else ("nothing", shared)
    saved(tmp_path, **twins(was))
    assert resumed(tmp_path, **twins(was))
    with pytest.raises(cu.Mismatch, match=r"'critic\.\w+', 'model\.\w+' share memory in the"):
        resumed(tmp_path, **twins(now))


# --- a state_dict of one's own


class Own(nn.Module):
    """Its state_dict holds only what `keep` says, or all parameters in one tensor."""

    def __init__(self, keep: str, frozen: bool = False):
        super().__init__()
        self.keep, self.head = keep, nn.Linear(3, 3)
        self.body = nn.Linear(3, 3).requires_grad_(not frozen)

    def state_dict(self, *args, **kwargs):
        if self.keep == "flat":
            return {"flat": torch.cat([p.detach().flatten() for p in self.parameters()])}
        found = super().state_dict(*args, **kwargs)
        return collections.OrderedDict((k, v) for k, v in found.items() if self.keep in k)

    def load_state_dict(self, state, strict=True, assign=False):
        if self.keep == "flat":
            return nn.utils.vector_to_parameters(state["flat"], self.parameters())
        return super().load_state_dict(state, strict=False, assign=assign)


def test_a_trained_parameter_that_a_state_dict_leaves_out_is_refused_at_the_first_step(tmp_path):
    with pytest.raises(TypeError, match=r"'model': its state_dict leaves out 'body\.bias', 'body"):
        saved(tmp_path, model=Own("head"))


def test_a_frozen_parameter_that_a_state_dict_leaves_out_must_be_the_same(tmp_path):
    saved(tmp_path, model=(model := Own("head", frozen=True)))
    other = Own("head", frozen=True)
    with pytest.raises(cu.Mismatch, match="frozen"):
        resumed(tmp_path, model=other)
    other.body.load_state_dict(model.body.state_dict())
    assert resumed(tmp_path, model=other)
    assert digest(list(other.parameters())) == digest(list(model.parameters()))


def test_parameters_in_another_form_are_left_to_load_state_dict(tmp_path):
    saved(tmp_path, model=(model := Own("flat")))
    assert resumed(tmp_path, model=(other := Own("flat")))
    assert digest(list(other.parameters())) == digest(list(model.parameters()))


class Changing(nn.Module):
    """Its state_dict holds something else under its parameters' names."""

    def __init__(self, how: str):
        super().__init__()
        self.how, self.net = how, nn.Linear(3, 3)
        self.average = {n: p.detach() * 0.5 for n, p in self.net.named_parameters()}

    def state_dict(self, *args, **kwargs):
        found = super().state_dict(*args, **kwargs)
        changed = {
            "narrower": lambda n, t: t.half(),
            "rounded": lambda n, t: t.bfloat16().float(),
            "average": lambda n, t: self.average[n],
            "copied": lambda n, t: t.clone(),
            "nested": lambda n, t: t,
            "scaled": lambda n, t: t * 2,
        }[self.how]
        state = {n: changed(n.removeprefix("net."), t) for n, t in found.items()}
        return {"net": state, "version": 1} if self.how == "nested" else state

    def load_state_dict(self, state, strict=True, assign=False):
        state = state["net"] if self.how == "nested" else state
        half = 0.5 if self.how == "scaled" else 1
        return super().load_state_dict({n: t * half for n, t in state.items()}, strict, assign)


@pytest.mark.parametrize("how", ["narrower", "rounded", "average"])
def test_a_state_dict_that_changes_parameters_is_refused_at_the_first_step(tmp_path, how):
    with pytest.raises(TypeError, match=r"'model': its state_dict holds 'net\.bias', 'net\.weight"):
        saved(tmp_path, model=Changing(how))


@pytest.mark.parametrize("how", ["copied", "nested", "scaled"])
def test_a_state_dict_in_another_form_whose_module_takes_it_back_is_fine(tmp_path, how):
    saved(tmp_path, model=(model := Changing(how)))
    assert resumed(tmp_path, model=(other := Changing(how)))
    assert digest(list(other.parameters())) == digest(list(model.parameters()))


def test_a_buffer_that_a_state_dict_rounds_comes_back_as_it_was(tmp_path):
    def norm() -> nn.Module:
        model = nn.BatchNorm1d(2, affine=False)
        model._register_state_dict_hook(
            lambda module, state, *_: state.update(running_mean=state["running_mean"].round())
        )
        return model

    model, other = norm(), norm()
    model(torch.randn(5, 2))
    saved(tmp_path, model=model)
    assert resumed(tmp_path, model=other)
    assert digest(list(other.buffers())) == digest(list(model.buffers()))


def test_lazy_modules_are_refused_by_name_until_they_have_their_parameters(tmp_path):
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    with pytest.raises(TypeError, match=r"state\['model'\]\['0\.weight'\] .*Uninitialized"):
        saved(tmp_path, model=model)
    model(torch.ones(2, 2))
    saved(tmp_path / "later", model=model)


# --- layers that are unfrozen on the way


def growing(also_body: bool):
    """(model, optimizer): first only the head trains."""
    torch.manual_seed(0)
    model = nn.Sequential(collections.OrderedDict(body=nn.Linear(3, 3), head=nn.Linear(3, 3)))
    model.body.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=0.1)
    if also_body:
        model.body.requires_grad_(True)
        optimizer.add_param_group({"params": model.body.parameters(), "lr": 0.01})
    return model, optimizer


def trained(model, optimizer):
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_what_training_has_unfrozen_and_given_to_the_optimizer_comes_back(tmp_path, capsys):
    model, optimizer = growing(also_body=True)
    trained(model, optimizer)
    saved(tmp_path, model=model, optimizer=optimizer)
    other, fresh = growing(also_body=False)
    assert resumed(tmp_path, model=other, optimizer=fresh)
    for job in ((model, optimizer), (other, fresh)):
        trained(*job)
    assert digest(fresh.state_dict()) == digest(optimizer.state_dict())
    assert digest(list(other.parameters())) == digest(list(model.parameters()))
    told = capsys.readouterr().err
    assert "now trainable, as in the checkpoint" in told and "added group 1" in told


class Caching(nn.Module):
    """Its buffers are made, or grow, while it trains."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.inner.register_buffer("none", None)
        self.register_buffer("queue", torch.zeros(0, 2))
        self.register_buffer("scale", torch.zeros(1), persistent=False)

    def train_step(self) -> None:
        self.queue = torch.cat([self.queue, torch.ones(1, 2)])
        self.inner.none = torch.full((3,), 2.0)
        self.register_buffer("late", torch.arange(2.0))
        self.register_buffer("later", torch.arange(3.0), persistent=False)
        self.scale = torch.ones(2)


@pytest.mark.parametrize("compiled", [False, True])
def test_buffers_that_training_has_made_or_changed_in_shape_come_back(tmp_path, compiled):
    model, other = Caching(), Caching()
    model.train_step()
    saved(tmp_path, model=torch.compile(model, backend="eager") if compiled else model)
    assert resumed(tmp_path, model=other)
    assert digest(dict(other.named_buffers())) == digest(dict(model.named_buffers()))
    assert other.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("how", ["replaced", "added", "as it was"])
def test_parameters_that_training_replaces_are_told_at_the_next_save(tmp_path, capsys, how):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with cu.CheckpointManager(tmp_path, {"model": model}, every_steps=1) as ckpt:
        ckpt.step()
        if how == "replaced":
            model[1] = nn.Linear(2, 2)
        elif how == "added":
            model.append(nn.Linear(2, 2))
        else:
            model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()})
        ckpt.step()
        ckpt.step()
    told = capsys.readouterr().err
    name = {"replaced": "'model.1.bias'", "added": "'model.2.bias'", "as it was": "training"}[how]
    assert told.count(name) == (how != "as it was"), told


# --- dicts


def test_a_dict_is_filled_in_place_down_to_its_lists_and_dicts(tmp_path):
    losses = [3.0]
    saved(tmp_path, run={"losses": losses, "again": losses, "names": {"id": "x"}, "lists": [[1]]})
    mine, names, lists = [], {"gone": 1}, []
    run = {"losses": mine, "again": [], "names": names, "lists": lists}
    assert resumed(tmp_path, run=run)
    assert (mine, names, lists) == ([3.0], {"id": "x"}, [[1]])
    assert run["losses"] is run["again"] is mine and run["names"] is names


def test_lists_that_were_two_dont_become_one(tmp_path):
    saved(tmp_path, run={"a": [1], "b": [2]})
    both: list[int] = []
    run = {"a": both, "b": both}
    assert resumed(tmp_path, run=run) and run == {"a": [1], "b": [2]}


@pytest.mark.parametrize(
    "held",
    [
        lambda model: model.state_dict(),
        lambda model: {"row": model.weight.detach()[1]},
        lambda model: {"array": model.weight.detach().numpy()},
    ],
)
def test_a_dict_that_holds_a_models_memory_is_refused_at_the_first_step(tmp_path, held):
    model = nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"state\['best'\].*shares memory with 'model'"):
        saved(tmp_path, model=model, best={"weights": held(model)})
    copied = {k: v.clone() for k, v in model.state_dict().items()}
    saved(tmp_path, model=model, best={"weights": copied, "numbers": numpy.zeros(3)})


@pytest.mark.parametrize("part", ["tensor", "array", "optimizer"])
def test_a_dict_that_holds_another_parts_memory_is_refused_at_the_first_step(tmp_path, part):
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    other = {"tensor": torch.ones(3), "array": numpy.ones(3), "optimizer": optimizer}[part]
    held = optimizer.state[weight]["momentum_buffer"] if part == "optimizer" else other
    with pytest.raises(TypeError, match=r"state\['box'\].*shares memory with 'other'"):
        saved(tmp_path, other=other, box={"held": held[1:]})


@pytest.mark.parametrize("part", [nn.Linear, torch.optim.SGD])
def test_a_class_in_an_objects_place_is_refused_by_name(tmp_path, part):
    with pytest.raises(TypeError, match="'model'"):
        cu.CheckpointManager(tmp_path, {"model": part})
    with pytest.raises(TypeError, match="dicts"):
        cu.CheckpointManager(tmp_path, [part])

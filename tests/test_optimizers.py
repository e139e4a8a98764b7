import copy

import pytest
import torch
from torch import nn

from utils.checkpoint import Resumed, restore_training_state, training_state
from utils.optimizers import REST, MuonWithAdamW, make_optimizer
from utils.training import learning_rate_schedule


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.linear, self.conv = nn.Embedding(7, 6), nn.Linear(6, 5), nn.Conv3d(5, 4, 1)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, ids):
        return self.conv(self.linear(self.table(ids))[..., None, None, None]).square().mean()


def train(model, optimizer, steps, schedule=None):
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.arange(7).roll(step)[:4]).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()


def make(model, lr=0.05):
    return make_optimizer("muon", model, lr, (0.9, 0.99), 0.01)


def weights(model):
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_muon_gets_the_matrices_and_adamw_all_else_that_learns():
    model = Small()
    optimizer = make(model)
    assert [id(p) for p in optimizer.muon.param_groups[0]["params"]] == [id(model.linear.weight)]
    rest = {id(p) for p in optimizer.adamw.param_groups[0]["params"]}
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert rest == learning - {id(model.linear.weight)}


def test_together_they_do_what_torchs_muon_and_adamw_do_apart():
    ours, apart = Small(), Small()
    apart.load_state_dict(ours.state_dict())
    train(ours, make(ours), 5)
    muon = torch.optim.Muon([apart.linear.weight], 0.05, 0.01, 0.95, adjust_lr_fn="match_rms_adamw")
    others = [p for p in apart.parameters() if p.requires_grad and p is not apart.linear.weight]
    adamw = torch.optim.AdamW(others, REST * 0.05, (0.9, 0.99), weight_decay=0.01, fused=True)
    for step in range(5):
        muon.zero_grad(), adamw.zero_grad()
        apart(torch.arange(7).roll(step)[:4]).backward()
        muon.step(), adamw.step()
    for mine, theirs in zip(weights(ours), weights(apart), strict=True):
        assert torch.equal(mine, theirs)


def test_a_schedule_moves_both_learning_rates():
    model = Small()
    optimizer = make(model, lr=0.1)
    schedule = learning_rate_schedule("linear", optimizer, 0, 10)
    train(model, optimizer, 5, schedule)
    assert optimizer.muon.param_groups[0]["lr"] == pytest.approx(0.05)
    assert optimizer.adamw.param_groups[0]["lr"] == pytest.approx(REST * 0.05)


def test_restored_from_plain_tensors_it_goes_on_bit_for_bit():
    model = Small()
    optimizer = make(model)
    schedule = learning_rate_schedule("linear", optimizer, 0, 10)
    train(model, optimizer, 3, schedule)
    tensors, plain = training_state(optimizer, schedule, None, None)
    tensors = {"optimizer": {key: value.clone() for key, value in tensors["optimizer"].items()}}
    twin = copy.deepcopy(model)
    train(model, optimizer, 3, schedule)

    other = make(twin, lr=9.0)
    other_schedule = learning_rate_schedule("linear", other, 0, 10)
    restore_training_state(Resumed(tensors, plain), other, other_schedule, None, None)
    train(twin, other, 3, other_schedule)
    for mine, theirs in zip(weights(model), weights(twin), strict=True):
        assert torch.equal(mine, theirs)


def test_an_unknown_name_is_refused_and_adamw_takes_everything_that_learns():
    model = Small()
    with pytest.raises(ValueError, match="optimizer must be one of adamw, muon"):
        make_optimizer("sgd", model, 0.1, (0.9, 0.99), 0.0)
    optimizer = make_optimizer("adamw", model, 0.1, (0.9, 0.99), 0.0)
    assert not isinstance(optimizer, MuonWithAdamW)
    assert len(optimizer.param_groups[0]["params"]) == sum(p.requires_grad for p in model.parameters())

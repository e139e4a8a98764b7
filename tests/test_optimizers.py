import copy

import pytest
import torch
from torch import nn

from utils.checkpoint import Resumed, restore_training_state, training_state
from utils.optimizers import NS_STEPS, REST, BatchedMuon, MuonWithAdamW, make_optimizer, orthogonalise
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
    muon = torch.optim.Muon([apart.linear.weight], 0.05, 0.01, 0.95, adjust_lr_fn="match_rms_adamw", ns_steps=NS_STEPS)
    others = [p for p in apart.parameters() if p.requires_grad and p is not apart.linear.weight]
    adamw = torch.optim.AdamW(others, REST * 0.05, (0.9, 0.99), weight_decay=0.01, fused=True)
    for step in range(5):
        muon.zero_grad(), adamw.zero_grad()
        apart(torch.arange(7).roll(step)[:4]).backward()
        muon.step(), adamw.step()
    for (name, mine), theirs in zip(ours.named_parameters(), apart.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-3) if name == "linear.weight" else torch.equal(mine, theirs), name


@pytest.mark.parametrize("shapes", [[(6, 5)], [(5, 6), (6, 5), (5, 6), (32, 8)]])
def test_batched_muon_is_torchs_muon(shapes):
    ours = [torch.randn(shape, requires_grad=True) for shape in shapes]
    theirs = [matrix.detach().clone().requires_grad_() for matrix in ours]
    batched = BatchedMuon(ours, 0.02, weight_decay=0.1, momentum=0.9)
    reference = torch.optim.Muon(theirs, 0.02, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for mine, their in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            their.grad = mine.grad.clone()
        batched.step(), reference.step()
    for mine, their in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, their, atol=1e-3)  # of the 0.05 or so that four steps move them
        assert torch.allclose(
            batched.state[mine]["momentum_buffer"], reference.state[their]["momentum_buffer"], atol=1e-6
        )


def test_the_directions_are_orthogonal_however_large_the_gradient():
    for scale in (1e-3, 1e3):
        directions = orthogonalise(scale * torch.randn(3, 12, 7), (3.4445, -4.775, 2.0315), 5, 1e-7)
        values = torch.linalg.svdvals(directions)
        assert values.min() > 0.6 and values.max() < 1.3


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

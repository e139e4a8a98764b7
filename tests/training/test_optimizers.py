import copy

import pytest
import torch
from torch import nn

from utils.cli import UserError
from utils.runs.checkpoint import Resumed, restore_training_state, training_state
from utils.training.optimizers import (
    NS_STEPS,
    REST,
    BatchedMuon,
    MuonWithAdamW,
    learning_rate_schedule,
    make_optimizer,
    orthogonalise,
)


@pytest.fixture
def in_bf16(monkeypatch):
    """As on hardware that computes in bfloat16, which torch's Muon takes everywhere."""
    monkeypatch.setattr("utils.training.optimizers.multiplies_in_bf16", lambda device: True)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.linear, self.conv = nn.Embedding(7, 6), nn.Linear(6, 5), nn.Conv3d(5, 4, 1)
        self.conv_out = nn.Conv3d(4, 2, 1)
        self.frozen = nn.Linear(3, 3).requires_grad_(False)

    def forward(self, ids):
        return self.conv_out(self.conv(self.linear(self.table(ids))[..., None, None, None])).square().mean()


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


def is_matrix(name):
    return name in ("linear.weight", "conv.weight")


def test_muon_gets_matrices_and_kernels_and_adamw_all_else_that_learns():
    model = Small()
    optimizer = make(model)
    matrices = {id(parameter) for name, parameter in model.named_parameters() if is_matrix(name)}
    assert {id(p) for p in optimizer.muon.param_groups[0]["params"]} == matrices
    rest = {id(p) for p in optimizer.adamw.param_groups[0]["params"]}
    assert rest == {id(p) for p in model.parameters() if p.requires_grad} - matrices


def torchs_muon(flat, lr, weight_decay, momentum):
    return torch.optim.Muon(flat, lr, weight_decay, momentum, adjust_lr_fn="match_rms_adamw", ns_steps=NS_STEPS)


def test_together_they_do_what_torchs_muon_and_adamw_do_apart(in_bf16):
    ours, apart = Small(), Small()
    apart.load_state_dict(ours.state_dict())
    train(ours, make(ours), 5)
    matrices = [p for name, p in apart.named_parameters() if is_matrix(name)]
    flat = [matrix.detach().flatten(1).requires_grad_() for matrix in matrices]  # of the same memory
    muon = torchs_muon(flat, 0.05, 0.01, 0.95)
    others = [p for name, p in apart.named_parameters() if p.requires_grad and not is_matrix(name)]
    adamw = torch.optim.AdamW(others, REST * 0.05, (0.9, 0.99), weight_decay=0.01, fused=True)
    for step in range(5):
        apart.zero_grad()
        apart(torch.arange(7).roll(step)[:4]).backward()
        for matrix, view in zip(matrices, flat, strict=True):
            view.grad = matrix.grad.flatten(1)
        muon.step(), adamw.step()
    for (name, mine), theirs in zip(ours.named_parameters(), apart.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-3) if is_matrix(name) else torch.equal(mine, theirs), name


@pytest.mark.parametrize("shapes", [[(6, 5)], [(5, 6), (6, 5), (5, 6), (32, 8)], [(4, 3, 1, 3, 3), (4, 3, 3, 1, 1)]])
def test_batched_muon_is_torchs_muon(shapes, in_bf16):
    ours = [torch.randn(shape, requires_grad=True) for shape in shapes]
    theirs = [matrix.detach().clone().flatten(1).requires_grad_() for matrix in ours]
    batched, reference = BatchedMuon(ours, 0.02, 0.1, 0.9), torchs_muon(theirs, 0.02, 0.1, 0.9)
    for _ in range(4):
        for mine, their in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            their.grad = mine.grad.flatten(1).clone()
        batched.step(), reference.step()
    for mine, their in zip(ours, theirs, strict=True):
        assert torch.allclose(mine.flatten(1), their, atol=1e-3)  # of the 0.05 or so that four steps move them
        buffers = batched.state[mine]["momentum_buffer"].flatten(1), reference.state[their]["momentum_buffer"]
        assert torch.allclose(*buffers, atol=1e-6)


def test_the_directions_are_orthogonal_however_large_the_gradient():
    for scale in (1e-3, 1e3):
        directions = orthogonalise(scale * torch.randn(3, 12, 7), num_steps=5)
        values = torch.linalg.svdvals(directions)
        assert values.min() > 0.6 and values.max() < 1.3


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("shape", [(3, 12, 9), (3, 4, 40)])  # both ways to compute it
def test_what_the_hardware_multiplies_in_decides_the_precision(shape, native, monkeypatch):
    monkeypatch.setattr("utils.training.optimizers.multiplies_in_bf16", lambda device: native)
    gradients = torch.randn(shape)
    exact = orthogonalise(gradients.double(), dtype=torch.float64).float()
    error = (orthogonalise(gradients) - exact).abs().max()
    assert (1e-4 < error < 0.1) if native else error < 1e-5


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


def test_the_state_of_an_optimizer_with_other_groups_is_refused_in_one_line():
    model = Small()
    optimizer = make(model)
    schedule = learning_rate_schedule("linear", optimizer, 0, 10)
    train(model, optimizer, 1, schedule)
    tensors, plain = training_state(optimizer, schedule, None, None)
    matrices = optimizer.muon.param_groups[0]["params"]
    other = MuonWithAdamW(
        matrices[:1], [p for p in model.parameters() if p is not matrices[0] and p.requires_grad], 0.1
    )
    with pytest.raises(UserError, match="--resume: .* another version .*--output_dir"):
        restore_training_state(Resumed(tensors, plain), other, schedule, None, None)


def test_an_unknown_name_is_refused_and_adamw_takes_everything_that_learns():
    model = Small()
    with pytest.raises(ValueError, match="optimizer must be one of adamw, muon"):
        make_optimizer("sgd", model, 0.1, (0.9, 0.99), 0.0)
    optimizer = make_optimizer("adamw", model, 0.1, (0.9, 0.99), 0.0)
    assert not isinstance(optimizer, MuonWithAdamW)
    assert len(optimizer.param_groups[0]["params"]) == sum(p.requires_grad for p in model.parameters())

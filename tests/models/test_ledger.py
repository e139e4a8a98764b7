"""The ledger of a training step: what it counts on the meta device is what a step on a device keeps and computes."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.ledger import step_bytes, step_flops
from models.unet3d import UNet3D
from tests.conftest import TINY_UNET

SHAPE = (3, 4, 16, 16)


def network(device: str = "meta", **settings) -> UNet3D:
    with torch.device(device):
        return UNet3D(**TINY_UNET, **settings).to(device).train()


def inputs(batch: int, device: str = "meta") -> tuple:
    return (
        torch.zeros(batch, *SHAPE, device=device),
        torch.zeros(batch, device=device),
        torch.zeros(batch, 7, 16, device=device),
    )


def test_the_multiplications_are_those_of_a_step():
    unet = network("cpu")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        unet(*inputs(2, "cpu")).square().mean().backward()
    counted, flash = step_flops(network(), inputs(2)), 1.05  # whose backward pass computes the scores once more
    assert counter.get_total_flops() <= counted <= flash * counter.get_total_flops()


def test_the_activations_are_what_autograd_keeps(monkeypatch):
    monkeypatch.setattr("models.ledger.CudaAutocast.cast", lambda self, value, dtype: value)
    found = step_bytes(network(), inputs(2))["activations"]
    unet, kept = network("cpu"), {}
    with (
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        saved_tensors_hooks(lambda each: _keep(each, kept), lambda each: each),
    ):
        output = unet(*inputs(2, "cpu"))
    weights = {each.untyped_storage().data_ptr() for each in unet.parameters()}
    expected = sum(each.nbytes() for place, each in kept.items() if place not in weights)
    assert output.requires_grad and found == pytest.approx(expected, rel=0.02)


def _keep(tensor: torch.Tensor, kept: dict) -> torch.Tensor:
    kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
    return tensor


def test_a_clip_more_adds_the_same_and_checkpoints_keep_less():
    unet = network()
    plain = [step_bytes(unet, inputs(batch)) for batch in (1, 2, 5)]
    assert plain[2]["total"] == plain[0]["total"] + 4 * (plain[1]["total"] - plain[0]["total"])
    unet.enable_gradient_checkpointing()
    less = step_bytes(unet, inputs(2))
    assert less["activations"] < plain[1]["activations"] / 2 and 0 < less["recomputed"] < plain[1]["activations"]
    assert unet.is_gradient_checkpointing  # as it was given
    assert step_flops(unet, inputs(2)) == pytest.approx(4 / 3 * step_flops(network(), inputs(2)), rel=0.02)


def test_what_is_frozen_needs_no_gradients_and_no_optimizer():
    unet = network()
    for name, parameter in unet.named_parameters():
        parameter.requires_grad_("temporal" in name)
    trained = sum(each.numel() for each in unet.parameters() if each.requires_grad)
    items = step_bytes(unet, inputs(1), "muon", moving_average=False)
    assert (items["gradients"], items["optimizer"], items["moving average"]) == (4 * trained, 4 * trained, 0)
    assert items["frozen weights"] == 4 * (sum(each.numel() for each in unet.parameters()) - trained)

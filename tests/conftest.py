"""Tiny models and clips shared by the tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"

import pytest
import torch
from accelerate.state import AcceleratorState

from models.diffusion.text2video import TextToVideoDiffusion
from models.text_encoder import builtin_text_encoder, train_tokenizer
from models.unet3d import UNet3D

CAPTIONS = ["a red circle moving right", "a blue square moving left slowly", "the green triangle goes up"]
TINY_UNET = {
    "model_channels": 16,
    "channel_mult": (1, 2),
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "num_attention_heads": 2,
    "norm_num_groups": 4,
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)  # or the next test could not choose its precision


@pytest.fixture
def tiny_unet() -> UNet3D:
    return awaken(UNet3D(**TINY_UNET))


@pytest.fixture
def tiny_diffusion(tiny_unet) -> TextToVideoDiffusion:
    return TextToVideoDiffusion(tiny_unet)


@pytest.fixture
def text_encoder():
    return builtin_text_encoder(train_tokenizer(CAPTIONS), dim=16, num_layers=1, num_heads=2)


@pytest.fixture
def clip() -> torch.Tensor:
    return torch.rand(2, 3, 4, 16, 16) * 2 - 1


@pytest.fixture
def text() -> torch.Tensor:
    return torch.randn(2, 5, 16)


def awaken(module: torch.nn.Module) -> torch.nn.Module:
    """Give the parts that start at zero random weights, as after some training, so that tests see them act."""
    for parameter in module.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return module

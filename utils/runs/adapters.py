"""What a training around an image model leaves beside best_model.pth: adapters that diffusers' own pipelines load."""

from pathlib import Path

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin

from models.adapters.motion_unet import motion_adapter
from utils.files import whole_files
from utils.tensors import tensor_bytes

MOTION, LORA = "motion_adapter", "lora"


def save_adapters(run_dir: Path, model: dict, low_rank: dict[str, torch.Tensor]) -> None:
    """motion_adapter/ of a model file with a MotionUNet, for AnimateDiffPipeline, and lora/, see save_low_rank. Raises
    UserError if the disk is full."""
    if model.get("network") == "motion":
        adapter = motion_adapter(model["unet_config"], model["unet"])
        with whole_files(run_dir / MOTION, tensor_bytes(adapter.state_dict())) as folder:
            adapter.save_pretrained(folder)
    save_low_rank(run_dir, low_rank)


def save_low_rank(run_dir: Path, low_rank: dict[str, torch.Tensor]) -> None:
    """lora/ of low-rank adapters, if there are any, for load_lora_weights of StableDiffusionPipeline and
    AnimateDiffPipeline. Raises UserError if the disk is full."""
    if low_rank:
        with whole_files(run_dir / LORA, tensor_bytes(low_rank)) as folder:
            StableDiffusionLoraLoaderMixin.save_lora_weights(folder, unet_lora_layers=low_rank)

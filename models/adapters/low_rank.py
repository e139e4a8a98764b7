"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) on a video U-Net, by peft; its own weights stay as they are.

On the image layers alone, attention inside frames and to the text takes on the look of the clips, while the layers over
time learn how things move. On every linear layer of attention and behind it they make a student of the whole network,
as LCM-LoRA does of image models (Luo et al. 2023, arXiv:2311.05556).
"""

import re

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

# Attention of the image model, under diffusers' names; that over time is called temporal_attentions or motion_modules.
TARGETS = r".*\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\.to_(q|k|v|out\.0)"
OF_STUDENTS = r".*\.(attn[12]?\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2)|time_emb_proj)"
LAYER = re.compile(r"(.+)\.lora_A\.default\.weight")


def add_low_rank(unet: nn.Module, rank: int, targets: str = TARGETS) -> None:
    """Adapters of this rank on the U-Net's layers with such names, which change nothing at the start; only they learn,
    and what already did."""
    learning = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), unet)
    for parameter in learning:
        parameter.requires_grad_(True)


def low_rank_of(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The adapters among a U-Net's tensors, under the names that diffusers' save_lora_weights takes."""
    return {name.replace(".default", ""): tensor for name, tensor in tensors.items() if ".lora_" in name}


def merged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A U-Net's tensors with the adapters among them added to the weights, W + B A; others as they are. In their own
    precision, also where autocast is on."""
    whole = {name.replace(".base_layer", ""): each for name, each in tensors.items() if ".lora_" not in name}
    for name in filter(None, map(LAYER.fullmatch, tensors)):
        layer = name[1]
        up, down = (tensors[f"{layer}.lora_{side}.default.weight"] for side in "BA")
        with torch.autocast(up.device.type, enabled=False):
            whole[f"{layer}.weight"] = whole[f"{layer}.weight"] + up @ down
    return whole

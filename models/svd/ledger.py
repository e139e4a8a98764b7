"""How many bytes training Stable Video Diffusion needs, counted on the meta device: no weights, no GPU, seconds."""

import re
from collections import Counter

import torch
from diffusers import UNetSpatioTemporalConditionModel
from torch import Tensor, nn

from models.ledger import saved_storages
from models.svd.memory import (
    enable_full_checkpointing,
    lora_target_modules,
    set_trainable,
    trainable_names,
    use_one_token_attention,
)

IMG2VID_XT = {  # the U-Net of stable-video-diffusion-img2vid-xt; img2vid is the same with 14 frames
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",),
    "up_block_types": ("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3,
    "block_out_channels": (320, 640, 1280, 1280),
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
    "layers_per_block": 2,
    "cross_attention_dim": 1024,
    "transformer_layers_per_block": 1,
    "num_attention_heads": (5, 10, 20, 20),
    "num_frames": 25,
}

CHECKPOINTING = ("none", "diffusers", "full")
OPTIMIZERS = {"adamw": 8, "adamw8bit": 2}  # bytes per trained parameter
BLOCK = re.compile(r".*\.(resnets|transformer_blocks|temporal_transformer_blocks)\.\d+")  # what may be checkpointed


def meta_unet(config: dict = IMG2VID_XT) -> UNetSpatioTemporalConditionModel:
    """A U-Net without weights, to be counted."""
    with torch.device("meta"):
        unet = UNetSpatioTemporalConditionModel(**config)
    return unet.to("meta")  # diffusers builds the mixing factors on the CPU


def memory_ledger(
    scope: str = "temporal",
    *,
    num_frames: int = 25,
    height: int = 320,
    width: int = 512,
    batch_size: int = 1,
    checkpointing: str = "full",
    one_token: bool = True,
    optimizer: str = "adamw",
    ema: bool = False,
    lora_rank: int = 16,
    config: dict = IMG2VID_XT,
) -> dict[str, int]:
    """Bytes that training the U-Net needs, by item, and their "total".

    For bfloat16 autocast with trained weights in float32 and frozen ones in bfloat16. height and width are in pixels.
    optimizer: see OPTIMIZERS. ema: a moving average is kept beside the weights. Not counted: VAE, image encoder, the
    CUDA context (about 1 GB), fragmentation. Raises ValueError for an unknown scope, checkpointing or optimizer.
    """
    ledger = static_bytes(meta_unet(config), scope, optimizer, ema, lora_rank)
    clip = {"num_frames": num_frames, "height": height, "width": width, "batch_size": batch_size}
    ledger |= activation_bytes(scope, **clip, checkpointing=checkpointing, one_token=one_token, config=config)
    return ledger | {"total": sum(ledger.values())}


def scope_counts(unet: nn.Module, scope: str, lora_rank: int = 16) -> tuple[int, int]:
    """Numbers of parameters (trained, frozen); the adapters of "lora" count as trained, beside a frozen U-Net.

    Raises ValueError for an unknown scope.
    """
    sizes = {name: parameter.numel() for name, parameter in unet.named_parameters()}
    trained = sum(sizes[name] for name in trainable_names(unet, scope))
    frozen = sum(sizes.values()) - trained
    if scope == "lora":
        layers = (unet.get_submodule(name) for name in lora_target_modules(unet))
        trained = sum(lora_rank * (layer.in_features + layer.out_features) for layer in layers)
    return trained, frozen


def static_bytes(
    unet: nn.Module, scope: str, optimizer: str = "adamw", ema: bool = False, lora_rank: int = 16
) -> dict[str, int]:
    """Bytes that do not depend on the clip; "autocast copies" are the bfloat16 copies of the trained weights.

    Raises ValueError for an unknown scope or optimizer.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"the optimizer must be one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    trained, frozen = scope_counts(unet, scope, lora_rank)
    return {
        "frozen weights": 2 * frozen,
        "trained weights": 4 * trained,
        "autocast copies": 2 * trained,
        "gradients": 4 * trained,
        "optimizer": OPTIMIZERS[optimizer] * trained,
        "ema": 4 * trained if ema else 0,
    }


def activation_bytes(
    scope: str = "temporal",
    *,
    num_frames: int,
    height: int,
    width: int,
    batch_size: int = 1,
    checkpointing: str = "full",
    one_token: bool = True,
    frozen_dtype: torch.dtype = torch.bfloat16,
    config: dict = IMG2VID_XT,
) -> dict[str, int]:
    """Bytes that the forward pass keeps for the backward pass, "level 0" (the widest) and so on, and "recomputed".

    Counted, not derived: a forward pass on the meta device tells which distinct storages autograd saves besides the
    weights. "recomputed" is the largest checkpointed block, whose activations exist while it is passed backwards. The
    low-rank features of "lora" are left out. Of frozen weights in float32 autocast makes bfloat16 copies, which count
    here: unlike those of trained weights they are made anew for every layer. Raises ValueError for an unknown scope or
    checkpointing.
    """
    if checkpointing not in CHECKPOINTING:
        raise ValueError(f"checkpointing must be one of {', '.join(CHECKPOINTING)}, not {checkpointing!r}")
    unet = meta_unet(config)
    set_trainable(unet, scope, frozen_dtype)
    if scope == "lora":
        for name in lora_target_modules(unet):
            unet.get_submodule(name).weight.requires_grad_()
    use_one_token_attention(unet, one_token)
    size = (batch_size, num_frames, height // 8, width // 8)
    _, blocks = saved_bytes(unet, size)
    if checkpointing == "diffusers":
        unet.enable_gradient_checkpointing()
    elif checkpointing == "full":
        enable_full_checkpointing(unet)
    levels, kept = saved_bytes(unet, size)
    recomputed = max((blocks[name] for name in blocks if name and kept[name] < blocks[name]), default=0)
    return {**{f"level {level}": levels[level] for level in sorted(levels)}, "recomputed": recomputed}


def saved_bytes(unet: nn.Module, size: tuple[int, int, int, int]) -> tuple[Counter, Counter]:
    """Bytes that autograd saves in a forward pass of a U-Net on the meta device, by level and by block's name.

    size: (B, T, H, W) of the latents. What two blocks share counts for both of them, and once for the levels.
    """
    by_level, by_block = {}, {}  # of each storage
    for kept in saved_storages(unet, *_meta_inputs(unet.config, *size), return_dict=False):
        by_level.setdefault(kept.storage, (_level(kept.module, unet), kept.nbytes))
        by_block[_block(kept.module), kept.storage] = kept.nbytes
    levels, blocks = Counter(), Counter()
    for level, nbytes in by_level.values():
        levels[level] += nbytes
    for (block, _), nbytes in by_block.items():
        blocks[block] += nbytes
    return levels, blocks


def _meta_inputs(config, batch_size: int, num_frames: int, height: int, width: int) -> tuple[Tensor, ...]:
    """sample, timestep, encoder_hidden_states and added_time_ids."""
    num_ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
    shapes = (num_frames, config.in_channels, height, width), (), (1, config.cross_attention_dim), (num_ids,)
    return tuple(torch.empty(batch_size, *shape, device="meta") for shape in shapes)


def _level(module: str, unet: nn.Module) -> int:
    """The U-Net level of a module: 0 at full resolution."""
    deepest = len(unet.config.block_out_channels) - 1
    part, _, rest = module.partition(".")
    if part in ("down_blocks", "up_blocks"):
        index = int(rest.split(".")[0])
        return index if part == "down_blocks" else deepest - index
    return deepest if part == "mid_block" else 0


def _block(module: str) -> str:
    """The residual or transformer block that a module belongs to, "" if none."""
    match = BLOCK.match(module)
    return match[0] if match else ""

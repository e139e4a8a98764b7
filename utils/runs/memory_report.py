"""What a training of text to video needs on a GPU, by item, and which cards have it: a table for people."""

import argparse
import json
from pathlib import Path

import torch

from models.adapters.motion_unet import MotionUNet
from models.conditions import ConditionSettings, settings_of
from models.ledger import step_bytes, step_flops
from models.text_encoder import BUILTIN
from models.unet3d import UNet3D
from utils.arguments.conditions import folders_of, pairs
from utils.arguments.data import frame_shape
from utils.conditions.sound import NAMES as BANDS
from utils.pretrained.autoencoder import autoencoder_without_weights, find_vae
from utils.pretrained.image_model import unet_folder
from utils.pretrained.model_folder import text_folders
from utils.runs.new_model import make_unet, with_trainable

CARDS = (12, 16, 24, 40, 80)  # GB
OF_CUDA = 15 * 10**8  # bytes: what CUDA takes for itself, and fragmentation
BATCHES = (1, 2, 4, 8, 16)
TOKENS = 77
# What is assumed where a model is not on this machine.
CLIP_WIDTH = 768
MAP_CHANNELS, NUMBERS = {"flow": 2}, 8  # of a map, others have 1; of a vector
STABLE_DIFFUSION = {  # the U-Net of Stable Diffusion 1
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
ITS_LATENTS = 4, 8  # channels; sides of a frame to those of its latents


def memory_report(args: argparse.Namespace) -> str:
    """What a step of these settings needs, by item, and with which batches it fits: counted on the meta device from
    configurations. Models that are not on this machine are taken to be Stable Diffusion 1's parts."""
    unet, width, assumed = meta_unet(args)
    clip, more = clip_shape(args)
    conditions = conditions_of(args, clip)
    if conditions.names:
        with torch.device("meta"):
            unet.add_conditions(conditions)
    height, side = frame_shape(args)
    given = "with --gradient_checkpointing" if args.gradient_checkpointing else "without --gradient_checkpointing"
    table = ledgers(unet, clip, width, sorted({*BATCHES, args.batch_size}), args)
    own = table[args.batch_size, args.gradient_checkpointing]
    lines = [
        f"{args.num_frames} frames of {side}x{height}, to the network {'x'.join(map(str, clip))}; batch "
        f"{args.batch_size}, {given}; predicted, bf16",
        f"parameters: {sum(p.numel() for p in unet.parameters()):,}, of which "
        f"{sum(p.numel() for p in unet.parameters() if p.requires_grad):,} learn; "
        f"{own['flops'] / 1e12:.2f} TFLOP a step",
        *(f"not on this machine: {each}" for each in assumed + more),
        *([f"conditions: {', '.join(conditions.names)}"] if conditions.names else []),
        *(f"{name}, taken for vectors of {NUMBERS} numbers" for name in folders_of(args)["vectors"]),
        *(f"  {name:22} {size / 2**30:6.2f} GiB" for name, size in own.items() if name != "flops"),
        "",
        "batch, checkpointing   TFLOP a clip      total" + "".join(f"{card:4} GB" for card in CARDS),
    ]
    for (batch, checkpointing), found in table.items():
        fits = "".join(f"{'yes' if found['total'] <= card * 10**9 else 'no':>7}" for card in CARDS)
        what = f"{batch:5}, {'yes' if checkpointing else 'no'}"
        lines.append(f"{what:22} {found['flops'] / batch / 1e12:13.2f} {found['total'] / 2**30:6.1f} GiB{fits}")
    return "\n".join(lines)


def ledgers(unet, clip: tuple[int, ...], width: int, batches: list[int], args) -> dict[tuple[int, bool], dict]:
    """{(batch, gradient checkpointing): bytes by item, their "total", and "flops"}; from batches of one and of two,
    since every clip more adds the same."""
    found = {}
    for checkpointing in (False, True):
        one, two = (counted(unet, clip, width, batch, checkpointing, args) for batch in (1, 2))
        for batch in batches:
            found[batch, checkpointing] = {name: one[name] + (batch - 1) * (two[name] - one[name]) for name in one}
    return dict(sorted(found.items()))


def counted(unet, clip: tuple[int, ...], width: int, batch: int, checkpointing: bool, args) -> dict[str, int]:
    """step_bytes with what CUDA takes for itself, and "flops"."""
    (unet.enable_gradient_checkpointing if checkpointing else unet.disable_gradient_checkpointing)()
    with torch.device("meta"):
        inputs = torch.empty(batch, *clip), torch.zeros(batch), torch.empty(batch, TOKENS, width)
        settings, (steps, *sides) = settings_of(unet), clip[1:]
        given = {
            name: torch.empty(batch, steps, count)
            if name in settings.vectors
            else torch.empty(batch, count, steps, *sides)
            for name, count in settings.channels(clip[0]).items()
        }
        inputs += (None, given) if given else ()
    items = step_bytes(unet, inputs, args.optimizer, args.ema_decay > 0)
    del items["total"]
    items["CUDA, fragmentation"] = OF_CUDA
    return items | {"total": sum(items.values()), "flops": step_flops(unet, inputs)}


def conditions_of(args: argparse.Namespace, clip: tuple[int, ...]) -> ConditionSettings:
    """Those that the flags name, of files that are not read. clip: its shape (C, T, H, W) as the network sees it."""
    named = folders_of(args)
    numbers = dict.fromkeys(named["vectors"], NUMBERS) | ({"audio": len(BANDS)} if named["audio"] else {})
    return ConditionSettings(
        known=any(share for task, share in pairs(args.tasks, float).items() if task != "text"),
        maps={name: MAP_CHANNELS.get(name, 1) for name in named["maps"]},
        vectors={name: {"names": [f"number{n}" for n in range(count)]} for name, count in numbers.items()},
        sums=bool(numbers) and args.network == "motion",
        fold=(-(-args.num_frames // clip[1]), frame_shape(args)[0] // clip[2]),
    )


def meta_unet(args: argparse.Namespace) -> tuple[torch.nn.Module, int, list[str]]:
    """(the network of the flags without weights, width of the text it reads, what was assumed of it)."""
    from diffusers import UNet2DConditionModel

    if args.init_from_2d is None:
        width, assumed = text_width(args)
        channels = clip_shape(args)[0][0]
        with torch.device("meta"):
            return make_unet(args, width, channels).to("meta").train(), width, assumed
    config, assumed = image_config(args.init_from_2d)
    with torch.device("meta"):
        image = UNet2DConditionModel.from_config(config)
        if args.network == "motion":
            unet = MotionUNet.from_image_model(image, num_frames=args.num_frames)
        else:
            settings = {"conv_type": "factorised", "image_path": True, "temporal_window": args.temporal_window}
            unet = UNet3D.from_unet2d(image, **settings)
    return with_trainable(unet, args).to("meta").train(), image.config.cross_attention_dim, assumed


def image_config(name: str) -> tuple[dict, list[str]]:
    file = unet_folder(Path(name)) / "config.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8")), []
    return STABLE_DIFFUSION, [f"{name}, taken for Stable Diffusion 1"]


def text_width(args: argparse.Namespace) -> tuple[int, list[str]]:
    if args.text_encoder == BUILTIN:
        return args.text_dim, []
    file = text_folders(Path(args.text_encoder))[0] / "config.json"
    if file.is_file():
        config = json.loads(file.read_text(encoding="utf-8"))
        config = config.get("text_config") or config
        return config.get("hidden_size") or config["d_model"], []
    return CLIP_WIDTH, [f"{args.text_encoder}, taken to be {CLIP_WIDTH} wide"]


def clip_shape(args: argparse.Namespace) -> tuple[tuple[int, int, int, int], list[str]]:
    """((C, T, H, W) of what the network sees of a clip, what was assumed of the autoencoder)."""
    shape = args.num_frames, *frame_shape(args)
    name = args.vae if args.init_from_2d is None else args.init_from_2d
    if name == "none":
        return (3, *shape), []
    if Path(name).is_dir():
        return autoencoder_without_weights(find_vae(name)).latent_shape(*shape), []
    channels, space = ITS_LATENTS
    frames, *sides = shape
    return (channels, frames, *(side // space for side in sides)), [f"{name}, taken for Stable Diffusion's autoencoder"]

"""A new text-to-video model, as the flags of utils/arguments/text2video.py describe it.

torch and what is built on it are imported inside the functions, because scripts read their flags before that.
"""

import argparse
from pathlib import Path

from utils.cli import UserError


def make_text_encoder(args: argparse.Namespace, captions: list[str], tokenizer: str | None = None):
    """The text encoder that the flags name; a built-in one learns its words from the captions.

    tokenizer: the stored tokenizer of a run that is resumed, as JSON text.
    """
    from models.text_encoder import BUILTIN, builtin_text_encoder, load_tokenizer, train_tokenizer
    from utils.runs.hub import load_text_encoder
    from utils.runs.model_file import load_model, unpack_model

    if args.text_encoder != BUILTIN:
        return load_text_encoder(args.text_encoder, args.text_encoder_revision, args.max_text_tokens)
    max_length = args.max_text_tokens or 77
    if tokenizer is not None:
        return builtin_text_encoder(load_tokenizer(tokenizer, max_length), args.text_dim)
    if args.init_from is not None:
        return unpack_model(load_model(args.init_from, "--init_from"), flag="--init_from")[1]
    return builtin_text_encoder(train_tokenizer(captions, max_length=max_length), args.text_dim)


def make_unet(args: argparse.Namespace, cross_attention_dim: int):
    """The U-Net that the flags describe, with random weights or inflated from an image model."""
    from models.unet3d import UNet3D

    video_settings = {
        "conv_type": args.conv_type,
        "temporal_attention_levels": as_bools(args.temporal_attention_levels),
        "position_features": args.position_features,
    }
    if args.init_from_2d is not None:
        return inflate_image_model(args.init_from_2d, cross_attention_dim, patch_size=args.patch_size, **video_settings)
    return UNet3D(
        model_channels=args.model_channels,
        channel_mult=tuple(args.channel_mult),
        layers_per_block=args.layers_per_block,
        cross_attention_dim=cross_attention_dim,
        cross_attention_levels=as_bools(args.cross_attention_levels),
        self_attention_levels=as_bools(args.self_attention_levels),
        num_attention_heads=args.num_attention_heads,
        patch_size=args.patch_size,
        norm_num_groups=args.norm_num_groups,
        **video_settings,
    )


def make_diffusion(args: argparse.Namespace, unet):
    """The diffusion that the flags describe, around the U-Net."""
    from models.diffusion import TextToVideoDiffusion

    return TextToVideoDiffusion(
        unet,
        args.num_timesteps,
        args.prediction_type,
        args.loss_weighting,
        args.snr_gamma,
        args.noise_shift,
        args.zero_terminal_snr,
        args.text_dropout,
        args.timestep_sampling,
        args.logit_std,
    )


def inflate_image_model(name: str, cross_attention_dim: int, **video_settings):
    """A UNet3D for RGB videos from an image model's folder (with or without its unet/ folder) or hub name."""
    from diffusers import UNet2DConditionModel

    from models.unet3d import UNet3D
    from utils.runs.checkpoint import require_numbers
    from utils.runs.hub import missing_weights, resolve_model

    def unet_folder(folder: Path) -> Path:
        return folder / "unet" if (folder / "unet").is_dir() else folder

    files = "config.json and diffusion_pytorch_model.safetensors, or a pipeline's unet/ with them"
    patterns = (
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    )

    def missing(folder: Path) -> list[str]:
        return missing_weights(unet_folder(folder), "diffusion_pytorch_model")

    folder = unet_folder(resolve_model(name, None, patterns, "--init_from_2d", files, missing))
    try:
        image_unet = UNet2DConditionModel.from_pretrained(folder, use_safetensors=True)
        require_numbers(image_unet.state_dict())
        if image_unet.config.cross_attention_dim != cross_attention_dim:
            width = image_unet.config.cross_attention_dim
            raise ValueError(
                f"it reads text {width} wide, the text encoder gives {cross_attention_dim}; use its own encoder"
            )
        return UNet3D.from_unet2d(image_unet, in_channels=3, out_channels=3, **video_settings)
    except (OSError, ValueError) as error:
        raise UserError(f"--init_from_2d: {folder} cannot be used ({' '.join(str(error).split())[:300]})") from None


def as_bools(levels: list[int] | None) -> tuple[bool, ...] | None:
    return None if levels is None else tuple(map(bool, levels))


def load_initial_weights(path: Path, unet, text_encoder) -> None:
    """Start from another run's (EMA) weights: progressive training, say from 32 to 64 pixels, or from 8 to 16 frames.

    Frames and sizes are no part of the weights; everything else of the network must be the same.
    """
    from utils.runs.model_file import checked_weights, load_model

    stored = load_model(path, "--init_from")
    try:
        unet.load_state_dict(checked_weights(stored["unet"]))
    except (RuntimeError, ValueError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        lines = lines[1:4] or lines
        raise UserError(
            f"--init_from: {path} has another network; give its settings again ({'; '.join(lines)})"
        ) from None
    if text_encoder.name != stored["text_encoder"]["name"]:
        raise UserError(f"--init_from: {path} was trained with --text_encoder {stored['text_encoder']['name']}")

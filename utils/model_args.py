"""From flags to networks: the options of the text-to-video model and the objects that they describe.

torch and what is built on it are imported inside the functions, because scripts read their flags before that.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.cli import UserError, choice, integer, number


def add_model_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("text")
    group.add_argument(
        "--text_encoder",
        default="openai/clip-vit-large-patch14",
        help="hub name or local folder of a frozen text model, or 'builtin': a small one trained on the captions",
    )
    group.add_argument("--text_encoder_revision", default=None, help="commit, tag or branch on the hub")
    group.add_argument("--text_dim", type=integer(8, multiple_of=8), default=128, help="width of the built-in encoder")
    group.add_argument(
        "--max_text_tokens", type=integer(4, 4096), default=None, help="cut prompts here; default: the model's limit"
    )
    group.add_argument(
        "--text_cache_mb",
        type=integer(0, 10**7),
        default=4096,
        help="a frozen encoder reads each caption once if what it says fits into this memory, and leaves the device",
    )

    group = parser.add_argument_group("network")
    group.add_argument("--model_channels", type=integer(8), default=128, help="channels of the first level")
    group.add_argument(
        "--channel_mult",
        type=number(0, 64, above=True),
        nargs="+",
        default=[1.0, 2.0, 4.0],
        help="channels of each level, times model_channels",
    )
    group.add_argument("--layers_per_block", type=integer(1, 16), default=2, help="residual blocks per level")
    group.add_argument("--num_attention_heads", type=integer(1, 128), default=8, help="attention heads")
    group.add_argument(
        "--cross_attention_levels",
        type=integer(0, 1),
        nargs="+",
        default=None,
        help="1 or 0 per level: attend to the text; default all",
    )
    group.add_argument(
        "--self_attention_levels",
        type=integer(0, 1),
        nargs="+",
        default=None,
        help="1 or 0 per level: attend inside a frame; default the last",
    )
    group.add_argument(
        "--temporal_attention_levels",
        type=integer(0, 1),
        nargs="+",
        default=None,
        help="1 or 0 per level: attend along time; default all",
    )
    group.add_argument(
        "--conv_type", type=choice("full", "factorised"), default="full", help="3x3x3 convolutions, or 1x3x3 then 3x1x1"
    )
    group.add_argument(
        "--patch_size", type=integer(1, 16), default=2, help="fold p x p pixels into channels; 1 for none"
    )
    group.add_argument("--norm_num_groups", type=integer(1), default=32, help="groups of the group normalisation")
    group.add_argument(
        "--no_position_features",
        dest="position_features",
        action="store_false",
        help="do not tell the network where and when",
    )
    group.add_argument(
        "--init_from",
        type=Path,
        default=None,
        help="start from the weights of this best_model.pth, e.g. of a run at a lower resolution",
    )
    group.add_argument(
        "--init_from_2d", default=None, help="folder or hub name of a UNet2DConditionModel to inflate into the U-Net"
    )

    group = parser.add_argument_group("diffusion")
    group.add_argument("--num_timesteps", type=integer(2, 100_000), default=1000, help="diffusion steps in training")
    group.add_argument(
        "--prediction_type",
        type=choice("epsilon", "v_prediction", "sample"),
        default="sample",
        help="what the network predicts; sample is the clean clip",
    )
    group.add_argument(
        "--loss_weighting",
        type=choice("none", "min_snr", "snr_plus_one"),
        default="snr_plus_one",
        help="see TextToVideoDiffusion",
    )
    group.add_argument("--snr_gamma", type=number(0, above=True), default=5.0, help="cap of the loss weighting")
    group.add_argument(
        "--noise_shift",
        type=number(0, above=True),
        default=2.0,
        help="multiplies the noise level of the cosine schedule; 1 is the paper's",
    )
    group.add_argument(
        "--timestep_sampling",
        type=choice("uniform", "logit_normal"),
        default="uniform",
        help="timesteps in training: all alike, or more of the middle, where it is decided what a clip shows",
    )
    group.add_argument(
        "--logit_std",
        type=number(0, 100, above=True),
        default=1.0,
        help="of logit_normal: the larger, the more of the ends",
    )
    group.add_argument("--zero_terminal_snr", action="store_true", help="make the last timestep pure noise")
    group.add_argument(
        "--text_dropout", type=number(0, 1), default=0.1, help="share of captions dropped for classifier-free guidance"
    )
    group.add_argument(
        "--guidance_scale", type=number(0), default=4.0, help="of the samples, and the default for generation"
    )


def check_model_args(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the flags of add_model_args (and with --frame_size for this network), a line each."""
    levels = len(args.channel_mult)
    multiple = args.patch_size * 2 ** (levels - 1)
    if args.frame_size % multiple:
        yield f"--frame_size: got {args.frame_size}, must be a multiple of {multiple} (patch_size * 2^(levels - 1))"
    for name in ("cross_attention_levels", "self_attention_levels", "temporal_attention_levels"):
        if getattr(args, name) is not None and len(getattr(args, name)) != levels:
            yield f"--{name}: got {len(getattr(args, name))} numbers, --channel_mult has {levels} levels"
    for mult in args.channel_mult:
        for name in ("norm_num_groups", "num_attention_heads"):
            if args.model_channels * mult % getattr(args, name):
                yield f"--{name}: got {getattr(args, name)}, must divide {args.model_channels * mult:g} channels"
    if args.zero_terminal_snr and args.prediction_type == "epsilon":
        yield "--zero_terminal_snr: needs --prediction_type v_prediction or sample"
    if args.loss_weighting == "snr_plus_one" and args.prediction_type == "epsilon":
        yield "--loss_weighting snr_plus_one: grows without bound for epsilon; give --loss_weighting none or min_snr"
    if args.init_from and args.init_from_2d:
        yield "--init_from: cannot be combined with --init_from_2d"


def make_text_encoder(args: argparse.Namespace, captions: list[str], tokenizer: str | None = None):
    """The text encoder that the flags name; a built-in one learns its words from the captions.

    tokenizer: the stored tokenizer of a run that is resumed, as JSON text.
    """
    from models.text_encoder import BUILTIN, builtin_text_encoder, load_tokenizer, train_tokenizer
    from utils.hub import load_text_encoder
    from utils.model_file import load_model, unpack_model

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
    from utils.checkpoint import require_numbers
    from utils.hub import missing_weights, resolve_model

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
    from utils.model_file import checked_weights, load_model

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

"""The flags of the text-to-video model: text encoder, network, diffusion."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.buckets import as_bucket
from utils.arguments.data import size_multiple
from utils.arguments.sampling import add_interval_arg, check_interval
from utils.cli import choice, either, integer, number


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

    group = parser.add_argument_group("latents")
    group.add_argument(
        "--vae",
        default="none",
        help="hub name or local folder of an autoencoder, in whose latents the model learns; none: in pixels",
    )
    group.add_argument("--vae_revision", default=None, help="commit, tag or branch on the hub")
    add_cache_args(group)

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
        "--temporal_window",
        type=integer(1, 4096),
        default=None,
        help="attention over time in groups of so many frames (of latents, where there are), which see the groups "
        "beside: for long clips; default: all frames see each other",
    )
    group.add_argument(
        "--conv_type", type=choice("full", "factorised"), default="full", help="3x3x3 convolutions, or 1x3x3 then 3x1x1"
    )
    group.add_argument(
        "--patch_size", type=integer(1, 16), default=2, help="fold p x p pixels into channels; 1 for none"
    )
    group.add_argument(
        "--pixel_channels",
        type=integer(0, 512),
        default=0,
        help="convolutions of so many channels over single pixels behind the last layer: crisper outlines, stiller "
        "backgrounds where patches are large; 0 for none",
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
        "--init_from_2d",
        default=None,
        help="folder, .safetensors file or hub name of a Stable Diffusion 1 or 2 pipeline, adopted whole (U-Net, "
        "autoencoder, text encoder, schedule), or folder of a UNet2DConditionModel, to learn in pixels from",
    )
    group.add_argument(
        "--init_from_2d_config",
        default=None,
        help="for a file: folder or hub name of a pipeline of its kind, for configuration and tokenizer alone",
    )
    group.add_argument(
        "--network",
        type=choice("unet3d", "motion"),
        default="unet3d",
        help="motion: AnimateDiff's, around the image model of --init_from_2d; leaves a motion adapter",
    )
    group.add_argument(
        "--motion_adapter", default=None, help="with --network motion: folder or hub name of an adapter to start from"
    )
    group.add_argument(
        "--trainable",
        type=choice("all", "temporal", "lora"),
        default="all",
        help="with --init_from_2d; temporal: all weights of the image model stay as they are; lora: and its attention "
        "gets low-rank adapters",
    )
    group.add_argument("--lora_rank", type=integer(1, 1024), default=16, help="width of these adapters")

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
        type=either("auto", number(0, above=True)),
        default=2.0,
        help="multiplies the noise level of the schedule; 1 is the papers', auto grows with size and length",
    )
    group.add_argument(
        "--noise_schedule",
        type=choice("cosine", "linear", "scaled_linear"),
        default="cosine",
        help="how the noise grows; scaled_linear is Stable Diffusion's",
    )
    group.add_argument("--beta_start", type=number(0, 1, above=True), default=0.00085, help="of the linear schedules")
    group.add_argument("--beta_end", type=number(0, 1, above=True), default=0.012, help="of the linear schedules")
    group.add_argument(
        "--scheduler_config",
        type=Path,
        default=None,
        help="scheduler_config.json of diffusers: in place of num_timesteps, noise and prediction type given here",
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
    add_interval_arg(group, [0.0, 1.0], "of the samples, and the default for generation")


def add_cache_args(group: argparse._ArgumentGroup) -> None:
    """Latents that are kept."""
    group.add_argument(
        "--latent_cache",
        type=Path,
        default=None,
        help="folder for latents: each clip is encoded once, and training needs no autoencoder",
    )
    group.add_argument(
        "--cached_windows",
        type=integer(1, 10_000),
        default=4,
        help="samples of each clip in the cache when augmenting: windows, crops, flips; epochs take turns",
    )
    group.add_argument(
        "--fresh_share",
        type=number(0, 1),
        default=0.0,
        help="share of samples that are read and encoded anew in spite of the cache",
    )


def add_benchmark_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("benchmark, on the demo dataset")
    group.add_argument(
        "--evaluate_every", type=integer(0), default=0, help="steps between scores of prompts obeyed; 0: none"
    )
    group.add_argument(
        "--evaluate_prompts", type=integer(1, 10_000), default=48, help="per group: seen and held-out combinations"
    )


def _is_unet_alone(name: str | None) -> bool:
    """Whether an image model is the folder of a U-Net, and no pipeline."""
    return name is not None and Path(name).is_dir() and not (Path(name) / "model_index.json").is_file()


def check_model_args(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the flags of add_model_args (and with sizes of frames for this network), a line each."""
    yield from check_interval(args.guidance_interval)
    levels, multiple = len(args.channel_mult), size_multiple(args) if args.vae == "none" else 1
    sides = [(f"--{name}", getattr(args, name)) for name in ("frame_size", "height", "width") if getattr(args, name)]
    if args.height and args.width:
        del sides[0]  # it says nothing then
    sides += [(f"--buckets {b}", side) for b in map(as_bucket, args.buckets or ()) for side in (b.height, b.width)]
    for name, side in sides:
        if side % multiple:
            yield f"{name}: got {side}, must be a multiple of {multiple} (patch_size * 2^(levels - 1))"
    for name in ("cross_attention_levels", "self_attention_levels", "temporal_attention_levels"):
        if getattr(args, name) is not None and len(getattr(args, name)) != levels:
            yield f"--{name}: got {len(getattr(args, name))} numbers, --channel_mult has {levels} levels"
    beside = zip(args.self_attention_levels or (), args.cross_attention_levels or (), strict=False)
    if not args.resume and any(own and not text for own, text in beside):
        yield "--self_attention_levels: is beside that to the text; give these levels to --cross_attention_levels too"
    for mult in args.channel_mult:
        for name in ("norm_num_groups", "num_attention_heads"):
            if args.model_channels * mult % getattr(args, name):
                yield f"--{name}: got {getattr(args, name)}, must divide {args.model_channels * mult:g} channels"
    if args.latent_cache is not None and args.vae == "none":
        yield "--latent_cache: pixels have no latents; give --vae too"
    if args.latent_cache is not None and args.latent_cache.exists() and not args.latent_cache.is_dir():
        yield f"--latent_cache: {args.latent_cache} is a file, and should be a folder"
    if args.beta_end < args.beta_start:
        yield f"--beta_end: got {args.beta_end:g}, must be at least --beta_start, {args.beta_start:g}"
    if args.scheduler_config is not None and not args.scheduler_config.is_file():
        yield f"--scheduler_config: there is no file {args.scheduler_config}"
    if args.zero_terminal_snr and args.prediction_type == "epsilon":
        yield "--zero_terminal_snr: needs --prediction_type v_prediction or sample"
    if args.loss_weighting == "snr_plus_one" and args.prediction_type == "epsilon":
        yield "--loss_weighting snr_plus_one: grows without bound for epsilon; give --loss_weighting none or min_snr"
    if args.trainable != "all" and not args.init_from_2d:
        yield f"--trainable {args.trainable}: freezes an image model; name it with --init_from_2d"
    if args.trainable != "all" and args.conv_type == "full" and _is_unet_alone(args.init_from_2d):
        yield (
            f"--trainable {args.trainable}: needs --conv_type factorised, for 3x3x3 kernels mix time with the image "
            "model"
        )
    if args.trainable == "temporal" and args.image_share:
        yield "--image_share: pictures teach nothing while the image model is frozen; leave it out"
    if args.network == "motion" and (not args.init_from_2d or _is_unet_alone(args.init_from_2d)):
        yield "--network motion: is built around a Stable Diffusion pipeline; name it with --init_from_2d"
    if args.network == "motion" and args.temporal_window:
        yield "--temporal_window: is for --network unet3d"
    if args.pixel_channels and args.init_from_2d:
        yield "--pixel_channels: is for networks that start from nothing; leave it or --init_from_2d out"
    if args.motion_adapter is not None and args.network != "motion":
        yield "--motion_adapter: is for --network motion"
    if args.init_from and args.init_from_2d:
        yield "--init_from: cannot be combined with --init_from_2d"

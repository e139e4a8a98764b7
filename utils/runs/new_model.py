"""A new text-to-video model, as the flags of utils/arguments/text2video.py describe it.

torch and what is built on it are imported inside the functions, because scripts read their flags before that.
"""

import argparse

from utils.arguments.buckets import as_bucket
from utils.arguments.data import buckets_of, frame_shape, size_multiple
from utils.cli import UserError


def make_text_encoder(args: argparse.Namespace, captions: list[str], tokenizer: str | None = None):
    """The text encoder that the flags name; a built-in one learns its words from the captions.

    tokenizer: the stored tokenizer of a run that is resumed, as JSON text.
    """
    from models.text_encoder import BUILTIN, builtin_text_encoder, load_tokenizer, train_tokenizer
    from utils.pretrained.model_folder import load_text_encoder
    from utils.runs.model_file import load_model, unpack_model

    if args.text_encoder != BUILTIN:
        return load_text_encoder(args.text_encoder, args.text_encoder_revision, args.max_text_tokens)
    max_length = args.max_text_tokens or 77
    if tokenizer is not None:
        return builtin_text_encoder(load_tokenizer(tokenizer, max_length), args.text_dim)
    if args.init_from is not None:
        return unpack_model(load_model(args.init_from, "--init_from"), flag="--init_from")[1]
    return builtin_text_encoder(train_tokenizer(captions, max_length=max_length), args.text_dim)


def make_autoencoder(args: argparse.Namespace, state: dict):
    """(the autoencoder of --vae, where it lies), and from `state` of a run that is resumed the statistics of its
    latents; (None, None) for pixels. With a cache its weights are read only when they are needed. Raises UserError if
    the run began with another one."""
    import torch

    from utils.pretrained.autoencoder import autoencoder_without_weights, find_vae, load_autoencoder

    if args.vae == "none":
        return None, None
    source = find_vae(args.vae, args.vae_revision)
    if state.setdefault("vae_sha256", source.digest) != source.digest:
        raise UserError(f"--vae: {args.vae} is another autoencoder than this run began with; give that one")
    cached = args.latent_cache is not None
    autoencoder = autoencoder_without_weights(source) if cached else load_autoencoder(args.vae, args.vae_revision)
    if "latents_mean" in state:
        autoencoder.mean, autoencoder.std = (torch.tensor(state[f"latents_{name}"]) for name in ("mean", "std"))
    return autoencoder, source


def sizes_of(args: argparse.Namespace, autoencoder) -> int:
    """What height and width of frames must be multiples of. Raises UserError for those of the flags that are not, and
    for numbers of frames that the autoencoder does not take."""
    multiple = size_multiple(args)
    if autoencoder is None:
        return multiple
    multiple *= autoencoder.layout.space
    buckets = buckets_of(args, multiple) or ()
    for height, width, frames in buckets or [(*frame_shape(args), args.num_frames)]:
        bucket = f"--buckets {width}x{height}x{frames}" if buckets else None
        if height % multiple or width % multiple:
            raise UserError(
                f"{bucket or '--frame_size'}: got {width}x{height}, sides must be multiples of {multiple} "
                f"(autoencoder {args.vae}, patch_size * 2^(levels - 1))"
            )
        try:
            autoencoder.latent_shape(frames, height, width)
        except ValueError as error:
            raise UserError(f"{bucket or '--num_frames'}: {error}") from None
    return multiple


def latent_samples(args: argparse.Namespace, accelerator, autoencoder, digest: str, *datasets) -> list:
    """The datasets as LatentClips of --latent_cache, in which what is missing has been encoded."""
    from utils.latents.cache import LatentCache
    from utils.latents.latent_clips import LatentClips

    try:
        cache = LatentCache(args.latent_cache)
    except OSError as error:
        raise UserError(f"--latent_cache: {args.latent_cache} cannot be made ({error.strerror})") from None
    found = [LatentClips(clips, cache, digest, args.cached_windows, args.fresh_share) for clips in datasets]
    autoencoder.to(accelerator.device)
    for each in found:
        each.fill(autoencoder, accelerator.process_index, accelerator.num_processes, accelerator.is_main_process)
    autoencoder.unload()
    accelerator.wait_for_everyone()
    cache.refresh()
    return found


def measure_latents(args: argparse.Namespace, autoencoder, samples, device, state: dict, most: int = 64) -> None:
    """Mean and deviation of the latents of up to `most` samples, for the autoencoder and for `state`; once in a run."""
    from tqdm.auto import tqdm

    from utils.latents.latent_clips import LatentClips

    if "latents_mean" in state:
        return
    autoencoder.to(device)
    if args.vae == args.init_from_2d:  # an image model goes on seeing the latents that it knows
        state |= {f"latents_{name}": getattr(autoencoder, name).tolist() for name in ("mean", "std")}
        return
    if isinstance(samples, LatentClips):
        latents = samples.some(most)
    else:
        chosen = tqdm(range(0, len(samples), -(-len(samples) // most)), "measuring latents", unit="clip", disable=None)
        latents = (autoencoder.encode_raw(samples[index]["video"][None].to(device))[0] for index in chosen)
    try:
        autoencoder.measure(latents)
    except ValueError as error:
        raise UserError(f"--vae: {error}") from None
    state |= {f"latents_{name}": getattr(autoencoder, name).tolist() for name in ("mean", "std")}


def make_unet(args: argparse.Namespace, cross_attention_dim: int, channels: int = 3):
    """The U-Net that the flags describe, with random weights or inflated from an image model, for clips of so many
    channels."""
    from models.unet3d import UNet3D
    from utils.pretrained.image_model import inflate_image_model, motion_unet

    video_settings = {
        "conv_type": args.conv_type,
        "temporal_attention_levels": as_bools(args.temporal_attention_levels),
        "position_features": args.position_features,
        "temporal_window": args.temporal_window,
        "pixel_channels": args.pixel_channels,
    }
    if args.init_from_2d is not None:
        if args.network == "motion":
            most = max((bucket.frames for bucket in map(as_bucket, args.buckets or ())), default=args.num_frames)
            unet = motion_unet(args.init_from_2d, cross_attention_dim, args.motion_adapter, most)
            return with_trainable(unet, args)
        sizes = {"patch_size": args.patch_size, "in_channels": channels, "out_channels": channels}
        whole = {"image_path": args.vae == args.init_from_2d}
        unet = inflate_image_model(args.init_from_2d, cross_attention_dim, **sizes, **whole, **video_settings)
        return with_trainable(unet, args)
    return UNet3D(
        in_channels=channels,
        out_channels=channels,
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


def with_trainable(unet, args: argparse.Namespace):
    """The U-Net, of which --trainable says what learns; with `lora` it gets adapters."""
    from models.adapters.low_rank import add_low_rank

    if args.trainable != "all":
        for name, parameter in unet.named_parameters():
            parameter.requires_grad_(name not in unet.taken)
    if args.trainable == "lora":
        add_low_rank(unet, args.lora_rank)
    return unet


def noise_shift_of(args: argparse.Namespace, autoencoder=None) -> float:
    """--noise_shift as a number: `auto` follows from what the network sees of a clip: pixels or latents."""
    from models.diffusion.noise_schedule import noise_shift_for

    if args.noise_shift != "auto":
        return args.noise_shift
    shape = args.num_frames, *frame_shape(args)
    shape = shape if autoencoder is None else autoencoder.latent_shape(*shape)[1:]
    return noise_shift_for(*shape, latents=autoencoder is not None)


def make_diffusion(args: argparse.Namespace, unet, autoencoder=None):
    """The diffusion that the flags describe, around the U-Net, for clips or for the latents of an autoencoder. Raises
    UserError for a --scheduler_config that it cannot follow, or whose prediction does not go with --loss_weighting."""
    from models.diffusion.text2video import TextToVideoDiffusion
    from utils.pretrained.image_model import read_scheduler

    try:
        diffusion = TextToVideoDiffusion(
            unet,
            args.num_timesteps,
            args.prediction_type,
            args.loss_weighting,
            args.snr_gamma,
            noise_shift_of(args, autoencoder),
            args.zero_terminal_snr,
            args.text_dropout,
            args.timestep_sampling,
            args.logit_std,
            args.noise_schedule,
            args.beta_start,
            args.beta_end,
            read_scheduler(args.scheduler_config),
            latents=args.vae != "none",
        )
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"--scheduler_config: {args.scheduler_config} cannot be followed ({error})") from None
    if diffusion.prediction_type == "epsilon" and args.loss_weighting == "snr_plus_one":
        raise UserError(
            f"--loss_weighting snr_plus_one: grows without bound for epsilon, which {args.scheduler_config} asks for; "
            "give --loss_weighting none or min_snr"
        )
    return diffusion


def as_bools(levels: list[int] | None) -> tuple[bool, ...] | None:
    return None if levels is None else tuple(map(bool, levels))


# The layers that speak the language of what a clip is made of: pixels, or the latents of one autoencoder.
HEAD = "pixel_head."
ENDS = ("conv_in.", "conv_out.", HEAD)
CONDITIONS = "conditions."  # in front of the names of their layers


def fit_conditions(weights: dict, own: dict) -> list[str]:
    """Make the layers of conditions among `weights` those of a network that has `own`: what is new starts as an
    identity, what is gone is left out. Returns what changed."""
    of_conditions = {name for name in weights.keys() | own.keys() if name.startswith(CONDITIONS)}
    kept = {
        name for name in of_conditions if name in weights and name in own and weights[name].shape == own[name].shape
    }
    whole = {_condition(name) for name in of_conditions} - {_condition(name) for name in of_conditions - kept}
    changes = []
    for name in sorted({_condition(name) for name in of_conditions} - whole):
        theirs, ours = (
            {each for each in of_conditions if _condition(each) == name and each in t} for t in (weights, own)
        )
        changes.append(f"condition {name} is {'new' if not theirs else 'left out' if not ours else 'another, and new'}")
        for each in theirs:
            del weights[each]
        weights |= {each: own[each] for each in ours}
    return changes


def fit_head(weights: dict, own: dict) -> list[str]:
    """The same for the head over single pixels, which one of the two may lack."""
    theirs, ours = ({name: t[name] for name in t if name.startswith(HEAD)} for t in (weights, own))
    if {name: each.shape for name, each in theirs.items()} == {name: each.shape for name, each in ours.items()}:
        return []
    for name in theirs:
        del weights[name]
    weights |= ours
    return [
        f"the head over single pixels is {'another, and new' if theirs and ours else 'new' if ours else 'left out'}"
    ]


def _condition(name: str) -> str:
    """conditions.grids.depth.conv_in.weight -> depth"""
    return name.removeprefix(CONDITIONS).split(".")[1]


def load_initial_weights(args: argparse.Namespace, unet, text_encoder, autoencoder_digest: str | None) -> str:
    """Start from another run's (EMA) weights: progressive training, say from 32 to 64 pixels, from 8 to 16 frames, or
    from pixels to latents. Returns what was kept, in a line.

    Frames and sizes are no part of the weights. Where clips are of something else, pixels or the latents of another
    autoencoder, or folded into patches of another size, the first and the last layer start afresh; everything else of
    the network must be the same. autoencoder_digest: of this run's, None for pixels.
    """
    from utils.runs.model_file import checked_weights, load_model

    path = args.init_from
    stored = load_model(path, "--init_from")
    own, theirs = frame_shape(args), (stored["height"], stored["width"])
    changes = []
    for name, before, now in (
        ("frames", stored["num_frames"], args.num_frames),
        ("size", f"{theirs[1]}x{theirs[0]}", f"{own[1]}x{own[0]}"),
    ):
        if before != now:
            changes.append(f"{name} {before} -> {now}")
    try:
        weights = checked_weights(stored["unet"])
        digest = (stored.get("autoencoder") or {}).get("sha256")
        folded = stored["unet_config"]["patch_size"] != args.patch_size
        afresh = digest != autoencoder_digest or folded
        if afresh:
            kind = "latents of another autoencoder" if digest and autoencoder_digest else "latents, not pixels"
            kind = "pixels, not latents" if autoencoder_digest is None else kind
            why = f"clips are {kind}" if digest != autoencoder_digest else "another --patch_size"
            changes.append(f"{why}: the first and the last layer start afresh")
            weights |= {name: each for name, each in unet.state_dict().items() if name.startswith(ENDS)}
        changes += fit_conditions(weights, unet.state_dict()) + fit_head(weights, unet.state_dict())
        unet.load_state_dict(weights)
    except (RuntimeError, ValueError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        lines = lines[1:4] or lines
        raise UserError(
            f"--init_from: {path} has another network; give its settings again ({'; '.join(lines)})"
        ) from None
    if text_encoder.name != stored["text_encoder"]["name"]:
        raise UserError(f"--init_from: {path} was trained with --text_encoder {stored['text_encoder']['name']}")
    count = sum(each.numel() for name, each in unet.state_dict().items() if not (afresh and name.startswith(ENDS)))
    kept = f"{count / 1e6:.1f}M of {sum(each.numel() for each in unet.state_dict().values()) / 1e6:.1f}M numbers"
    return f"starts from {path}: {kept} of the U-Net kept" + "".join(f"; {change}" for change in changes)

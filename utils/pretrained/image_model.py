"""An image model to start from: a Stable Diffusion pipeline adopted whole, or a U-Net alone."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.cli import UserError, printable
from utils.pretrained.image_file import unpacked

UNET_FILES = "config.json and diffusion_pytorch_model.safetensors, or a pipeline's unet/ with them"
STEM = "diffusion_pytorch_model"
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def adopted(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with all that a pipeline of --init_from_2d brings: its autoencoder, text encoder, schedule and
    prediction type, and what its U-Net needs. As they are, without that flag or for a U-Net alone. A pipeline in one
    file is unpacked first, and the flag then names its folder. Raises UserError in one line if it is a pipeline of
    another kind, or if --vae names another autoencoder."""
    if args.init_from_2d is None:
        return args
    if (file := Path(args.init_from_2d).expanduser()).is_file():
        args = argparse.Namespace(**vars(args) | {"init_from_2d": str(unpacked(file, args.init_from_2d_config))})
    folder = find_image_model(args.init_from_2d)
    if not (folder / "model_index.json").is_file():
        return args
    if args.vae != "none":
        raise UserError(f"--vae: {printable(folder)} brings its own autoencoder; leave --vae out")
    config = args.scheduler_config or folder / "scheduler" / "scheduler_config.json"
    whole = argparse.Namespace(**vars(args))
    whole.vae = whole.text_encoder = args.init_from_2d
    whole.vae_revision = whole.text_encoder_revision = None
    whole.scheduler_config, whole.patch_size, whole.conv_type = config, 1, "factorised"
    levels = len(json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))["block_out_channels"])
    whole.channel_mult = [1.0] * levels  # how often sides are halved
    predicted = (read_scheduler(config) or {}).get("prediction_type", "epsilon")
    if predicted == "epsilon" and whole.loss_weighting == "snr_plus_one":  # the default grows without bound there
        whole.loss_weighting = "min_snr"
    return whole


def read_scheduler(path: Path | None) -> dict | None:
    """What a scheduler_config.json says. Raises UserError if it is none, or not of a diffusion in discrete time."""
    if path is None:
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or "num_train_timesteps" not in config:
            raise ValueError("it has no num_train_timesteps")
        if "beta_start" not in config and config.get("trained_betas") is None:
            raise ValueError(f"{config.get('_class_name', 'it')} has no betas")
    except (OSError, ValueError) as error:
        raise UserError(f"--scheduler_config: {path} is no scheduler_config.json of diffusers ({error})") from None
    return {name: value for name, value in config.items() if not name.startswith("_")}


def find_image_model(name: str) -> Path:
    """The folder of a pipeline or of a U-Net, downloaded if need be. Raises UserError if it is neither."""
    from utils.hub import resolve_model
    from utils.pretrained.model_folder import missing_weights

    def missing(folder: Path) -> list[str]:
        if not (folder / "model_index.json").is_file():
            return missing_weights(unet_folder(folder), STEM)
        return [f"{part}/" for part in PARTS if not (folder / part).is_dir()]

    patterns = ("model_index.json", "config.json", f"{STEM}*")
    patterns += tuple(f"{part}/*.{ending}" for part in PARTS for ending in ("json", "safetensors", "txt"))
    folder = resolve_model(name, None, patterns, "--init_from_2d", UNET_FILES, missing)
    index = folder / "model_index.json"
    if index.is_file():
        try:
            kind = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"--init_from_2d: {printable(index)} is damaged") from None
        if kind not in PIPELINES:
            raise UserError(
                f"--init_from_2d: {printable(folder)} is a {kind}, which has parts that there is no place for; "
                "give a Stable Diffusion 1 or 2 pipeline"
            )
    return folder


def unet_folder(folder: Path) -> Path:
    return folder / "unet" if (folder / "unet").is_dir() else folder


def read_image_unet(name: str, cross_attention_dim: int):
    """The U-Net of an image model, from its folder (with or without its unet/ folder) or hub name, in float32. Raises
    UserError if it cannot be used, or reads text of another width."""
    from diffusers import UNet2DConditionModel

    from utils.pretrained.model_folder import weights_variant
    from utils.tensors import require_numbers

    folder = unet_folder(find_image_model(name))
    with usable(folder):
        variant = weights_variant(folder, STEM)
        variant = {"variant": variant} if variant else {}
        image_unet = UNet2DConditionModel.from_pretrained(folder, use_safetensors=True, **variant).float()
        require_numbers(image_unet.state_dict())
        if image_unet.config.cross_attention_dim != cross_attention_dim:
            width = image_unet.config.cross_attention_dim
            raise ValueError(
                f"it reads text {width} wide, the text encoder gives {cross_attention_dim}; use its own encoder"
            )
    return image_unet


@contextmanager
def usable(folder: Path, flag: str = "--init_from_2d") -> Iterator[None]:
    """What goes wrong inside becomes one line that names the folder."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{flag}: {printable(folder)} cannot be used ({' '.join(str(error).split())[:300]})") from None


def inflate_image_model(name: str, cross_attention_dim: int, **video_settings):
    """A UNet3D that begins as an image model."""
    from models.unet3d import UNet3D

    image_unet = read_image_unet(name, cross_attention_dim)
    with usable(unet_folder(find_image_model(name))):
        return UNet3D.from_unet2d(image_unet, **video_settings)


def motion_unet(name: str, cross_attention_dim: int, adapter: str | None, num_frames: int):
    """A MotionUNet that begins as an image model, with the motion modules of a published adapter or with new ones.
    Raises UserError for more frames than the adapter takes."""
    from diffusers import MotionAdapter

    from models.adapters.motion_unet import MotionUNet
    from utils.hub import resolve_model
    from utils.pretrained.model_folder import missing_weights, weights_variant
    from utils.tensors import require_numbers

    image_unet, modules, folder, flag = read_image_unet(name, cross_attention_dim), None, Path(name), "--init_from_2d"
    if adapter is not None:
        flag = "--motion_adapter"
        files = f"config.json and {STEM}.safetensors of a MotionAdapter"
        patterns = ("config.json", f"{STEM}*.safetensors", f"{STEM}*.json")
        folder = resolve_model(adapter, None, patterns, flag, files, lambda found: missing_weights(found, STEM))
        with usable(folder, flag):
            variant = weights_variant(folder, STEM)
            variant = {"variant": variant} if variant else {}
            modules = MotionAdapter.from_pretrained(folder, use_safetensors=True, **variant).float()
            require_numbers(modules.state_dict())
        if num_frames > modules.config.motion_max_seq_length:
            most = modules.config.motion_max_seq_length
            raise UserError(f"--num_frames: got {num_frames}, the motion adapter takes at most {most}")
    with usable(folder, flag):
        return MotionUNet.from_image_model(image_unet, modules, num_frames)

"""A trained model, read from its file and ready to draw."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from models.autoencoder import VideoAutoencoder
from models.conditions import ConditionSettings, settings_of
from models.diffusion.captioned import CaptionedDiffusion
from utils.cli import UserError
from utils.pretrained.autoencoder import unpack_autoencoder
from utils.runs.checkpoint import sha256
from utils.runs.model_file import load_model, unpack_model

SAID = ("num_frames", "height", "width", "guidance_scale", "guidance_interval", "data", "step")
SAID += ("sampler", "num_inference_steps")  # of a distilled model


@dataclass(frozen=True)
class OpenModel:
    """The parts of a model file on their device, what the file says of clips, and the file itself."""

    model: CaptionedDiffusion
    said: dict
    file: Path
    sha256: str


def open_model(
    checkpoint: Path, text_encoder: str | None, vae: str | None, device, flag: str = "--checkpoint"
) -> OpenModel:
    """Of a best_model.pth, or of the run folder that holds one.

    text_encoder, vae: where the frozen ones lie, None for where training found them. flag: which named it. Raises
    UserError for a file that is no model, and for parts that are not there.
    """
    content = load_model(checkpoint, flag)
    autoencoder = unpack_autoencoder(content.get("autoencoder"), vae, flag)
    parts = *unpack_model(content, text_encoder, flag=flag), autoencoder
    model = CaptionedDiffusion(*parts).to(torch.device(device)).eval()
    file = checkpoint / "best_model.pth" if checkpoint.is_dir() else checkpoint
    return OpenModel(model, {key: content[key] for key in SAID if key in content}, file, sha256(file))


def open_weaker(args: argparse.Namespace, model: CaptionedDiffusion, device) -> OpenModel:
    """That of --autoguidance. Raises UserError where it cannot be compared with the model in every step."""
    opened = open_model(args.autoguidance, args.text_encoder, args.vae, device, "--autoguidance")
    one, other = model.diffusion, opened.model.diffusion
    ours, theirs = model.autoencoder, opened.model.autoencoder
    if one.prediction_type != other.prediction_type or not torch.equal(one.alphas_cumprod, other.alphas_cumprod):
        wrong = "with other noise, or to predict something else"
    elif (ours is None) != (theirs is None) or (ours is not None and not same_latents(ours, theirs)):
        wrong = "on something else than the same latents, or pixels"
    elif settings_of(other.unet) not in (ConditionSettings(), settings_of(one.unet)):
        wrong = "with other conditions"
    else:
        return opened
    raise UserError(f"--autoguidance: {args.autoguidance} was trained {wrong}; give a run with the same settings")


def same_latents(one: VideoAutoencoder, other: VideoAutoencoder) -> bool:
    """Whether a clip is the same latents to both: their normalisation, and the weights where they are at hand."""
    ours, theirs = ({"mean": x.mean, "std": x.std, **(x.vae.state_dict() if x.vae else {})} for x in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())

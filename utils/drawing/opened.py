"""A trained model, read from its file and ready to draw."""

from dataclasses import dataclass
from pathlib import Path

import torch

from models.diffusion.captioned import CaptionedDiffusion
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


def open_model(checkpoint: Path, text_encoder: str | None, vae: str | None, device) -> OpenModel:
    """Of a best_model.pth, or of the run folder that holds one.

    text_encoder, vae: where the frozen ones lie, None for where training found them. Raises UserError for a file that
    is no model, and for parts that are not there.
    """
    content = load_model(checkpoint)
    parts = *unpack_model(content, text_encoder), unpack_autoencoder(content.get("autoencoder"), vae)
    model = CaptionedDiffusion(*parts).to(torch.device(device)).eval()
    file = checkpoint / "best_model.pth" if checkpoint.is_dir() else checkpoint
    return OpenModel(model, {key: content[key] for key in SAID if key in content}, file, sha256(file))

"""Frozen autoencoders for diffusion in latents: found, loaded, and kept with the model that was trained on them."""

import json
from pathlib import Path

import torch

from models.autoencoder import VideoAutoencoder, class_of, fingerprint
from utils.cli import UserError, out_of_memory, printable
from utils.runs.checkpoint import require_numbers
from utils.runs.hub import missing_weights, resolve_model, weights_variant

STEM = "diffusion_pytorch_model"
FILES = f"config.json and {STEM}.safetensors of an autoencoder of diffusers, or a pipeline's vae/ with them"
PATTERNS = tuple(
    f"{folder}{name}" for folder in ("", "vae/") for name in ("config.json", f"{STEM}*.safetensors", f"{STEM}*.json")
)
EMBEDDED_BYTES = 64 * 2**20  # weights up to this size are part of the model file


def load_vae(name: str, revision: str | None = None, flag: str = "--vae") -> torch.nn.Module:
    """The autoencoder in a folder, in its vae/, or on the hub, in float32. Raises UserError in one line."""

    def place(folder: Path) -> Path:
        return folder / "vae" if (folder / "vae").is_dir() else folder

    def missing(folder: Path) -> list[str]:
        return missing_weights(place(folder), STEM)

    folder = place(resolve_model(name, revision, PATTERNS, flag, FILES, missing))
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = config.get("_class_name", "a model without a class")
        vae = class_of(kind).from_pretrained(folder, use_safetensors=True, **_variant(folder))
        require_numbers(vae.state_dict())
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}: {printable(folder)} cannot be used ({reason}); it should hold {FILES}") from None
    return vae.float()


def _variant(folder: Path) -> dict[str, str]:
    found = weights_variant(folder, STEM)
    return {"variant": found} if found else {}


def load_autoencoder(name: str, revision: str | None = None, flag: str = "--vae") -> VideoAutoencoder:
    """The same, ready for clips, with the mean and the deviation of its latents that its configuration knows."""
    try:
        return frozen(VideoAutoencoder(load_vae(name, revision, flag)))
    except ValueError as error:
        raise UserError(f"{flag}: {printable(name)} cannot be used ({error})") from None


def frozen(autoencoder: VideoAutoencoder) -> VideoAutoencoder:
    autoencoder.vae.eval()
    return autoencoder.requires_grad_(False)


def pack_autoencoder(autoencoder: VideoAutoencoder, name: str, revision: str | None) -> dict:
    """What a model file keeps of it, as plain data and tensors: where it lay and how to tell it from another, mean and
    deviation of its latents, and the weights themselves where they are small."""
    vae = autoencoder.vae
    weights = {key: tensor.detach().to("cpu", copy=True) for key, tensor in vae.state_dict().items()}
    packed = {
        "name": name,
        "revision": revision,
        "class": type(vae).__name__,
        "config": json.loads(vae.to_json_string()),
        "sha256": fingerprint(vae),
        "mean": autoencoder.mean.cpu().clone(),
        "std": autoencoder.std.cpu().clone(),
    }
    if sum(tensor.nbytes for tensor in weights.values()) <= EMBEDDED_BYTES:
        packed["weights"] = weights
    return packed


def unpack_autoencoder(
    stored: dict | None, vae: str | None = None, flag: str = "--checkpoint"
) -> VideoAutoencoder | None:
    """The inverse of pack_autoencoder; None of a model of pixels.

    vae: where it lies now, if it is not in the model file nor where the training found it. Raises UserError if it
    cannot be had, or is another than the model was trained with.
    """
    if stored is None:
        return None
    try:
        if "weights" in stored:
            require_numbers(stored["weights"])
            found = class_of(stored["class"]).from_config(stored["config"])
            found.load_state_dict(stored["weights"])
        else:
            found = load_vae(vae or stored["name"], stored["revision"])
        if fingerprint(found) != stored["sha256"]:
            raise UserError(
                f"--vae: {printable(vae or stored['name'])} is another autoencoder than the model was trained with "
                f"({stored['name']}); give that one"
            )
        return frozen(VideoAutoencoder(found, stored["mean"], stored["std"]))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}: its autoencoder does not fit its own description ({reason})") from None

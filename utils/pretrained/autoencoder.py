"""Frozen autoencoders for diffusion in latents: found, loaded, and kept with the model that was trained on them."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from models.autoencoder import VideoAutoencoder, class_of
from utils.cli import UserError, out_of_memory, printable
from utils.hub import resolve_model
from utils.pretrained.model_folder import missing_weights, weights_variant
from utils.tensors import require_numbers

STEM = "diffusion_pytorch_model"
FILES = f"config.json and {STEM}.safetensors of an autoencoder of diffusers, or a pipeline's vae/ with them"
PATTERNS = tuple(
    f"{folder}{name}" for folder in ("", "vae/") for name in ("config.json", f"{STEM}*.safetensors", f"{STEM}*.json")
)
EMBEDDED_BYTES = 64 * 2**20  # weights up to this size are part of the model file


@dataclass(frozen=True)
class Source:
    """Where an autoencoder lies: a folder with its config.json and weights; name: what --vae called it."""

    name: str
    revision: str | None
    folder: Path
    config: dict
    flag: str

    @property
    def digest(self) -> str:
        """SHA-256 of its class, its settings and the files of its weights: tells it from others, wherever it lies."""
        digest = hashlib.sha256(json.dumps(plain(self.config), sort_keys=True).encode())
        for path in self._weights():
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    def _weights(self) -> list[Path]:
        middle = {"fp16": ".fp16", "": ""}[weights_variant(self.folder, STEM)]
        return [
            path
            for path in sorted(self.folder.glob(f"{STEM}*.safetensors"))
            if path.name.endswith(f"{middle}.safetensors") and (middle or ".fp16" not in path.name)
        ]

    def load(self) -> torch.nn.Module:
        """The model, in float32. Raises UserError if it cannot be used."""
        variant = weights_variant(self.folder, STEM)
        try:
            kind = class_of(self.config["_class_name"])
            vae = kind.from_pretrained(self.folder, use_safetensors=True, **({"variant": variant} if variant else {}))
            require_numbers(vae.state_dict())
        except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise self.unusable(error) from None
        return vae.float()

    def unusable(self, error: Exception) -> Exception:
        if out_of_memory(error):
            return error
        reason = " ".join(str(error).split())[:300]
        return UserError(f"{self.flag}: {printable(self.folder)} cannot be used ({reason}); it should hold {FILES}")


def find_vae(name: str, revision: str | None = None, flag: str = "--vae") -> Source:
    """The autoencoder in a folder, in its vae/, or on the hub. Raises UserError in one line."""

    def place(folder: Path) -> Path:
        return folder / "vae" if (folder / "vae").is_dir() else folder

    def missing(folder: Path) -> list[str]:
        return missing_weights(place(folder), STEM)

    folder = place(resolve_model(name, revision, PATTERNS, flag, FILES, missing))
    source = Source(name, revision, folder, {}, flag)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        class_of(config.setdefault("_class_name", "a model without a class"))
    except (OSError, ValueError, AttributeError) as error:
        raise source.unusable(error) from None
    return Source(name, revision, folder, config, flag)


def load_autoencoder(name: str, revision: str | None = None, flag: str = "--vae") -> VideoAutoencoder:
    """An autoencoder, ready for clips, with the mean and the deviation of its latents that its configuration knows."""
    source = find_vae(name, revision, flag)
    try:
        return frozen(VideoAutoencoder(source.load()))
    except ValueError as error:
        raise source.unusable(error) from None


def autoencoder_without_weights(source: Source) -> VideoAutoencoder:
    """The same, but its weights are read when they are first needed, and let go by `unload`."""
    try:
        with torch.device("meta"):
            vae = class_of(source.config["_class_name"]).from_config(plain(source.config))
        return VideoAutoencoder(vae.to("meta"), load=source.load)
    except (ValueError, TypeError, AttributeError) as error:
        raise source.unusable(error) from None


def frozen(autoencoder: VideoAutoencoder) -> VideoAutoencoder:
    autoencoder.vae.eval()
    return autoencoder.requires_grad_(False)


def plain(config: dict) -> dict:
    """Settings without where they came from."""
    return {name: value for name, value in config.items() if name == "_class_name" or not name.startswith("_")}


def pack_autoencoder(autoencoder: VideoAutoencoder, source: Source, digest: str) -> dict:
    """What a model file keeps of it, as plain data and tensors: where it lay and how to tell it from another, mean and
    deviation of its latents, and the weights themselves where they are small."""
    packed = {
        "name": source.name,
        "revision": source.revision,
        "config": plain(source.config),
        "sha256": digest,
        "mean": autoencoder.mean.cpu().clone(),
        "std": autoencoder.std.cpu().clone(),
    }
    if sum(path.stat().st_size for path in source.folder.glob(f"{STEM}*.safetensors")) <= EMBEDDED_BYTES:
        weights = (autoencoder.vae or source.load()).state_dict()
        packed["weights"] = {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
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
            found = class_of(stored["config"]["_class_name"]).from_config(stored["config"])
            found.load_state_dict(stored["weights"])
        else:
            source = find_vae(vae or stored["name"], stored["revision"])
            if source.digest != stored["sha256"]:
                raise UserError(
                    f"--vae: {printable(source.name)} is another autoencoder than the model was trained with "
                    f"({stored['name']}); give that one"
                )
            found = source.load()
        return frozen(VideoAutoencoder(found, stored["mean"], stored["std"]))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{flag}: its autoencoder does not fit its own description ({reason})") from None

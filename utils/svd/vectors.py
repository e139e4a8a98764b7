"""Vectors per frame for SVD: which there are, their weights on disk, those of a video that is to be drawn."""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.conditions import ConditionSettings
from models.diffusion.known import vector_steps
from models.svd.steering import add_steering
from utils.cli import UserError, printable
from utils.conditions.clip_conditions import ClipConditions
from utils.conditions.maps import ConditionError
from utils.conditions.vectors import at_times, chosen_columns, read_vectors
from utils.data.errors import DataError
from utils.files import explain_full_disk, whole_file
from utils.frame_folders.frame_clips import TrainingClip
from utils.tensors import require_numbers, tensor_bytes

WEIGHTS = "vectors.safetensors"  # in the folder of a fine-tuned model


def make_vectors(
    args: argparse.Namespace, clips: list[TrainingClip], state: dict
) -> tuple[ClipConditions | None, ConditionSettings]:
    """(what lies beside the clips, settings of the network) for --vectors. state: of a run, which keeps the settings.

    Raises UserError for a folder that is not there, or of which no file belongs to a clip.
    """
    if args.vectors is None:
        return None, ConditionSettings()
    try:
        found = ClipConditions(args.dataset_dir, [clip.info for clip in clips], (), args.vectors or ["vectors"])
    except DataError as error:
        raise UserError(str(error)) from None
    if "conditions" not in state:
        samples = (found.read(clip.info, np.arange(clip.frames), lambda frames: frames) for clip in clips)
        about = found.statistics({"conditions": values, "present": present} for values, present, _ in samples)
        state["conditions"] = ConditionSettings(vectors=about, sums=True).plain()
    return found, ConditionSettings.from_plain(state["conditions"])


def given_vectors(batch: dict, settings: ConditionSettings, dropout: float = 0.0) -> dict[str, Tensor]:
    """What the network is given of a batch of FrameClips; `dropout` is the share of clips without."""
    given = {}
    for name, values in batch.get("conditions", {}).items():
        present = batch["present"][name].float() * (torch.rand(len(values)) >= dropout)
        given[name] = vector_steps(values.float(), present, settings.vectors[name], settings, values.shape[1])
    return given


def save_vectors(tensors: dict[str, Tensor], run_dir: Path) -> None:
    """Write the layers that take vectors beside a model."""
    path = run_dir / WEIGHTS
    with explain_full_disk(path, tensor_bytes(tensors)), whole_file(path, sync=True) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)


def load_vectors(unet, folder: Path, about: dict) -> ConditionSettings:
    """Give a U-Net the layers that lie in the folder of a model. Raises UserError if it has none, or damaged ones."""
    if not about.get("conditions"):
        raise UserError("--vectors: this model was not trained with vectors per frame; train_svd.py --vectors does it")
    settings = ConditionSettings.from_plain(about["conditions"])
    add_steering(unet, settings)
    try:
        tensors = load_file(folder / WEIGHTS)
        require_numbers(tensors)
        unet.conditions.load_state_dict(tensors)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"--vectors: {printable(folder / WEIGHTS)} cannot be used ({error})") from None
    return settings


def read_given(file: Path, settings: ConditionSettings, num_frames: int, fps: float) -> dict[str, Tensor]:
    """The vectors of a video of so many frames, for the network. Raises UserError for what does not fit."""
    name, about = next(iter(settings.vectors.items()))
    try:
        found = chosen_columns(read_vectors(file), about["names"])
        values = at_times(found, np.arange(num_frames) / fps, num_frames / fps)
    except ConditionError as error:
        raise UserError(f"--vectors: {printable(file)} {error}") from None
    return {name: vector_steps(torch.from_numpy(values)[None], torch.ones(1), about, settings, num_frames)}


def steer(unet, file: Path, folder: Path, about: dict, num_frames: int, fps: float) -> None:
    """Give a U-Net the layers for vectors that lie in a model's folder, and those of a file for all that it draws.

    about: what train_svd.py noted of the model. Raises UserError, see load_vectors and read_given.
    """
    settings = load_vectors(unet, folder, about)
    unet.conditions.to(unet.device, unet.dtype)
    given = read_given(file, settings, num_frames, fps)
    unet.conditions.given = {name: each.to(unet.device, unet.dtype) for name, each in given.items()}

"""The conditions of a training or of a model: which there are, and what is given of a batch."""

import argparse

import torch
from torch import Tensor

from models.autoencoder import VideoAutoencoder
from models.conditions import KNOWN, ConditionSettings, settings_of
from models.diffusion.captioned import CaptionedDiffusion
from models.diffusion.known import known_places, map_places, vector_steps
from models.diffusion.tasks import draw_tasks
from utils.arguments.conditions import folders_of, pairs
from utils.cli import UserError
from utils.conditions.clip_conditions import ClipConditions
from utils.conditions.known_clips import KnownClips
from utils.data.errors import DataError

MASKS = "masks"  # a map that, where it is white, is the hole of inpainting


def make_conditions(
    args: argparse.Namespace, autoencoder: VideoAutoencoder | None, state: dict, sets: list, samples: list
) -> tuple[ConditionSettings, list]:
    """(settings, samples with their conditions) for the flags of utils/arguments/conditions.py.

    sets: TextVideoDatasets of training and validation; samples: these, or their cached latents. state: of a run, which
    keeps the settings. Raises UserError for folders of which no file belongs to a clip.
    """
    named, tasks = folders_of(args), pairs(args.tasks, float)
    if not any(named.values()):
        return _settings(args, tasks, autoencoder, state, {}, {}), samples
    infos = [info for each in sets for info, _ in each.items]
    try:
        conditions = ClipConditions(args.data_dir, infos, **named)
    except DataError as error:
        raise UserError(str(error)) from None
    known = [KnownClips(clips, conditions, each) for clips, each in zip(sets, samples, strict=True)]
    vectors = {} if "conditions" in state else known[0].measured()
    return _settings(args, tasks, autoencoder, state, conditions.channels, vectors), known


def _settings(args, tasks: dict, autoencoder, state: dict, maps: dict, vectors: dict) -> ConditionSettings:
    if "conditions" not in state:
        fold = (1, 1) if autoencoder is None else (autoencoder.layout.time, autoencoder.layout.space)
        known = any(share for task, share in tasks.items() if task != "text")
        sums = bool(vectors) and args.network == "motion"
        state["conditions"] = ConditionSettings(known, maps, vectors, fold, tasks, sums).plain()
    return ConditionSettings.from_plain(state["conditions"])


def given_of(
    batch: dict,
    settings: ConditionSettings,
    autoencoder: VideoAutoencoder | None,
    device: torch.device,
    dropout: float = 0.0,
    mask: Tensor | None = None,
) -> dict[str, Tensor]:
    """What a network is given of a batch of samples, see models/conditions.py.

    dropout: the share of samples that go without each map and each vector. mask: of known places (B, 1, T, H, W), by
    default drawn by the tasks of the settings; where a clip has a map "masks", that is the hole of inpainting.
    """
    given, values = {}, batch.get("conditions", {})
    if settings.known:
        videos = batch["video"].to(device, non_blocking=True)
        if mask is None:
            holes = _holes(batch, device) if MASKS in values else None
            mask = draw_tasks(settings.tasks, videos, holes)
        given[KNOWN] = known_places(videos, mask.to(device), autoencoder)
    for name, value in values.items():
        value = value.to(device, non_blocking=True).float()
        present = batch["present"][name].to(device).float()
        present = present * (torch.rand(len(present)) >= dropout).to(device)
        if name in settings.maps:
            steps = _steps(autoencoder, value.shape[2])
            given[name] = map_places(value, present, settings, steps)
        else:
            steps = _steps(autoencoder, value.shape[1])
            given[name] = vector_steps(value, present, settings.vectors[name], settings, steps)
    return given


def fixed_conditions(samples: dict, model: CaptionedDiffusion, seed: int) -> dict[str, Tensor]:
    """What a model is given of samples, with the same tasks every time."""
    diffusion = model.diffusion
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return given_of(samples, settings_of(diffusion.unet), model.autoencoder, diffusion.alphas_cumprod.device)


def _holes(batch: dict, device: torch.device) -> Tensor:
    """Where the map "masks" is white (B, 1, T, H, W); -1 all over where a clip has none."""
    holes = (batch["conditions"][MASKS].to(device).amax(dim=1, keepdim=True) > 0).float()
    there = batch["present"][MASKS].to(device).reshape(-1, 1, 1, 1, 1) > 0
    return torch.where(there, holes, torch.full_like(holes, -1))


def _steps(autoencoder: VideoAutoencoder | None, num_frames: int) -> int:
    """Places in time that so many frames take."""
    return num_frames if autoencoder is None else autoencoder.layout.latent_frames(num_frames)

"""Training clips as cached latents: the samples of a TextVideoDataset, each encoded once.

An augmented sample is another one in each epoch; here a clip has `windows` of them, of which the epochs take turns. A
share of the samples may be fresh ones nevertheless, read and encoded as without a cache.
"""

import hashlib
import json
import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from models.autoencoder import VideoAutoencoder
from utils.data.errors import DataError
from utils.data.readable import DerivedClips, UnreadableClip
from utils.decoding.video_info import files_of
from utils.latents.cache import LatentCache, ShardWriter
from utils.video.frame_windows import window

FRESH = 0xF4E5  # of the random numbers that say which samples are fresh


class LatentClips(DerivedClips):
    """Samples with "latents" (C, t, h, w), not normalised, "text", "index" and "path"; of fresh ones "video" instead.

    clips: a TextVideoDataset, whose keys, groups and paths these are. digest: tells the autoencoder from others.
    Raises DataError for a subclass with its own augment_video, whose samples no name describes.
    """

    def __init__(self, clips, cache: LatentCache, digest: str, windows: int = 1, fresh_share: float = 0.0):
        super().__init__(clips)
        if type(clips).augment_video.__qualname__ != "TextVideoDataset.augment_video":
            raise DataError("latent_cache: augment_video makes other frames each time; leave the cache out")
        self.cache, self.digest = cache, digest
        self.windows, self.fresh_share = (windows, fresh_share) if clips.augments else (1, 0.0)

    def name(self, epoch: int, index: int) -> str:
        """The digest of all that an entry follows from: the file as it is now, window, size, crop, flip, encoder."""
        info = self.clips.items[index][0]
        try:
            stamps = [stamp for file in files_of(info) for stamp in _stamps(file)]
        except OSError as error:
            raise UnreadableClip(f"{info.path}: {error.strerror}") from error
        clips, shape = self.clips, self.clips.shapes[index]
        position, anchor, mirrored, _ = clips.choose(epoch, index)
        frames = window(info, shape.frames, clips.target_fps, clips.short_clips, position).tolist()
        how = [frames, shape, clips.resize_mode, anchor, mirrored, clips.normalize]
        place = info.section or info.part or [each.part for each in info.beside] or None
        about = [info.path, place, stamps, *how, self.digest]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]

    def missing(self, rank: int = 0, world_size: int = 1) -> list[tuple[int, int]]:
        """(epoch, index) of the samples that are still to be encoded, those of one shape together; of several processes
        each gets the share of its rank, whatever the others have done by then."""
        every = [(epoch, index) for clips, _ in self.groups() for index in clips for epoch in range(self.windows)]
        return [key for key in every[rank::world_size] if self._is_missing(*key)]

    def _is_missing(self, epoch: int, index: int) -> bool:
        try:
            return self.name(epoch, index) not in self.cache
        except UnreadableClip:
            return False  # noticed when its turn comes

    def fill(self, autoencoder: VideoAutoencoder, rank: int, world_size: int, show_bar: bool) -> None:
        """Encode this process's share of what is missing. Raises UserError if the disk is full."""
        from tqdm.auto import tqdm

        missing = self.missing(rank, world_size)
        writer = None
        bar = tqdm(missing, desc="encoding clips", unit="clip", disable=None if show_bar and missing else True)
        try:
            for epoch, index in bar:
                try:
                    video = self.clips.read((epoch, index))["video"]
                except UnreadableClip:
                    continue
                latents = autoencoder.encode_raw(video[None].to(autoencoder.mean.device))[0].cpu()
                writer = writer or ShardWriter(self.cache, latents.nbytes * len(missing))
                writer.add([self.name(epoch, index)], [latents])
        finally:
            if writer:
                writer.close()

    def read(self, key: int | tuple[int, int]) -> dict:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        fresh = np.random.default_rng([self.seed, int(epoch), int(index), FRESH]).random() < self.fresh_share
        if fresh:
            return self.clips.read((epoch, index))
        epoch = int(epoch) % self.windows
        name, text = self.name(epoch, index), self.clips.choose(epoch, index)[3]
        text = self.clips.augment_text(text) if self.clips.augments else text
        path = str(self.clips.items[index][0].path)
        if name not in self.cache:
            raise UnreadableClip(f"{path}: it has changed since its latents were cached, or could not be read then")
        try:
            latents = self.cache.load(name)
        except OSError as error:
            raise UnreadableClip(f"{path}: {error}") from error
        return {"latents": latents, "text": text, "index": index, "path": path}

    def collate(self, samples: list[dict]) -> dict:
        """A batch: "latents" of those that have them, "video" of the fresh ones, and "fresh", which they are."""
        fresh = [n for n, sample in enumerate(samples) if "video" in sample]
        batch = default_collate([{k: v for k, v in each.items() if k not in ("video", "latents")} for each in samples])
        batch["fresh"] = torch.tensor(fresh, dtype=torch.long)
        for name in ("latents", "video"):
            if stacked := [sample[name] for sample in samples if name in sample]:
                batch[name] = torch.stack(stacked)
        return batch

    def some(self, most: int) -> Iterator[Tensor]:
        """Latents of up to so many clips, evenly chosen, to measure them."""
        for index in range(0, len(self), -(-len(self) // most)):
            if (name := self.name(0, index)) in self.cache:
                yield self.cache.load(name)


def _stamps(path: str) -> list:
    """Size and time of a file, or of each file in a folder of pictures: what changes when they do."""
    files = sorted(entry.path for entry in os.scandir(path)) if os.path.isdir(path) else [path]
    return [(os.path.basename(file), (status := os.stat(file)).st_size, status.st_mtime_ns) for file in files]


def as_clips(batch: dict, autoencoder: VideoAutoencoder | None, device: torch.device) -> Tensor:
    """What diffusion learns of a batch, on the device: its videos (B, 3, T, H, W), or their normalised latents, from
    the cache, or encoded now."""
    video = batch["video"].to(device, non_blocking=True) if "video" in batch else None
    if autoencoder is None:
        return video
    if "latents" not in batch:
        return autoencoder.encode(video)
    known = autoencoder.normalised(batch["latents"].to(device, non_blocking=True))
    if video is None:
        return known
    clips = known.new_empty(len(known) + len(video), *known.shape[1:])
    fresh = torch.zeros(len(clips), dtype=torch.bool, device=device)
    fresh[batch["fresh"].to(device)] = True
    clips[fresh], clips[~fresh] = autoencoder.encode(video), known
    return clips

"""Clips to fine-tune Stable Video Diffusion on: windows of consecutive frames out of folders of frames, or of episodes.

A dataset is what prepare_dataset.py writes, or any folder that holds one folder of images per clip; then the frame rate
is an assumption and the motion is measured here. Or it is a LeRobot dataset, see episodes.py.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from utils.cli import UserError, printable
from utils.conditions.clip_conditions import ClipConditions
from utils.conditions.vectors import SUFFIXES as TABLES
from utils.data.manifest import MANIFEST, read_manifest
from utils.data.readable import ReadableClips, UnreadableClip
from utils.decoding.images import IMAGE_SUFFIXES, read_image
from utils.decoding.video_info import STILLS, VideoInfo
from utils.files import natural_key
from utils.frame_folders.episodes import EpisodeClip, find_episodes
from utils.lerobot.folder import INFO, is_lerobot
from utils.motion.score import MOTION_MEASURE, motion_score, to_buckets
from utils.video.frames import resize_frames

NO_CLIPS = ("depth", "edges", "flow")  # folders of conditions beside those of clips
MAX_SCORED_FRAMES = 64


@dataclass(frozen=True)
class FrameFolder:
    """A clip on disk. motion_score: short sides per second, by the measure of this number (utils/motion/score.py);
    motion_bucket_id: 1 to 255."""

    folder: Path
    files: tuple[str, ...]
    fps: float
    motion_score: float
    motion_bucket_id: int
    motion_measure: int = MOTION_MEASURE

    def read(self, indices, width: int, height: int, resize_mode: str, anchor=(0.5, 0.5)) -> np.ndarray:
        """Frames, uint8 RGB (T, height, width, 3). Raises UserError for a file that is not an image."""
        frames = (_read_frame(self.folder / self.files[i])[None] for i in indices)
        return np.concatenate([resize_frames(frame, height, width, resize_mode, anchor) for frame in frames])

    @property
    def frames(self) -> int:
        return len(self.files)

    @property
    def info(self) -> VideoInfo:
        """As what lies beside the clip is read for."""
        return VideoInfo(str(self.folder), self.frames, self.fps, 0, 0, STILLS)

    def stamps(self) -> list[tuple[str, int, int]]:
        """(name, size in bytes, time) of all that its frames follow from. Raises OSError for what is gone."""
        statuses = ((name, (self.folder / name).stat()) for name in self.files)
        return [(name, status.st_size, status.st_mtime_ns) for name, status in statuses]

    def own_size(self) -> tuple[int, int]:
        """(height, width)."""
        return _read_frame(self.folder / self.files[0]).shape[:2]


TrainingClip = FrameFolder | EpisodeClip


def find_frame_folders(
    dataset_dir: Path,
    num_frames: int,
    frame_stride: int,
    fps: float,
    motion: str | None,
    max_samples: int | None = None,
    cameras: Sequence[str] | None = None,
) -> tuple[list[TrainingClip], dict[str, list[str]]]:
    """The clips of a dataset that are long enough, in natural order, and {reason: names of the others}.

    fps: the rate of clips that no manifest describes. motion: how scores become buckets, see utils/motion/score.py;
    None takes the manifest's where it knows all clips, else "quantile". One clip alone has no distribution and gets
    SVD's default of 127. Scores in a manifest are believed, even of an older measure, but never mixed: beside others,
    those of an older measure are measured again. cameras: of a LeRobot dataset, side by side; None for the only one.
    Raises UserError if there is no clip, or none long enough.
    """
    needed = (num_frames - 1) * frame_stride + 1
    if is_lerobot(dataset_dir):
        clips, skipped = find_episodes(dataset_dir, needed, max_samples, cameras)
        return with_motion(clips, {}, motion), skipped
    if cameras:
        raise UserError(f"--cameras: is for LeRobot datasets, and there is no {INFO} in {printable(dataset_dir)}")
    described = read_manifest(dataset_dir / MANIFEST)
    folders, skipped = [], {}
    names = sorted((path.name for path in dataset_dir.iterdir() if path.is_dir()), key=natural_key)
    for name in tqdm(names, desc="reading folders", unit="clip", disable=None, leave=False):
        if name.startswith(".") or (name in NO_CLIPS and name not in described):
            continue
        inside = list((dataset_dir / name).iterdir())
        if any(path.suffix in TABLES for path in inside):
            continue  # vectors of the clips, under whatever name
        found = (path.name for path in inside if path.suffix.lower() in IMAGE_SUFFIXES)
        files = tuple(sorted((file for file in found if not file.startswith(".")), key=natural_key))
        if len(files) < needed:
            reason = f"fewer than {needed} frames (--num_frames {num_frames}, --frame_stride {frame_stride})"
            skipped.setdefault(reason, []).append(f"{name} ({len(files)})")
            continue
        row = described.get(name, {})
        measure = row.get("motion_measure", 1) if "motion_score" in row else MOTION_MEASURE
        score = float(row["motion_score"]) if "motion_score" in row else None
        folders.append(FrameFolder(dataset_dir / name, files, float(row.get("fps", fps)), score, 127, measure))
        if len(folders) == max_samples:
            break
    if not folders:
        why = "; ".join(f"{reason}: {', '.join(names[:5])}" for reason, names in skipped.items())
        raise UserError(
            f"--dataset_dir: {printable(dataset_dir)} has no clip to train on ({why or 'no folder of images'}); "
            "prepare_dataset.py writes them, --num_frames asks for shorter ones"
        )
    return with_motion(folders, described, motion), skipped


def with_motion(clips: list, described: dict[str, dict], motion: str | None) -> list:
    """Clips with motion scores and buckets, see find_frame_folders. described: what a manifest says, by name."""
    measures = {clip.motion_measure for clip in clips}
    buckets = [described.get(clip.folder.name, {}).get("motion_bucket_id") for clip in clips]
    measured = list(clips)
    for n, clip in enumerate(tqdm(clips, desc="measuring motion", unit="clip", disable=None, leave=False)):
        if clip.motion_score is None or (len(measures) > 1 and clip.motion_measure != MOTION_MEASURE):
            measured[n], buckets[n] = replace(clip, motion_score=_score(clip), motion_measure=MOTION_MEASURE), None
    if len(measured) == 1:
        motion = "const"
    if motion is not None or None in buckets:
        buckets = to_buckets([clip.motion_score for clip in measured], motion or "quantile")
    return [replace(clip, motion_bucket_id=bucket) for clip, bucket in zip(measured, buckets, strict=True)]


def _read_frame(path: Path) -> np.ndarray:
    return read_image(path, "--dataset_dir", "remove its folder, or write it again with prepare_dataset.py")


def _score(clip: TrainingClip) -> float:
    """Motion of the first frames, for clips that no manifest describes."""
    count = min(clip.frames, MAX_SCORED_FRAMES)
    height, width = clip.own_size()
    return motion_score(clip.read(range(count), width, height, "stretch"), clip.fps)


class FrameClips(ReadableClips):
    """Windows of `num_frames` frames, every `frame_stride`-th, as dicts:

    "path", "first_frame" (3, H, W) float32 in [-1, 1], "fps" after the stride, "motion_bucket_id"; and either "frames"
    (T, 3, H, W) in [-1, 1] or, with a cache (see latent_cache.py), "latents" (T, 4, H/8, W/8) and "image_embeddings"
    (1, D). Index (epoch, i) draws the window, and with random_crop the crop, from (seed, epoch, i) alone; a plain index
    i takes the middle window. conditions: vectors beside the clips, which add "conditions" and "present", see
    KnownClips. Raises ValueError for a random crop together with a cache.
    """

    def __init__(
        self,
        folders: list[TrainingClip],
        num_frames: int,
        width: int,
        height: int,
        *,
        frame_stride: int = 1,
        resize_mode: str = "crop",
        random_crop: bool = False,
        seed: int = 0,
        cache=None,
        max_unreadable: int | None = None,
        conditions: ClipConditions | None = None,
    ):
        super().__init__(seed, max_unreadable)
        if random_crop and cache is not None:
            raise ValueError("cached latents are of the middle of the frame: no random crop with a cache")
        self.folders, self.num_frames, self.frame_stride = folders, num_frames, frame_stride
        self.size = (width, height, resize_mode)
        self.random_crop, self.cache, self.conditions = random_crop, cache, conditions

    def __len__(self) -> int:
        return len(self.folders)

    def path(self, index: int) -> Path:
        return self.folders[index].folder

    def read(self, index: int | tuple[int, int]) -> dict:
        epoch, index = index if isinstance(index, tuple) else (None, index)
        clip, anchor = self.folders[index], (0.5, 0.5)
        starts = clip.frames - (self.num_frames - 1) * self.frame_stride
        start = starts // 2
        if epoch is not None:
            rng = np.random.default_rng([self.seed, epoch, index])
            start = int(rng.integers(starts))
            anchor = tuple(rng.random(2)) if self.random_crop else anchor
        window = range(start, start + (self.num_frames - 1) * self.frame_stride + 1, self.frame_stride)
        item = {
            "path": str(clip.folder),
            "fps": torch.tensor(clip.fps / self.frame_stride),
            "motion_bucket_id": torch.tensor(float(clip.motion_bucket_id)),
        }
        if self.conditions is not None:
            values, item["present"], _ = self.conditions.read(clip.info, np.array(window), lambda frames: frames)
            item["conditions"] = {name: torch.from_numpy(value) for name, value in values.items()}
        try:
            if self.cache is None:
                frames = to_tensor(clip.read(window, *self.size, anchor))
                return {"frames": frames, "first_frame": frames[0], **item}
            first_frame = to_tensor(clip.read(window[:1], *self.size, anchor))[0]
            return {**self.cache.load(clip, window), "first_frame": first_frame, **item}
        except (UserError, OSError, ValueError, SafetensorError) as error:
            raise UnreadableClip(f"{clip.folder}: {error}; it was readable when training began") from error


def to_tensor(frames: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) -> float32 (T, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 127.5 - 1


def split_folders(clips: list, val_fraction: float, seed: int) -> tuple[list, list]:
    """(training, validation) clips by a draw that depends on seed alone; a single clip serves as both."""
    count = min(max(1, round(val_fraction * len(clips))), len(clips) - 1) if val_fraction > 0 else 0
    if count == 0:
        return clips, clips
    chosen = set(np.random.default_rng([seed, 0x5E7]).permutation(len(clips))[:count].tolist())
    return (
        [clip for i, clip in enumerate(clips) if i not in chosen],
        [clip for i, clip in enumerate(clips) if i in chosen],
    )


def clip_digests(clips: list[TrainingClip]) -> dict[str, str]:
    """{folder: digest of what its samples follow from}: names and sizes in bytes of the frames, rate, motion."""

    def digest(clip: TrainingClip) -> str:
        files = [(name, size) for name, size, _ in clip.stamps()]
        return hashlib.sha256(json.dumps([files, clip.fps, clip.motion_bucket_id]).encode()).hexdigest()[:16]

    return {clip.folder.name: digest(clip) for clip in clips}

"""Episodes of a LeRobot dataset as clips to fine-tune Stable Video Diffusion on; their frames stay in its videos."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.cli import UserError
from utils.data.clip_index import usable_clips
from utils.data.errors import DataError
from utils.data.find_clips import FolderFormat
from utils.decoding.video_info import VideoInfo, files_of
from utils.motion.score import MOTION_MEASURE
from utils.video.frames import resize_frames


@dataclass(frozen=True)
class EpisodeClip:
    """What FrameFolder is for a folder of frames. folder: what the episode is called; there is no such folder."""

    info: VideoInfo
    motion_score: float | None = None
    motion_bucket_id: int = 127
    motion_measure: int = MOTION_MEASURE

    @property
    def folder(self) -> Path:
        return Path(self.info.path)

    @property
    def frames(self) -> int:
        return self.info.frames

    @property
    def fps(self) -> float:
        return self.info.fps

    def read(self, indices, width: int, height: int, resize_mode: str, anchor=(0.5, 0.5)) -> np.ndarray:
        """Frames, uint8 RGB (T, height, width, 3). Raises VideoError for a video that cannot be read any more."""
        from utils.decoding.read import iter_frames

        frames = (frame[None] for frame in iter_frames(self.info, indices))
        return np.concatenate([resize_frames(frame, height, width, resize_mode, anchor) for frame in frames])

    def stamps(self) -> list[tuple[str, int, int]]:
        """(what part of which file, its size in bytes, its time) of all that the frames follow from. Raises OSError for
        what is gone."""
        parts = self.info.beside or (self.info,)
        statuses = ((part, file, os.stat(file)) for part, file in zip(parts, files_of(self.info), strict=True))
        root = self.folder.parent
        return [
            (f"{os.path.relpath(file, root)} from {part.part.first}", status.st_size, status.st_mtime_ns)
            for part, file, status in statuses
        ]

    def own_size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.info.height, self.info.width


def find_episodes(
    dataset_dir: Path, num_frames: int, max_samples: int | None, cameras: Sequence[str] | None
) -> tuple[list[EpisodeClip], dict[str, list[str]]]:
    """(episodes of at least so many frames, {reason: names of the others}), see find_frame_folders. Raises UserError if
    there is none, or for a camera that is not clear."""
    how = FolderFormat(cameras=cameras)
    try:
        items, _, report = usable_clips(dataset_dir, how, num_frames, None, "skip", "empty", max_samples)
    except DataError as error:
        raise UserError(f"--dataset_dir: {error}") from None
    return [EpisodeClip(info) for info, _ in items], report["skipped"]

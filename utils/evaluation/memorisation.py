"""Are generated clips copies of training clips? For each its nearest training clip, and what distance is usual.

Distances are between small clips, 8 frames of 16x16 pixels, and are root mean squares in levels of 255 (Carlini et al.
2023, arXiv:2301.13188, sec. 4.2, measure so, and likewise against what is usual nearby). They find copies, also
encoded again or noised; not mirrored ones, other windows of the same video, or copied parts.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from models.metrics.distances import Distance, share_interval
from models.metrics.video_features import pick_frames
from utils.video.frames import resize_frames

FRAMES, SIDE = 8, 16
SAME_CLIP = 2.0  # levels of 255: below it two training clips are one clip stored twice
COPY_RATIO = 0.5  # of the usual distance; fresh clips lie at about 1
CHUNK = 512  # clips whose distances are in memory at a time: 512 x 8192 of them


@dataclass(frozen=True)
class Neighbours:
    """For N generated clips; distances in levels of 255.

    nearest: (N,) index of the nearest training clip; distance: (N,) to it. usual: (N,) distance of that training clip
    to its own nearest neighbour in the training set, clips stored twice aside. training_distance: the same of up to
    `num_reference` training clips drawn at random.
    """

    nearest: np.ndarray
    distance: np.ndarray
    usual: np.ndarray
    training_distance: np.ndarray

    @property
    def ratio(self) -> np.ndarray:
        """(N,) distance / usual: about 1 for fresh clips, about 0 for copies."""
        return self.distance / self.usual

    @property
    def suspected(self) -> np.ndarray:
        """(N,) bool: less than half as far from a training clip as that is from all other training clips.

        Clips to look at, not a verdict: of fresh clips of the demo's shapes (300 for training) 3 % are suspected, of
        noised copies 98 %. Held-out clips in the place of generated ones show how many are by chance.
        """
        return self.ratio < COPY_RATIO

    @property
    def suspected_share(self) -> Distance:
        return share_interval(self.suspected, "share of suspected copies")

    @property
    def closer_share(self) -> Distance:
        """Share closer to the training set than the median training clip is to the rest of it: about a half for fresh
        clips of the same kind, 1 for copies, and 0 for clips of another kind."""
        return share_interval(self.distance < np.median(self.training_distance), "share closer than training clips are")


def nearest_training_clips(
    generated: Iterable[np.ndarray], training: Iterable[np.ndarray], num_reference: int = 1000, seed: int = 0
) -> Neighbours:
    """The nearest training clip of each generated one; clips are uint8 RGB (T, H, W, 3) of any T and size.

    Both are read once, one clip at a time; 6 KB of each is kept. Raises ValueError for no generated clips and for fewer
    than two different training clips, among which no distance is usual.
    """
    samples, clips = small_clips(generated, "generated clips"), small_clips(training, "training clips")
    if not len(samples) or len(clips) < 2:
        raise ValueError(f"{len(samples)} generated and {len(clips)} training clips: needs at least 1 and 2")
    nearest, distance = _nearest(samples, clips)
    drawn = np.random.default_rng(seed).permutation(len(clips))[:num_reference]
    asked, places = np.unique(np.concatenate([nearest, drawn]), return_inverse=True)
    _, usual = _nearest(clips[asked], clips, at_least=SAME_CLIP)
    if not np.isfinite(usual).all():
        raise ValueError("all training clips are the same clip, so no distance between them is usual")
    usual = usual[places]
    return Neighbours(nearest, distance, usual[: len(samples)], usual[len(samples) :])


def small_clips(clips: Iterable[np.ndarray], label: str | None = None) -> np.ndarray:
    """uint8 (N, 8 * 16 * 16 * 3): every clip as 8 even frames of 16x16 pixels; shorter clips repeat frames."""
    small = []
    for clip in tqdm(clips, desc=label, disable=label is None, leave=False):
        indices = pick_frames(len(clip), FRAMES)
        indices = [indices[n * len(indices) // FRAMES] for n in range(FRAMES)]
        small.append(resize_frames(clip[indices], SIDE, SIDE, "stretch").reshape(-1))
    return np.stack(small) if small else np.zeros((0, FRAMES * SIDE * SIDE * 3), np.uint8)


def _nearest(queries: np.ndarray, clips: np.ndarray, at_least: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(index, distance) of the nearest of `clips` that is `at_least` so far; infinite if there is none."""
    index, best = np.zeros(len(queries), int), np.full(len(queries), np.inf)
    for start in range(0, len(clips), 16 * CHUNK):
        block = clips[start : start + 16 * CHUNK].astype(np.float32) - 128
        norms = np.square(block).mean(axis=1)
        for first in range(0, len(queries), CHUNK):
            rows = slice(first, first + CHUNK)
            query = queries[rows].astype(np.float32) - 128
            squares = np.square(query).mean(axis=1)[:, None] + norms - 2 / query.shape[1] * (query @ block.T)
            distances = np.sqrt(squares.clip(min=0))
            distances[distances < at_least] = np.inf
            own = distances.argmin(axis=1)
            smallest = distances[np.arange(len(own)), own]
            closer = smallest < best[rows]
            index[rows][closer], best[rows][closer] = start + own[closer], smallest[closer]
    return index, best

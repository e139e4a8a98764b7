"""How much the clips of a set move, with intervals, and whether two sets of clips move alike."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from models.metrics.distances import Distance, difference, mean_interval, median_interval, share_interval
from utils.motion.score import motion_meter


@dataclass(frozen=True)
class MotionStatistics:
    """One number per clip: `scores`, motion in short sides per second (see utils/motion/score.py), `static`, whether
    nothing changes beyond noise, and `frame_differences`, mean absolute difference of successive frames in levels of
    255; the latter sees flicker too and depends on the rate."""

    scores: tuple[float, ...]
    static: tuple[bool, ...]
    frame_differences: tuple[float, ...]

    def summary(self) -> dict[str, Distance]:
        """Each statistic of the set with its 95 % interval."""
        return {
            "mean_motion": mean_interval(self.scores, "mean motion, short sides/s"),
            "median_motion": median_interval(self.scores, "median motion, short sides/s"),
            "static_share": share_interval(self.static, "share of static clips"),
            "frame_difference": mean_interval(self.frame_differences, "mean frame difference, levels of 255"),
        }


@dataclass(frozen=True)
class MotionComparison:
    """A statistic of both sets and generated - real. Its interval without 0 says that the two differ."""

    generated: Distance
    real: Distance
    difference: Distance

    @property
    def differ(self) -> bool:
        return self.difference.low > 0 or self.difference.high < 0


def motion_statistics(clips: Iterable[np.ndarray], fps: float) -> MotionStatistics:
    """Motion of each clip. clips: uint8 RGB (T, H, W, 3), T may differ; fps: their rate in frames/s.

    Raises ValueError if there are none.
    """
    scores, static, differences = [], [], []
    for clip in clips:
        meter = motion_meter(clip, fps)
        scores.append(meter.score())
        static.append(meter.static())
        steps = [np.abs(after.astype(np.int16) - before).mean() for before, after in zip(clip, clip[1:], strict=False)]
        differences.append(float(np.mean(steps)) if steps else 0.0)
    if not scores:
        raise ValueError("there are no clips whose motion could be measured")
    return MotionStatistics(tuple(scores), tuple(static), tuple(differences))


def compare_motion(generated: MotionStatistics, real: MotionStatistics) -> dict[str, MotionComparison]:
    """The statistics of two sets side by side, by name; measure both at the same rate and number of frames."""
    theirs = real.summary()
    return {
        name: MotionComparison(own, theirs[name], difference(own, theirs[name]))
        for name, own in generated.summary().items()
    }

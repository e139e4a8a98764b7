"""What LeRobot datasets say of the numbers in them, with which policies normalise: of an episode, and of all."""

from collections.abc import Sequence

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
SAMPLED_FRAMES, SAMPLED_SIDE = 100, 150  # of a video, evenly: as many as lerobot looks at

Stats = dict[str, np.ndarray]


def column_stats(values: np.ndarray) -> Stats:
    """{"min", "max", "mean", "std", "q01", ...: (D,), "count": (1,)} of rows (N, D) of numbers or truth values."""
    rows = np.asarray(values, np.float64)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    found |= {name: np.quantile(rows, share, axis=0) for name, share in QUANTILES.items()}
    return found | {"count": np.array([len(rows)])}


def video_stats(frames: np.ndarray) -> Stats:
    """The same of the colours of frames, uint8 (T, H, W, 3), in [0, 1]: each (3, 1, 1), and how many frames count."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), SAMPLED_FRAMES)).round().astype(int))
    step = max(1, max(frames.shape[1:3]) // SAMPLED_SIDE)
    found = column_stats(frames[chosen, ::step, ::step].reshape(-1, 3) / 255)
    return {name: value.reshape(3, 1, 1) for name, value in found.items() if name != "count"} | {
        "count": np.array([len(chosen)])
    }


def combined(parts: Sequence[Stats]) -> Stats:
    """Of all, from those of parts. Quantiles are the mean over the parts, as in lerobot: what is exact would need every
    number again."""
    counts = np.array([float(part["count"][0]) for part in parts])
    weights = counts / counts.sum()

    def mean(values: list[np.ndarray]) -> np.ndarray:
        return sum(weight * value for weight, value in zip(weights, values, strict=True))

    total = {name: mean([part[name] for part in parts]) for name in ("mean", *QUANTILES)}
    spread = mean([part["std"] ** 2 + (part["mean"] - total["mean"]) ** 2 for part in parts])
    total |= {"std": np.sqrt(spread), "count": np.array([int(counts.sum())])}
    total |= {name: getattr(np, name)([part[name] for part in parts], axis=0) for name in ("min", "max")}
    return total

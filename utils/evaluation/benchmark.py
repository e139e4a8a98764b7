"""The demo dataset as a benchmark with known truth: fixed prompts, and the judge's word on each video.

Its folder says so (dataset.json), and utils/evaluation/judge.py tells by classical computer vision whether a video
shows what its prompt says.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from models.metrics.distances import share_interval
from utils.arguments.data import frame_shape
from utils.demo_data import shapes
from utils.evaluation.judge import Verdict, judge, wanted
from utils.evaluation.samples import Sample
from utils.evaluation.scores import score_groups

GROUPS = {"seen": False, "held out": True}  # combinations that training clips show, and that none shows


def demo_settings(data_dir: Path) -> dict | None:
    """How video_dataset.py wrote this dataset, or None if it is not the demo's."""
    try:
        settings = json.loads((data_dir / "dataset.json").read_text(encoding="utf-8"))["settings"]
        return settings if isinstance(settings.get("hard"), bool) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def benchmark(num_prompts: int, hard: bool) -> dict[str, list[str]]:
    """Group -> the benchmark's fixed prompts, half of them in sentence forms that no training caption has."""
    return {group: shapes.benchmark_prompts(num_prompts, hard, held_out) for group, held_out in GROUPS.items()}


def judge_samples(samples: list[Sample]) -> dict[str, list[tuple[dict, Verdict]]]:
    """Group -> (what the prompt asks for, what the judge sees) of each sample whose frames have been read."""
    from tqdm.auto import tqdm

    rows: dict[str, list] = {}
    for sample in tqdm(samples, desc="judging", unit="video"):
        rows.setdefault(sample.group, []).append((wanted(sample.prompt), judge(sample.frames)))
    return rows


FAITHFUL = {"misfit": "as crisp as the data", "flicker": "background as still as the data's"}
OF_THE_DATA = 0.99  # quantile: what a clip of the data itself exceeds once in a hundred times
UNSEEN = {"misfit": 0.0, "flicker": 0.5}  # half a level is what rounding does; a codec keeps a still picture to the bit


LIKE = {
    "travel": "way of the objects",
    "near": "change from frame to frame near them",
    "flicker": "change far from them",
    "contrast": "contrast to the background",
}
LEAST, MOST = 0.9, 1.1  # what of a ratio is nothing to be warned of


def likeness(verdicts: list[Verdict], real: Iterable[np.ndarray], fps: float) -> dict[str, dict]:
    """Is what moves in the videos what moves in the data? For each of LIKE the "mean" of the videos, the "mean_of_data"
    and their "ratio", and whether it is "like" the data's: from LEAST to MOST, or too little to be seen.

    real: clips that show what the videos were asked for, in the same order, uint8 RGB (T, H, W, 3). Of videos in which
    something cannot be measured, the pair does not count for it.
    """
    theirs = list(judge_compressed(real, fps))
    found = {}
    for name in LIKE:
        pairs = [(getattr(a, name), getattr(b, name)) for a, b in zip(verdicts, theirs, strict=True)]
        pairs = [pair for pair in pairs if None not in pair]
        if pairs:
            mean, of_data = map(float, np.mean(pairs, axis=0))
            like = LEAST * of_data <= mean <= MOST * of_data or max(mean, of_data) <= UNSEEN.get(name, 0)
            found[name] = {"mean": mean, "mean_of_data": of_data, "ratio": mean / max(of_data, 1e-9), "like": like}
    return found


def judge_compressed(clips: Iterable[np.ndarray], fps: float) -> Iterator[Verdict]:
    """What the judge sees of clips that are compressed as videos are, for what is lost there is no fault of a model."""
    from utils.decoding.probe import probe_video
    from utils.decoding.read import read_frames
    from utils.video.encode import write_video

    with TemporaryDirectory() as folder:
        path = Path(folder, "clip.mp4")
        for clip in clips:
            write_video(path, clip, fps)
            yield judge(read_frames(probe_video(path), range(len(clip))))


def faithfulness(verdicts: list[Verdict], real: Iterable[np.ndarray], fps: float) -> dict[str, dict]:
    """Are outlines as crisp and backgrounds as still as the data's? For each of FAITHFUL: the "share" of videos, a
    Distance, that lie within the data's own 99 % range, the "limit" of that, and both medians.

    real: clips of the data, uint8 RGB (T, H, W, 3), of the videos' size and length. A video without an object lies
    outside.
    """
    theirs, found = list(judge_compressed(real, fps)), {}
    for name, kind in FAITHFUL.items():
        own = [getattr(verdict, name) for verdict in verdicts]
        data = [value for verdict in theirs if (value := getattr(verdict, name)) is not None]
        if not data or all(value is None for value in own):
            continue
        limit = max(float(np.quantile(data, OF_THE_DATA)), UNSEEN[name])
        within = [value is not None and value <= limit for value in own]
        median = float(np.median([value for value in own if value is not None]))
        share = share_interval(within, f"share of videos {kind}")
        found[name] = {"share": share, "limit": limit, "median": median, "median_of_data": float(np.median(data))}
    return found


def judge_model(model, num_prompts: int, hard: bool, batch_size: int, settings: dict) -> dict[str, list]:
    """The same of a CaptionedDiffusion in memory, on the benchmark's prompts with fixed seeds; nothing is written.

    settings: of CaptionedDiffusion.sample (num_frames, height, width, guidance_scale, ...).
    """
    from utils.video.frames import to_uint8

    rows: dict[str, list] = {}
    for group, prompts in benchmark(num_prompts, hard).items():
        for first in range(0, num_prompts, batch_size):
            batch = prompts[first : first + batch_size]
            videos = model.sample(batch, range(first, first + len(batch)), **settings)
            rows.setdefault(group, []).extend(
                (wanted(prompt), judge(to_uint8(video))) for prompt, video in zip(batch, videos, strict=True)
            )
    return rows


def benchmark_accuracy(args: argparse.Namespace, model, how: dict) -> dict[str, float]:
    """The same of a training's model as metrics, on the data of its args. how: the other settings of sampling."""
    height, width = frame_shape(args)
    shape = {"num_frames": args.num_frames, "height": height, "width": width}
    hard = demo_settings(args.data_dir)["hard"]
    return accuracies(score_groups(judge_model(model, args.evaluate_prompts, hard, 16, shape | how)))


def accuracies(groups: dict[str, dict]) -> dict[str, float]:
    """Shares of utils.evaluation.scores.score_groups as metrics of a run: {"accuracy/seen_all": 0.9, ...}."""
    return {
        f"accuracy/{group.replace(' ', '_')}_{name}": found["share"]
        for group, scores in groups.items()
        for name, found in scores.items()
        if found["share"] is not None
    }

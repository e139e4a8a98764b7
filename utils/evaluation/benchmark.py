"""The demo dataset as a benchmark with known truth: fixed prompts, and the judge's word on each video.

Its folder says so (dataset.json), and utils/evaluation/judge.py tells by classical computer vision whether a video
shows what its prompt says.
"""

import json
from pathlib import Path

from utils.demo_data import shapes
from utils.evaluation.judge import Verdict, judge, wanted
from utils.evaluation.samples import Sample

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


def accuracies(groups: dict[str, dict]) -> dict[str, float]:
    """Shares of utils.evaluation.scores.score_groups as metrics of a run: {"accuracy/seen_all": 0.9, ...}."""
    return {
        f"accuracy/{group.replace(' ', '_')}_{name}": found["share"]
        for group, scores in groups.items()
        for name, found in scores.items()
        if found["share"] is not None
    }

"""What is evaluated: the benchmark's prompts, the videos made for them, and the judge's word on each.

The demo dataset is a benchmark with known truth: its folder says so (dataset.json), and utils/judge.py tells by
classical computer vision whether a video shows what its prompt says.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils import shapes
from utils.cli import UserError, printable
from utils.judge import Verdict, judge, wanted

GROUPS = {"seen": False, "held out": True}  # combinations that training clips show, and that none shows
VIDEO_SUFFIXES = (".mp4", ".mkv", ".avi", ".mov", ".webm", ".gif", ".m4v", ".mpg")


@dataclass
class Sample:
    """One video to be judged."""

    path: Path
    prompt: str
    group: str
    note: str = ""
    frames: np.ndarray | None = None  # uint8 RGB (T, H, W, 3)
    nearest: dict | None = None  # the nearest training clip: {"clip": path, "distance", "ratio"}, see memorisation.py


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


def find_samples(folder: Path) -> list[Sample]:
    """The videos of a folder, or of its videos/, with their prompts.

    The prompt of a.mp4 stands in a.json ("prompt", and optionally "group"), in a.txt, or in captions/a.txt beside
    videos/. Raises UserError that names what is missing.
    """
    videos = folder / "videos" if (folder / "videos").is_dir() else folder
    paths = sorted(path for path in videos.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"--videos: {folder} holds no video ({', '.join(VIDEO_SUFFIXES)})")
    samples, without = [], []
    for path in paths:
        prompt, group = _prompt_of(path, folder / "captions")
        samples.append(Sample(path, prompt, group))
        if not prompt:
            without.append(path.name)
    if without:
        raise UserError(
            f"--videos: {len(without)} videos have no prompt, {printable(without[0])} for one: write it into a .txt of "
            'the same name, or into a .json as {"prompt": ...}'
        )
    return samples


def _prompt_of(video: Path, captions: Path) -> tuple[str, str]:
    """(prompt, group) of a video; an empty prompt if there is none."""
    sidecar = video.with_suffix(".json")
    try:
        if sidecar.is_file():
            about = json.loads(sidecar.read_text(encoding="utf-8"))
            return str(about["prompt"]).strip(), str(about.get("group", "videos"))
        for text in (video.with_suffix(".txt"), captions / f"{video.stem}.txt"):
            if text.is_file():
                return text.read_text(encoding="utf-8-sig").strip(), "videos"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"--videos: the prompt of {printable(video.name)} cannot be read ({error})") from None
    return "", "videos"


def read_samples(samples: list[Sample]) -> None:
    """Read the frames of each sample. Raises UserError that names a video that cannot be read."""
    from tqdm.auto import tqdm

    from utils.video_io import VideoError, probe_video, read_frames

    for sample in tqdm(samples, desc="reading videos", unit="video"):
        try:
            info = probe_video(sample.path)
            sample.frames = read_frames(info, range(info.frames))
        except (VideoError, OSError) as error:
            raise UserError(f"{printable(sample.path)} cannot be read ({error}); remove it or draw it again") from None


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
    from utils.video_io import to_uint8

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
    """Shares of utils.scores.score_groups as metrics of a run: {"accuracy/seen_all": 0.9, ...}."""
    return {
        f"accuracy/{group.replace(' ', '_')}_{name}": found["share"]
        for group, scores in groups.items()
        for name, found in scores.items()
        if found["share"] is not None
    }


# The data ---------------------------------------------------------------------------------------------------------


def reading_of(sample: Sample, target_fps: float | None) -> dict:
    """How to read training clips so that they compare with a video that some other program made."""
    num_frames, height, width, _ = sample.frames.shape
    return {"num_frames": num_frames, "frame_size": (height, width), "target_fps": target_fps}


class TrainingClips:
    """The training clips of a data folder as uint8 RGB (T, H, W, 3), read one at a time from a TextVideoDataset."""

    def __init__(self, dataset):
        self.dataset = dataset
        self.indices = list(range(len(dataset)))
        rates = [info.fps for info, _ in dataset.items]
        self.fps = float(dataset.target_fps or np.median(rates))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self):
        from utils.video_io import to_uint8

        return (to_uint8(self.dataset[i]["video"]) for i in self.indices)

    def path(self, index: int) -> Path:
        """The video file of a clip."""
        return Path(self.dataset.items[self.indices[index]][0].path)

    def spread(self, count: int) -> "TrainingClips":
        """`count` of the clips at equal distances, or all of them if there are fewer."""
        chosen = TrainingClips(self.dataset)
        chosen.indices = [self.indices[i] for i in np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)]
        return chosen


# Several runs -----------------------------------------------------------------------------------------------------


def compare_runs(paths: list[Path]) -> str:
    """Runs in order, from the evaluation.json of each: by right videos and by kernel distance, as text.

    Runs whose 95 % intervals overlap are not ranked against each other. Raises UserError for a file that is not one of
    ours, and for distances to other data or with other numbers of clips, which do not compare.
    """
    from models.distances import Distance, rank_runs

    runs = {}
    for path in paths:
        try:
            runs[str(path.parent)] = json.loads(path.read_text(encoding="utf-8"))
            kernel = {
                name: found["kernel"]
                for name, found in runs[str(path.parent)]["distances"].items()
                if "kernel" in found
            }
            runs[str(path.parent)]["kernel"] = {name: Distance(**found) for name, found in kernel.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"--compare: {path} is not an evaluation.json of this program ({error!r})") from None
    if len(runs) < len(paths):
        raise UserError("--compare: two of the files lie in one folder; give each run once")
    lines = []
    for group in GROUPS:
        if all(group in run.get("groups", {}) for run in runs.values()):
            shares = {}
            for name, run in runs.items():
                found = run["groups"][group]["all"]
                shares[name] = Distance(f"all right, {group}", found["share"], *found["interval"])
            lines += [f"share of videos with everything right, {group}:", *_places(rank_runs(shares, False))]
    same = {(run["data"], run["num_videos"], run["num_real"]) for run in runs.values()}
    if len(same) > 1:
        raise UserError(
            "--compare: the runs were measured against other clips, or with other --num_prompts or --num_real"
        )
    for feature in runs[next(iter(runs))]["kernel"]:
        if all(feature in run["kernel"] for run in runs.values()):
            ranked = rank_runs({name: run["kernel"][feature] for name, run in runs.items()})
            lines += [f"kernel distance to the data on {feature} features:", *_places(ranked)]
    return "\n".join(lines)


def _places(ranked: list) -> list[str]:
    return [f"  {run}" for run in ranked]

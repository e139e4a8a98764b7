"""The videos that are evaluated, with their prompts, and the training clips that they are compared with."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.cli import UserError, printable
from utils.video.frame_windows import window_starts

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

    from utils.decoding.probe import probe_video
    from utils.decoding.read import read_frames
    from utils.decoding.video_info import VideoError

    for sample in tqdm(samples, desc="reading videos", unit="video"):
        try:
            info = probe_video(sample.path)
            sample.frames = read_frames(info, range(info.frames))
        except (VideoError, OSError) as error:
            raise UserError(f"{printable(sample.path)} cannot be read ({error}); remove it or draw it again") from None


def reading_of(sample: Sample, target_fps: float | None) -> dict:
    """How to read training clips so that they compare with a video that some other program made."""
    num_frames, height, width, _ = sample.frames.shape
    return {"num_frames": num_frames, "frame_size": (height, width), "target_fps": target_fps}


class TrainingClips:
    """The training clips of a data folder as uint8 RGB (T, H, W, 3), read one at a time from a TextVideoDataset."""

    def __init__(self, dataset):
        self.dataset = dataset
        how = (dataset.num_frames, dataset.target_fps)  # a training on buckets has used shorter clips too
        self.indices = [n for n, (info, _) in enumerate(dataset.items) if len(window_starts(info, *how))]
        self.indices = self.indices if dataset.short_clips == "skip" else list(range(len(dataset)))
        rates = [info.fps for info, _ in dataset.items]
        self.fps = float(dataset.target_fps or np.median(rates))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self):
        from utils.video.frames import to_uint8

        return (to_uint8(self.dataset[i]["video"]) for i in self.indices)

    def path(self, index: int) -> Path:
        """The video file of a clip."""
        return Path(self.dataset.items[self.indices[index]][0].path)

    def spread(self, count: int) -> "TrainingClips":
        """`count` of the clips at equal distances, or all of them if there are fewer."""
        chosen = TrainingClips(self.dataset)
        chosen.indices = [self.indices[i] for i in np.linspace(0, len(self) - 1, min(count, len(self))).astype(int)]
        return chosen

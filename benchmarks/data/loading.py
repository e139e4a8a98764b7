"""How fast clips come from the disk, and how long training waits for them.

    python -m benchmarks.data.loading                       # a quarter of an hour on two cores

Windows per second: what TextVideoDataset and Batches deliver, against the naive reader, which opens the file, decodes
all of it, resizes every frame and cuts the window out, as the libraries of 2022 do. The demo dataset has tiny clips,
8 frames of 16 at 32x32; "film" stands for real ones: H.264 at 640x360 and 24 frames/s, 16 frames of 64x64. Both sides
get the same loader and the same order of clips and take turns. `first` is a first pass, worker processes and their
start included; `later` a pass that comes when decoded clips have gathered in the cache.

Waiting: train/data_wait_share of a training of the demo preset; and of a loop with the defaults of the base preset
(batches of 4, 2 workers) whose step is a second of sleep, on the film. The first batch, for which nothing could be
fetched ahead, is part of both. The goal is less than 2 % in each. Results go into results/data.json and data.png.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from utils.cli import Parser, UserError, integer, number, run

ROOT = Path(__file__).parents[2]
WAIT_GOAL = 0.02
FILM_SIZE, FILM_FPS = (360, 640), 24  # height and width in px, frames/s
SETTINGS = {
    "demo": {"num_frames": 8, "frame_size": 32, "target_fps": 4.0, "augment": False},
    "film": {"num_frames": 16, "frame_size": 64},
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--demo_clips", type=integer(8, 100_000), default=400, help="clips of the demo dataset")
    parser.add_argument("--film_clips", type=integer(4, 10_000), default=16, help="clips of the film")
    parser.add_argument("--film_seconds", type=number(1, 600), default=10, help="length of each of them")
    parser.add_argument("--repeats", type=integer(1, 100), default=3, help="turns of either side; medians count")
    parser.add_argument("--later", type=integer(1, 1000), default=20, help="passes before the later one")
    parser.add_argument("--demo_steps", type=integer(1, 100_000), default=40, help="of the demo training")
    parser.add_argument("--steps", type=integer(1, 100_000), default=100, help="of the loop of sleeps")
    parser.add_argument("--step_seconds", type=number(0, 60), default=1.0, help="how long each of them takes")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result
    from utils.demo_data.demo_dataset import write_demo_dataset

    with tempfile.TemporaryDirectory() as temporary:
        folders = {"demo": Path(temporary, "demo"), "film": Path(temporary, "film")}
        write_demo_dataset(folders["demo"], args.demo_clips)
        write_film(folders["film"], args.film_clips, args.film_seconds)
        windows = {
            name: {f"{workers} workers": rates(folder, name, workers, args) for workers in (0, 2)}
            for name, folder in folders.items()
        }
        waiting = {
            "demo training": demo_waiting(folders["demo"], args.demo_steps),
            "base settings": sleeping_waiting(folders["film"], args.steps, args.step_seconds),
        }
    result = {"settings": vars(args), "windows_per_second": windows, "wait_goal": WAIT_GOAL, "waiting": waiting}
    path = write_result("data", result)
    plot(result, path.with_suffix(".png"))
    print(json.dumps(result, indent=1))


# Clips ----------------------------------------------------------------------------------------------------------------


def moving_picture(num_frames: int, height: int, width: int, seed: int):
    """uint8 RGB (T, H, W, 3): the camera pans, turns and zooms over a picture that has detail at every scale."""
    import cv2
    import numpy as np

    rng, side = np.random.default_rng(seed), 2 * max(height, width)
    scene = np.full((side, side, 3), 128, np.float32)
    for octave in range(2, 10):  # 4 to 512 cells a side
        cells = rng.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
        scene += 40 / 1.35 ** (octave - 2) * cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC)
    scene = np.clip(scene, 0, 255).astype(np.uint8)
    pan, turn = rng.uniform(-1, 1, 2) * (width, height) / 4, rng.uniform(-6, 6)  # px, degrees, to either side
    frames = []
    for t in np.linspace(-1, 1, num_frames):
        camera = cv2.getRotationMatrix2D((side / 2, side / 2), turn * t, 1 + 0.1 * t)
        camera[:, 2] += (np.array([width, height]) - side) / 2 + pan * t
        frames.append(cv2.warpAffine(scene, camera, (width, height)))
    return np.stack(frames)


def write_film(folder: Path, count: int, seconds: float) -> None:
    """A data folder of `count` clips of the film, each with a caption."""
    from utils.video.encode import write_video

    (folder / "captions").mkdir(parents=True)
    for n in range(count):
        frames = moving_picture(round(seconds * FILM_FPS), *FILM_SIZE, seed=n)
        write_video(folder / "videos" / f"{n:04d}.mp4", frames, FILM_FPS)
        (folder / "captions" / f"{n:04d}.txt").write_text(f"film {n}\n")


# Windows per second ---------------------------------------------------------------------------------------------------


class NaiveReader:
    """The naive reader as a dataset for Batches: same clips, keys and samples' shape as TextVideoDataset's."""

    def __init__(self, folder: Path, num_frames: int, frame_size: int):
        self.paths = sorted((folder / "videos").iterdir())
        self.num_frames, self.frame_size = num_frames, frame_size

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return self.paths[index]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        import cv2
        import numpy as np
        import torch

        capture, frames = cv2.VideoCapture(str(self.paths[key[1]])), []
        while (read := capture.read())[0]:
            frame = cv2.resize(read[1], (self.frame_size, self.frame_size), interpolation=cv2.INTER_AREA)
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        capture.release()
        first = np.random.default_rng(key).integers(len(frames) - self.num_frames + 1)
        video = torch.from_numpy(np.stack(frames[first : first + self.num_frames])).permute(3, 0, 1, 2)
        text = (self.paths[key[1]].parent.parent / "captions" / f"{self.paths[key[1]].stem}.txt").read_text()
        return {"video": (video.float() / 127.5 - 1).contiguous(), "text": text.strip()}


def rates(folder: Path, name: str, workers: int, args: argparse.Namespace) -> dict:
    """Windows per second of either side, medians over the turns, and the medians of their ratios."""
    from video_dataset import TextVideoDataset

    turns = []
    for _ in range(args.repeats):
        settings = SETTINGS[name]
        ours = passes(TextVideoDataset(folder, **settings), workers, args.later)
        naive = passes(NaiveReader(folder, settings["num_frames"], settings["frame_size"]), workers, 0)[0]
        turns.append({"first": ours[0], "later": ours[-1], "naive": naive})
    return {
        **{side: round(statistics.median(turn[side] for turn in turns), 1) for side in ("naive", "first", "later")},
        "first_to_naive": round(statistics.median(turn["first"] / turn["naive"] for turn in turns), 2),
        "later_to_naive": round(statistics.median(turn["later"] / turn["naive"] for turn in turns), 2),
    }


def passes(dataset, workers: int, more: int) -> list[float]:
    """Windows per second in a pass over a fresh dataset and in each of `more` passes behind it, in batches of 4."""
    from utils.training.batches import Batches
    from utils.training.order import EndlessSampler

    batches, found = Batches(dataset, 4, workers, EndlessSampler(len(dataset), seed=0)), []
    count = len(dataset) // 4
    for _ in range(1 + more):
        start = time.perf_counter()
        for _ in range(count):
            next(batches)
        found.append(4 * count / (time.perf_counter() - start))
    batches.batches = None  # its workers would go on fetching while the other side is measured
    return found


# Waiting --------------------------------------------------------------------------------------------------------------


def demo_waiting(folder: Path, steps: int) -> dict:
    """{"share", "seconds", "met"}: what the trainer logs of so many steps of the demo preset. With 8 clips each, 40 are
    less than a first pass over 400 clips, in which none of them is decoded already."""
    with tempfile.TemporaryDirectory() as run_dir:
        command = [sys.executable, str(ROOT / "train_text2video.py"), "--preset", "demo", "--data_dir", str(folder)]
        command += ["--output_dir", run_dir, "--max_train_steps", str(steps), "--no_wandb"]
        if subprocess.run(command, cwd=ROOT).returncode:
            raise UserError(f"{' '.join(command)} failed, see above")
        rows = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return logged_share([row for row in rows if "train/data_wait_share" in row])


def logged_share(rows: list[dict]) -> dict:
    """The share of the whole, from rows of metrics.jsonl that each say it of the steps since the row before."""
    waited = seconds = before = 0
    for row in rows:
        elapsed = (row["step"] - before) / row["train/steps_per_second"]
        waited, seconds, before = waited + elapsed * row["train/data_wait_share"], seconds + elapsed, row["step"]
    return verdict(waited, seconds)


def sleeping_waiting(folder: Path, steps: int, step_seconds: float) -> dict:
    """A loop like the trainer's with a sleep for a step: {"share", "seconds", "met", "first_batch_seconds", and
    "share_after_it", of the waiting for all other batches}."""
    from utils.training.batches import Batches
    from utils.training.order import EndlessSampler
    from video_dataset import TextVideoDataset

    dataset = TextVideoDataset(folder, **SETTINGS["film"], split="train")
    batches, waits = Batches(dataset, 4, 2, EndlessSampler(len(dataset), seed=0)), []
    start = time.perf_counter()
    for _ in range(steps):
        asked = time.perf_counter()
        next(batches)
        waits.append(time.perf_counter() - asked)
        time.sleep(step_seconds)
    seconds = time.perf_counter() - start
    after = round(sum(waits[1:]) / (seconds - waits[0]), 5)
    return {**verdict(sum(waits), seconds), "first_batch_seconds": round(waits[0], 3), "share_after_it": after}


def verdict(waited: float, seconds: float) -> dict:
    return {"share": round(waited / seconds, 5), "seconds": round(seconds, 2), "met": waited / seconds < WAIT_GOAL}


def plot(result: dict, path: Path) -> None:
    """Bars: windows per second of either side on the left, shares of waiting on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), dpi=110, width_ratios=(3, 2))
    measured = result["windows_per_second"].items()
    groups = {f"{name}\n{workers}": rate for name, both in measured for workers, rate in both.items()}
    for n, (side, label) in enumerate((("naive", "naive reader"), ("first", "first pass"), ("later", "later pass"))):
        places = [place + (n - 1) * 0.27 for place in range(len(groups))]
        bars = left.bar(places, [rate[side] for rate in groups.values()], 0.25, label=label)
        left.bar_label(bars, fmt=lambda rate: f"{rate:.0f}" if rate > 10 else f"{rate:.1f}", fontsize=7)
    left.set_xticks(range(len(groups)), groups)
    left.set(yscale="log", ylabel="windows per second"), left.legend(fontsize=8)
    shares = {name: 100 * found["share"] for name, found in result["waiting"].items()}
    bars = right.bar(list(shares), list(shares.values()), 0.5)
    right.bar_label(bars, fmt="%.2f %%", fontsize=8)
    right.axhline(100 * WAIT_GOAL, color="tab:red", linestyle="--", linewidth=1, label="goal: below")
    right.set(ylabel="% of training spent waiting for clips"), right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))

"""prepare_dataset.py in frames per second, against a plain loop of OpenCV on the same cores.

    python -m benchmarks.data.prepare                    # some minutes on two cores

The plain loop reads a frame, resizes it if --size says so, and writes it as a PNG, with OpenCV's defaults: no motion
scores, no report, no care for damaged videos, nothing to continue from. prepare_dataset.py does all of that, with two
processes. Both are started as commands on the same H.264 videos of 640x360 and take turns; `ratio` is the median of
the ratios of their seconds by the clock, at best 1.5 or more. Where other programs want the cores too, two processes
gain less, so the processor seconds of a frame, everything included, stand beside it. The frames of both are compared.
Results go into results/prepare.json and prepare.png.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from utils.cli import Parser, UserError, integer, run

ROOT = Path(__file__).parents[2]
GOAL = 1.5
FPS = 24

PLAIN_LOOP = """
import cv2, os, sys
video_dir, output_dir, size = sys.argv[1:]
for name in sorted(os.listdir(video_dir)):
    folder, capture, n = os.path.join(output_dir, name), cv2.VideoCapture(os.path.join(video_dir, name)), 0
    os.makedirs(folder)
    while True:
        ok, frame = capture.read()
        if not ok:
            break
        if size:
            frame = cv2.resize(frame, tuple(map(int, size.split("x"))), interpolation=cv2.INTER_AREA)
        cv2.imwrite(os.path.join(folder, f"{n:05d}.png"), frame)
        n += 1
"""


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    from prepare_dataset import frame_size

    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--videos", type=integer(2, 10_000), default=24, help="how many")
    parser.add_argument("--frames", type=integer(2, 100_000), default=240, help="of each video")
    parser.add_argument("--size", type=frame_size, nargs="*", default=["320x180"], help="besides unchanged: WxH")
    parser.add_argument("--repeats", type=integer(1, 100), default=5, help="turns of either side; medians count")
    parser.add_argument("--num_workers", type=integer(0, 1024), default=2, help="processes of prepare_dataset.py")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.data.loading import moving_picture
    from benchmarks.measure import write_result
    from utils.video.encode import write_video

    with tempfile.TemporaryDirectory() as temporary:
        videos = Path(temporary, "videos")
        for n in range(args.videos):
            write_video(videos / f"{n:04d}.mp4", moving_picture(args.frames, 360, 640, seed=n), FPS)
        sizes = {"640x360, unchanged": "", **{f"resized to {size}": size for size in args.size}}
        found = {name: compare(videos, size, args) for name, size in sizes.items()}
    result = {"settings": vars(args), "goal": GOAL, "sizes": found}
    plot(found, write_result("prepare", result).with_suffix(".png"))
    print(json.dumps(result, indent=1))


def compare(videos: Path, size: str, args: argparse.Namespace) -> dict:
    """Both sides on the same videos: medians over the turns, and how their frames differ."""
    turns = []
    with tempfile.TemporaryDirectory() as temporary:
        for n in range(args.repeats):
            plain, ours = Path(temporary, f"plain{n}"), Path(temporary, f"ours{n}")
            loop = ["-c", PLAIN_LOOP, str(videos), str(plain), size]
            script = [str(ROOT / "prepare_dataset.py"), "--video_dir", str(videos), "--output_dir", str(ours)]
            script += ["--num_workers", str(args.num_workers), *(["--size", size] if size else [])]
            turns.append({"plain": seconds(loop), "ours": seconds(script)})
        frames = differences(plain, ours)
    row = {
        side: {
            "frames_per_second": round(frames["count"] / statistics.median(turn[side][0] for turn in turns), 1),
            "processor_ms_per_frame": round(
                1000 / frames["count"] * statistics.median(turn[side][1] for turn in turns), 2
            ),
        }
        for side in ("plain", "ours")
    }
    ratio = statistics.median(turn["plain"][0] / turn["ours"][0] for turn in turns)
    work = statistics.median(turn["ours"][1] / turn["plain"][1] for turn in turns)
    return {**row, "ratio": round(ratio, 3), "met": ratio >= GOAL, "processor_ratio": round(work, 3), "frames": frames}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Of a Python command: by the clock, and of the processors, its own processes included. Raises UserError if it
    fails."""
    before, start = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    result = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    after, clock = getrusage(RUSAGE_CHILDREN), time.perf_counter() - start
    if result.returncode:
        raise UserError(f"{arguments[0]} failed: {result.stderr.strip()[-300:]}")
    return clock, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def differences(plain: Path, ours: Path) -> dict:
    """{"count": frames, "different": frames whose pixels are not equal, "largest": difference, of 255, "plain_bytes",
    "our_bytes": of the files}. Raises UserError if one side has other frames than the other."""
    import cv2
    import numpy as np

    count = different = largest = 0
    sizes = {"plain_bytes": 0, "our_bytes": 0}
    for theirs, mine in zip(sorted(plain.iterdir()), sorted(ours.glob("video_*")), strict=True):
        if (names := sorted(os.listdir(theirs))) != sorted(os.listdir(mine)):
            raise UserError(f"{mine.name} has other frames than {theirs.name}")
        for name in names:
            difference = int(np.max(cv2.absdiff(cv2.imread(str(theirs / name)), cv2.imread(str(mine / name)))))
            count, different, largest = count + 1, different + (difference > 0), max(largest, difference)
            sizes["plain_bytes"] += (theirs / name).stat().st_size
            sizes["our_bytes"] += (mine / name).stat().st_size
    return {"count": count, "different": different, "largest": largest, **sizes}


def plot(found: dict, path: Path) -> None:
    """Bars for either side: frames per second, and processor milliseconds of a frame."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9, 4), dpi=110)
    for axes, unit in zip(panels, ("frames_per_second", "processor_ms_per_frame"), strict=True):
        for n, (side, label) in enumerate((("plain", "plain OpenCV loop"), ("ours", "prepare_dataset.py"))):
            values = [row[side][unit] for row in found.values()]
            bars = axes.bar([place + (n - 0.5) * 0.4 for place in range(len(found))], values, 0.36, label=label)
            axes.bar_label(bars, fmt="%.3g", fontsize=8)
        axes.set_xticks(range(len(found)), [f"{name}\n{row['ratio']:.2f} times" for name, row in found.items()])
        axes.set(ylabel=unit.replace("_", " ")), axes.margins(y=0.25), axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))

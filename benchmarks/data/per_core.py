"""How many clips a second one core delivers to a training, by size and length of the files; and when to cache.

    OMP_NUM_THREADS=1 python -m benchmarks.data.per_core      # some minutes on one core

A step that takes a GPU 50 ms and 4 clips wants 80 clips a second. Here random windows of 16 frames, made 64x64, are
read from H.264 files as TextVideoDataset does, without and with its cache; counted are processor seconds of all
threads, so that other programs do not matter. Result: results/per_core.json and a table.
"""

import argparse
import tempfile
import time
from pathlib import Path

from utils.cli import Parser, integer, run

FPS = 24
FILES = {  # height and width in px, seconds
    "240p, 4 s": (240, 426, 4),
    "240p, 60 s": (240, 426, 60),
    "720p, 4 s": (720, 1280, 4),
    "720p, 60 s": (720, 1280, 60),
    "1080p, 4 s": (1080, 1920, 4),
}
WANTED = 80  # clips a second


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--clips", type=integer(1, 1000), default=2, help="files of each kind")
    parser.add_argument("--windows", type=integer(1, 100_000), default=40, help="read from each kind of file")
    parser.add_argument("--shrink", type=integer(1, 100), default=1, help="smaller and shorter files; for a quick look")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result

    rows = {}
    for name, (height, width, seconds) in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            size = (height // args.shrink // 2 * 2, width // args.shrink // 2 * 2)
            write_files(Path(folder), args.clips, *size, max(2, seconds // args.shrink))
            rows[name] = {how: rate(Path(folder), args.windows, how == "cached") for how in ("read", "cached")}
        print(f"{name}: {rows[name]} clips per core and second", flush=True)
    command = f"python -m benchmarks.data.per_core --clips {args.clips} --windows {args.windows}"
    write_result("per_core", {"command": command, "clips_per_core_and_second": rows, "wanted": WANTED})
    print("\n".join(table(rows)))


def write_files(folder: Path, count: int, height: int, width: int, seconds: int) -> None:
    """A data folder of such files: ten seconds of the film, forwards and backwards until they are long enough."""
    import numpy as np

    from benchmarks.data.loading import moving_picture
    from utils.video.encode import write_video

    (folder / "captions").mkdir()
    for n in range(count):
        part = moving_picture(FPS * min(seconds, 10), height, width, seed=n)
        turns = -(-seconds // 10)
        frames = np.concatenate([part[:: 1 - 2 * (turn % 2)] for turn in range(turns)])[: FPS * seconds]
        write_video(folder / "videos" / f"{n}.mp4", frames, FPS)
        (folder / "captions" / f"{n}.txt").write_text(f"film {n}\n")


def rate(folder: Path, windows: int, cached: bool) -> float | None:
    """Clips per second of processor time, the cache full or without one; None if such files are never kept."""
    from video_dataset import DECODE_BYTES, TextVideoDataset

    dataset = TextVideoDataset(folder, 16, 64, cache_bytes=2**30 if cached else 0)
    info, count = dataset.items[0][0], len(dataset)
    if cached and info.frames * info.height * info.width * 3 > DECODE_BYTES:
        return None
    turn = 0
    while cached and len(dataset.cache) < count:  # a window of a long file seldom makes it be kept
        dataset[turn // count, turn % count]
        turn += 1
    start = time.process_time()
    for later in range(turn, turn + windows):
        dataset[later // count, later % count]
    return round(windows / (time.process_time() - start), 2)


def table(rows: dict[str, dict]) -> list[str]:
    """The rows as a table in Markdown, with the cores that WANTED clips a second take."""
    lines = [
        f"| Files | Clips per core and second | cached | Cores for {WANTED} clips/s | cached |",
        "|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        rates = [found["read"], found["cached"]]
        cells = ["never kept" if n is None else f"{n:.0f}" for n in rates]
        cells += ["" if n is None else f"{WANTED / n:.1f}" for n in rates]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    run(lambda: main(parse_args()))

"""How fast videos are read: every frame, random windows, and counting the frames of a file, against plain OpenCV.

    OMP_NUM_THREADS=1 python -m benchmarks.data.reading      # some minutes

H.264 files of the film, ten seconds each. Frames: all of a file, one after the other, frames a second. Windows: 16
frames from a random place; OpenCV jumps there by CAP_PROP_POS_FRAMES and reads, without looking where it has landed,
while our frames are the exact ones. Either side keeps none, as the data set keeps none of this size. Index: what
training needs to know of a file, by counting packets, against decoding all of it. Both sides take turns; ratios are
medians of processor time and of time by the clock, ours ahead above 1.
Result: results/reading.json and a table.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from utils.cli import Parser, integer, run

FPS, WINDOW = 24, 16
FILES = {  # height and width in px, frames between key frames
    "240p": (240, 426, 250),
    "720p": (720, 1280, 250),
    "1080p": (1080, 1920, 250),
    "240p, one key frame": (240, 426, 10_000),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--seconds", type=integer(2, 1000), default=10, help="length of the files")
    parser.add_argument("--windows", type=integer(1, 100_000), default=6, help="in a turn")
    parser.add_argument("--repeats", type=integer(1, 1000), default=7, help="turns of either side; medians count")
    parser.add_argument("--shrink", type=integer(1, 100), default=1, help="smaller files; for a quick look")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result

    rows = {}
    for name, (height, width, interval) in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "film.mp4")
            size = height // args.shrink // 2 * 2, width // args.shrink // 2 * 2
            write_film(path, args.seconds * FPS, *size, interval)
            rows[name] = compared(path, args.windows, args.repeats)
        print(f"{name}: {rows[name]}", flush=True)
    flags = f"--seconds {args.seconds} --windows {args.windows} --repeats {args.repeats}"
    write_result("reading", {"command": f"python -m benchmarks.data.reading {flags}", "ours_to_opencv": rows})
    print("\n".join(table(rows)))


def write_film(path: Path, count: int, height: int, width: int, interval: int) -> None:
    """The film as H.264: two seconds of it, forwards and backwards, with a key frame every `interval` frames."""
    import av

    from benchmarks.data.loading import moving_picture

    part = moving_picture(min(count, 2 * FPS), height, width, seed=0)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS, options={"g": str(interval), "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for n in range(count):
            turn, place = divmod(n, len(part))
            frame = part[place if turn % 2 == 0 else len(part) - 1 - place]
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode(None))


def compared(path: Path, windows: int, repeats: int) -> dict:
    """{what: {"processor", "clock": ratio of our speed to OpenCV's, or of counting to decoding for the index}}."""
    import numpy as np

    from utils.decoding.probe import probe_video
    from utils.decoding.read import iter_frames

    info = probe_video(path, decode=False)  # as training knows it
    starts = np.random.default_rng(0).integers(0, info.frames - WINDOW, windows).tolist()
    sides: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "frames": (lambda: opencv(path, 0, info.frames), lambda: list(map(len, iter_frames(info, range(info.frames))))),
        "windows": (
            lambda: [opencv(path, start, WINDOW) for start in starts],
            lambda: [list(map(len, iter_frames(info, range(start, start + WINDOW)))) for start in starts],
        ),
        "index": (lambda: probe_video(path), lambda: probe_video(path, decode=False)),
    }
    found = {}
    for what, (theirs, ours) in sides.items():
        turns = [(timed(theirs), timed(ours)) for _ in range(repeats)]
        ratios = [[a / b for a, b in zip(*turn, strict=True)] for turn in turns]
        processor, clock = (round(statistics.median(column), 2) for column in zip(*ratios, strict=True))
        found[what] = {"processor": processor, "clock": clock}
    return found


def opencv(path: Path, first: int, count: int) -> None:
    import cv2

    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    if first:
        capture.set(cv2.CAP_PROP_POS_FRAMES, first)
    for _ in range(count):
        cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2RGB)
    capture.release()


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor and by the clock."""
    clock, processor = time.perf_counter(), time.process_time()
    call()
    return time.process_time() - processor, time.perf_counter() - clock


def table(rows: dict[str, dict]) -> list[str]:
    """The rows as a table in Markdown."""
    lines = [
        "| Files | all frames, processor | clock | windows, processor | clock | index, processor | clock |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        cells = [f"{found[what][how]:.2f}" for what in ("frames", "windows", "index") for how in ("processor", "clock")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    run(lambda: main(parse_args()))

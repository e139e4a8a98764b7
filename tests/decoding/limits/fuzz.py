"""What the reader makes of damaged files: 300 of 10 containers, with bytes that are changed, cut out, put in or lost.

    python -m tests.decoding.limits.fuzz                        # minutes; --files for fewer

A file is either refused in one line, or what is read of it is consistent: frame n is the same from the start and by a
seek, and after counting instead of decoding it is a frame of the file, or an error of one line. Each takes less than
10 s and 1 GB. How many of the frames that were read differ from those of the whole file is printed: a byte of a picture
that still decodes is nothing that any reader can see.
"""

import argparse
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from tests.clips import encode, has_encoder, moving_clip
from utils.cli import Parser, integer, run
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError

LIMIT_S, LIMIT_BYTES = 10, 2**30
WHOLE = {  # container: codec and its options
    "mp4": ("libx264", {"g": "20", "bf": "2"}),
    "mov": ("mjpeg", {}),
    "mkv": ("libx264", {"g": "20"}),
    "webm": ("libvpx-vp9", {"g": "20"}),
    "avi": ("mpeg4", {"g": "20"}),
    "ts": ("libx264", {"g": "20"}),
    "mpg": ("mpeg2video", {"g": "12", "bf": "2"}),
    "flv": ("libx264", {"g": "20"}),
    "wmv": ("mpeg4", {"g": "20"}),
    "gif": ("gif", {}),
}
SIDE, FRAMES = 64, 90
SAME, OTHER = "frames as in the whole file", "frames that differ"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--files", type=integer(1, 100_000), default=300, help="how many, spread over the containers")
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="of the damage")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        faults, table = fuzz(Path(folder), args.files, args.seed)
    print(table)
    if faults:
        print("\n".join(faults))
        sys.exit(1)


def fuzz(folder: Path, files: int, seed: int) -> tuple[list[str], str]:
    """(what is wrong, a line per file; a table of what became of them)."""
    originals = {name: whole(folder / f"whole.{name}") for name in WHOLE}
    rng, found, faults = np.random.default_rng(seed), {name: Counter() for name in WHOLE}, []
    for n in range(files):
        name = list(WHOLE)[n % len(WHOLE)]
        data, how = mutated(originals[name][0], rng)
        path = folder / f"{n}.{name}"
        path.write_bytes(data)
        outcome, detail, compared = judged(path, originals[name][1])
        found[name][outcome] += 1
        found[name].update(compared)
        if outcome == "FAULT":
            faults.append(f"seed {seed}, file {n} ({name}, {how}): {detail}")
    columns = ["read", "refused", "FAULT", SAME, OTHER]
    lines = ["       " + "  ".join(columns)]
    for name, counts in {**found, "all": sum(found.values(), Counter())}.items():
        lines.append(f"{name:7}" + "  ".join(f"{counts[column]:{len(column)}}" for column in columns))
    return faults, "\n".join(lines)


def whole(path: Path) -> tuple[bytes, np.ndarray]:
    codec, options = WHOLE[path.suffix[1:]]
    if not has_encoder(codec):
        raise SystemExit(f"this PyAV has no {codec}")
    pixel_format = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
    encode(path, moving_clip(FRAMES, SIDE, SIDE), codec, pixel_format, fps=25, options=options)
    info = probe_video(path)
    return path.read_bytes(), read_frames(info, range(info.frames))


def mutated(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    data, how = bytearray(data), rng.choice(["bits", "bytes", "zeros", "noise", "cut", "drop", "double", "header"])
    place = int(rng.integers(len(data)))
    length = int(rng.integers(1, 400))
    if how == "bits":
        for at in rng.integers(len(data), size=rng.integers(1, 20)):
            data[at] ^= 1 << int(rng.integers(8))
    elif how == "bytes":
        for at in rng.integers(len(data), size=rng.integers(1, 50)):
            data[at] = int(rng.integers(256))
    elif how == "zeros":
        data[place : place + length] = bytes(len(data[place : place + length]))
    elif how == "noise":
        data[place : place + length] = rng.bytes(len(data[place : place + length]))
    elif how == "cut":
        del data[place:]
    elif how == "drop":
        del data[place : place + length]
    elif how == "double":
        data[place:place] = data[place : place + length]
    else:
        for at in rng.integers(min(len(data), 600), size=rng.integers(1, 8)):
            data[at] = int(rng.integers(256))
    return bytes(data), f"{how} at {place}"


def judged(path: Path, original: np.ndarray) -> tuple[str, str, dict]:
    """(outcome, detail, {SAME and OTHER: how many}) of a process of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=look_at, args=(path, original, sender))
    process.start()
    sender.close()
    outcome = receiver.recv() if receiver.poll(LIMIT_S) else None
    if outcome is None and process.is_alive():
        process.kill()
        outcome = ("FAULT", f"took more than {LIMIT_S} s", {})
    process.join()
    return outcome or ("FAULT", f"died of signal {signal.Signals(-process.exitcode).name}", {})


def look_at(path: Path, original: np.ndarray, sender) -> None:
    start = time.monotonic()
    try:
        outcome, detail, compared = consistent(path, original)
    except VideoError as error:
        outcome, detail, compared = "refused", str(error), {}
        if "\n" in detail or not detail:
            outcome = "FAULT"
    except BaseException as error:
        outcome, detail, compared = "FAULT", f"{type(error).__name__}: {error}", {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if peak > LIMIT_BYTES or time.monotonic() - start > LIMIT_S:
        outcome, detail = "FAULT", f"{peak / 2**20:.0f} MiB, {time.monotonic() - start:.1f} s"
    sender.send((outcome, detail, compared))


def consistent(path: Path, original: np.ndarray) -> tuple[str, str, dict]:
    info = probe_video(path)
    frames = read_frames(info, range(info.frames))
    counted = probe_video(path, decode=False)
    for about in (info, counted):
        for n in (0, about.frames // 2, 70, about.frames - 2):
            window = range(max(0, n), min(max(0, n) + 2, about.frames))
            try:
                again = read_frames(about, window)
            except VideoError as error:
                if about is info:
                    return "FAULT", f"frames {window} of {info.frames} cannot be read again: {error}", {}
                continue
            known = {frame.tobytes() for frame in (*original, *frames)}
            right = (
                again == frames[window.start : window.stop]
                if about is info
                else [frame.tobytes() in known for frame in again]
            )
            if not np.all(right):
                return "FAULT", f"frames {window} differ, verified {about.verified}", {}
    known = {frame.tobytes() for frame in original}
    same = sum(frame.tobytes() in known for frame in frames)
    return "read", "", {SAME: same, OTHER: len(frames) - same}


if __name__ == "__main__":
    run(lambda: main(parse_args()))

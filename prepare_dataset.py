"""Videos in, frame folders out: the dataset that SVD fine-tuning reads, with the measured motion of every clip.

    python prepare_dataset.py --video_dir ./videos --output_dir ./dataset --max_frames 25

The n-th video of --video_dir becomes video_000n/00000.png, 00001.png, ... manifest.jsonl has a line per clip, also for
those that were rejected, and report.html shows them all. Typed again, the command does what is missing.
"""

import argparse
import importlib.util
import multiprocessing
import os
import re
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from utils.arguments.data import add_caption_args
from utils.cli import Bad, Parser, UserError, choice, integer, number, output_problems, printable, run, utf8_text

# NumPy, OpenCV and PyAV are imported where they are used: --help answers at once.

# What the frames depend on, and so what must not change between runs. --motion and --license may: they are cheap.
FRAME_SETTINGS = (
    "max_frames min_frames target_fps frame_stride size resize_mode format scenes keep".split()  # noqa: SIM905
)
BESIDE = Path()  # of --captions
KEEP = ("black", "static", "cut", "duplicate")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--video_dir", type=Path, required=True, help="folder of videos: mp4, mkv, avi, webm, gif, ...")
    parser.add_argument("--output_dir", type=Path, required=True, help="root of the dataset")
    parser.add_argument("--recursive", action="store_true", help="also take the videos in folders of --video_dir")
    parser.add_argument("--max_samples", type=integer(1), help="only the first N videos, to try things out")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that has other settings")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")

    group = parser.add_argument_group("frames")
    group.add_argument("--max_frames", type=integer(1), help="of each clip the first N frames; default: all")
    group.add_argument("--clip_frames", type=integer(1), help="cut every video or scene into clips of N frames")
    group.add_argument("--min_frames", type=integer(1), default=2, help="reject clips with fewer frames")
    group.add_argument("--target_fps", type=number(0.01, 1000), help="take frames by time; default: every frame")
    group.add_argument("--frame_stride", type=integer(1), default=1, help="take every N-th frame")
    group.add_argument("--size", type=frame_size, metavar="WxH", help="resize, e.g. 512x320; default: as the video is")
    group.add_argument(
        "--resize_mode", type=choice("crop", "pad", "stretch"), default="crop", help="crop, pad or stretch to --size"
    )
    group.add_argument("--format", type=choice("png", "jpg"), default="png", help="png is exact, jpg is smaller")
    group.add_argument("--scenes", action="store_true", help="a clip per scene (PySceneDetect)")

    group = parser.add_argument_group("clips")
    group.add_argument(
        "--keep", type=choice(*KEEP), nargs="+", default=[], help=f"do not reject what is {', '.join(KEEP)}"
    )
    group.add_argument(
        "--motion", type=choice("quantile", "zscore", "const"), default="quantile", help="from score to bucket"
    )
    group.add_argument("--license", type=utf8_text, metavar="TEXT", help="of the videos, for the manifest")

    group = parser.add_argument_group("captions, for train_text2video.py")
    group.add_argument(
        "--captions",
        type=Path,
        nargs="?",
        const=BESIDE,
        metavar="PATH",
        help="a folder of <video's name>.txt or a table; without PATH: beside the videos",
    )
    add_caption_args(group)

    group = parser.add_argument_group(
        "conditions, for train_text2video.py: folders depth/, edges/, flow/ beside the clips"
    )
    group.add_argument(
        "--depth", metavar="MODEL", help="folder or hub name of a depth estimation model of transformers"
    )
    group.add_argument("--edges", action="store_true", help="by Canny's method")
    group.add_argument("--flow", action="store_true", help="motion to the next frame, by OpenCV's DIS")

    group = parser.add_argument_group("speed")
    group.add_argument(
        "--num_workers", type=integer(0, 1024), default=min(8, os.cpu_count() or 1), help="processes; 0: only this one"
    )
    group.add_argument(
        "--shard", type=shard, default=(1, 1), metavar="I/N", help="do the I-th of N parts, on N machines at once"
    )
    parser.checks.append(problems)
    return parser.parse_args(argv)


def frame_size(text: str) -> str:
    """An argparse type: WxH in px."""
    match = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if not match or not all(8 <= int(side) <= 8192 for side in match.groups()):
        return Bad(f"got {text}, must be width x height in px, each from 8 to 8192, e.g. 512x320")
    return "x".join(str(int(side)) for side in match.groups())


def shard(text: str) -> tuple[int, int] | Bad:
    """An argparse type: I/N."""
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        return Bad(f"got {text}, must be I/N with I from 1 to N, e.g. 1/4")
    return int(match[1]), int(match[2])


def problems(args: argparse.Namespace) -> Iterator[str]:
    if not args.video_dir.is_dir():
        yield f"--video_dir: {args.video_dir} is no folder"
    yield from output_problems(args.output_dir, args.video_dir)
    if args.max_frames and args.max_frames < args.min_frames:
        yield f"--max_frames: got {args.max_frames}, must be at least --min_frames ({args.min_frames})"
    if args.clip_frames and args.clip_frames < args.min_frames:
        yield f"--clip_frames: got {args.clip_frames}, must be at least --min_frames ({args.min_frames})"
    if args.captions and not args.captions.exists():
        yield f"--captions: there is no {args.captions}; give a folder of .txt files or a table"
    if args.target_fps and args.frame_stride > 1:
        yield "--frame_stride: cannot be combined with --target_fps, choose one"
    if args.scenes and not importlib.util.find_spec("scenedetect"):
        yield "--scenes: PySceneDetect is missing: pip install scenedetect-headless"


def main(args: argparse.Namespace) -> None:
    try:
        prepare(args)
    except OSError as error:  # a folder without permission, a full disk
        raise UserError(f"{error}; run again to continue") from error


def prepare(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from utils.data.find_videos import find_videos
    from utils.frame_folders.converter import FrameFolders
    from utils.frame_folders.report import write_report

    # Sources: every video of the folder has a number for good, whichever machine converts it.
    found = [os.path.relpath(path, args.video_dir) for path in find_videos(args.video_dir, args.recursive)]
    if not found:
        hint = "" if args.recursive else "; --recursive looks into its folders"
        raise UserError(f"--video_dir: {args.video_dir} holds no videos{hint}")
    settings = {name: getattr(args, name) for name in FRAME_SETTINGS}
    if args.clip_frames:
        settings["clip_frames"] = args.clip_frames  # datasets from before it was there have no such setting
    captions = captions_by_source(args, found) if args.captions else None
    dataset = FrameFolders.open(args.video_dir, args.output_dir, settings, found, args.overwrite)

    # Frames: this machine's share of the numbers, less what is done.
    part, parts = args.shard
    share = range(1, len(dataset.sources) + 1)[: args.max_samples][part - 1 :: parts]
    jobs = [dataset.job(number) for number in dataset.unfinished(share)]
    with tqdm(total=len(jobs), desc="converting", unit="video", disable=None) as bar:
        for _ in converted(jobs, args.num_workers):
            bar.update()

    # Manifest and report: of everything that any machine has done by now.
    def report(rows: dict[str, dict]) -> None:
        write_report(args.output_dir / "report.html", rows, {clip: dataset.sheet(clip) for clip in rows})

    rows = dataset.publish(args.motion, args.license, captions, report)
    missing = len(dataset.sources) - len({row["source"] for row in rows.values()})
    print_summary(args.output_dir, list(rows.values()), missing)
    if not missing and not any("folder" in row for row in rows.values()):
        raise UserError(f"--video_dir: none of the videos in {args.video_dir} gives a clip, see above")
    make_maps(args, [args.output_dir / row["folder"] for row in rows.values() if "folder" in row])


def make_maps(args: argparse.Namespace, clips: list[Path]) -> None:
    """The conditions that the flags ask for, of this machine's share of the clips."""
    if not (args.depth or args.edges or args.flow):
        return
    from utils.conditions.making import DepthModel, edges_of, flow_of, write_maps

    makers = {"depth": DepthModel(args.depth)} if args.depth else {}
    makers |= {"edges": edges_of} if args.edges else {}
    makers |= {"flow": flow_of} if args.flow else {}
    part, parts = args.shard
    made = write_maps(args.output_dir, clips[part - 1 :: parts], makers)
    print(f"{made} maps made: {', '.join(makers)}; train_text2video.py --maps {' '.join(makers)} learns them")


def captions_by_source(args: argparse.Namespace, sources: list[str]) -> dict[str, tuple[str, ...]]:
    from utils.data.find_clips import FolderFormat, captions_of

    where = None if args.captions is BESIDE else args.captions
    how = FolderFormat(args.caption_encoding, args.video_column, args.caption_column)
    found = captions_of([args.video_dir / source for source in sources], args.video_dir, where, how)
    return dict(zip(sources, found, strict=True))


def converted(jobs: list, num_workers: int) -> Iterator[None]:
    """Yield after each job that is done."""
    from utils.frame_folders.converter import convert

    if not num_workers or len(jobs) < 2:
        yield from map(convert, jobs)
        return
    workers = min(num_workers, len(jobs))
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker, (workers,)) as pool:
            try:
                yield from pool.map(convert, jobs)
            except KeyboardInterrupt:  # nothing half-done is taken for whole, so nobody need finish
                # A thread of Python's pool may stumble over work that was cancelled, and would print its traceback.
                threading.excepthook = lambda _: None
                for process in multiprocessing.active_children():
                    process.terminate()
                raise
    except (BrokenProcessPool, OSError) as error:
        if isinstance(error, OSError) and str(error) != "handle is closed":  # a pool that breaks while it is given work
            raise
        raise UserError("--num_workers: a process died, perhaps for want of memory; lower it, run again") from None


def start_worker(workers: int) -> None:
    """Leave Ctrl-C to the main process, and go when it goes, even if it is killed."""
    import cv2

    from utils.decoding.source import share_cores

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=follow, daemon=True).start()
    share_cores(workers)
    cv2.setNumThreads(1)


def print_summary(output_dir: Path, rows: list[dict], missing: int) -> None:
    from utils.data.clip_index import by_remark, listed

    kept, rejected = [row for row in rows if "folder" in row], defaultdict(list)
    for row in rows:
        if "folder" not in row:
            rejected[row["rejected"]].append(row["source"])
    print(f"{printable(output_dir)}: {len(kept)} clips, {sum(row['frames'] for row in kept)} frames")
    if rejected:
        print(f"{len(rows) - len(kept)} rejected:")
    notes = by_remark({row["source"]: row.get("notes", ()) for row in rows})
    for kind, found in (
        ("reasons", rejected),
        ("notes", {f"note: {note}": sources for note, sources in notes.items()}),
    ):
        most = sorted(found.items(), key=lambda item: -len(item[1]))
        print("".join(f"  {listed(sources, reason)}\n" for reason, sources in most[:10]), end="")
        if len(most) > 10:
            print(f"  and {len(most) - 10} more {kind}, see report.html")
    if silent := sorted({row["source"] for row in kept if row.get("text") == []}):
        print(f"  {listed(silent, 'no caption')}")
    if missing:
        print(f"{missing} videos are still to be done, by other shards or without --max_samples")


if __name__ == "__main__":
    run(lambda: main(parse_args()))

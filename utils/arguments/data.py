"""The flags of reading captioned clips, which training shares with the check of a data folder."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.buckets import Bucket, as_bucket, automatic_buckets, bucket
from utils.arguments.conditions import add_folder_args
from utils.cli import Parser, choice, integer, number, output_problems, utf8_text

DEMO = Path("demo_video_data")
RESIZE_MODES = ("crop", "pad", "stretch")
SHORT_CLIPS = ("skip", "pad", "loop")
MISSING_CAPTION = ("error", "skip", "empty")


def add_data_args(parser: argparse.ArgumentParser) -> None:
    """Flags of the training data for a utils.cli.Parser; `data_args` makes TextVideoDataset arguments of them."""
    group = parser.add_argument_group("data")
    group.add_argument("--data_dir", type=Path, default=DEMO, help="videos and captions")
    group.add_argument("--num_frames", type=integer(2, 1024), default=16, help="frames per clip")
    group.add_argument("--frame_size", type=integer(8, 4096), default=64, help="height and width in px")
    group.add_argument("--height", type=integer(8, 4096), help="overrides --frame_size")
    group.add_argument("--width", type=integer(8, 4096), help="overrides --frame_size")
    group.add_argument("--max_samples", type=integer(1, 10**9), help="use only the first N usable clips")
    group.add_argument(
        "--no_augment", "--no-augment", dest="augment", action="store_false", help="no random window, crop and flip"
    )
    group.add_argument(
        "--augment", action="store_true", default=True, help="random window, crop and flip, which some presets lack"
    )
    group.add_argument(
        "--short_clips", type=choice(*SHORT_CLIPS), default="skip", help="too few frames: skip, pad or loop"
    )
    group.add_argument(
        "--missing_caption", type=choice(*MISSING_CAPTION), default="error", help="error, skip or empty (text)"
    )
    group.add_argument("--val_fraction", type=number(0, 0.9), default=0.05, help="at least one clip")
    group.add_argument("--cache_mb", type=integer(0, 10**7), default=512, help="decoded clips kept in memory")
    add_reading_args(group)


def add_reading_args(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--target_fps", type=number(0.01, 1000), help="sample frames by time; default: every frame")
    group.add_argument(
        "--resize_mode", type=choice(*RESIZE_MODES), default="crop", help="to the frame size: crop, pad or stretch"
    )
    group.add_argument(
        "--buckets",
        type=bucket,
        nargs="*",
        metavar="WxHxT",
        help="sizes and lengths: each clip goes to the longest it fills, then to the nearest in shape, and batches "
        "never mix; without values: the usual shapes of as many pixels, in full, half and quarter length",
    )
    group.add_argument(
        "--image_share",
        type=number(0, 1),
        default=0.0,
        help="share of samples that are captioned pictures, as clips of one frame; 0: pictures are left out",
    )
    group.add_argument(
        "--frames_fps",
        type=number(0.01, 1000),
        default=8.0,
        help="frames per second of clips that are folders of pictures, where no manifest says",
    )
    group.add_argument(
        "--cameras", nargs="+", metavar="NAME", help="of a LeRobot dataset, side by side; default: the only one"
    )
    add_caption_args(group)
    group.add_argument("--trigger_word", type=utf8_text, help="put in front of every caption")


def add_caption_args(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--caption_encoding", default="utf-8-sig", help="of caption files, e.g. gb18030")
    group.add_argument("--video_column", help="of a table of captions; default: file_name, video, path, ...")
    group.add_argument("--caption_column", help="of a table of captions; default: text, caption, prompt")


def add_dataset_args(parser: Parser) -> None:
    """Flags of video_dataset.py, which writes the demo dataset and checks others."""
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=DEMO,
        help="of the demo, or of a dataset of the hub instead of ./its_name",
    )
    parser.add_argument("--num_clips", type=integer(1, 1_000_000), default=1500, help="clips to write")
    parser.add_argument("--num_frames", type=integer(2, 1024), default=16, help="frames per clip")
    even = integer(16, 1024, multiple_of=2)  # video codecs halve the colour planes
    parser.add_argument("--frame_size", type=even, default=64, help="height and width in px, even")
    parser.add_argument("--fps", type=integer(1, 120), default=8, help="frames per second")
    parser.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="the same seed writes the same bytes")
    parser.add_argument("--hard", action="store_true", help="textured backgrounds, 8 colours, often two objects")
    parser.add_argument("--conditions", action="store_true", help="also depth, motion and sound")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset that has other settings")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    group = parser.add_argument_group("data check, for --num_frames and --frame_size")
    group.add_argument("--check", type=Path, metavar="DIR", help="report what is wrong with this data folder")
    group.add_argument(
        "--from_lerobot", metavar="NAME", help="the same of a LeRobot dataset: a folder, or owner/name on the hub"
    )
    add_reading_args(group)
    add_folder_args(group)
    parser.checks.append(_check_dataset_args)


def _check_dataset_args(args: argparse.Namespace) -> Iterator[str]:
    if args.check and args.from_lerobot:
        yield "--from_lerobot: does not go with --check, for it checks as well"
    yield from output_problems(args.output_dir)


def frame_shape(args: argparse.Namespace) -> tuple[int, int]:
    """(height, width) of the frames."""
    return getattr(args, "height", None) or args.frame_size, getattr(args, "width", None) or args.frame_size


def size_multiple(args: argparse.Namespace) -> int:
    """What height and width must be multiples of: set by the network's flags; 8 where there are none."""
    if not hasattr(args, "patch_size"):
        return 8
    return args.patch_size * 2 ** (len(getattr(args, "channel_mult", [1])) - 1)


def buckets_of(args: argparse.Namespace, multiple: int | None = None) -> list[Bucket] | None:
    """The buckets of --buckets; None without that flag. multiple: of the sides of automatic ones, if it is known."""
    if args.buckets is None:
        return None
    return [as_bucket(text) for text in args.buckets] or automatic_buckets(
        *frame_shape(args), args.num_frames, multiple or size_multiple(args)
    )


def reading_args(args: argparse.Namespace, multiple: int | None = None) -> dict:
    """Keyword arguments of TextVideoDataset that the check of a data folder has too."""
    names = "num_frames target_fps resize_mode image_share frames_fps caption_encoding "
    names += "video_column caption_column trigger_word cameras"
    settings = {name: getattr(args, name) for name in names.split()}
    return settings | {"frame_size": frame_shape(args), "buckets": buckets_of(args, multiple)}


def data_args(args: argparse.Namespace, multiple: int | None = None) -> dict:
    """Keyword arguments of TextVideoDataset from the flags of `add_data_args`. multiple: see buckets_of."""
    names = "data_dir max_samples augment short_clips missing_caption val_fraction"
    settings = {name: getattr(args, name) for name in names.split()}
    return settings | reading_args(args, multiple) | {"cache_bytes": args.cache_mb * 2**20}


def seen_as(args: argparse.Namespace) -> dict:
    """How training reads its clips, besides frames and size: what a model file keeps, for comparisons with the data."""
    names = "target_fps resize_mode short_clips missing_caption caption_encoding val_fraction max_samples "
    names += "video_column caption_column trigger_word frames_fps cameras"
    min_frames = min((bucket.frames for bucket in buckets_of(args) or ()), default=None)
    return {name: getattr(args, name) for name in names.split()} | {"min_frames": min_frames}

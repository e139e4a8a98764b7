"""The flags of reading captioned clips, which training shares with the check of a data folder."""

import argparse
from pathlib import Path

from utils.cli import choice, integer, number, utf8_text

RESIZE_MODES = ("crop", "pad", "stretch")
SHORT_CLIPS = ("skip", "pad", "loop")
MISSING_CAPTION = ("error", "skip", "empty")


def add_data_args(parser: argparse.ArgumentParser) -> None:
    """Flags of the training data for a utils.cli.Parser; `data_args` makes TextVideoDataset arguments of them."""
    group = parser.add_argument_group("data")
    group.add_argument("--data_dir", type=Path, default=Path("demo_video_data"), help="videos and captions")
    group.add_argument("--num_frames", type=integer(2, 1024), default=16, help="frames per clip")
    group.add_argument("--frame_size", type=integer(8, 4096), default=64, help="height and width in px")
    group.add_argument("--max_samples", type=integer(1, 10**9), help="use only the first N usable clips")
    group.add_argument(
        "--no_augment", "--no-augment", dest="augment", action="store_false", help="no random window, crop and flip"
    )
    group.add_argument("--augment", action="store_true", default=True, help=argparse.SUPPRESS)
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
    group.add_argument("--caption_encoding", default="utf-8-sig", help="of caption files, e.g. gb18030")
    group.add_argument("--video_column", help="of a table of captions; default: file_name, video, path, ...")
    group.add_argument("--caption_column", help="of a table of captions; default: text, caption, prompt")
    group.add_argument("--trigger_word", type=utf8_text, help="put in front of every caption")


def data_args(args: argparse.Namespace) -> dict:
    """Keyword arguments of TextVideoDataset from the flags of `add_data_args`."""
    names = (
        "data_dir num_frames frame_size max_samples augment short_clips missing_caption val_fraction target_fps "
        "resize_mode caption_encoding video_column caption_column trigger_word"
    )
    return {name: getattr(args, name) for name in names.split()} | {"cache_bytes": args.cache_mb * 2**20}


def seen_as(args: argparse.Namespace) -> dict:
    """How training reads its clips, besides frames and size: what a model file keeps, for comparisons with the data."""
    names = "target_fps resize_mode short_clips missing_caption caption_encoding val_fraction max_samples "
    names += "video_column caption_column trigger_word"
    return {name: getattr(args, name) for name in names.split()}

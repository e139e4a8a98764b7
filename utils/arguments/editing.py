"""The flags of editing: where a video may change, and how much of it."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.cli import integer, number, utf8_text

OF_NEW_VIDEOS = ("first_frame", "last_frame", "continue_from", "known_frames", "chain_overlap")


def add_edit_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where: one of these, or all of it")
    group.add_argument("--mask", type=Path, help="picture or video, white where the video may change")
    group.add_argument(
        "--box", type=integer(0), nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"), help="in px of the video"
    )
    group.add_argument(
        "--pick", type=integer(0), nargs=2, metavar=("X", "Y"), help="what has the colour of this point at the start"
    )
    group.add_argument("--tolerance", type=integer(0, 255), default=60, help="of --pick, in levels of a colour")
    group.add_argument("--grow", type=integer(0, 512), default=0, help="px by which the place is larger on all sides")
    group.add_argument("--feather", type=integer(0, 512), default=2, help="px of a soft seam, inside the place")

    group = parser.add_argument_group("how much, without a place")
    group.add_argument(
        "--source_prompt",
        type=utf8_text,
        help="what the video shows: it is inverted, and --prompts are drawn from that",
    )
    group.add_argument(
        "--strength",
        type=number(0, 1, above=True),
        help="share of the steps that are drawn anew: the more, the less stays where it was; default: 0.5",
    )


def check_edit_args(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the flags of add_edit_args, and with others that are not for edits, a line each."""
    places = [f"--{flag}" for flag in ("mask", "box", "pick") if getattr(args, flag) is not None]
    if len(places) > 1:
        yield f"{places[0]}: give one of {', '.join(places)}"
    if args.box is not None and not (args.box[0] < args.box[2] and args.box[1] < args.box[3]):
        yield f"--box: got {' '.join(map(str, args.box))}, must be left, top, right, bottom, and hold something"
    for flag in ("source_prompt", "strength"):
        if places and getattr(args, flag) is not None:
            yield f"--{flag}: is for a video that changes as a whole; leave it or {places[0]} out"
    if args.window_frames is not None and args.source_prompt is not None:
        yield "--window_frames: is not for --source_prompt"
    if args.source_prompt is not None and args.sampler not in (None, "ddim", "dpmpp_sde"):
        yield "--sampler: --source_prompt is drawn with ddim, whose steps it turns around"
    for flag in OF_NEW_VIDEOS:
        if getattr(args, flag) is not None:
            yield f"--{flag}: is for generate_text2video.py; here the video and its mask say what is known"

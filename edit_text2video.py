"""Change a video with a model that train_text2video.py made: in a place, by a pair of prompts, or in its style.

    python edit_text2video.py --checkpoint RUN --video in.mp4 --box 20 10 50 40 --prompts "a blue square moving right"
    python edit_text2video.py --checkpoint RUN --video in.mp4 --source_prompt "a red circle moving right" \\
        --prompts "a green circle moving right"
    python edit_text2video.py --checkpoint RUN --video in.mp4 --strength 0.6 --prompts "a watercolour of a harbour"

With a mask (--mask, --box, --pick) every pixel outside it stays as it is, to the bit, in the frames of --save_frames.
Each prompt is a video beside a JSON file, and a sheet of before and after.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.conditions import add_given_args, check_given_args
from utils.arguments.sampling import add_output_args, add_sampling_args
from utils.cli import Parser, integer, number, output_problems, run, utf8_text

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

OF_NEW_VIDEOS = ("first_frame", "last_frame", "continue_from", "known_frames", "chain_overlap")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("what")
    group.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth, or the run folder")
    group.add_argument("--video", type=Path, required=True, help="to be changed: its first frames, at the model's rate")
    group.add_argument("--prompts", type=utf8_text, nargs="+", required=True, help="what it shall show; a video each")
    group.add_argument("--negative_prompt", type=utf8_text, default="", help="what it shall not show")
    group.add_argument("--text_encoder", help="where the frozen text encoder lies, if not where the training found it")
    group.add_argument("--seed", type=integer(0, 2**63 - 2**32), default=0, help="video i is drawn with seed + i")

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
    add_given_args(parser)
    add_sampling_args(parser)

    add_output_args(parser, "edited_videos", visualize=True)
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    for flag in ("checkpoint", "video", "mask"):
        path = getattr(args, flag)
        if path is not None and not path.exists():
            yield f"--{flag}: there is no {path}"
    for prompt in args.prompts:
        if not prompt.strip():
            yield "--prompts: got an empty prompt"
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
    if args.source_prompt is not None and args.sampler not in ("ddim", "dpmpp_sde"):
        yield "--sampler: --source_prompt is drawn with ddim, whose steps it turns around"
    for flag in OF_NEW_VIDEOS:
        if getattr(args, flag) is not None:
            yield f"--{flag}: is for generate_text2video.py; here the video and its mask say what is known"
    yield from check_given_args(args)
    yield from output_problems(args.output_dir)


def main(args: argparse.Namespace) -> None:
    from accelerate import PartialState

    from utils.drawing.editing import Editor
    from utils.drawing.given import read_known

    args.strength = 0.5 if args.strength is None else args.strength
    args.sampler = "ddim" if args.source_prompt else args.sampler
    editor = Editor(args, args.checkpoint, PartialState(cpu=args.device == "cpu").device)
    shape = editor.num_frames, editor.height, editor.width
    rate = editor.reading.get("target_fps")
    known = read_known(args, editor.conditions, shape, rate or editor.source[0].fps, rate, of=editor.source)
    jobs = editor.plan({"edits": args.prompts}, known=known)
    editor.draw_missing(jobs, args.overwrite)
    if editor.round_trip is not None:
        print(f"inversion: the video comes back with {editor.round_trip:g} dB")
    print(f"{len(jobs)} videos in {args.output_dir}, shown by {editor.write_overview(jobs)}")


if __name__ == "__main__":
    run(lambda: main(parse_args()))

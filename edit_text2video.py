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
from utils.arguments.editing import add_edit_args, check_edit_args
from utils.arguments.sampling import add_output_args, add_sampling_args, add_text_args
from utils.cli import Parser, output_problems, run, utf8_text

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("what")
    group.add_argument("--checkpoint", type=Path, required=True, help="best_model.pth, or the run folder")
    group.add_argument("--video", type=Path, required=True, help="to be changed: its first frames, at the model's rate")
    group.add_argument("--prompts", type=utf8_text, nargs="+", required=True, help="what it shall show; a video each")
    add_text_args(group)
    add_edit_args(parser)
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
    yield from check_edit_args(args)
    yield from check_given_args(args)
    yield from output_problems(args.output_dir)


def main(args: argparse.Namespace) -> None:
    from accelerate import PartialState

    from utils.drawing.editing import Editor

    editor = Editor(args, args.checkpoint, PartialState(cpu=args.device == "cpu").device)
    jobs = editor.plan({"edits": args.prompts}, known=editor.known_of(args))
    editor.draw_missing(jobs, args.overwrite)
    if editor.round_trip is not None:
        print(f"inversion: the video comes back with {editor.round_trip:g} dB")
    print(f"{len(jobs)} videos in {args.output_dir}, shown by {editor.write_overview(jobs)}")


if __name__ == "__main__":
    run(lambda: main(parse_args()))

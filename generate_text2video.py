"""Generate videos from text with a model that train_text2video.py made.

    python generate_text2video.py --checkpoint checkpoints/text2video_xxx/best_model.pth --prompts "A red car"
    python generate_text2video.py                     # asks for the model and then for prompts

What training decided (network, frames, size, text encoder) comes from the checkpoint. Each video is an H.264 mp4 with a
JSON file beside it that says how it was made; index.html shows them all. Video i is drawn with seed --seed + i.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.conditions import add_given_args, check_given_args
from utils.arguments.sampling import add_output_args, add_sampling_args, add_text_args
from utils.cli import Parser, UserError, output_problems, printable, run, utf8_text
from utils.drawing.generator import Generator

# torch and what is built on it are imported where they are used: --help and a misspelt flag answer at once.

# Flags that the interactive mode asks for, and the conditions that they are.
ASKED = {"first_frame": "known", "last_frame": "known", "continue_from": "known", "depth": "depth", "audio": "audio"}
ASKED |= {"vectors": "vectors"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("what")
    group.add_argument("--checkpoint", type=Path, help="best_model.pth, or the run folder; without it: interactive")
    group.add_argument(
        "--prompts", type=utf8_text, nargs="+", default=[], help="a video each; without any: interactive"
    )
    group.add_argument("--prompts_file", type=Path, nargs="+", default=[], help="text files, one prompt per line")
    add_text_args(group)
    add_given_args(parser)
    add_sampling_args(parser)

    add_output_args(parser, "generated_videos")
    group = parser.add_argument_group("real time")
    group.add_argument(
        "--stream",
        metavar="WHERE",
        help="one video, shown while it is made: a .mp4 or .y4m file, or - for standard output (| ffplay -); without "
        "--num_frames it has no end, Ctrl-C stops it",
    )
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if args.checkpoint is None and (args.prompts or args.prompts_file):
        yield "--checkpoint: missing; it is the best_model.pth in a run folder of train_text2video.py"
    if args.checkpoint is not None and not args.checkpoint.exists():
        yield f"--checkpoint: there is no {args.checkpoint}"
    for prompt in args.prompts:
        if not prompt.strip():
            yield "--prompts: got an empty prompt"
    for path in args.prompts_file:
        if not path.is_file():
            yield f"--prompts_file: there is no file {path}"
    yield from check_given_args(args)
    yield from output_problems(args.output_dir)
    if args.stream is not None:
        yield from check_stream(args)


def check_stream(args: argparse.Namespace) -> Iterator[str]:
    where = Path(args.stream)
    if args.stream == "-":
        if sys.stdout.isatty():
            yield "--stream: - sends video to standard output, which is a terminal; add `| ffplay -`, or name a file"
    elif where.suffix not in (".mp4", ".y4m"):
        yield f"--stream: got {args.stream}, must end in .mp4 or .y4m, or be -"
    elif not where.parent.is_dir():
        yield f"--stream: there is no folder {where.parent}"
    elif not args.overwrite and (there := [path for path in (where, where.with_suffix(".json")) if path.exists()]):
        yield f"--stream: {there[0]} is there already; choose another name, or replace it with --overwrite"
    if len(args.prompts) != 1 or args.prompts_file:
        yield "--stream: draws one video; give one prompt with --prompts"
    for flag in ("window_frames", "save_gif", "save_frames", "visualize"):
        if getattr(args, flag):
            yield f"--{flag}: is not for --stream; leave one of them out"
    if args.num_frames is None:
        for flag in ("last_frame", "known_frames", "depth", "maps", "vectors", "audio", "condition_scale"):
            if getattr(args, flag):
                yield f"--{flag}: is for a video that ends; give --num_frames with --stream"


def main(args: argparse.Namespace) -> None:
    if args.checkpoint is None or not (args.prompts or args.prompts_file):
        interactive(args)
        return

    import torch
    from accelerate import PartialState

    groups = read_prompts(args)
    processes = PartialState(cpu=args.device == "cpu" or not torch.accelerator.is_available())
    generator = Generator(args, args.checkpoint, processes.device)
    jobs = generator.plan(groups, known=generator.known_of(args))
    if args.stream is not None:
        stream(args, generator, jobs[0], processes.num_processes)
        return
    share = jobs[processes.process_index :: processes.num_processes]
    generator.draw_missing(share, args.overwrite, show_bar=processes.is_main_process)
    processes.wait_for_everyone()
    if processes.is_main_process:
        page = generator.write_overview(jobs)
        print(f"{len(jobs)} videos in {args.output_dir}, shown by {page}")
    if processes.num_processes > 1:
        processes.destroy_process_group()


def stream(args: argparse.Namespace, generator: Generator, job, num_processes: int) -> None:
    from utils.drawing.streaming import stream_video

    if num_processes > 1:
        raise UserError("--stream: draws one video; start it in one process")
    made = stream_video(generator, job, args.stream, endless=args.num_frames is None)
    said = f"{made['frames']} frames, the first after {made['first_frame_seconds']:.2f} s; {made['real_time']:.2f} x "
    said += f"real time: {made['frames_per_second']:.2f} frames/s made, {args.fps:g} shown"
    print(said, file=sys.stderr)  # standard output may be the video


def read_prompts(args: argparse.Namespace) -> dict[str, list[str]]:
    """Group name -> prompts: those of the command line, then each file under its name."""
    groups = {"prompts": [prompt.strip() for prompt in args.prompts]} if args.prompts else {}
    for path in args.prompts_file:
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--prompts_file: {path} cannot be read as UTF-8 text ({error})") from None
        prompts = [line.strip() for line in lines if line.strip()]
        if not prompts:
            raise UserError(f"--prompts_file: {path} holds no prompt; it needs one per line")
        groups[path.stem.replace("_", " ")] = prompts
    return groups


def interactive(args: argparse.Namespace) -> None:
    """Ask for a model unless --checkpoint names one, then for prompts, until `quit` or the end of the input."""
    from accelerate import PartialState

    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")  # bytes that are no text in the terminal's encoding
    generator = None
    device = PartialState(cpu=args.device == "cpu").device
    if args.checkpoint is not None:
        generator = Generator(args, args.checkpoint, device)
    while generator is None:
        found = sorted(
            Path("checkpoints").glob("*/best_model.pth"), key=lambda path: path.stat().st_mtime, reverse=True
        )
        for i, path in enumerate(found, 1):
            print(f"  {i}  {printable(path)}")
        answer = ask("model (number or path)> " if found else "path of a best_model.pth> ")
        if answer is None:
            return
        path = found[int(answer) - 1] if answer.isdecimal() and 1 <= int(answer) <= len(found) else Path(answer)
        try:
            generator = Generator(args, path, device)
        except (UserError, OSError) as error:  # OSError: such as a name too long
            print(f"{printable(error)}")
    print("a prompt makes a video, quit or Ctrl-D leaves")
    known = generator.known_of(args)
    asked = [flag for flag, name in ASKED.items() if name in generator.conditions.names] if known is None else []
    count = 0
    while (prompt := ask("prompt> ")) is not None:
        known = ask_known(args, generator, asked) if asked else known
        jobs = generator.plan({"interactive": [prompt]}, count, known)
        generator.draw(jobs, 0, 1)
        print(generator.path(jobs[0], ".mp4"))
        count += 1


def ask_known(args: argparse.Namespace, generator: Generator, asked: list[str]):
    """Ask for a file for each of these flags, none for an empty line; None if nothing is known then."""
    given = argparse.Namespace(**vars(args))
    for flag in asked:
        while answer := ask(f"{flag} (a file, or Enter for none)> ", empty=True):
            setattr(given, flag, answer if flag == "vectors" else Path(answer))
            try:
                for problem in check_given_args(given):
                    raise UserError(problem)
                generator.known_of(given)
                break
            except UserError as error:
                print(printable(error))
                setattr(given, flag, None)
    return generator.known_of(given)


def ask(question: str, empty: bool = False) -> str | None:
    """A line without control characters, of which something is left unless it may be empty; None for quit, exit and
    the end of the input."""
    while True:
        try:
            line = input(question)
        except EOFError:
            print()
            return None
        text = "".join(c for c in line if c.isprintable()).strip()
        if text.lower() in ("quit", "exit", "q"):
            return None
        if text or empty:
            return text


if __name__ == "__main__":
    run(lambda: main(parse_args()))

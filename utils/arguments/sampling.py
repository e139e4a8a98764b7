"""The flags of drawing videos, which generation and evaluation share."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.cli import Parser, choice, integer, number, utf8_text


def add_text_args(group: argparse._ArgumentGroup) -> None:
    """What belongs to the prompts."""
    group.add_argument("--negative_prompt", type=utf8_text, default="", help="what the videos shall not show")
    group.add_argument("--text_encoder", help="where the frozen text encoder lies, if not where the training found it")
    group.add_argument("--seed", type=integer(0, 2**63 - 2**32), default=0, help="video i is drawn with seed + i")


def add_interval_arg(group: argparse._ArgumentGroup, default: list[float] | None, remark: str) -> None:
    group.add_argument(
        "--guidance_interval",
        type=number(0, 1),
        nargs=2,
        metavar=("LOW", "HIGH"),
        default=default,
        help="where guidance acts, as shares of the timesteps from the clip (0) to noise (1); 0.6 1 decides what is "
        f"shown, and leaves contrast and motion alone; {remark}",
    )


def check_interval(interval: list[float] | None) -> Iterator[str]:
    """What is wrong with --guidance_interval."""
    if interval is not None and not interval[0] < interval[1]:
        yield f"--guidance_interval: got {interval[0]:g} {interval[1]:g}, must rise"


def add_sampling_args(parser: Parser) -> None:
    parser.checks.append(check_sampling_args)
    group = parser.add_argument_group("how")
    group.add_argument(
        "--sampler",
        type=choice("dpmpp_sde", "dpmpp", "unipc", "ddim", "euler", "ddpm"),
        help="solver; default: dpmpp_sde, of a distilled model ddim",
    )
    group.add_argument(
        "--num_inference_steps",
        type=integer(1, 100_000),
        help="default: 25, 1000 for ddpm, and of a distilled model its own",
    )
    group.add_argument("--guidance_scale", type=number(0), help="1 is none; default: the one of the training")
    group.add_argument("--guidance_rescale", type=number(0, 1), default=0.0, help="against overexposure, 0.7 is usual")
    group.add_argument(
        "--guidance_parallel",
        type=number(0, 1),
        default=1.0,
        help="how much counts what guidance adds along the clip itself; 0 keeps contrast as it is",
    )
    add_interval_arg(group, None, "default: the one of the training")
    group.add_argument(
        "--autoguidance",
        type=Path,
        metavar="RUN",
        help="guide away from this weaker model, of fewer steps of training, in place of the negative prompt",
    )
    group.add_argument(
        "--thresholding",
        type=choice("static", "dynamic", "none"),
        help="keeps the clip in the range of pixels; default: static, none for a model of latents",
    )
    group.add_argument("--num_frames", type=integer(1, 4096), help="default: as in training")
    group.add_argument(
        "--window_frames",
        type=integer(1, 4096),
        help="draw a longer video in overlapping windows of so many frames; default: all frames at once",
    )
    group.add_argument(
        "--window_overlap", type=integer(1, 4095), help="frames that two windows share; default: half of a window"
    )
    group.add_argument("--frame_size", type=integer(8, 4096), help="height and width; default: as in training")
    group.add_argument("--height", type=integer(8, 4096), help="overrides --frame_size")
    group.add_argument("--width", type=integer(8, 4096), help="overrides --frame_size")
    group.add_argument("--vae", help="where the frozen autoencoder lies, if not where the training found it")
    group.add_argument("--batch_size", type=integer(1, 4096), default=8, help="videos drawn at once")
    group.add_argument(
        "--device", type=choice("auto", "cpu", "cuda"), default="auto", help="auto: a GPU if there is one"
    )
    group.add_argument(
        "--mixed_precision",
        type=choice("auto", "no", "fp16", "bf16"),
        default="auto",
        help="auto: bf16 where the hardware computes it",
    )


def check_sampling_args(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the flags of add_sampling_args together, a line each."""
    yield from check_interval(args.guidance_interval)


def add_output_args(parser: argparse.ArgumentParser, folder: str, visualize: bool = False) -> None:
    """What is left of the videos, and where. visualize: whether a contact sheet is drawn unless told otherwise."""
    group, switch = parser.add_argument_group("output"), {"action": argparse.BooleanOptionalAction}
    group.add_argument("--output_dir", type=Path, default=Path(folder), help="folder for everything")
    group.add_argument("--fps", type=number(0, 240, above=True), default=8, help="frames per second of the videos")
    group.add_argument("--save_gif", **switch, default=False, help="an animated GIF each")
    group.add_argument("--save_frames", **switch, default=False, help="a folder of PNG frames each")
    group.add_argument("--visualize", **switch, default=visualize, help="a contact sheet each, and one of all")
    group.add_argument("--overwrite", action="store_true", help="draw again what is there already")
    group.add_argument("--debug", action="store_true", help="show tracebacks")

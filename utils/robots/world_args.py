"""Flags of the scripts that draw episodes: which model of the world, and how it draws. For --help, so without torch."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.cli import choice, integer, output_problems

DECIDE = ("sampler", "num_inference_steps", "overlap", "mixed_precision")  # what is drawn; batch_size does not


def add_world_args(parser: argparse.ArgumentParser) -> None:
    """--checkpoint and --vectors, and a group "how"."""
    group = parser.add_argument_group("model of the world")
    group.add_argument(
        "--checkpoint", type=Path, required=True, help="of either trainer: a run with --vectors, and --tasks"
    )
    group.add_argument("--vectors", metavar="NAME", help="which numbers are the actions; default: the only ones known")
    group.add_argument("--text_encoder", help="where the frozen text encoder lies, if not where the training found it")
    group.add_argument("--vae", help="where the autoencoder lies, if not where the training found it")
    group = parser.add_argument_group("how")
    group.add_argument("--batch_size", type=integer(1), default=8, help="episodes at a time")
    group.add_argument(
        "--sampler", type=choice("dpmpp_sde", "dpmpp", "unipc", "ddim", "euler"), default="dpmpp_sde", help="solver"
    )
    group.add_argument("--num_inference_steps", type=integer(1, 1000), default=25, help="of the solver")
    group.add_argument("--overlap", type=integer(1), default=4, help="frames that the pieces of a long episode share")
    group.add_argument("--mixed_precision", type=choice("auto", "no", "bf16", "fp16"), default="auto", help="precision")


def add_start_args(group, output_dir: Path) -> None:
    """What episodes begin with, where they go, and what says that their task is done."""
    group.add_argument("--dataset", type=Path, required=True, help="LeRobot dataset of first frames and actions")
    group.add_argument("--output_dir", type=Path, default=output_dir, help="of the new dataset")
    group.add_argument("--num_episodes", type=integer(1, 999_999), default=100, help="to draw")
    group.add_argument("--starts", type=choice("anywhere", "first"), default="anywhere", help="which real frame begins")
    group.add_argument("--seed", type=integer(0, 2**31), default=0, help="episode i is drawn with seed + i")
    group.add_argument(
        "--success",
        type=Path,
        metavar="RUN",
        help="of train_inverse_dynamics.py --vectors success, say: reads whether the task is done",
    )

    group.add_argument(
        "--state",
        type=Path,
        metavar="RUN",
        help="of train_inverse_dynamics.py --vectors state: reads observation.state, which policies of lerobot ask for",
    )


def world_problems(args: argparse.Namespace) -> Iterator[str]:
    """Problems that can be known at once."""
    for flag, path in (("checkpoint", args.checkpoint), ("dataset", args.dataset)):
        if not path.exists():
            yield f"--{flag}: there is no {path}"
    yield from output_problems(args.output_dir, args.dataset if args.dataset.is_dir() else None)


def world_of(args: argparse.Namespace):
    """The WorldModel or SvdWorld of these flags."""
    from utils.robots.svd_world import open_world

    how = {name: getattr(args, name) for name in (*DECIDE, "text_encoder", "vae")}
    return open_world(args.checkpoint, args.vectors, **how)


def state_reader_of(args: argparse.Namespace, starts):
    """The StateReader of --state, for episodes that begin like these Starts; None without it."""
    from utils.robots.labels import StateReader

    return args.state and StateReader(args.state, starts.dataset.names.get("state", ()), starts.fps)


def starts_of(args: argparse.Namespace, world):
    """The Starts of --dataset for a model of the world."""
    from utils.robots.starts import Starts

    about = world.cameras, world.action, world.names, world.height, world.width, world.target_fps, world.resize_mode
    return Starts(args.dataset, *about)

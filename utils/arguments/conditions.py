"""The flags of conditions: which ones training learns, and which ones generation and editing are given."""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from utils.cli import Bad, integer, number

# As models/diffusion/tasks.py has them, which is not imported before the flags are read.
TASKS = ("text", "first_frame", "continuation", "first_last", "in_between", "inpainting", "outpainting")
NO_MAPS = ("videos", "captions", "images")


def pair(name: str, value: Callable) -> Callable[[str], str | Bad]:
    """An argparse type: NAME=VALUE, of which the value is of another type; the text stays as it is."""

    def parse(text: str) -> str | Bad:
        key, equals, rest = text.partition("=")
        if not equals or not key.isidentifier() or not rest:
            return Bad(f"got {text}, must be {name}")
        found = value(rest)
        return found if isinstance(found, Bad) else text

    return parse


def pairs(texts: list[str] | None, value: Callable = str) -> dict:
    """{name: value} of NAME=VALUE."""
    return {key: value(rest) for key, _, rest in (text.partition("=") for text in texts or ())}


def _task(text: str) -> str | Bad:
    found = pair("TASK=SHARE, first_frame=0.5 say", number(0, 10**6))(text)
    if not isinstance(found, Bad) and text.partition("=")[0] not in TASKS:
        return Bad(f"got {text}; tasks are {', '.join(TASKS)}")
    return found


def add_condition_args(parser: argparse.ArgumentParser) -> None:
    """Flags of training."""
    group = parser.add_argument_group("conditions, beside the text")
    group.add_argument(
        "--tasks",
        type=_task,
        nargs="+",
        metavar="TASK=SHARE",
        default=None,
        help=f"train with known frames and places, by these shares: {', '.join(TASKS)}",
    )
    add_folder_args(group)
    group.add_argument(
        "--condition_dropout", type=number(0, 1), default=0.1, help="share of samples that go without each of these"
    )


def add_folder_args(group: argparse._ArgumentGroup) -> None:
    """Which conditions lie beside the clips, for training and for the check of a data folder."""
    group.add_argument(
        "--maps",
        nargs="+",
        metavar="NAME",
        default=[],
        help="folders beside videos/ with a map per frame for each clip, such as depth, edges, masks: "
        "<name>/<clip>.mp4, .npy or a folder of pictures",
    )
    group.add_argument(
        "--vectors",
        nargs="*",
        metavar="NAME",
        default=None,
        help="folders with numbers per frame: <name>/<clip>.csv, .parquet or .npy; without a name: vectors",
    )
    group.add_argument("--audio", action="store_true", help="the clips' sound, of their own or audio/<clip>.wav")


def folders_of(args: argparse.Namespace) -> dict:
    """Which conditions the flags name, as ClipConditions takes them."""
    vectors = ["vectors"] if args.vectors == [] else args.vectors or []
    return {"maps": args.maps, "vectors": vectors, "audio": args.audio}


def check_condition_args(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the flags of add_condition_args, a line each."""
    named = folders_of(args)
    for flag, names in (("--maps", named["maps"]), ("--vectors", named["vectors"])):
        for name in names:
            if not name.isidentifier() or name in NO_MAPS:
                yield f"{flag}: got {name}; name a folder of --data_dir, in letters, digits and _"
            elif not (args.data_dir / name).is_dir() and not (args.data_dir / "meta/info.json").is_file():  # LeRobot's
                yield f"{flag}: there is no folder {args.data_dir / name}"
    every = [*named["maps"], *named["vectors"], *(["audio"] * args.audio), "known"]
    if twice := {name for name in every if every.count(name) > 1}:
        yield f"--maps: {min(twice)} names two conditions; rename a folder"
    tasks = pairs(args.tasks, float)
    if tasks and not sum(tasks.values()) > 0:
        yield "--tasks: the shares must be positive in sum"
    if any(share for task, share in tasks.items() if task != "text") and args.latent_cache is not None:
        yield "--latent_cache: --tasks encodes what is known of each clip with its mask, anew each time; leave it out"


def add_given_args(parser: argparse.ArgumentParser) -> None:
    """Flags of generation: what is known of the videos that are drawn."""
    group = parser.add_argument_group("what is known, for models that were trained with it")
    group.add_argument("--first_frame", type=Path, help="picture: the videos begin with it")
    group.add_argument("--last_frame", type=Path, help="picture: they end with it")
    group.add_argument("--continue_from", type=Path, help="video: they go on from its end")
    group.add_argument(
        "--known_frames", type=Path, help="folder of pictures called by frame, 0.png, 4.png: fill between"
    )
    group.add_argument(
        "--chain_overlap",
        type=integer(1, 4095),
        help="more --num_frames than in training: piece by piece, each going on from so many frames of the one before",
    )
    group.add_argument("--depth", type=Path, help="the same as --maps depth=FILE")
    group.add_argument(
        "--maps",
        type=pair("NAME=FILE, depth=my.mp4 say", str),
        nargs="+",
        metavar="NAME=FILE",
        default=[],
        help="a map per frame: video, .npy, folder of pictures, or a picture for all frames",
    )
    group.add_argument("--vectors", metavar="[NAME=]FILE", help="numbers per frame: .csv, .parquet or .npy")
    group.add_argument("--audio", type=Path, help="a file of sound, or a video with sound")
    group.add_argument(
        "--condition_scale",
        type=pair("NAME=NUMBER, depth=2 say", number(0, 100)),
        nargs="+",
        metavar="NAME=NUMBER",
        default=[],
        help="how strongly a condition counts (known, depth, audio, ...), a third pass for each; default: 1, in the "
        "passes that there are",
    )


def check_given_args(args: argparse.Namespace) -> Iterator[str]:
    """What is wrong with the flags of add_given_args, a line each."""
    files = {
        f"--{name}": getattr(args, name) for name in ("first_frame", "last_frame", "continue_from", "known_frames")
    }
    files |= {"--depth": args.depth, "--audio": args.audio}
    files |= {f"--maps {name}": Path(file) for name, file in pairs(args.maps).items()}
    if args.vectors is not None:
        files["--vectors"] = Path(args.vectors.rpartition("=")[2])
    for flag, path in files.items():
        if path is not None and not path.exists():
            yield f"{flag}: there is no {path}"
    if args.continue_from is not None and args.first_frame is not None:
        yield "--first_frame: --continue_from says how the video begins; give one of them"
    if args.depth is not None and "depth" in pairs(args.maps):
        yield "--depth: --maps names it too; give one of them"

"""The questions that a GPU is to answer, in order, and a process that answers one of them.

python -m benchmarks.gpu.parts NAME --seconds 90 --output FOLDER    # what benchmarks.gpu starts, one after the other
"""

import argparse
import importlib
from pathlib import Path
from typing import NamedTuple

from utils.cli import Parser, choice, number, run


class Part(NamedTuple):
    """module: its measure(rows, tiny, folder) writes the rows. share: of the minutes, relative to the other parts."""

    question: str
    module: str
    share: float


PARTS = {
    "runs": Part("Does everything run, and compute what a CPU computes?", "running", 2.5),
    "svd": Part("What does a step of Stable Video Diffusion cost at 512x320x25, lever by lever?", "svd", 2.0),
    "network": Part("How fast is the base preset at 16x64x64, beside its peers?", "network", 1.5),
    "latents": Part("What do 256 and 512 pixels cost in latents, and how fast are samples drawn?", "latents", 1.0),
    "robots": Part("What does a model of the world cost, and a policy that acts inside it?", "robots", 1.0),
    "learning": Part("What is learnt of hard data in the minutes that are left, AdamW against Muon?", "learning", 3.0),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", type=choice(*PARTS), help="the part")
    parser.add_argument("--seconds", type=number(0, 1e5, above=True), default=600, help="no row begins later")
    parser.add_argument("--output", type=Path, required=True, help="folder for <name>.json and pictures")
    parser.add_argument("--tiny", action="store_true", help="tiny networks, also without a GPU")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.gpu.rows import Rows

    module = importlib.import_module(f"benchmarks.gpu.questions.{PARTS[args.name].module}")
    module.measure(Rows(args.output / f"{args.name}.json", args.seconds), args.tiny, args.output)


if __name__ == "__main__":
    run(lambda: main(parse_args()))

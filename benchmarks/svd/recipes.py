"""Ways to take a training step of SVD: ours, that of diffusers' scripts, each saving; and sizes of clips."""

import re
from typing import NamedTuple

from utils.cli import Bad

GIB = 2**30
TERA = 10**12


class Recipe(NamedTuple):
    """What a step computes and keeps; the defaults are train_svd.py's, apart from 8-bit states where it finds them."""

    scope: str = "temporal"
    cache: bool = True  # of latents and embeddings: without it all frames are encoded in every step
    checkpointing: str = "full"
    one_token: bool = True
    frozen: str = "bfloat16"
    optimizer: str = "adamw"
    average_all: bool = False  # a moving average of the frozen weights too
    channels_last: bool = False
    compile: bool = False
    tf32: bool | None = None  # None: as torch has it, for convolutions and not for matrix products


OURS = Recipe()
PEER = Recipe(cache=False, checkpointing="diffusers", one_token=False, frozen="float32", average_all=True)
VARIANTS = {
    "ours": OURS,
    "peer": PEER,
    "peer, all weights learn": PEER._replace(scope="all"),
    "no cache": OURS._replace(cache=False),
    "diffusers' checkpointing": OURS._replace(checkpointing="diffusers"),
    "no checkpointing": OURS._replace(checkpointing="none"),
    "no one-token shortcut": OURS._replace(one_token=False),
    "frozen weights in float32": OURS._replace(frozen="float32"),
    "8-bit AdamW": OURS._replace(optimizer="adamw8bit"),
    "LoRA": OURS._replace(scope="lora"),
}
# The same counts as ours or as "no cache"; what they do can only be timed, and on a GPU.
TIMED_ONLY = {
    "channels last": OURS._replace(channels_last=True),
    "compiled": OURS._replace(compile=True),
    "no TF32": OURS._replace(cache=False, tf32=False),
    "TF32 everywhere": OURS._replace(cache=False, tf32=True),
}


class Clip(NamedTuple):
    width: int
    height: int
    num_frames: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


def clip_size(text: str) -> str | Bad:
    """An argparse type: WIDTHxHEIGHTxFRAMES."""
    sizes = re.fullmatch(r"(\d{2,4})x(\d{2,4})x(\d{1,3})", text)
    if not sizes or int(sizes[1]) % 64 or int(sizes[2]) % 64 or int(sizes[3]) < 2:
        return Bad(f"got {text}, must be WIDTHxHEIGHTxFRAMES such as 512x320x25, in multiples of 64 pixels")
    return text


def parse_clip(text: str) -> Clip:
    return Clip(*map(int, text.split("x")))


def sum_of(items: dict) -> float:
    """The numbers in a dictionary of numbers and such dictionaries, added up."""
    return sum(sum_of(value) if isinstance(value, dict) else value for value in items.values())

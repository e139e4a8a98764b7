"""What is to be drawn: one Job a video, and the name of its files."""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass, field

from utils.cli import printable


@dataclass
class Job:
    """One video to be made."""

    index: int
    prompt: str
    group: str
    seed: int
    stem: str = ""  # <index>_<seed>_<slug>_<hash>, the name of all its files
    given: dict = field(default_factory=dict)  # conditions, on the network's grid, of one sample
    files: dict = field(default_factory=dict)  # digests of what these were read from
    drift: list = field(default_factory=list)  # of a video in pieces, see utils/drawing/chaining.py


def shortened(text: str, length: int = 300) -> str:
    """text for the terminal: without control characters, and of a long one the beginning and the end."""
    if len(text) > length:
        text = f"{text[: length // 2]} ... {text[-length // 2 :]}"
    return printable(text)


def file_stem(job: Job, settings: dict) -> str:
    """<index>_<seed>_<slug>_<hash>: safe on every file system whatever the prompt, and new for every new setting."""
    text = unicodedata.normalize("NFKC", job.prompt).lower()
    slug = re.sub(r"[^\w]+", "-", text).strip("-_").encode()[:60].decode(errors="ignore") or "prompt"
    identity = json.dumps([job.prompt, job.seed, settings, *([job.files] if job.files else [])], sort_keys=True)
    return f"{job.index:04d}_{job.seed}_{slug}_{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

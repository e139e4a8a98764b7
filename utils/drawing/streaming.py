"""A video that is shown while it is made, piece by piece; without end, unless it is told one."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from utils.cli import UserError, without_secrets
from utils.drawing.chaining import Drift, endless_pieces
from utils.drawing.generator import Generator
from utils.drawing.jobs import Job
from utils.files import write_text
from utils.video.frames import to_uint8
from utils.video.stream import STDOUT, frame_stream


class Pace:
    """How fast frames are made. Real time is frames made a second over frames shown a second; the first piece, which
    pays for what is done once, does not count where others follow.

    fps: frames shown a second.
    """

    def __init__(self, fps: float):
        self.fps, self.begun, self.seconds, self.frames = fps, time.perf_counter(), [], []

    def add(self, frames: int) -> None:
        """So many frames have just left."""
        self.seconds.append(time.perf_counter() - self.begun)
        self.frames.append(frames)

    def waited(self, seconds: float) -> None:
        """Nothing was made for so long, because nobody asked for it."""
        self.begun += seconds

    def summary(self) -> dict[str, float]:
        """{"first_frame_seconds": ..., "frames_per_second": ..., "real_time": ...}, of at least one piece."""
        first = self.seconds[0]
        made, taken = sum(self.frames[1:]), self.seconds[-1] - first
        rate = made / taken if made else self.frames[0] / first
        return {"first_frame_seconds": first, "frames_per_second": rate, "real_time": rate / self.fps}


@dataclass(frozen=True)
class Piece:
    """What a piece adds to a video: frames, uint8 (n, H, W, 3), its drift from the first piece, and the pace so far."""

    frames: np.ndarray
    drift: dict
    pace: dict[str, float]


def stream_pieces(generator: Generator, job: Job, endless: bool, fps: float) -> Iterator[Piece]:
    """Draw a job piece by piece, as soon as each is asked for. fps: frames shown a second.

    Raises UserError for a video that is not a number.
    """
    pieces = endless_pieces(*generator.chain.values()) if endless else generator.pieces
    generator.bar, drift, pace, recent, count = tqdm(disable=True), Drift(), Pace(fps), None, 0
    with generator.computing():
        for new in generator.chained([job], pieces):
            if not torch.isfinite(new).all():
                raise UserError("the video is not a number; try --mixed_precision no")
            frames = to_uint8(new[0])
            pace.add(len(frames))
            count += len(frames)
            recent = frames if recent is None else np.concatenate([recent, frames])[-len(recent) :]
            piece, ready = Piece(frames, drift(recent, slice(count - len(recent), count)), pace.summary()), time.time()
            yield piece
            pace.waited(time.time() - ready)


def stream_video(generator: Generator, job: Job, where: str, endless: bool) -> dict:
    """Draw a job into the stream `where`, see frame_stream, until it is whole, or, if it has no end, until Ctrl-C or
    until the player is closed. Beside a file a JSON file says how it was made.

    Returns Pace.summary with "frames" and the "drift" of each piece. Raises UserError for what cannot be written and
    for a video that is not a number.
    """
    args, found, size = generator.args, {"frames": 0, "drift": []}, (generator.height, generator.width)
    bar = tqdm(unit="frame", total=None if endless else generator.num_frames, desc="streaming", file=sys.stderr)
    try:
        with bar, frame_stream(where, *size, args.fps) as send:
            for piece in stream_pieces(generator, job, endless, args.fps):
                send(piece.frames)
                found |= piece.pace | {"frames": found["frames"] + len(piece.frames)}
                found["drift"].append(piece.drift)
                now = f"{piece.pace['real_time']:.2f} x real time, colours {piece.drift['colour']:g} levels off"
                other = "" if piece.drift["same_thing"] in (True, None) else ", another thing"
                bar.set_postfix_str(now + other, refresh=False)
                bar.update(len(piece.frames))
    except BrokenPipeError:
        pass  # whoever watched has seen enough
    except KeyboardInterrupt:
        if not found["frames"]:
            raise
    except OSError as error:
        raise UserError(f"--stream: {where} cannot be written ({error.strerror})") from None
    if not found["frames"]:
        raise UserError(f"--stream: the player of {where} was closed before the first frame")
    if where != STDOUT:
        about = {"prompt": job.prompt, "seed": job.seed, **generator.settings, **generator.about, **found}
        about |= {"num_frames": found["frames"]} | ({"given": job.files} if job.files else {})
        text = json.dumps(without_secrets(about), indent=2, ensure_ascii=False)
        write_text(Path(where).with_suffix(".json"), text + "\n")
    return found

"""Drawing for the page: one video after the other, in a thread, with a look at it after each step, until it is stopped.

No gradio here: the tabs show what a Studio yields.
"""

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from models.conditions import settings_of
from utils.arguments.conditions import add_given_args, check_given_args
from utils.arguments.editing import add_edit_args, check_edit_args
from utils.arguments.sampling import add_output_args, add_sampling_args, add_text_args
from utils.cli import Parser, UserError
from utils.drawing.editing import Editor
from utils.drawing.generator import Generator
from utils.drawing.opened import OpenModel, open_model
from utils.drawing.streaming import stream_pieces
from utils.page.runs import find_models
from utils.video.frames import resize_frames, to_uint8

KEPT_MODELS = 2  # as many as are compared
PIECES_AHEAD = 2  # of a stream, drawn before they are shown
LOOKS = 0.2  # share of the time that may go into looking at a video that is not done
FRAMES_SHOWN, HEIGHT_SHOWN = 8, 128


class _Stopped(Exception):
    """Nobody waits for the video any more."""


@dataclass(frozen=True)
class Look:
    """How far a video is: after `step` of `steps`, and frames (H, W, 3) side by side, where there was time to look."""

    step: int
    steps: int
    frames: np.ndarray | None = None


@dataclass(frozen=True)
class Live:
    """A frame (H, W, 3) of a stream, when it is to be shown: how many there were with it, how many times real time they
    are made, and how far their mean colour is from the first piece, in levels."""

    frame: np.ndarray
    frames: int
    real_time: float
    colour: float


@dataclass(frozen=True)
class Drawn:
    """The files of a finished video, and what of its prompt the model did not read."""

    video: Path
    sidecar: Path
    sheet: Path
    warnings: list[str]
    round_trip: float | None = None


class Studio:
    """The models of a folder of runs, ready to draw into output_dir.

    device: "auto", "cpu" or "cuda".
    """

    def __init__(self, runs: Path, output_dir: Path, device: str = "auto"):
        self.runs, self.output_dir = runs, output_dir
        self.given_device = device
        self.device = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available()).device
        self.opened: OrderedDict[tuple, OpenModel] = OrderedDict()
        self.opening = threading.Lock()

    def open(self, run: str | None) -> OpenModel:
        """The model of a run, kept for the next time. Raises UserError for what is none of the runs."""
        if run not in find_models(self.runs):
            raise UserError(f"--runs: there is no model of a run {run!r} in {self.runs}; train_text2video.py makes one")
        file = self.runs / run / "best_model.pth"
        key = run, file.stat().st_mtime_ns
        with self.opening:
            if key not in self.opened:
                while len(self.opened) >= KEPT_MODELS:
                    self.opened.popitem(last=False)
                self.opened[key] = open_model(file, None, None, self.device)
            self.opened.move_to_end(key)
            return self.opened[key]

    def knows(self, run: str) -> list[str]:
        """Names of the conditions that a run was trained with."""
        return settings_of(self.open(run).model.diffusion.unet).names

    def draw(self, run: str, prompt: str, flags: dict) -> Iterator[Look | Drawn]:
        """Looks at the video of a prompt while it is drawn, at last the Drawn one. Closing the iterator stops it.

        flags: as those of generate_text2video.py, {name: value}; with `video` as those of edit_text2video.py; None and
        "" stand for the default. Raises UserError for what cannot be.
        """
        with closing(self._in_thread(self._draw, run, prompt, flags)) as found:
            for item in found:
                yield item
                if isinstance(item, Drawn):
                    return

    def stream(self, run: str, prompt: str, flags: dict) -> Iterator[Live]:
        """Frames of a video, each when it is to be shown, at the speed of the model's clips; without end, unless flags
        say `num_frames`. Closing the iterator stops it. flags and errors: as draw's."""
        with closing(self._in_thread(self._stream, run, prompt, flags)) as found:
            rate, due, frames = next(found), time.perf_counter(), 0
            for piece in found:
                if piece is None:
                    return
                for frame in piece.frames:
                    due = max(due + 1 / rate, time.perf_counter())  # what comes late moves all that follow
                    time.sleep(max(0.0, due - time.perf_counter()))
                    frames += 1
                    yield Live(enlarged(frame[None])[0], frames, piece.pace["real_time"], piece.drift["colour"])

    def _in_thread(self, work: Callable, *args) -> Iterator:
        """What `work` puts into a queue, one after the other; an error is raised here. Closing this stops it."""
        found, stop = queue.Queue(), threading.Event()
        thread = threading.Thread(target=work, args=(*args, found, stop), daemon=True)
        thread.start()
        try:
            while True:
                if isinstance(item := found.get(), BaseException):
                    raise item
                yield item
        finally:  # also where the visitor has gone, or wants no more of it
            stop.set()
            thread.join()

    def _draw(self, run: str, prompt: str, flags: dict, found: queue.Queue, stop: threading.Event) -> None:
        try:
            if not (prompt or "").strip():
                raise UserError("--prompts: got an empty prompt")
            args, opened = self._args(flags), self.open(run)
            kind = Generator if args.video is None else Editor
            generator = kind(args, opened.file, self.device, opened)
            generator.on_step = Watch(generator, found, stop)
            jobs = generator.plan({"page": [prompt.strip()]}, known=generator.known_of(args))
            generator.draw_missing(jobs, show_bar=False)
            files = (generator.path(jobs[0], suffix) for suffix in (".mp4", ".json", ".png"))
            found.put(Drawn(*files, list(generator.warnings(jobs[0].prompt)), getattr(generator, "round_trip", None)))
        except BaseException as error:  # whatever it is, somebody waits for it
            found.put(error)

    def _stream(self, run: str, prompt: str, flags: dict, found: queue.Queue, stop: threading.Event) -> None:
        def stopped(clips: torch.Tensor) -> None:
            if stop.is_set():
                raise _Stopped

        try:
            if not (prompt or "").strip():
                raise UserError("--prompts: got an empty prompt")
            args, opened = self._args(flags | {"stream": "page"}), self.open(run)
            generator = Generator(args, opened.file, self.device, opened)
            generator.on_step = stopped
            (job,) = generator.plan({"page": [prompt.strip()]})
            found.put(generator.rate)
            for piece in stream_pieces(generator, job, endless=args.num_frames is None, fps=generator.rate):
                while found.qsize() >= PIECES_AHEAD:  # nobody sees them yet
                    stopped(None)
                    time.sleep(0.01)
                found.put(piece)
            found.put(None)
        except BaseException as error:
            found.put(error)

    def _args(self, flags: dict):
        parser = _Flags(description="the page")
        parser.add_argument("--video", type=Path)
        parser.add_argument("--stream")
        add_text_args(parser)
        add_edit_args(parser)
        add_given_args(parser)
        add_sampling_args(parser)
        add_output_args(parser, "page", visualize=True)
        if flags.get("video"):
            parser.checks.append(check_edit_args)
        parser.checks.append(check_given_args)
        words = [f"--output_dir={self.output_dir}", f"--device={self.given_device}"]
        for name, value in flags.items():
            if isinstance(value, tuple):
                words += [f"--{name}", *map(str, value)]
            elif value not in (None, ""):
                words.append(f"--{name}={value:g}" if isinstance(value, float) else f"--{name}={value}")
        return parser.parse_args(words)


class _Flags(Parser):
    """A Parser that leaves the program running."""

    def refuse(self, problems) -> None:
        raise UserError("; ".join(problems))


class Watch:
    """What a Generator calls after each step: looks at the video as often as is cheap, and stops it when asked to."""

    def __init__(self, generator: Generator, found: queue.Queue, stop: threading.Event):
        self.generator, self.found, self.stop = generator, found, stop
        self.step, self.looked, self.cost = 0, time.perf_counter(), 0.0

    def __call__(self, clips: torch.Tensor) -> None:
        if self.stop.is_set():
            raise _Stopped
        self.step += 1
        steps, frames, now = self.generator.num_steps, None, time.perf_counter()
        if now - self.looked >= self.cost / LOOKS:
            frames = self._look(clips)
            self.looked = time.perf_counter()
            self.cost = self.looked - now
        self.found.put(Look(self.step, steps, frames))

    def _look(self, clips: torch.Tensor) -> np.ndarray:
        """Some frames of the guess, side by side."""
        autoencoder = self.generator.model.autoencoder
        video = clips[:1] if autoencoder is None else autoencoder.decode(clips[:1])
        return strip(to_uint8(video[0].float().nan_to_num()))


def strip(frames: np.ndarray) -> np.ndarray:
    """Of frames (T, H, W, 3) up to FRAMES_SHOWN, spread over all, in one picture, large enough to be seen."""
    shown = frames[np.linspace(0, len(frames) - 1, min(len(frames), FRAMES_SHOWN)).round().astype(int)]
    return np.concatenate(list(enlarged(shown)), axis=1)


def enlarged(frames: np.ndarray) -> np.ndarray:
    """Frames (T, H, W, 3), at least HEIGHT_SHOWN high."""
    height = max(HEIGHT_SHOWN, frames.shape[1])
    if height == frames.shape[1]:
        return frames
    return resize_frames(frames, height, round(height * frames.shape[2] / frames.shape[1]))

"""What the rows are made of: the place where one works, and how it runs a script."""

import contextlib
import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from tests.clips import encode, moving_clip
from tests.table import Table
from utils import cli

KEEP_ALL = ("--keep", "black", "static", "cut", "duplicate")
TRAIN = ("--preset", "tiny", "--max_train_steps", 1, "--mixed_precision", "no", "--no_wandb")
TRAIN_SVD = ("--num_frames", 3, "--width", 64, "--height", 64, "--max_train_steps", 1, "--num_workers", 0, "--no_wandb")
ROWS = Table()
row = ROWS.row


@dataclass(frozen=True)
class Outcome:
    """How a script ended and what it said."""

    status: int
    out: str
    err: str

    def done(self, *words: str) -> "Outcome":
        """It ended well and said all of this."""
        assert self.status == 0, f"status {self.status}: {self.err[-400:]}"
        for word in words:
            assert word in self.out + self.err, f"{word!r} is not in {(self.out + self.err)[-400:]!r}"
        return self

    def refused(self, *words: str, lines: int = 1) -> str:
        """It ended with status 2 and as many lines of error, which say all of this."""
        errors = [line for line in self.err.splitlines() if "error: " in line]
        assert self.status == 2 and "Traceback" not in self.err, f"status {self.status}: {self.err[-400:]}"
        assert len(errors) == lines and errors[-1] == self.err.splitlines()[-1], f"not {lines} line: {self.err[-400:]}"
        for word in words:
            assert word in "\n".join(errors), f"{word!r} is not in {errors}"
        return f"status 2, {errors[0].partition('error: ')[2]}"


def run_script(name: str, argv: tuple, stdin: str = "") -> Outcome:
    """Run a script as `python <name>.py ...` does, in this process."""
    words = [str(word) for word in argv]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(mock.patch.object(sys, "argv", [f"{name}.py", *words]))
        stack.enter_context(mock.patch.object(sys, "stdin", io.StringIO(stdin)))
        try:
            module = importlib.import_module(name)
            cli.run(lambda: module.main(module.parse_args(words)))
        except SystemExit as stop:
            status = stop.code or 0
        except BaseException:
            status = 1
            err.write(traceback.format_exc())
    if "accelerate.state" in sys.modules:  # or the next run could not choose its precision
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
    return Outcome(status, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


class Shared:
    """What several rows need and no row changes, made when first asked for."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()

    @cached_property
    def data(self) -> Path:
        """Eight demo clips of six frames, 32x32."""
        from utils.demo_data.demo_dataset import write_demo_dataset

        with contextlib.redirect_stderr(io.StringIO()):
            write_demo_dataset(self.folder / "demo", num_clips=8, num_frames=6, frame_size=32)
        return self.folder / "demo"

    @cached_property
    def run_dir(self) -> Path:
        """A tiny text-to-video run of one step."""
        run_dir = self.folder / "run"
        run_script("train_text2video", ("--data_dir", self.data, "--output_dir", run_dir, *TRAIN)).done()
        return run_dir

    @cached_property
    def model(self) -> dict:
        import torch

        return torch.load(self.run_dir / "best_model.pth", weights_only=True)

    @cached_property
    def svd(self) -> Path:
        """A tiny Stable Video Diffusion."""
        from tests.tiny_svd import tiny_svd_pipeline

        tiny_svd_pipeline().save_pretrained(self.folder / "svd")
        return self.folder / "svd"

    @cached_property
    def frames(self) -> Path:
        """The demo clips as folders of frames."""
        argv = ("--video_dir", self.data / "videos", "--output_dir", self.folder / "frames", "--num_workers", 0)
        run_script("prepare_dataset", (*argv, *KEEP_ALL)).done()
        return self.folder / "frames"

    @cached_property
    def picture(self) -> Path:
        path = self.folder / "picture.png"
        Image.fromarray(moving_clip(1, 90, 120)[0]).save(path)
        return path


class Place:
    """The folder of one row. Scripts run in its empty cwd/, where nothing may appear."""

    def __init__(self, folder: Path, shared: Shared):
        self.folder, self.shared, self.data, self.out = folder, shared, folder / "data", folder / "out"
        for name in ("data/videos", "data/captions", "cwd"):
            (folder / name).mkdir(parents=True)

    def run(self, script: str, *argv, stdin: str = "") -> Outcome:
        with working_in(self.folder / "cwd"):
            outcome = run_script(script, argv, stdin)
            assert not os.listdir(), f"{script} left {os.listdir()} in the working folder"
        return outcome

    def train(self, *flags, data: Path | None = None) -> Outcome:
        argv = ("--data_dir", data or self.shared.data, "--output_dir", self.out, *TRAIN, *flags)
        return self.run("train_text2video", *argv)

    def generate(self, *flags, stdin: str = "") -> Outcome:
        argv = ("--checkpoint", self.shared.run_dir, "--num_inference_steps", 1, "--mixed_precision", "no")
        return self.run("generate_text2video", *argv, "--output_dir", self.out, *flags, stdin=stdin)

    def train_svd(self, *flags) -> Outcome:
        argv = ("--pretrained_model_name", self.shared.svd, "--dataset_dir", self.shared.frames)
        return self.run("train_svd", *argv, "--output_dir", self.out, *TRAIN_SVD, *flags)

    def animate(self, image: Path | str, *flags, model: Path | str | None = None) -> Outcome:
        size = ("--width", 64, "--height", 64, "--num_frames", 2, "--num_inference_steps", 1)
        argv = ("--model_dir", model or self.shared.svd, "--input_image", image, "--output_dir", self.out)
        return self.run("infer_svd", *argv, *size, *flags)

    # Videos

    def file(self, name: str | bytes, content: bytes) -> Path:
        """A file in videos/, with a caption."""
        path = self.data / "videos" / os.fsdecode(name)
        path.write_bytes(content)
        self.caption(path.stem)
        return path

    def clip(self, name: str, clip: np.ndarray | None = None, **how) -> Path:
        """A video in videos/, with a caption; `how` as in tests.clips.encode."""
        path = encode(self.data / "videos" / name, moving_clip(8) if clip is None else clip, **how)
        self.caption(path.stem)
        return path

    def caption(self, stem: str, content: bytes = b"a red circle moving right") -> Path:
        path = self.data / "captions" / f"{stem}.txt"
        path.write_bytes(content)
        return path

    def check(self, *flags) -> tuple[dict, Outcome]:
        """(dataset_report.json, outcome) of the data check, for clips of four frames."""
        outcome = self.run("video_dataset", "--check", self.data, "--num_frames", 4, "--frame_size", 32, *flags)
        return json.loads((self.data / "dataset_report.json").read_text()), outcome

    def prepare(self, *flags) -> dict[str, dict]:
        """{name: row of manifest.jsonl} of all videos."""
        argv = ("--video_dir", self.data / "videos", "--output_dir", self.folder / "frames", "--num_workers", 0)
        self.run("prepare_dataset", *argv, "--min_frames", 4, *KEEP_ALL, *flags).done()
        lines = (self.folder / "frames" / "manifest.jsonl").read_text().splitlines()
        return {row["source"]: row for row in map(json.loads, lines)}

    def skipped(self, path: Path, reason: str) -> str:
        """Both scripts that read videos skip this one by name with the reason, and take a good one beside it."""
        good = self.clip("good.mp4")
        report, outcome = self.check()
        outcome.done("1 of 2 videos are usable")
        found = [why for why, names in report["findings"].items() if path.name in names]
        assert any(reason in why for why in found), f"found {found}"
        rows = self.prepare()
        assert reason in rows[path.name]["rejected"] and "folder" in rows[good.name], rows
        return f"skipped: {rows[path.name]['rejected']}"

    def kept(self, path: Path, clip: np.ndarray, tolerance: float = 14, note: str = "") -> str:
        """Both scripts take the video: its size, its frames in their places, upright, in about their colours."""
        report, outcome = self.check()
        outcome.done("1 of 1 videos are usable")
        assert any(note in found for found in report["notes"].get(path.name, [""])), f"notes {report['notes']}"
        row = self.prepare()[path.name]
        files = sorted((self.folder / "frames" / row["folder"]).iterdir())
        frames = np.stack([np.asarray(Image.open(file)) for file in files])
        assert frames.shape == clip.shape, f"{frames.shape}, not {clip.shape}"
        distances = np.abs(frames[:, None].astype(float) - clip[None]).mean((2, 3, 4))
        assert distances.argmin(1).tolist() == list(range(len(clip))), "a frame is not in its place"
        assert distances.diagonal().max() < tolerance, f"colours differ by {distances.diagonal().max():.1f}"
        return f"taken: {len(frames)} frames of {clip.shape[2]}x{clip.shape[1]}" + (f", note: {note}" if note else "")

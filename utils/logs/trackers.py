"""wandb and TensorBoard: told what they may know, and kept from stopping a training."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np

from utils.cli import printable, without_secrets

INIT_SECONDS = 12  # for wandb's service; its own patience is 90 s
FINISH_SECONDS = 600  # for the upload at the end; its own patience has no limit


class Unfailing:
    """A tracker of accelerate's that logs until its first failure: that is told, once, and the training goes on."""

    def __init__(self, tracker, run_dir: Path):
        self.tracker, self.name, self.run_dir = tracker, tracker.name, run_dir
        self.failed = False

    def log(self, values: dict, step: int | None = None, **kwargs) -> None:
        self._try(self.tracker.log, values, step=step, **kwargs)

    def show(self, step: int, videos: dict[str, Path], contact_sheet: np.ndarray) -> None:
        """Sample videos and their contact sheet. Videos go by path: wandb plays the file as it is."""
        if self.name == "wandb":
            import wandb

            media = {
                f"samples/{i}": wandb.Video(str(path), caption=prompt, format="mp4")
                for i, (prompt, path) in enumerate(videos.items())
            }
            media["samples/contact_sheet"] = wandb.Image(contact_sheet)
            self._try(self.tracker.tracker.log, media, step=step)
        elif self.name == "tensorboard":
            add_image = self.tracker.writer.add_image
            self._try(add_image, "samples/contact_sheet", contact_sheet, step, dataformats="HWC")

    def finish(self) -> None:
        self._try(self.tracker.finish)

    def _try(self, call: Callable, *args, **kwargs) -> None:
        if self.failed:
            return
        try:
            call(*args, **kwargs)
        except Exception as error:  # whatever the service, its network or its disk does
            self.failed = True
            reason = printable(" ".join(str(error).split())[:200]) or type(error).__name__
            print(
                f"\nwarning: {self.name} takes no more logs ({reason}); the training goes on, and "
                f"{self.run_dir / 'metrics.jsonl'} has all numbers"
            )


def start_trackers(
    accelerator, names: list[str], project: str, run_dir: Path, config: dict, run_id: str | None
) -> str | None:
    """Start wandb and TensorBoard as asked and return wandb's run id, or None without wandb.

    wandb without an API key, or one that does not answer within INIT_SECONDS, goes offline and says so: it never asks
    at the terminal and never stops training. Of `config` it gets flags, without what looks like a secret.
    """
    init_kwargs = {}
    if "wandb" in names and accelerator.is_main_process:
        run_id = run_id or secrets.token_hex(4)
        init_kwargs["wandb"] = wandb_options(run_dir, run_id)
    flags = {key: value for key, value in config.items() if isinstance(value, bool | int | float | str)}
    flags = without_secrets(flags)
    try:
        accelerator.init_trackers(project, config=flags, init_kwargs=init_kwargs)
    except Exception as error:  # whatever the service does, training goes on
        if init_kwargs.get("wandb", {"mode": "offline"})["mode"] == "offline":
            raise
        import wandb

        print(
            f"wandb: {printable(' '.join(str(error).split())[:200])}; logging offline, "
            f"`wandb sync {run_dir / 'wandb'}/offline-run-*` uploads it later"
        )
        wandb.teardown()  # or the run's id would still be in use
        accelerator.trackers = []
        init_kwargs["wandb"]["mode"] = "offline"
        accelerator.init_trackers(project, config=flags, init_kwargs=init_kwargs)
    accelerator.trackers = [Unfailing(tracker, run_dir) for tracker in accelerator.trackers]
    return run_id


def wandb_options(run_dir: Path, run_id: str) -> dict:
    """The arguments of wandb.init."""
    # Its reports of errors to its makers wait 20 s for an answer at the end of a run that no network reaches.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    mode = os.environ.get("WANDB_MODE")
    if mode is None and not wandb.api.api_key:
        mode = "offline"
        print(
            f"wandb: no API key, logging offline; `wandb login` and then "
            f"`wandb sync {run_dir / 'wandb'}/offline-run-*` uploads it"
        )
    settings = wandb.Settings(
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        silent=True,
        console="off",
        save_code=False,
        x_disable_meta=True,  # the command line as it was typed, say
    )
    return {
        "mode": mode,
        "settings": settings,
        "dir": str(run_dir),
        "id": run_id,
        "resume": "allow",
        "name": run_dir.name,
    }


def log_media(accelerator, step: int, videos: dict[str, Path], contact_sheet: np.ndarray) -> None:
    """Show sample videos and their contact sheet in the trackers."""
    for tracker in accelerator.trackers:
        tracker.show(step, videos, contact_sheet)

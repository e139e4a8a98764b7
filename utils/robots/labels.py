"""What an inverse-dynamics model reads from drawn videos: the actions that they show, and how sure it is of them."""

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from utils.cli import UserError, printable
from utils.tensors import require_numbers
from utils.video.frames import resize_frames

OTHER_RATE = 0.01


class Labels:
    """The model that train_inverse_dynamics.py left in a run folder, or its model/.

    names, fps: of the actions and the videos that it is to read. Raises UserError for a folder without one, and for one
    that has learnt other actions, or at another rate.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], fps: float):
        from models.robots.inverse_dynamics import InverseDynamics

        folder = folder / "model" if (folder / "model").is_dir() else folder
        try:
            self.model = InverseDynamics.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
            require_numbers(self.model.state_dict())
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            reason = " ".join(str(error).split())[:200]
            remedy = "train_inverse_dynamics.py makes one"
            raise UserError(f"--inverse_dynamics: {printable(folder)} cannot be used ({reason}); {remedy}") from None
        config = self.model.config
        if tuple(config.names) != names:
            raise UserError(
                f"--inverse_dynamics: it reads {', '.join(config.names)}; the model obeys {', '.join(names)}"
            )
        if abs(config.fps - fps) > OTHER_RATE * fps:
            raise UserError(f"--inverse_dynamics: it learnt from {config.fps:g} frames a second, these have {fps:g}")

    def read(self, video: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(actions (T, D) in the units of the data, what is believed of their error in its deviations (T,)) of a video,
        uint8 (T, H, W, 3); behind the last frame nothing is seen, so the last action is the one before again."""
        frames = resize_frames(video, *self.model.config.frame_size, "stretch")
        clip = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        actions, deviations = (each[0].numpy() for each in self.model.read(clip))
        again = [*range(len(actions)), len(actions) - 1]
        return actions[again].astype(np.float32), deviations.mean(1)[again].astype(np.float32)

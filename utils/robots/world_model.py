"""A text-to-video model as a model of the world: what is seen from a first frame on, if these actions are taken."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from models.conditions import settings_of
from utils.cli import UserError, printable
from utils.drawing.chaining import colours_held, draw_chain, pieces_of
from utils.drawing.opened import open_model
from utils.hardware import choose_precision
from utils.runs.conditions import given_of
from utils.video.frames import to_uint8


class WorldModel:
    """A run of train_text2video.py that knows first frames (--tasks) and vectors per frame (--vectors).

    vectors: which of its vectors are the actions, by default the only ones. num_frames: of a piece; names: of the
    numbers of an action; height, width; target_fps: at which training read its clips, None for all of their frames;
    cameras, resize_mode: as it read them; file, sha256, step: what it is. Raises UserError for a model that does not
    know these.
    """

    def __init__(
        self,
        checkpoint: Path,
        vectors: str | None = None,
        *,
        sampler: str = "dpmpp_sde",
        num_inference_steps: int = 25,
        overlap: int = 4,
        mixed_precision: str = "auto",
        text_encoder: str | None = None,
        vae: str | None = None,
    ):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        opened = open_model(checkpoint, text_encoder, vae, self.device)
        self.model, self.file, self.sha256 = opened.model, opened.file, opened.sha256
        self.settings = settings_of(self.model.diffusion.unet)
        known = list(self.settings.vectors)
        if not self.settings.known or not known:
            lacks = "first frames" if not self.settings.known else "actions"
            raise UserError(
                f"--checkpoint: {printable(checkpoint)} was trained without {lacks}; "
                "train_text2video.py --vectors action --tasks first_frame=0.6 continuation=0.4 teaches both"
            )
        if vectors is None and len(known) > 1:
            raise UserError(f"--vectors: the model knows {', '.join(known)}; say which are the actions")
        self.action = vectors or known[0]
        if self.action not in known:
            raise UserError(f"--vectors: the model knows {', '.join(known)}, not {self.action}")
        self.names = tuple(self.settings.vectors[self.action]["names"])
        shown = ("num_frames", "height", "width", "step")
        self.num_frames, self.height, self.width, self.step = (opened.said[name] for name in shown)
        reading = opened.said.get("data", {})
        self.target_fps, self.cameras = reading.get("target_fps"), reading.get("cameras")
        self.resize_mode = reading.get("resize_mode", "crop")
        if overlap >= self.num_frames:
            raise UserError(f"--overlap: got {overlap}, must be less than the model's {self.num_frames} frames")
        self.overlap = overlap
        self.how = {"sampler": sampler, "num_inference_steps": num_inference_steps, "guidance_scale": 1.0}
        self.how |= {"height": self.height, "width": self.width}
        precision = choose_precision(mixed_precision, self.device.type == "cpu")
        self.dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def checked_length(self, num_frames: int | None) -> int:
        """Frames of a video, by default of a piece. Raises UserError for a number that cannot be drawn."""
        if num_frames is None:
            return self.num_frames
        fold = 1 if self.model.autoencoder is None else self.model.autoencoder.layout.time
        if num_frames < self.num_frames or (num_frames - self.num_frames) % fold:
            more = f", and {fold} more at a time" * (fold > 1)
            raise UserError(f"--num_frames: got {num_frames}; the model draws {self.num_frames} at least{more}")
        if num_frames > self.num_frames and self.overlap % fold:
            raise UserError(f"--overlap: got {self.overlap}, must be a multiple of {fold} for this model")
        return num_frames

    @torch.no_grad()
    def follow(
        self,
        prompts: Sequence[str],
        first_frames: np.ndarray,
        actions: np.ndarray,
        seeds: Sequence[int],
        listens: bool = True,
    ) -> list[np.ndarray]:
        """Videos of T frames, uint8 (T, height, width, 3), that begin with these frames, uint8 (B, height, width, 3).

        actions: (B, T, D) in the units of the data, T as checked_length has it; action t is taken at frame t. listens:
        whether the model is told of them; else it shows what it thinks will be done. Longer videos are drawn piece by
        piece, each from the last frames of the one before.
        """
        length = actions.shape[1]
        if length < self.num_frames:
            raise ValueError(f"got {length} actions, the model draws {self.num_frames} frames at least")
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            given = self._given(as_video(first_frames[:, None]), actions, listens)
            draw = functools.partial(self.model.sample, list(prompts), list(seeds), **self.how)
            pieces = pieces_of(length, self.num_frames, self.overlap)
            clips = torch.cat(list(draw_chain(draw, self.model, pieces, given, self.device)), dim=2)
        return [to_uint8(clip) for clip in clips]

    @torch.no_grad()
    def go_on(
        self, prompts: Sequence[str], before: np.ndarray, actions: np.ndarray, seeds: Sequence[int]
    ) -> np.ndarray:
        """What follows K frames, uint8 (B, K, height, width, 3): uint8 (B, num_frames - K, height, width, 3).

        K is 1 or `overlap`. actions: (B, num_frames, D) in the units of the data, from the first of these frames on.
        """
        known = as_video(before)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            given = self._given(known, actions)
            clips = self.model.sample(
                list(prompts), list(seeds), **self.how, num_frames=self.num_frames, conditions=given
            )
        clips = clips.float().cpu()
        if known.shape[2] > 1:
            clips = colours_held(clips, known)
        return np.stack([to_uint8(clip) for clip in clips[:, :, known.shape[2] :]])

    def _given(self, known: torch.Tensor, actions: np.ndarray, listens: bool = True) -> dict[str, torch.Tensor]:
        """Of videos as long as actions (B, T, D), whose first frames are known (B, 3, K, H, W) in [-1, 1]."""
        shape = actions.shape[1], *known.shape[3:]
        videos, mask = torch.zeros(len(known), 3, *shape), torch.zeros(len(known), 1, *shape)
        videos[:, :, : known.shape[2]], mask[:, :, : known.shape[2]] = known, 1
        conditions = {self.action: torch.from_numpy(np.ascontiguousarray(actions, np.float32))}
        present = {self.action: torch.full((len(known),), float(listens))}
        batch = {"video": videos, "conditions": conditions, "present": present}
        return given_of(batch, self.settings, self.model.autoencoder, self.device, mask=mask)


def as_video(frames: np.ndarray) -> torch.Tensor:
    """uint8 (B, T, H, W, 3) -> float32 (B, 3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 4, 1, 2, 3).float() / 127.5 - 1

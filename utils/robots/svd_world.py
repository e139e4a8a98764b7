"""A fine-tuned Stable Video Diffusion as a model of the world, and whichever of the two a folder holds."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.diffusion.known import vector_steps
from models.svd.steering import steered
from utils.cli import UserError, printable
from utils.robots.world_model import WorldModel
from utils.runs.checkpoint import sha256
from utils.svd.finetuned import load_finetuned
from utils.svd.vectors import WEIGHTS, load_vectors


class SvdWorld:
    """What WorldModel is for text to video: a folder of train_svd.py --vectors, whose pipeline is given each piece's
    first frame as its picture; prompts say nothing to it. Longer videos go on from the last frame alone."""

    overlap = 1

    def __init__(
        self,
        model_dir: Path,
        vectors: str | None = None,
        *,
        num_inference_steps: int = 25,
        mixed_precision: str = "auto",
    ):
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        half = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
        half["auto"] = torch.float16 if self.device.type == "cuda" else torch.float32
        self.pipeline, about = load_finetuned(str(model_dir), None, None, None, half[mixed_precision])
        self.settings = load_vectors(self.pipeline.unet, model_dir, about)
        known = list(self.settings.vectors)
        self.action = vectors or known[0]
        if self.action not in known or (vectors is None and len(known) > 1):
            raise UserError(f"--vectors: the model knows {', '.join(known)}; say which are the actions")
        self.names = tuple(self.settings.vectors[self.action]["names"])
        self.pipeline.to(self.device)
        self.pipeline.unet.conditions.to(self.device, self.pipeline.unet.dtype)
        self.pipeline.set_progress_bar_config(disable=True)
        shown = ("num_frames", "height", "width", "step")
        self.num_frames, self.height, self.width, self.step = (about[name] for name in shown)
        self.target_fps, self.cameras, self.resize_mode = about["fps"], about.get("cameras"), about.get("resize_mode")
        self.bucket = sorted(about["motion_bucket_ids"])[len(about["motion_bucket_ids"]) // 2]
        self.file, self.sha256 = model_dir / WEIGHTS, sha256(model_dir / WEIGHTS)
        self.how = {"num_inference_steps": num_inference_steps, "num_frames": self.num_frames, "output_type": "np"}
        self.how |= {"height": self.height, "width": self.width, "fps": round(self.target_fps)}

    def checked_length(self, num_frames: int | None) -> int:
        """Frames of a video, by default of a piece. Raises UserError for fewer."""
        if num_frames is not None and num_frames < self.num_frames:
            raise UserError(f"--num_frames: got {num_frames}; the model draws {self.num_frames} at least")
        return num_frames or self.num_frames

    @torch.no_grad()
    def follow(
        self,
        prompts: Sequence[str],
        first_frames: np.ndarray,
        actions: np.ndarray,
        seeds: Sequence[int],
        listens: bool = True,
    ) -> list[np.ndarray]:
        """See WorldModel.follow."""
        videos = []
        for frame, taken, seed in zip(first_frames, actions, seeds, strict=True):
            generator, frames = torch.Generator().manual_seed(seed), frame[None]
            while len(frames) < len(taken):
                begin = min(len(frames) - 1, len(taken) - self.num_frames)
                piece = self._piece(
                    frames[begin], taken[begin : begin + self.num_frames] if listens else None, generator
                )
                frames = np.concatenate([frames, piece[len(frames) - begin :]])
            videos.append(frames)
        return videos

    def go_on(
        self, prompts: Sequence[str], before: np.ndarray, actions: np.ndarray, seeds: Sequence[int]
    ) -> np.ndarray:
        """See WorldModel.go_on."""
        drawn = [
            self._piece(frames[-1], taken, torch.Generator().manual_seed(seed))[1:]
            for frames, taken, seed in zip(before, actions, seeds, strict=True)
        ]
        return np.stack(drawn)

    def _piece(self, frame: np.ndarray, actions: np.ndarray | None, generator: torch.Generator) -> np.ndarray:
        given, unet = {}, self.pipeline.unet
        if actions is not None:
            vectors = torch.from_numpy(np.ascontiguousarray(actions, np.float32))[None]
            about = self.settings.vectors[self.action]
            steps = vector_steps(vectors, torch.ones(1), about, self.settings, self.num_frames)
            given = {self.action: steps.to(self.device, unet.dtype)}
        with steered(unet, given):
            drawn = self.pipeline(
                Image.fromarray(frame),
                motion_bucket_id=self.bucket,
                generator=generator,
                decode_chunk_size=8,
                **self.how,
            )
        return np.rint(np.clip(drawn.frames[0], 0, 1) * 255).astype(np.uint8)


def open_world(
    checkpoint: Path,
    vectors: str | None = None,
    *,
    num_inference_steps: int = 25,
    mixed_precision: str = "auto",
    **text_to_video,
) -> WorldModel | SvdWorld:
    """The world model in a folder of train_svd.py, or the run of train_text2video.py; other settings are for the
    latter alone. Raises UserError for one that does not know actions."""
    how = {"num_inference_steps": num_inference_steps, "mixed_precision": mixed_precision}
    if (checkpoint / "svd.json").is_file():
        return SvdWorld(checkpoint, vectors, **how)
    if checkpoint.is_dir() and (checkpoint / "model_index.json").is_file():
        raise UserError(f"--checkpoint: {printable(checkpoint)} knows no actions; train_svd.py --vectors action does")
    return WorldModel(checkpoint, vectors, **how, **text_to_video)

"""Videos that are changed: in a place, by a pair of prompts, or in their style, by the models that draw new ones."""

import argparse

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from models.autoencoder import VideoAutoencoder
from models.conditions import KNOWN
from models.diffusion.editing import invert
from models.diffusion.known import known_places
from models.diffusion.sampling import first_step
from utils.cli import UserError, printable
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError, VideoInfo
from utils.drawing.generator import Generator
from utils.drawing.given import Known, digest, read_known
from utils.drawing.jobs import Job
from utils.drawing.masks import blended, mask_of
from utils.video.frame_windows import sample_segment
from utils.video.frames import resize_frames


class Editor(Generator):
    """A Generator that begins from a video.

    With a mask what lies outside stays as it is: a network that takes known places is given them; of others the guess
    of the clean clip is replaced there in each step. With --source_prompt the noise is sought from which that prompt
    draws the video, and --prompts are drawn from it. Else drawing begins at the video with noise, by --strength.
    """

    def __init__(self, args: argparse.Namespace, checkpoint, device, opened=None):
        args.strength = 0.5 if args.strength is None else args.strength
        args.sampler = "ddim" if args.source_prompt else args.sampler
        super().__init__(args, checkpoint, device, opened)
        self.before, *self.source = self._read(args)
        self.mask = mask_of(args, self.before, *self.source)
        self.settings |= {
            "video": digest(args.video),
            "source_prompt": args.source_prompt,
            "strength": args.strength,
            "mask": None
            if self.mask is None
            else [args.mask and digest(args.mask), args.box, args.pick, args.tolerance],
            "grow": args.grow,
            "feather": args.feather,
        }
        self.video = torch.from_numpy(self.before).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        self.round_trip: float | None = None  # dB between the video and what inversion makes of it

    def _read(self, args: argparse.Namespace) -> tuple[np.ndarray, VideoInfo, np.ndarray]:
        """(frames as the model takes them, the video, which frames of it)."""
        try:
            info = probe_video(args.video)
            end = min([info.frames, *(gap for gap in info.gaps if gap)])
            indices, _ = sample_segment(info, 0, end, self.reading.get("target_fps"), 1)
            if len(indices) < self.num_frames:
                raise UserError(
                    f"--video: {printable(args.video)} has {len(indices)} frames at this model's rate, it takes "
                    f"{self.num_frames}; give --num_frames {len(indices)}"
                )
            indices = indices[: self.num_frames]
            return resize_frames(read_frames(info, indices), self.height, self.width), info, indices
        except (VideoError, OSError) as error:
            raise UserError(f"--video: {printable(args.video)} {error}") from None

    def known_of(self, args: argparse.Namespace) -> Known | None:
        """Maps and vectors of the video itself."""
        shape, rate = (self.num_frames, self.height, self.width), self.reading.get("target_fps")
        known = read_known(args, self.conditions, shape, rate or self.source[0].fps, rate, of=self.source)
        return known if known.files else None

    def plan(self, groups: dict[str, list[str]], first: int = 0, known=None) -> list[Job]:
        jobs = super().plan(groups, first, known)
        if self.mask is not None and self.conditions.known:
            known_mask = torch.from_numpy(~self.mask)[None, None].float().to(self.device)
            with torch.no_grad():
                places = known_places(self.video.to(self.device), known_mask, self.model.autoencoder)
            for job in jobs:
                job.given = job.given | {KNOWN: places}
        return jobs

    def given(self, jobs: list[Job]) -> dict:
        more = super().given(jobs)
        if self.mask is not None and KNOWN in jobs[0].given:
            return more
        clips = self._clips().expand(len(jobs), -1, -1, -1, -1)
        if self.mask is not None:
            hole = torch.from_numpy(self.mask)[None, None].float().to(self.device)
            return more | {"replacement": (clips, kept_places(hole, self.model.autoencoder))}
        if self.args.source_prompt is None:
            return more | {"start": clips, "strength": self.args.strength}
        return more | {"noise": self._inverted(jobs, clips, more), "strength": self.args.strength}

    @torch.no_grad()
    def _clips(self) -> Tensor:
        """The video as diffusion sees clips."""
        video, autoencoder = self.video.to(self.device), self.model.autoencoder
        return video if autoencoder is None else autoencoder.encode(video)

    def _inverted(self, jobs: list[Job], clips: Tensor, more: dict) -> Tensor:
        """The noise of the video under the source prompt, once for all jobs; notes how well it comes back."""
        model, steps = self.model, self.num_inference_steps
        source, mask = model.text_encoder.encode([self.args.source_prompt])
        conditions = {name: each[:1] for name, each in more.get("conditions", {}).items()}
        how = {"num_inference_steps": steps, "strength": self.args.strength, "conditions": conditions}
        how |= {"on_step": self.stepped}
        generators = [torch.Generator().manual_seed(self.args.seed)]
        noise = invert(model.diffusion, clips[:1], source, model.needed(mask), generators=generators, **how)
        shape = dict(zip(("num_frames", "height", "width"), clips.shape[2:], strict=True))
        again = model.diffusion.sample(source, model.needed(mask), **shape, **how, noise=noise, sampler="ddim")
        again = again if model.autoencoder is None else model.autoencoder.decode(again, self.num_frames)
        error = (again.float().cpu() - self.video).square().mean().item()
        self.round_trip = round(-10 * float(np.log10(max(error, 1e-10) / 4)), 2)
        self.about["round_trip_db"] = self.round_trip
        return noise.expand(len(jobs), -1, -1, -1, -1)

    @property
    def num_steps(self) -> int:
        if self.mask is not None:
            return self.num_inference_steps
        drawn = self.num_inference_steps - first_step(self.num_inference_steps, self.args.strength)
        return 3 * drawn - 1 if self.args.source_prompt else drawn  # there, to see how well it comes back, and back

    def finished(self, job: Job, frames: np.ndarray) -> np.ndarray:
        return frames if self.mask is None else blended(self.before, frames, self.mask, self.args.feather)

    def sheet(self, job: Job, frames: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
        marked = [] if self.mask is None else [np.where(self.mask[..., None], 255, self.before // 3).astype(np.uint8)]
        return [self.before, *marked, frames], ["before", *(["what may change"] if marked else []), job.prompt]


def kept_places(holes: Tensor, autoencoder: VideoAutoencoder | None) -> Tensor:
    """Of holes (B, 1, T, H, W), 1 where a video may change: (B, 1, t, h, w), 1 where nothing of a place may."""
    if autoencoder is not None:
        layout = autoencoder.layout
        missing = layout.latent_frames(holes.shape[2]) * layout.time - holes.shape[2]
        holes = torch.cat([holes[:, :, :1]] * missing + [holes], dim=2)
        holes = max_pool3d(holes, (layout.time, layout.space, layout.space))
    return 1 - holes

"""Drawing many videos with a trained model: jobs, their files, and the settings that decide every pixel.

What training decided (network, frames, size, text encoder) comes from the checkpoint. The parts that generation and
evaluation share; no torch at the top, since the flags are read before it is imported.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from utils.arguments.conditions import pairs
from utils.cli import UserError, versions, without_secrets
from utils.drawing.jobs import Job, file_stem, shortened
from utils.files import write_text

REMEDIES = "a smaller --batch_size, --mixed_precision bf16, fewer --num_frames, a smaller --frame_size"


class Generator:
    """A loaded model with the settings of the command line: plans, draws and writes videos.

    opened: the OpenModel of the checkpoint, for whoever draws with it again and again. on_step is called after each
    step with the guess of the clean clips, as diffusion sees them.
    """

    def __init__(self, args: argparse.Namespace, checkpoint: Path, device, opened=None):
        import torch

        from models.conditions import settings_of
        from utils.drawing.opened import open_model, open_weaker
        from utils.hardware import choose_precision

        if args.device == "cuda" and not torch.cuda.is_available():
            raise UserError("--device: cuda was asked for, but torch sees no CUDA device; leave --device out")
        self.args, self.device, self.on_step = args, torch.device(device), lambda clips: None
        opened = opened or open_model(checkpoint, args.text_encoder, args.vae, self.device)
        self.model, model, autoencoder = opened.model, opened.said, opened.model.autoencoder
        weaker = open_weaker(args, self.model, self.device) if args.autoguidance else None
        self.weaker = weaker and weaker.model
        precision = choose_precision(args.mixed_precision, on_cpu=self.device.type == "cpu")
        self.dtype = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]

        self.num_frames = args.num_frames or model["num_frames"]
        self.height = args.height or args.frame_size or model["height"]
        self.width = args.width or args.frame_size or model["width"]
        multiple = self.model.diffusion.unet.size_multiple * (autoencoder.layout.space if autoencoder else 1)
        for flag, size in (("--height", self.height), ("--width", self.width)):
            if size % multiple:
                raise UserError(f"{flag}: got {size}, must be a multiple of {multiple} for this model")
        if autoencoder is not None:
            try:
                autoencoder.latent_shape(self.num_frames, self.height, self.width)
            except ValueError as error:
                raise UserError(f"--num_frames: {error}") from None
        self.conditions = settings_of(self.model.diffusion.unet)
        self.windows = self._windows(args)
        self.chain = self._chain(args, model["num_frames"])
        self.scales = pairs(getattr(args, "condition_scale", None), float)
        most = self.model.diffusion.unet.most_frames
        at_once = (self.windows | self.chain).get("window_frames", self.num_frames)
        if most is not None and at_once > most:
            flag = "--window_frames" if self.windows else "--num_frames"
            way_out = f"--window_frames {most} draws more"
            raise UserError(f"{flag}: got {at_once}, this model takes at most {most}; {way_out}")
        thresholding = args.thresholding or self.model.diffusion.default_thresholding
        if autoencoder is not None and thresholding != "none":
            raise UserError(f"--thresholding: {thresholding} is for pixels, and this model has latents; leave it out")
        num_timesteps = self.model.diffusion.num_timesteps
        sampler = args.sampler or model.get("sampler", "dpmpp_sde")
        usual = min(1000 if sampler == "ddpm" else 25, num_timesteps)
        own = model.get("num_inference_steps", usual) if sampler == model.get("sampler") else usual
        self.num_inference_steps = args.num_inference_steps or own
        if self.num_inference_steps > num_timesteps:
            raise UserError(f"--num_inference_steps: got {self.num_inference_steps}, must be at most {num_timesteps}")
        guidance_scale = model["guidance_scale"] if args.guidance_scale is None else args.guidance_scale
        interval = list(args.guidance_interval or model.get("guidance_interval", (0.0, 1.0)))
        self.settings = {  # all that decides the pixels of a video, besides prompt and seed
            "checkpoint_sha256": opened.sha256,
            "negative_prompt": args.negative_prompt,
            "num_frames": self.num_frames,
            "height": self.height,
            "width": self.width,
            "fps": args.fps,
            "sampler": sampler,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": guidance_scale,
            "guidance_rescale": args.guidance_rescale,
            "thresholding": thresholding,
            "precision": precision,
            **({"guidance_interval": interval} if interval != [0.0, 1.0] else {}),
            **({"guidance_parallel": args.guidance_parallel} if args.guidance_parallel != 1 else {}),
            **({"autoguidance_sha256": weaker.sha256} if weaker else {}),
            **self.windows,
            **({"condition_scales": self.scales} if self.scales else {}),
            **({"chain_overlap": self.chain["window_overlap"]} if self.chain else {}),
        }
        # How training read its clips, as arguments of TextVideoDataset; older model files do not say it.
        self.reading = {
            "num_frames": self.num_frames,
            "frame_size": (self.height, self.width),
            **model.get("data", {}),
        }
        self.about = {"checkpoint": str(opened.file), "step": model["step"], "versions": versions()}
        try:
            args.output_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output_dir: {args.output_dir} cannot be made ({error.strerror})") from None

    def _windows(self, args: argparse.Namespace) -> dict[str, int]:
        """window_frames and window_overlap of a video that is longer than its window; of others nothing. Raises
        UserError for those that cannot be."""
        window, overlap = args.window_frames, args.window_overlap
        if window is None or window >= self.num_frames:
            return {}
        overlap = overlap or window // 2
        if not 1 <= overlap < window:
            raise UserError(f"--window_overlap: got {overlap}, must be less than --window_frames, {window}")
        if self.model.autoencoder is not None:
            try:
                frames = self.model.autoencoder.latent_shape(window, self.height, self.width)[1]
            except ValueError as error:
                raise UserError(f"--window_frames: {error}") from None
            if frames < 2:
                raise UserError(f"--window_frames: {window} frames are one of latents, and windows have to overlap")
        elif window < 2:
            raise UserError("--window_frames: got 1, and windows have to overlap")
        return {"window_frames": window, "window_overlap": overlap}

    def _chain(self, args: argparse.Namespace, trained: int) -> dict[str, int]:
        """window_frames and window_overlap of the pieces of a video that is longer than the model was trained for, with
        --chain_overlap or --stream; of others nothing. Raises UserError where they cannot be."""
        overlap, autoencoder = getattr(args, "chain_overlap", None), self.model.autoencoder
        fold = 1 if autoencoder is None else autoencoder.layout.time
        flag, endless = "--chain_overlap", False
        if getattr(args, "stream", None) is not None:
            flag, endless = "--stream", args.num_frames is None
            overlap = overlap or max(trained // 4 // fold, 1) * fold
        if overlap is None or self.num_frames <= trained and not endless:
            return {}
        if not self.conditions.known:
            raise UserError(
                f"{flag}: this model was not trained with known frames (--tasks continuation=0.5, say); "
                f"--window_frames {trained} draws longer videos with any"
            )
        if self.windows:
            raise UserError("--window_frames: --chain_overlap draws the video in pieces already; give one of them")
        if overlap >= trained:
            raise UserError(f"--chain_overlap: got {overlap}, must be less than the {trained} frames of a piece")
        if fold > 1 and (overlap % fold or (self.num_frames - trained) % fold or trained % fold):
            raise UserError(
                f"--chain_overlap: got {overlap}; with this autoencoder pieces of {trained} frames must begin and "
                f"overlap in multiples of {fold}"
            )
        return {"window_frames": trained, "window_overlap": overlap}

    @property
    def rate(self) -> float:
        """Frames per second of the videos' own time, at which vectors and sound are read."""
        return self.reading.get("target_fps") or self.args.fps

    def known_of(self, args: argparse.Namespace):
        """What the flags of add_given_args say is known of the videos, a Known; None if nothing."""
        from utils.drawing.given import read_known

        shape = self.num_frames, self.height, self.width
        known = read_known(args, self.conditions, shape, self.rate, self.reading.get("target_fps"))
        return known if known.files else None

    def plan(self, groups: dict[str, list[str]], first: int = 0, known=None) -> list[Job]:
        """One job per prompt, numbered from `first`; says which prompts are cut and which words mean nothing here.

        known: a Known, of all of them.
        """
        given = {} if known is None else known.on_grid(self.model, self.conditions, self.device)
        if missing := self.scales.keys() - given.keys():
            raise UserError(f"--condition_scale: {min(missing)} is not given; known of the videos: {', '.join(given)}")
        jobs = []
        for group, prompts in groups.items():
            for prompt in prompts:
                index = first + len(jobs)
                jobs.append(Job(index, prompt, group, self.args.seed + index, given=given))
                jobs[-1].files = {} if known is None else known.files
                jobs[-1].stem = file_stem(jobs[-1], self.settings)
                for warning in self.warnings(prompt):
                    print(f"warning: {warning}", file=sys.stderr)
        return jobs

    def warnings(self, prompt: str) -> Iterator[str]:
        """What of a prompt the model does not read."""
        if cut := self.model.text_encoder.cut(prompt):
            limit = self.model.text_encoder.max_length
            parts = f"used: {shortened(prompt[: len(prompt) - len(cut)])}; cut off: {shortened(cut)}"
            yield f"the prompt is longer than {limit} tokens; {parts}"
        if unknown := self.model.text_encoder.unknown_words(prompt):
            words = shortened(", ".join(dict.fromkeys(unknown)))
            yield f"no training caption had the word(s) {words}; the model ignores them"

    def path(self, job: Job, suffix: str) -> Path:
        return self.args.output_dir / f"{job.stem}{suffix}"

    def is_done(self, job: Job) -> bool:
        """Whether everything that was asked for is there; the JSON file is written last."""
        wanted = [".mp4", ".json"] + [".gif"] * self.args.save_gif + [".png"] * self.args.visualize
        frames = not self.args.save_frames or self.path(job, "_frames").is_dir()
        return frames and all(self.path(job, suffix).is_file() for suffix in wanted)

    def draw_missing(self, jobs: list[Job], overwrite: bool = False, show_bar: bool = True) -> None:
        """Draw those of the jobs whose files are not there yet, or all of them, in batches.

        With several processes each takes its share of the jobs before anybody looks: by the time a slow one does, a
        faster one may have written its first videos.
        """
        missing = [job for job in jobs if overwrite or not self.is_done(job)]
        if show_bar and len(missing) < len(jobs):
            print(f"{len(jobs) - len(missing)} of {len(jobs)} videos are there already, --overwrite draws them again")
        for first in range(0, len(missing), self.args.batch_size):
            self.draw(missing[first : first + self.args.batch_size], first, len(missing), show_bar)

    def draw(self, jobs: list[Job], done: int, total: int, show_bar: bool = True) -> None:
        """Draw one batch of videos and write their files."""
        import torch
        from tqdm.auto import tqdm

        from utils.drawing.chaining import drift_of

        pieces = self.pieces
        self.bar = tqdm(
            total=self.num_steps,
            desc=f"video {done + 1}-{done + len(jobs)} of {total}" if total > 1 else "drawing",
            unit="step",
            disable=not show_bar,
        )
        with self.bar, self.computing():
            if self.chain:
                videos = torch.cat([*self.chained(jobs, pieces)], dim=2)
            else:
                videos = self.sampler(jobs)(num_frames=self.num_frames, **self.windows, **self.given(jobs))
        for job, video in zip(jobs, videos, strict=True):
            job.drift = drift_of(video, pieces) if self.chain else []
            self.write(job, video)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Where the model is called: in its precision, without gradients, with advice if memory is short."""
        import torch

        from utils.runs.out_of_memory import explain_out_of_memory

        autocast = torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)
        settings = {**vars(self.args), **self.settings, "frame_size": self.height}
        with autocast, torch.no_grad(), explain_out_of_memory(REMEDIES, settings):
            yield

    def sampler(self, jobs: list[Job]) -> Callable:
        """CaptionedDiffusion.sample with all that is the same in every piece."""
        import torch

        return partial(
            self.model.sample,
            [job.prompt for job in jobs],
            [torch.Generator().manual_seed(job.seed) for job in jobs],
            self.args.negative_prompt,
            **self.how,
            on_step=self.stepped,
        )

    @property
    def how(self) -> dict:
        """Arguments of CaptionedDiffusion.sample that are the same for all videos, but for their frames."""
        return {
            "height": self.height,
            "width": self.width,
            "sampler": self.settings["sampler"],
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.settings["guidance_scale"],
            "guidance_rescale": self.args.guidance_rescale,
            "guidance_parallel": self.args.guidance_parallel,
            "weaker": self.weaker,
            "guidance_interval": tuple(self.settings.get("guidance_interval", (0.0, 1.0))),
            "thresholding": self.settings["thresholding"],
        }

    def chained(self, jobs: list[Job], pieces: Iterable[slice]) -> Iterator:
        """What each piece adds to the videos, (B, 3, n, H, W) in [-1, 1]."""
        from utils.drawing.chaining import draw_chain

        known = self.given(jobs).get("conditions", {})
        scales = {name: scale for name, scale in self.scales.items() if name in known}
        draw = partial(self.sampler(jobs), condition_scales=scales)
        return draw_chain(draw, self.model, pieces, known, self.device)

    @property
    def pieces(self) -> list[slice]:
        """The frames of each piece of a video; one piece without a chain."""
        from utils.drawing.chaining import pieces_of

        return pieces_of(self.num_frames, *self.chain.values()) if self.chain else [slice(0, self.num_frames)]

    @property
    def num_steps(self) -> int:
        """How often on_step is called for a batch."""
        return self.num_inference_steps * len(self.pieces)

    def stepped(self, clips) -> None:
        self.bar.update()
        self.on_step(clips)

    def given(self, jobs: list[Job]) -> dict:
        """What is known of a batch, as arguments of CaptionedDiffusion.sample."""
        from models.conditions import stacked

        if not jobs[0].given:
            return {}
        return {"conditions": stacked(job.given for job in jobs), "condition_scales": self.scales}

    def finished(self, job: Job, frames: np.ndarray) -> np.ndarray:
        """Frames (T, H, W, 3) as they are to be written."""
        return frames

    def sheet(self, job: Job, frames: np.ndarray) -> tuple[list[np.ndarray], list[str]]:
        """Rows of the contact sheet of a video, with their labels."""
        return [frames], [job.prompt]

    def write(self, job: Job, video) -> None:
        """The files of one video; each appears whole under its name or not at all."""
        import torch

        from utils.video.contact_sheet import contact_sheet
        from utils.video.encode import write_frames, write_gif, write_image, write_video
        from utils.video.frames import to_uint8

        if not torch.isfinite(video).all():
            raise UserError(f"the video of prompt {job.index} is not a number; try --mixed_precision no")
        frames = self.finished(job, to_uint8(video))
        try:
            self.path(job, ".json").unlink(missing_ok=True)  # of an older video, which it vouches for
            write_video(self.path(job, ".mp4"), frames, self.args.fps)
            if self.args.save_gif:
                write_gif(self.path(job, ".gif"), frames, self.args.fps)
            if self.args.save_frames:
                write_frames(self.path(job, "_frames"), frames)
            if self.args.visualize:
                write_image(self.path(job, ".png"), contact_sheet(*self.sheet(job, frames)))
            sidecar = {"prompt": job.prompt, "group": job.group, "seed": job.seed, **self.settings, **self.about}
            sidecar |= {"given": job.files} if job.files else {}
            sidecar |= {"drift": job.drift} if job.drift else {}
            text = json.dumps(without_secrets(sidecar), indent=2, ensure_ascii=False) + "\n"
            write_text(self.path(job, ".json"), text)
        except OSError as error:
            raise UserError(f"--output_dir: {self.path(job, '')} cannot be written ({error})") from None

    def write_overview(self, jobs: list[Job]) -> Path:
        """index.html with every video beside its prompt; with --visualize also contact_sheet.png. Returns the page."""
        from utils.decoding.probe import probe_video
        from utils.decoding.read import read_frames
        from utils.video.contact_sheet import contact_sheet
        from utils.video.encode import write_image
        from utils.video.gallery import write_gallery

        sections = {}
        for job in jobs:
            row = {"video": self.path(job, ".mp4"), "prompt": job.prompt, "note": f"seed {job.seed}"}
            sections.setdefault(job.group, []).append(row)
        settings = self.settings
        about = (
            f"{self.about['checkpoint']}, step {self.about['step']}: {settings['num_frames']} frames of "
            f"{settings['height']}x{settings['width']}, {settings['sampler']}, "
            f"{settings['num_inference_steps']} steps, guidance {settings['guidance_scale']:g}"
        )
        page = self.args.output_dir / "index.html"
        write_gallery(page, "Text to video", about, sections)
        if self.args.visualize:
            shown = jobs[:: -(-len(jobs) // 32)]  # at most 32 rows, spread over all prompts
            infos = [probe_video(self.path(job, ".mp4")) for job in shown]
            clips = [read_frames(info, range(info.frames)) for info in infos]
            sheet = self.args.output_dir / "contact_sheet.png"
            write_image(sheet, contact_sheet(clips, [job.prompt for job in shown]))
            print(f"contact sheet: {sheet}")
        return page

"""The videos that training draws on its way."""

import argparse

import numpy as np
from torch.utils.data import default_collate

from models.conditions import settings_of
from models.diffusion.captioned import CaptionedDiffusion
from utils.arguments.data import frame_shape
from utils.runs.conditions import fixed_conditions
from utils.video.frames import to_uint8


def draw_samples(
    run, args: argparse.Namespace, model: CaptionedDiffusion, val_set, val_samples, prompts: list[str] | None, how: dict
) -> None:
    """Videos of fixed prompts and fixed seeds in samples/step_<step>/, with a contact sheet; of validation clips with
    what is known of them, where that is learnt.

    run: a TrainingRun. prompts: by default validation captions. how: settings of CaptionedDiffusion.sample, but for
    frames and size, which args say. Their motion (mean absolute change from frame to frame, of 255) is logged next to
    that of the data: a model that has turned static shows at once.
    """
    known, given = {}, prompts
    prompts = prompts or list(dict.fromkeys(val_set.captions()))[:4]
    if settings_of(model.diffusion.unet).names and not given and args.buckets is None:
        clips = default_collate([val_samples[i] for i in range(min(len(val_samples), 4))])
        prompts, known = clips["text"], fixed_conditions(clips, model, args.seed)
    height, width = frame_shape(args)
    shape = {"num_frames": args.num_frames, "height": height, "width": width}
    videos = model.sample(prompts, seeds=range(len(prompts)), **shape, **how, conditions=known)
    if model.autoencoder is not None:
        model.autoencoder.unload()
    if not run.main_process:
        return
    clips = [to_uint8(video) for video in videos]
    run.log_samples(clips, prompts, [args.target_fps or 8] * len(clips))
    real = [to_uint8(val_set[i]["video"]) for i in range(min(len(val_set), 16))]
    motion, of_data = (
        [np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() for clip in group if len(clip) > 1]
        for group in (clips, real)
    )
    if of_data:  # and not pictures alone
        run.log({"samples/motion": float(np.mean(motion)), "samples/motion_of_data": float(np.mean(of_data))})

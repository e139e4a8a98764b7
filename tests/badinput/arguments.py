"""Values on the command line, A1 to A16: refused before torch is imported wherever the flags alone tell."""

import argparse
import importlib
from contextlib import suppress
from unittest import mock

from tests.badinput.place import Place, row
from tests.table import NotRun
from utils.cli import Bad, Parser

SCRIPTS = (
    "video_dataset",
    "prepare_dataset",
    "train_text2video",
    "train_autoencoder",
    "distill_text2video",
    "generate_text2video",
    "evaluate_text2video",
    "edit_text2video",
    "export_text2video",
    "train_inverse_dynamics",
    "generate_episodes",
    "train_policy",
    "rollout_world_model",
    "app",
    "train_svd",
    "infer_svd",
)
NO_NUMBERS = ("nan", "inf", "-inf", "1_0", "", "abc", "1e999")
BELOW_ZERO = ("p_mean",)  # flags that may be negative
# Flags of which 0 means "none" or is a value like any other.
ZERO = [
    "num_workers",
    "disturb",
    "seed",
    "cache_mb",
    "text_cache_mb",
    "val_fraction",
    "image_share",
    "lr_warmup_steps",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "ema_decay",
    "fresh_share",
    "mse_weight",
    "latent_noise",
    "kl_weight",
    "perceptual_weight",
    "adversarial_weight",
    "adversarial_start",
    "text_dropout",
    "guidance_scale",
    "guidance_rescale",
    "guidance_parallel",
    "guidance_interval",
    "pixel_channels",
    "detail_channels",
    "cross_attention_levels",
    "self_attention_levels",
    "temporal_attention_levels",
    "conditioning_dropout_prob",
    "p_mean",
    "noise_aug_strength",
    "min_guidance",
    "max_guidance",
    "max_bad_fraction",
    "evaluate_every",
    "condition_dropout",
    "box",
    "pick",
    "tolerance",
    "grow",
    "feather",
    "action_noise",
    "reach",
    "min_done",
    "shift",
]


def actions(script: str) -> list[argparse.Action]:
    """The flags of a script."""
    found = []

    def remember(self, *args):
        found.extend(self._actions)
        raise SystemExit

    with mock.patch.object(Parser, "parse_known_args", remember), suppress(SystemExit):
        importlib.import_module(script).parse_args([])
    return found


def takes(action: argparse.Action, text: str) -> bool:
    return not isinstance(action.type(text), Bad)


@row("A1", "every numeric flag of every script refuses nan, inf, 1_0, text, and 0 and -1 where they mean nothing")
def a1(place: Place) -> str:
    count = 0
    for script in SCRIPTS:
        for action in actions(script):
            if not getattr(action.type, "__qualname__", "").startswith(("integer.", "number.")):
                assert action.type not in (int, float), f"{script}.py {action.option_strings[0]} takes anything"
                continue
            count += 1
            wrong = [text for text in NO_NUMBERS if takes(action, text)]
            wrong += ["-1"] * (takes(action, "-1") and action.dest not in BELOW_ZERO)
            wrong += ["0"] * (takes(action, "0") and action.dest not in ZERO)
            assert not wrong, f"{script}.py {action.option_strings[0]} takes {wrong}"
    flags = ("--num_frames", "nan", "--learning_rate", "inf", "--batch_size", "1_0", "--adam_beta1=-inf")
    said = place.train(*flags).refused("--num_frames", "--learning_rate", "--batch_size", "--adam_beta1", lines=4)
    place.train("--num_frames", "-inf").refused("--num_frames", "expected one argument")
    return f"{count} flags; four at once: {said}"


@row("A2", "a frame size that the levels of the network do not divide is refused")
def a2(place: Place) -> str:
    place.generate("--prompts", "x", "--frame_size", 18).refused("--height", "got 18", "multiple of 4")
    return place.train("--frame_size", 18).refused("--frame_size: got 18", "multiple of 4")


@row("A3", "for SVD, width and height that 64 does not divide are refused; 512x320 is fine")
def a3(place: Place) -> str:
    place.animate(place.shared.picture, "--width", 500, "--height", 300).refused("--width", "--height", lines=2)
    importlib.import_module("train_svd").parse_args(["--dry_run", "--width", "512", "--height", "320"])
    return place.train_svd("--width", 500).refused("--width: got 500", "multiple of 64")


@row("A4", "one frame, or more frames than any clip has, is refused")
def a4(place: Place) -> str:
    place.train("--num_frames", 1).refused("--num_frames: got 1")
    place.train_svd("--num_frames", 1).refused("--num_frames: got 1")
    place.generate("--prompts", "x", "--num_frames", 1).done()  # a picture
    place.train_svd("--num_frames", 99).refused("--dataset_dir", "--num_frames")
    return place.train("--num_frames", 99).refused("lower --num_frames (the longest has 6)")


@row("A5", "a batch larger than the dataset trains")
def a5(place: Place) -> str:
    place.train("--batch_size", 64).done("done: ")
    return "one step of 64 clips drawn from 7"


@row("A6", "0, -1 and more sampling steps than the training had are refused")
def a6(place: Place) -> str:
    for steps in (0, -1):
        place.generate("--prompts", "x", "--num_inference_steps", steps).refused(f"--num_inference_steps: got {steps}")
        place.animate(place.shared.picture, "--num_inference_steps", steps).refused("--num_inference_steps")
    place.animate(place.shared.picture, "--num_inference_steps", 2000).refused("--num_inference_steps: got 2000")
    return place.generate("--prompts", "x", "--num_inference_steps", 2000).refused("got 2000, must be at most 1000")


@row("A7", "--max_samples 0 is refused and does not mean all")
def a7(place: Place) -> str:
    place.train_svd("--max_samples", 0).refused("--max_samples: got 0")
    return place.train("--max_samples", 0).refused("--max_samples: got 0")


@row("A8", "a motion bucket outside 1 to 255 is refused")
def a8(place: Place) -> str:
    place.animate(place.shared.picture, "--motion_bucket_id", -1).refused("--motion_bucket_id: got -1")
    return place.animate(place.shared.picture, "--motion_bucket_id", 256).refused("from 1 to 255")


@row("A9", "a frame rate of 0 or less is refused")
def a9(place: Place) -> str:
    place.animate(place.shared.picture, "--fps", 0).refused("--fps: got 0")
    place.generate("--prompts", "x", "--fps", -8).refused("--fps: got -8")
    return place.generate("--prompts", "x", "--fps", 0).refused("--fps: got 0, must be a number greater than 0")


@row("A10", "negative noise on the image, and nan, are refused")
def a10(place: Place) -> str:
    place.animate(place.shared.picture, "--noise_aug_strength", "nan").refused("--noise_aug_strength: got nan")
    return place.animate(place.shared.picture, "--noise_aug_strength", -0.1).refused("--noise_aug_strength: got -0.1")


@row("A11", "a seed below 0 or beyond 63 bits is refused by every script")
def a11(place: Place) -> str:
    for seed in (-1, 2**63):
        place.run("video_dataset", "--seed", seed, "--output_dir", place.out).refused("--seed")
        place.train("--seed", seed).refused("--seed")
        place.train_svd("--seed", seed).refused("--seed")
        place.animate(place.shared.picture, "--seed", seed).refused("--seed")
        said = place.generate("--prompts", "x", "--seed", seed).refused(f"--seed: got {seed}")
    return said


@row("A12", "an empty prompt, and a file without prompts, is refused")
def a12(place: Place) -> str:
    (place.folder / "none.txt").write_text("\n \n")
    place.generate("--prompts_file", place.folder / "none.txt").refused("--prompts_file", "holds no prompt")
    place.generate("--prompts").refused("--prompts", "expected at least one argument")
    return place.generate("--prompts", "a red circle", " ").refused("--prompts: got an empty prompt")


@row("A13", "a misspelt flag is refused with the nearest one, also where it was a required one; none is abbreviated")
def a13(place: Place) -> str:
    place.train("--learning_rat", 1e-4).refused("--learning_rat: no such flag, did you mean --learning_rate?")
    place.run("prepare_dataset", "--video_di", "x", "--output_dir", place.out).refused(
        "required: --video_dir", "did you mean --video_dir?", lines=2
    )
    return place.generate("--promts", "x").refused("did you mean --prompts?")


@row("A14", "flags that contradict each other are refused")
def a14(place: Place) -> str:
    place.train_svd("--random_crop").refused("--random_crop: needs --no_cache")
    alone = ("--cross_attention_levels", 0, 0, "--self_attention_levels", 0, 1)
    place.train(*alone).refused("--self_attention_levels: is beside that to the text")
    flags = ("--video_dir", place.data, "--output_dir", place.out, "--min_frames", 9, "--max_frames", 4)
    place.run("prepare_dataset", *flags).refused("--max_frames: got 4, must be at least --min_frames (9)")
    return place.train("--resume", place.shared.run_dir).refused("--resume: lies outside --output_dir")


@row("A15", "fp16 on a machine without a GPU is refused")
def a15(place: Place) -> str:
    import torch

    if torch.accelerator.is_available():
        raise NotRun("this machine has a GPU")
    place.train("--mixed_precision", "fp16").refused("--mixed_precision: fp16 needs a GPU")
    place.train_svd("--mixed_precision", "fp16").refused("--mixed_precision: fp16 needs a GPU")
    place.generate("--prompts", "x", "--mixed_precision", "fp16").refused("--mixed_precision: fp16 needs a GPU")
    return place.animate(place.shared.picture, "--dtype", "fp16").refused("--dtype: fp16 needs a GPU")


@row("A16", "--device cuda on a machine without CUDA is refused")
def a16(place: Place) -> str:
    import torch

    if torch.cuda.is_available():
        raise NotRun("this machine has CUDA")
    return place.generate("--prompts", "x", "--device", "cuda").refused("--device: cuda was asked for")

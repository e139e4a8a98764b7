"""Numbers that are none, F19 to F21: losses, gradients, weights."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.badinput.place import run_script
from tests.faults.place import Place, row
from tests.faults.scripts import TRAINERS, copied, flags, out, run
from tests.tiny_models import tiny_clip, tiny_image_model
from utils.runs.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from utils.svd.weights import save_trained


def in_step(step: int | None, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let `change` have the loss of a step (of one micro-batch), or of every step."""
    import models.diffusion.captioned
    import models.svd.objective

    count = 0

    def changed(loss):
        nonlocal count
        count += torch.is_grad_enabled()
        return change(loss) if torch.is_grad_enabled() and step in (count, None) else loss

    forward, svd_loss = models.diffusion.captioned.CaptionedDiffusion.forward, models.svd.objective.svd_loss

    def svd(*args, **kwargs):
        losses, errors = svd_loss(*args, **kwargs)
        return changed(losses), errors

    models.diffusion.captioned.CaptionedDiffusion.forward = lambda self, *args: changed(forward(self, *args))
    models.svd.objective.svd_loss = svd


def gradients(value: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """A loss that stays, and whose gradients become the value."""

    def change(loss: torch.Tensor) -> torch.Tensor:
        loss.register_hook(lambda gradient: gradient * value)
        return loss

    return change


def nan_loss() -> None:
    in_step(3, lambda loss: loss * math.nan)


def infinite_loss() -> None:
    in_step(3, lambda loss: loss / 0)


def nan_gradients() -> None:
    in_step(3, gradients(math.nan))


@row("F19", "a loss or a gradient that is not a number ends the training before it reaches the weights")
def f19(place: Place) -> str:
    for script in TRAINERS:
        for patch in (nan_loss, infinite_loss, nan_gradients):
            ended = run(place, script, "--checkpoint_every", 2, patch=patch)
            ended.ended(3, "step 3: loss", "learning rate", "the weights were not changed", "continues after step 2")
            run_dir = out(place, script)
            (folder,) = (run_dir / "crash").iterdir()
            about = json.loads((folder / "step.json").read_text())
            tensors = load_file(folder / "batches.safetensors")
            assert about["step"] == 3 and about["seed"] == 0 and about["learning_rate"] > 0, about
            assert not (math.isfinite(about["loss"]) and math.isfinite(about["grad_norm"])), about
            for path in about["micro_batches"][0]["path"]:
                assert Path(path).exists() and Path(path).name in ended.error, f"{path} is not named: {ended.error}"
            key = {"train_text2video": "0.video", "train_svd": "0.latents"}[script]
            assert len(tensors[key]) == len(about["micro_batches"][0]["path"]), f"{key}: {tensors[key].shape}"
            saved = [load_checkpoint(path)[1]["step"] for path in list_checkpoints(run_dir)]
            assert saved == [2], f"checkpoints of steps {saved}"
    text = about["micro_batches"][0]
    run(place, script, "--resume", folder, fresh=False).refused("--resume")
    assert "fps" not in text, "tensors do not belong into the text"
    return ended.error


def fp16_on_the_cpu(fits: float) -> None:
    """accelerate's fp16, which it gives to GPUs alone: gradients overflow while its GradScaler's scale exceeds `fits`.

    What is computed stays in float32.
    """
    import accelerate

    import utils.training.processes

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=10**6)

    class Fp16(accelerate.Accelerator):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.scaler, self.native_amp, self.state._mixed_precision = scaler, True, "fp16"

        def autocast(self, *args, **kwargs):
            return torch.autocast("cpu", enabled=False)

    def overflow(loss: torch.Tensor) -> torch.Tensor:
        loss.register_hook(lambda gradient: gradient * (math.inf if scaler.get_scale() > fits else 1))
        return loss

    utils.training.processes.Accelerator = Fp16
    in_step(None, overflow)


def three_overflows() -> None:
    fp16_on_the_cpu(fits=2.0**13)


def overflow_for_ever() -> None:
    fp16_on_the_cpu(fits=0)


@row("F20", "steps that overflow in fp16 are skipped and counted; more than 50 in a row end the training", slow=True)
def f20(place: Place) -> str:
    for script in TRAINERS:
        run(place, script, patch=three_overflows).done("done: ")
        run_dir = out(place, script)
        tensors, state = load_checkpoint(list_checkpoints(run_dir)[0])
        assert state["step"] == 5 and state["scaler"]["scale"] == 2.0**13, state["scaler"]
        assert state["schedule"]["last_epoch"] == 2 and state["ema"]["optimization_step"] == 2, state
        assert tensors["optimizer"]["0.step"] == 2, tensors["optimizer"]["0.step"]
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        counted = [row["train/skipped_steps"] for row in rows if "train/loss" in row]
        assert counted == [1, 2, 3, 3, 3], counted
    ended = run(place, TRAINERS[0], "--max_train_steps", 60, patch=overflow_for_ever)
    ended.ended(3, "step 51: ", "fp16 has skipped 51 steps in a row", "clips ")
    assert not list_checkpoints(out(place, TRAINERS[0])), "a checkpoint without a single good step"
    return f"three of five skipped; {ended.error}"


def poisoned(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """The tensors, with one NaN in one of them."""
    changed = {key: tensor.clone() for key, tensor in tensors.items()}
    changed[name].view(-1)[-1] = math.nan
    return changed


def poison_file(path: Path, name: str | None = None) -> str:
    """Put a NaN into a tensor of a safetensors file; returns its name."""
    tensors = load_file(path)
    name = name or next(iter(tensors))
    save_file(poisoned(tensors, name), path, {"format": "pt"})
    return name


def poison_checkpoint(folder: Path, group: str) -> str:
    """Put a NaN into a tensor of a checkpoint, whose manifest then vouches for it; returns the tensor's name."""
    tensors, state = load_checkpoint(folder)
    name = next(name for name, tensor in tensors[group].items() if tensor.numel() > 1)
    save_checkpoint(folder.parent, state["step"], {**tensors, group: poisoned(tensors[group], name)}, state, keep=9)
    return f"{group}: {name}"


@row(
    "F21",
    "a NaN in a model file, a pipeline, trained weights, a text encoder or a checkpoint is refused by name",
    slow=True,
)
def f21(place: Place) -> str:
    shared, count = place.shared, 0

    def refused(flag: str, name: str, script: str, *more) -> str:
        nonlocal count
        count += 1
        return run_script(script, (*flags(place, script), *more)).refused(flag, name, "not numbers")

    # The text-to-video model: in generation, and as the start of another training.
    model = place.folder / "model.pth"
    weights = shared.model["unet"]
    torch.save({**shared.model, "unet": poisoned(weights, "conv_in.weight")}, model)
    refused("--checkpoint", "conv_in.weight", "generate_text2video", "--checkpoint", model, "--prompts", "a circle")
    refused("--init_from", "conv_in.weight", "train_text2video", "--init_from", model)

    # A frozen text encoder, and an image model to inflate.
    encoder = tiny_clip(place.folder / "clip")
    name = poison_file(encoder / "model.safetensors")
    refused("--text_encoder", name.split(".", 1)[1], "train_text2video", "--text_encoder", encoder)
    image_model = tiny_image_model(place.folder / "image_model")
    name = poison_file(image_model / "diffusion_pytorch_model.safetensors")
    refused("--init_from_2d", name, "train_text2video", "--init_from_2d", image_model)

    # Stable Video Diffusion, in training and in inference, and trained weights alone.
    for part, file in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("image_encoder", "model"),
    ):
        model = copied(shared.svd, place.folder / "svd")
        name = poison_file(model / part / f"{file}.safetensors")
        refused("--pretrained_model_name", name, "train_svd", "--pretrained_model_name", model)
        refused("--model_dir", name, "infer_svd", "--model_dir", model, "--input_image", shared.picture)
    lora = place.folder / "lora"
    lora.mkdir()
    save_trained({"conv_out.bias": torch.full((4,), math.nan)}, {"base_model": str(shared.svd), "lora": None}, lora)
    refused("--lora", "conv_out.bias", "infer_svd", "--lora", lora, "--input_image", shared.picture)

    # What a training is resumed from: an older checkpoint if there is one, else nothing.
    for script, groups in (("train_text2video", ("unet", "ema", "optimizer")), ("train_svd", ("trained", "ema"))):
        run_script(script, (*flags(place, script), "--max_train_steps", 2, "--checkpoint_every", 1)).done()
        whole = copied(out(place, script), place.folder / "whole")
        for group in groups:
            run_dir = copied(whole, out(place, script))
            newest, older = list_checkpoints(run_dir)
            name = poison_checkpoint(newest, group)
            more = ("--max_train_steps", 2, "--resume", "latest")
            run_script(script, (*flags(place, script), *more)).done(name, f"resuming from {older}")
            run_dir = copied(whole, out(place, script))
            for folder in list_checkpoints(run_dir):
                poison_checkpoint(folder, group)
            said = refused("--resume", name, script, *more)
    return f"{count} times, {said}"

"""What does a step of Stable Video Diffusion cost, lever by lever? img2vid-xt with random weights."""

import json
from pathlib import Path

import torch

from benchmarks.gpu.rows import DEVICE, GIB, Rows, allocated_gib, peak_gib, seconds_of, synchronise
from benchmarks.memory_history import recorded
from benchmarks.svd.counts import bytes_of
from benchmarks.svd.infer import ON_GPU_ONLY as MORE_WAYS_TO_SAMPLE
from benchmarks.svd.infer import VARIANTS as WAYS_TO_SAMPLE
from benchmarks.svd.infer import sampler
from benchmarks.svd.networks import full_networks, make_pipeline, tiny_networks
from benchmarks.svd.plain_loop import PlainLoop
from benchmarks.svd.recipes import OURS, TIMED_ONLY, VARIANTS, Clip, Recipe
from benchmarks.svd.times import TrainingStep

RESULTS = Path(__file__).parents[2] / "results"
# What people ask first comes first: the time may not do for all.
RECIPES = ("ours", "LoRA", "peer", "no cache", "diffusers' checkpointing", "no checkpointing", "8-bit AdamW")
RECIPES += ("no one-token shortcut", "frozen weights in float32", "channels last")
LAST = ("compiled",)  # which may take all the time that is left
SAMPLED = ("plain diffusers", "ours", "whole models offloaded", "single layers offloaded", "bfloat16")


def measure(rows: Rows, tiny: bool, folder: Path) -> None:
    clip, networks = (Clip(64, 64, 4), tiny_networks()) if tiny else (Clip(512, 320, 25), full_networks())
    repeats = 1 if tiny else 3

    def lever(name: str) -> None:
        recipe = (VARIANTS | TIMED_ONLY)[name]
        if tiny:  # not all CPUs compute in half precision
            recipe = recipe._replace(frozen="float32")
        predicted = predict(name, recipe, clip, networks)
        rows.row(f"{clip}, {name}", lambda: cost(recipe, clip, networks, repeats, tiny), predicted)

    for name in RECIPES[:2] if tiny else RECIPES:
        lever(name)
    if DEVICE == "cuda":
        rows.row(f"{clip}, ours, alive at the peak", lambda: peak_by_site(clip, networks))
    rows.row(f"{clip}, SVD_Xtend's recipe as a plain loop", lambda: plain_cost(clip, networks, repeats, tiny))
    for name in SAMPLED[1:2] if tiny else SAMPLED:
        way = (WAYS_TO_SAMPLE | MORE_WAYS_TO_SAMPLE)[name]
        if tiny:
            way = way._replace(dtype="float32")
        rows.row(f"{clip}, a video, {name}", lambda way=way: video(way, clip, networks, 1 if tiny else 10))
    for name in () if tiny else LAST:
        lever(name)


def predict(name: str, recipe: Recipe, clip: Clip, networks) -> dict[str, float]:
    """GiB by term, as measure() finds them, from the counts of `python -m benchmarks.svd.step`, or counted now."""
    stored = json.loads((RESULTS / "svd_step.json").read_text(encoding="utf-8"))["counted"].get(str(clip), {})
    counted = stored.get(name) or stored.get("ours" if name in TIMED_ONLY else "", {})
    gib = counted["gib"] if counted else {term: n / GIB for term, n in bytes_of(recipe, clip, networks).items()}
    weights = gib["frozen weights"] + gib["trained weights"]
    return {
        "peak_gib": sum(gib.values()),
        "between_steps_gib": weights + gib["optimizer"] + gib["ema"] + gib["VAE"] + gib.get("CLIP", 0),
        "weights_gib": weights,
        "optimizer_gib": gib["optimizer"],
        "average_gib": gib["ema"],
        "gradients_gib": gib["gradients"],
        "activations_gib": gib["activations"] + gib["autocast copies"],
    }


def cost(recipe: Recipe, clip: Clip, networks, repeats: int, tiny: bool) -> dict:
    """Seconds of a step and of the U-Net in it; the bytes of each term, and the peak."""
    step = TrainingStep(recipe, make_pipeline(networks, DEVICE), clip, bf16=not tiny)
    figures = {"seconds": seconds_of(step, repeats), **peak_gib()}
    inputs = step.inputs()
    unet_seconds = seconds_of(lambda: step.gradients(*inputs), repeats, warm_up=0)
    step.optimizer.zero_grad()
    return figures | {"unet_seconds": unet_seconds} | terms(step)


def terms(step: TrainingStep) -> dict[str, float]:
    """GiB of each term of the ledger.

    What lies between two steps, and what the forward pass leaves and the backward pass takes beyond that, tells the
    allocator, which a CPU has not; the others are tensors that can be asked.
    """
    states = [value for state in step.optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    synchronise()
    between = allocated_gib()
    inputs = step.inputs()
    start = allocated_gib()
    loss = step.forward(*inputs)
    kept = allocated_gib() - start
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    loss.backward()
    found = {
        "weights_gib": size(step.unet.parameters()),
        "optimizer_gib": size(states),
        "average_gib": size(step.ema.shadow_params),
        "gradients_gib": size(parameter.grad for parameter in step.parameters),
    }
    if DEVICE == "cuda":
        found |= {"between_steps_gib": between, "activations_gib": kept}
        found |= {"backward_gib": torch.cuda.max_memory_allocated() / GIB - start - kept}
    return found


def peak_by_site(clip: Clip, networks) -> dict[str, float]:
    """GiB that are alive at the peak of a step of ours, by who asked for them."""
    step = TrainingStep(OURS, make_pipeline(networks, DEVICE), clip, bf16=True)
    step()  # the optimizer's state is there from now on
    return recorded(step)


def size(tensors) -> float:
    return sum(tensor.nbytes for tensor in tensors if tensor is not None) / GIB


def plain_cost(clip: Clip, networks, repeats: int, tiny: bool) -> dict:
    step = PlainLoop(make_pipeline(networks, DEVICE), clip, bf16=not tiny)
    return {"seconds": seconds_of(step, repeats), **peak_gib()}


def video(way, clip: Clip, networks, num_inference_steps: int) -> dict:
    """Seconds and peak of a video with guidance."""
    call = sampler(way, make_pipeline(networks, DEVICE), clip, num_inference_steps, DEVICE)
    seconds = seconds_of(call, 1, warm_up=0 if DEVICE == "cpu" else 1)
    return {"seconds": seconds, "num_inference_steps": num_inference_steps, **peak_gib()}

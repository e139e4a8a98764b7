"""How fast is a step of the base preset at 16 frames of 64x64, and of its peers at equal size?"""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from benchmarks.gpu.rows import DEVICE, GIB, Rows, peak_gib, seconds_of
from benchmarks.measure import matmul_peak
from benchmarks.text2video.peers import (
    OURS,
    PEER_2022,
    PEER_DIFFUSERS,
    TEXT_DIM,
    NetworkDiffusers,
    NetworkStep,
    make_network,
)
from benchmarks.text2video.scaling import base_settings, predict
from benchmarks.text2video.train_step import CASES

BATCHES = (4, 8, 16, 32)
TERA = 10**12


def measure(rows: Rows, tiny: bool, folder: Path) -> None:
    from utils.hardware import multiplies_in_bf16

    size, precision = (2, 16, 16) if tiny else (16, 64, 64), "bf16" if multiplies_in_bf16(DEVICE) else "fp32"
    peak, repeats = matmul_peak(DEVICE, precision, 256 if tiny else None), 1 if tiny else 10
    rows.row(f"a product of large matrices, {precision}", lambda: {"tflop_per_second": peak / TERA})

    def step(build: Callable[[], nn.Module], batch: int, compiled: bool = False) -> NetworkStep:
        return NetworkStep(build(), (batch, *size), precision, DEVICE, compiled)

    def base() -> nn.Module:
        return tiny_network() if tiny else base_network()

    for batch in BATCHES[:1] if tiny else BATCHES:
        predicted = {} if tiny else {"peak_gib": (predict((batch, *size))["total"] - average(base)) / GIB}
        rows.row(f"base preset, batch {batch}", lambda batch=batch: cost(step(base, batch), repeats, peak), predicted)
    batch = BATCHES[0] if tiny else 8
    rows.row("base preset, a look at each loss or none", lambda: looks(step(base, batch), repeats))
    if not tiny:
        rows.row("base preset, compiled", lambda: cost(step(base, batch, compiled=True), repeats, peak))
        rows.row("base preset, compiled, CUDA graphs", lambda: cost(graphed(step(base, batch)), repeats, peak))
        sizes = [size, (8, 64, 64), (16, 48, 80), (12, 80, 48)]
        rows.row("base preset, compiled, four sizes", lambda: changing_sizes(step(base, 2, compiled=True), sizes))
    rows.row("base preset, channels last", lambda: cost(channels_last(step(base, batch)), repeats, peak))
    rows.row("base preset, gradients recomputed", lambda: cost(recomputing(step(base, batch)), repeats, peak))
    with norms_in_low_precision():
        rows.row("base preset, norms in low precision", lambda: cost(step(base, batch), repeats, peak))
    with attention_by_definition():
        rows.row("base preset, attention without a fused kernel", lambda: cost(step(base, batch), repeats, peak))
    if tiny:
        rows.row("a peer", lambda: cost(step(lambda: NetworkDiffusers(8, 32), 1), repeats, peak))
        return
    parameters = CASES[16, 64, 64][0]
    for name in (OURS, PEER_2022, PEER_DIFFUSERS):
        for compiled in (False, True):
            what = f"{name}, {parameters / 1e6:.0f}M parameters, batch 4" + ", compiled" * compiled

            def peer(name=name, compiled=compiled) -> dict:
                return cost(step(lambda: make_network(name, parameters), 4, compiled), repeats, peak)

            rows.row(what, peer)


def base_network() -> nn.Module:
    from utils.runs.new_model import make_unet

    return make_unet(base_settings(), TEXT_DIM)


def tiny_network() -> nn.Module:
    from models.unet3d import UNet3D

    small = {"model_channels": 16, "channel_mult": (1, 2), "layers_per_block": 1, "norm_num_groups": 8}
    return UNet3D(**small, patch_size=2, cross_attention_dim=TEXT_DIM)


def average(build: Callable[[], nn.Module]) -> int:
    """Bytes of a moving average, which a NetworkStep does without."""
    with torch.device("meta"):
        return 4 * sum(parameter.numel() for parameter in build().parameters())


def cost(step: NetworkStep, repeats: int, peak: float) -> dict:
    """Milliseconds of a step, clips per second, the share of the peak of matrix products, and memory."""
    flops = step.flops()
    seconds = seconds_of(step, repeats, warm_up=min(repeats, 2))
    return {
        "milliseconds": 1000 * seconds,
        "clips_per_second": len(step.clips) / seconds,
        "of_the_peak": flops / seconds / peak,
        **peak_gib(),
    }


def looks(step: NetworkStep, repeats: int, steps: int = 10) -> dict:
    """Milliseconds of a step in a row of them, with a look at each loss, for which the CPU has to wait, and without."""

    def row(look: bool) -> None:
        for _ in range(steps):
            loss = step.take()
            if look:
                loss.item()

    figures = {"milliseconds": False, "milliseconds_with_looks": True}
    return {name: 1000 * seconds_of(partial(row, look), repeats, 1) / steps for name, look in figures.items()}


def changing_sizes(step: NetworkStep, sizes: list[tuple[int, int, int]]) -> dict:
    """Of a compiled step that is given clips of another (T, H, W) each time: graphs that were compiled, and seconds of
    the first step at each size."""
    torch._dynamo.utils.counters.clear()
    seconds = []
    for T, H, W in sizes:
        step.clips = torch.randn(*step.clips.shape[:2], T, H, W, device=DEVICE)
        step.noise = torch.randn_like(step.clips)
        seconds.append(seconds_of(step, repeats=1, warm_up=0))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return {"graphs": graphs, **{f"seconds_of_size_{n}": value for n, value in enumerate(seconds, 1)}}


def graphed(step: NetworkStep) -> NetworkStep:
    """Compiled, its kernels launched as CUDA graphs."""
    step.forward = torch.compile(step.network, mode="reduce-overhead")
    return step


def channels_last(step: NetworkStep) -> NetworkStep:
    step.network.to(memory_format=torch.channels_last_3d)
    step.clips, step.noise = (x.contiguous(memory_format=torch.channels_last_3d) for x in (step.clips, step.noise))
    return step


def recomputing(step: NetworkStep) -> NetworkStep:
    step.network.enable_gradient_checkpointing()
    return step


@contextlib.contextmanager
def norms_in_low_precision():
    """Inside the block autocast leaves group norms in the precision of what they get; it computes them in float32."""

    def low(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.group_norm(
                x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps
            )

    with mock.patch.object(nn.GroupNorm, "forward", low):
        yield


@contextlib.contextmanager
def attention_by_definition():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield

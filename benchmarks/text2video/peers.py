"""Our network and those that people would take instead, at equal size and behind the same training step.

video-diffusion-pytorch is the 2022 U-Net that people copy (Ho et al. 2022); UNet3DConditionModel is diffusers' own
(Wang et al. 2023, arXiv:2308.06571). Both see every pixel as a token; ours folds 2x2 pixels into one, as its base
preset does.
"""

import json
import statistics
import subprocess
import sys
import time
from bisect import bisect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from unittest.mock import MagicMock

import diffusers
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from models.unet3d import UNet3D
from utils.cli import UserError

OURS, PEER_2022, PEER_DIFFUSERS = NAMES = ("ours", "video-diffusion-pytorch", "diffusers UNet3DConditionModel")
# The fused attention of CPUs, which torch's counter does not know.
CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *rest, **more: sdpa_flop_count(q, k, v)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *rest, **more: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
TOKENS, TEXT_DIM = 77, 768  # of CLIP ViT-L/14, which the base preset reads


def import_peer():
    """The module video_diffusion_pytorch. Raises UserError if it is not installed."""
    stubs = {name: MagicMock() for name in ("torchvision", "torchvision.transforms", "torchvision.utils")}
    # Its Trainer's, which no benchmark uses. diffusers is imported already: it would take them for the real thing.
    missing = {name: stub for name, stub in stubs.items() if name not in sys.modules}
    sys.modules.update(missing)
    try:
        import video_diffusion_pytorch
    except ImportError as error:
        raise UserError(f"the peer: needs what benchmarks/requirements.txt says ({error})") from None
    finally:
        for name in missing:
            del sys.modules[name]
    return video_diffusion_pytorch


class Network2022(nn.Module):
    """video-diffusion-pytorch's Unet3D; it knows a text as one vector, here the mean of its tokens."""

    def __init__(self, dim: int):
        super().__init__()
        self.unet = import_peer().Unet3D(dim=dim, cond_dim=TEXT_DIM)

    def forward(self, sample: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return self.unet(sample, timesteps, cond=context.mean(dim=1))


class NetworkDiffusers(diffusers.UNet3DConditionModel):
    """UNet3DConditionModel on RGB, its four levels `width` times 1, 2, 4 and 4, the last one `last` wide."""

    def __init__(self, width: int, last: int):
        super().__init__(
            in_channels=3,
            out_channels=3,
            block_out_channels=(width, 2 * width, 4 * width, last),
            norm_num_groups=8,
            attention_head_dim=8,
            cross_attention_dim=TEXT_DIM,
        )

    def forward(self, sample: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        return super().forward(sample, timesteps, context).sample


def our_network(width: int, last: int) -> UNet3D:
    """The network of the base preset, its three levels `width` times 1 and 2, and `last` wide."""
    return UNet3D(model_channels=width, channel_mult=(1, 2, last / width), patch_size=2, norm_num_groups=8)


def make_network(name: str, parameters: int) -> nn.Module:
    """The network of that name (NAMES) with about so many parameters, its weights random.

    The width is the largest that stays below; where the deepest level has a width of its own, it takes up the rest.
    forward(sample (B, 3, T, H, W), timesteps (B,), context (B, L, 768)) returns (B, 3, T, H, W).
    """

    def fit(build, widths: range) -> int:
        def count(width: int) -> int:
            with torch.device("meta"):
                return sum(parameter.numel() for parameter in build(width).parameters())

        return widths[max(0, bisect(widths, parameters, key=count) - 1)]

    widths = range(8, 1025, 8)
    if name == PEER_2022:
        return Network2022(fit(Network2022, widths))
    build = {OURS: our_network, PEER_DIFFUSERS: NetworkDiffusers}[name]
    width = fit(lambda width: build(width, 4 * width), widths)
    return build(width, fit(partial(build, width), range(4 * width, 8 * width, 8)))


class NetworkStep:
    """A training step of a network on random clips: forward, squared error, backward, AdamW. Called, it takes one.

    size: (B, T, H, W) of the clips. precision: "fp32", or "bf16" for autocast. compiled: by torch.compile. channels: of
    the clips.
    """

    def __init__(
        self,
        network: nn.Module,
        size: tuple[int, ...],
        precision: str,
        device: str,
        compiled: bool = False,
        channels: int = 3,
    ):
        B, T, H, W = size
        self.network = network.to(device).train()
        self.forward = torch.compile(self.network) if compiled else self.network
        self.optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)
        self.clips, self.noise = (torch.randn(B, channels, T, H, W, device=device) for _ in range(2))
        self.timesteps = torch.randint(1000, (B,), device=device)
        self.context = torch.randn(B, TOKENS, TEXT_DIM, device=device)
        self.autocast = partial(torch.autocast, device, torch.bfloat16) if precision == "bf16" else nullcontext

    def loss(self, forward: Callable[..., Tensor]) -> Tensor:
        with self.autocast():
            noise_pred = forward(self.clips + self.noise, self.timesteps, self.context)
        return (noise_pred.float() - self.noise).square().mean()

    def flops(self) -> int:
        """Operations of the forward and the backward pass, counted."""
        with FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION) as counter:
            self.loss(self.network).backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def take(self) -> Tensor:
        """The step, without waiting for it: on a GPU it may still be at work. Returns the loss before it."""
        loss = self.loss(self.forward)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def __call__(self) -> None:
        self.take()
        synchronise(self.clips.device)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_alone(name: str, parameters: int, size: tuple[int, ...], precision: str, device: str, steps: int = 3) -> dict:
    """{"seconds" per step (median), "peak_bytes", "flops"} of a step in a process of its own.

    peak_bytes: what the steps add to a process that has imported everything: weights, gradients, optimizer state and
    activations. On CUDA torch counts them, on a CPU they are the growth of the resident set.
    """
    spec = json.dumps([name, parameters, size, precision, device, steps])
    command = [sys.executable, "-m", "benchmarks.text2video.peers", spec]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{name}, {size}: {result.stderr[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def highest_resident_bytes() -> int:
    """Of this program since it began. (On Linux getrusage also counts what the process was before it ran Python.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/status has no VmHWM")


def _alone(name, parameters, size, precision, device, steps) -> dict:
    if name == PEER_2022:
        import_peer()
    before = highest_resident_bytes()
    step = NetworkStep(make_network(name, parameters), size, precision, device)
    flops, seconds = step.flops(), []  # which also warms up
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = highest_resident_bytes() - before
    return {"seconds": statistics.median(seconds), "peak_bytes": peak, "flops": flops}


if __name__ == "__main__":
    print(json.dumps(_alone(*json.loads(sys.argv[1]))))

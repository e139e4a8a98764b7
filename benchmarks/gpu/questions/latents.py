"""What do 256 and 512 pixels cost in the latents of an image autoencoder, and how fast are samples drawn?

The presets for latents, each beside what the ledger says of it, the base preset's network on four channels an eighth of
the size, and a decoder as Stable Diffusion's, all with random weights.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

import train_text2video
from benchmarks.gpu.rows import DEVICE, GIB, Rows, peak_gib, seconds_of
from benchmarks.text2video.peers import TEXT_DIM, TOKENS, NetworkStep
from utils.runs.memory_report import OF_CUDA, clip_shape, counted, meta_unet

CHANNELS, DOWN = 4, 8
SIZES = ((16, 256), (32, 256), (16, 512))
PRESETS = ("latent256", "latent512", "sd15")
AUTOENCODER = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": CHANNELS,
}
TINY_AUTOENCODER = AUTOENCODER | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}


def measure(rows: Rows, tiny: bool, folder: Path) -> None:
    from utils.hardware import multiplies_in_bf16

    half = multiplies_in_bf16(DEVICE)
    for name in PRESETS:
        flags = ["--frame_size", "64", "--num_frames", "4"] if tiny else []
        flags += ["--model_channels", "32"] if tiny and name != "sd15" else []
        args = train_text2video.parse_args(["--preset", name, "--dry_run", *flags])
        predicted = {"peak_gib": (predicted_bytes(args) - OF_CUDA) / GIB} if DEVICE == "cuda" else {}
        if not (tiny and name == "sd15"):  # a whole Stable Diffusion, for which a CPU is too small
            rows.row(f"preset {name}, batch {args.batch_size}", partial(preset, args, half, tiny), predicted)
    for frames, size in ((2, 64),) if tiny else SIZES:
        rows.row(f"a step, {frames}x{size}x{size}", partial(step, frames, size, half, tiny))
    for frames, size in ((2, 64),) if tiny else SIZES[::2]:
        for steps in (2,) if tiny else (25, 4, 2, 1):
            what = f"a video of {frames}x{size}x{size}, {steps} steps"
            rows.row(what, partial(sample, frames, size, steps, half, tiny))


def predicted_bytes(args: argparse.Namespace) -> int:
    unet, width, _ = meta_unet(args)
    found = counted(unet, clip_shape(args)[0], width, args.batch_size, args.gradient_checkpointing, args)
    return found["total"] - found["moving average"]  # without which a NetworkStep does


def preset(args: argparse.Namespace, half: bool, tiny: bool) -> dict:
    """Milliseconds and memory of a training step of a preset."""
    unet = meta_unet(args)[0].to_empty(device=DEVICE)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    (unet.enable_gradient_checkpointing if args.gradient_checkpointing else unet.disable_gradient_checkpointing)()
    channels, *shape = clip_shape(args)[0]
    clips = args.batch_size, *shape
    taken = NetworkStep(unet, clips, "bf16" if half else "fp32", DEVICE, channels=channels)
    return {"milliseconds": 1000 * seconds_of(taken, 1 if tiny else 5), **peak_gib()}


def network(tiny: bool):
    """The base preset's network for latents; on these 2x2 pixels are not folded."""
    from models.unet3d import UNet3D

    settings = {"model_channels": 32, "channel_mult": (1, 2), "layers_per_block": 1} if tiny else {}
    return UNet3D(in_channels=CHANNELS, out_channels=CHANNELS, cross_attention_dim=TEXT_DIM, **settings)


def step(frames: int, size: int, half: bool, tiny: bool) -> dict:
    """Milliseconds and memory of a training step, one clip."""
    side = size // DOWN
    taken = NetworkStep(network(tiny), (1, frames, side, side), "bf16" if half else "fp32", DEVICE, channels=CHANNELS)
    return {"milliseconds": 1000 * seconds_of(taken, 1 if tiny else 5), **peak_gib()}


def sample(frames: int, size: int, num_inference_steps: int, half: bool, tiny: bool) -> dict:
    """Frames a second with guidance, the decoder included, and its share of the time."""
    from diffusers import AutoencoderKL

    from models.diffusion.text2video import TextToVideoDiffusion

    dtype = torch.bfloat16 if half else torch.float32
    diffusion = TextToVideoDiffusion(network(tiny)).to(DEVICE).eval()
    autoencoder = AutoencoderKL(**TINY_AUTOENCODER if tiny else AUTOENCODER).to(DEVICE, dtype).eval()
    text, negative = (torch.randn(1, TOKENS, TEXT_DIM, device=DEVICE) for _ in range(2))
    side = size // DOWN
    latents = torch.randn(frames, CHANNELS, side, side, device=DEVICE)

    def denoise() -> torch.Tensor:
        with torch.autocast(DEVICE, dtype, enabled=half):
            return diffusion.sample(
                text,
                negative_embeddings=negative,
                num_frames=frames,
                height=side,
                width=side,
                num_inference_steps=num_inference_steps,
                guidance_scale=4.0,
                sampler="dpmpp",
            )

    def decode() -> list[torch.Tensor]:
        with torch.no_grad():
            return [autoencoder.decode(part.to(dtype)).sample for part in latents.split(8)]

    repeats = 1 if tiny else 3
    denoising, decoding = (seconds_of(call, repeats, warm_up=1) for call in (denoise, decode))
    total = denoising + decoding
    return {"frames_per_second": frames / total, "decoding_share": decoding / total, **peak_gib()}

"""Which small autoencoder learns fastest? PatchAutoencoder and small configurations of diffusers' classes.

    python video_dataset.py --num_clips 700 --num_frames 17 --frame_size 256 --output_dir demo17
    python -m benchmarks.latents.autoencoders --data_dir demo17       # half an hour on two cores

Clips of 16x256x256 of the demo (17 frames for causal classes) through 4x16x16 latents of 16 channels (5x16x16), the
same loss, the same noise on the latents, each optimizer at the best of its learning rates, for the same seconds of
training steps on this machine, reading of data not counted. FLOPs are counted. PSNR is of held-out clips, last weights.
Result: results/autoencoders.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from utils.cli import Parser, integer, number, run

HELD_OUT = 16  # clips
WARMUP = 20  # steps
LEARNING_RATES = {"muon": (1e-2, 2e-2, 4e-2), "adamw": (1e-3, 2e-3, 4e-3)}


def candidates() -> dict[str, tuple[int, Callable]]:
    """Name -> (frames of a clip, what builds it)."""
    from diffusers import AutoencoderKLCosmos, AutoencoderKLLTXVideo

    from models.patch_autoencoder import PatchAutoencoder

    def ltx():
        return AutoencoderKLLTXVideo(
            latent_channels=16,
            block_out_channels=(32, 96, 96),
            decoder_block_out_channels=(32, 96, 96),
            down_block_types=("LTXVideoDownBlock3D",) * 3,
            layers_per_block=(1,) * 4,
            decoder_layers_per_block=(1,) * 4,
            spatio_temporal_scaling=(True, True, False),
            decoder_spatio_temporal_scaling=(True, True, False),
            decoder_inject_noise=(False,) * 4,
            downsample_type=("conv",) * 3,
            upsample_residual=(False,) * 3,
            upsample_factor=(1,) * 3,
            patch_size=4,
        )

    def cosmos():
        return AutoencoderKLCosmos(
            latent_channels=16,
            encoder_block_out_channels=(16, 32, 64, 128),
            decode_block_out_channels=(16, 32, 64, 128),
            attention_resolutions=(),
            resolution=256,
            num_layers=1,
            patch_size=4,
            patch_type="rearrange",
            spatial_compression_ratio=16,
            temporal_compression_ratio=4,
        )

    return {
        "PatchAutoencoder, 128 wide": (16, lambda: PatchAutoencoder(width=128)),
        "PatchAutoencoder, 192 wide": (16, lambda: PatchAutoencoder(width=192)),
        "AutoencoderKLLTXVideo, small": (17, ltx),
        "AutoencoderKLCosmos, small": (17, cosmos),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--data_dir", type=Path, default=Path("demo17"), help="demo clips of 17 frames of 256x256")
    parser.add_argument("--seconds", type=number(0, 10**6, above=True), default=60, help="of training, each")
    parser.add_argument("--optimizers", nargs="+", choices=list(LEARNING_RATES), default=list(LEARNING_RATES))
    parser.add_argument("--batch_size", type=integer(1), default=1, help="clips of a step")
    parser.add_argument("--most_steps", type=integer(1), default=10**6, help="for a quick look")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from tqdm.auto import tqdm

    from benchmarks.measure import write_result

    clips = read_clips(args.data_dir)
    rows = []
    cases = [(name, optimizer) for name in candidates() for optimizer in args.optimizers]
    for name, optimizer in tqdm(cases, desc="autoencoders", unit="case"):
        found = [learn(name, optimizer, rate, clips, args) for rate in LEARNING_RATES[optimizer]]
        rows.append(max(found, key=lambda row: row["psnr"]))
        print(f"\n{name:30} {optimizer:6} {rows[-1]['learning_rate']:g}: {rows[-1]['psnr']:.2f} dB", flush=True)
    result = {"settings": {**vars(args), "data_dir": str(args.data_dir)}, "rows": rows}
    write_result("autoencoders", result)
    print(json.dumps(rows, indent=1))


def read_clips(data_dir: Path):
    """uint8 (N, 17, H, W, 3): all clips of a demo dataset, in memory."""
    import numpy as np
    from tqdm.auto import tqdm

    from utils.decoding.probe import probe_video
    from utils.decoding.read import read_frames

    paths = sorted((data_dir / "videos").glob("*.mp4"))
    return np.stack([read_frames(probe_video(path), range(17)) for path in tqdm(paths, desc="reading", unit="clip")])


def learn(name: str, optimizer_name: str, learning_rate: float, clips, args: argparse.Namespace) -> dict:
    """Train a fresh candidate for so many seconds; what it cost and how good it is."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from models.reconstruction import AutoencoderTraining, psnr
    from utils.training.optimizers import make_optimizer

    def as_videos(chosen) -> torch.Tensor:
        videos = torch.from_numpy(np.ascontiguousarray(clips[chosen, :frames]))
        return videos.permute(0, 4, 1, 2, 3).float() / 127.5 - 1

    frames, build = candidates()[name]
    torch.manual_seed(0)
    autoencoder, rng = build(), np.random.default_rng(0)
    model = AutoencoderTraining(autoencoder, latent_noise=0.05)
    optimizer = make_optimizer(optimizer_name, model, learning_rate, (0.9, 0.99), 0.0)
    with FlopCounterMode(display=False) as counter:
        model(as_videos([0]))[0].backward()
    held_out = [as_videos([n]) for n in range(len(clips) - HELD_OUT, len(clips))]
    seconds, step, rates = 0.0, 0, [group["lr"] for group in optimizer.param_groups]
    while seconds < args.seconds and step < args.most_steps:
        videos = as_videos(rng.integers(0, len(clips) - HELD_OUT, args.batch_size))
        start = time.perf_counter()
        factor = min(1, (step + 1) / WARMUP, 2 * (1 - seconds / args.seconds))  # falls over the second half
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad()
        model(videos)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds, step = seconds + time.perf_counter() - start, step + 1
    with torch.no_grad():
        back = [model.autoencoder.decode(model.autoencoder.encode(v).latent_dist.mode()).sample for v in held_out]
    quality = [psnr(one.clamp(-1, 1), other).item() for one, other in zip(back, held_out, strict=True)]
    return {
        "name": name,
        "optimizer": optimizer_name,
        "learning_rate": learning_rate,
        "parameters": sum(parameter.numel() for parameter in autoencoder.parameters()),
        "gflop_per_clip": round(counter.get_total_flops() / 1e9, 1),
        "steps": step,
        "seconds": round(seconds, 1),
        "tflop": round(step * args.batch_size * counter.get_total_flops() / 1e12, 2),
        "psnr": round(float(np.mean(quality)), 2),
    }


if __name__ == "__main__":
    run(lambda: main(parse_args()))

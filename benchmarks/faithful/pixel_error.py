"""What does a network get wrong of the clean clip, at each noise level: far from the objects and near them?

    python -m benchmarks.faithful.pixel_error --runs checkpoints/one checkpoints/other --data_dir demo_video_data

Clips of the demo get noise, and the network's guess of each is compared with the clip. Where little noise is left the
clip could almost be copied: what is wrong there is the network's own, and no sampler takes it away. Result:
results/pixel_error.json, in 8-bit levels.
"""

import argparse
from pathlib import Path

import numpy as np

from utils.cli import Parser, integer, run

TIMESTEPS = (0, 10, 40, 150, 400, 600, 800, 950)
STANDS_OUT, MARGIN = 20, 4  # levels from the background's; px around what does


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="best_model.pth each, or its folder")
    parser.add_argument("--data_dir", type=Path, required=True, help="of the demo, which the runs learnt from")
    parser.add_argument("--num_clips", type=integer(1), default=32, help="clips, of the validation")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    from benchmarks.measure import write_result

    found = {path.name: errors(path, args.data_dir, args.num_clips) for path in args.runs}
    print(
        "mean error of the clean clip in 8-bit levels, far from the objects (and its change from frame to frame), near"
    )
    for path, rows in found.items():
        print(path)
        for row in rows:
            print(
                f"  timestep {row['timestep']:4d}, noise {row['sigma_over_alpha']:9.4f} of the clip: "
                f"far {row['far']:5.2f} ({row['far_change']:4.2f}), near {row['near']:5.2f}"
            )
    command = f"python -m benchmarks.faithful.pixel_error --runs ... --data_dir DIR --num_clips {args.num_clips}"
    print(write_result("pixel_error", {"command": command, "runs": found}))


def errors(run_dir: Path, data_dir: Path, num_clips: int) -> list[dict]:
    """A row for each of TIMESTEPS."""
    import torch

    from utils.drawing.opened import open_model
    from video_dataset import TextVideoDataset

    opened = open_model(run_dir, None, None, "cpu")
    model, said = opened.model, opened.said
    reading = {"num_frames": said["num_frames"], "frame_size": (said["height"], said["width"]), **said["data"]}
    dataset = TextVideoDataset(data_dir, **reading, augment=False, split="val")
    samples = [dataset[n] for n in range(min(num_clips, len(dataset)))]
    clips = torch.stack([sample["video"] for sample in samples])
    near = torch.from_numpy(np.stack([near_objects(clip.numpy()) for clip in clips]))[:, None].float()
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    rows = []
    with torch.no_grad():
        text, mask = model.text_encoder.encode([sample["text"] for sample in samples])
        for timestep in (each for each in TIMESTEPS if each < model.diffusion.num_timesteps):
            alpha, sigma = model.diffusion.alpha_sigma(torch.tensor([timestep]), clips)
            noisy, at = alpha * clips + sigma * noise, torch.tensor(timestep)
            wrong = (model.diffusion.denoise(noisy, at, text, model.needed(mask)) - clips) * 127.5
            rows.append(
                {
                    "timestep": timestep,
                    "sigma_over_alpha": float((sigma / alpha).flatten()[0]),
                    "far": mean_where(wrong.abs(), 1 - near),
                    "far_change": mean_where(wrong.diff(dim=2).abs(), 1 - near[:, :, 1:]),
                    "near": mean_where(wrong.abs(), near),
                }
            )
    return rows


def near_objects(clip: np.ndarray) -> np.ndarray:
    """bool (T, H, W): within MARGIN px of what stands out of the background of a clip (3, T, H, W) in [-1, 1]."""
    import cv2

    levels = clip.transpose(1, 2, 3, 0) * 127.5
    stands_out = np.abs(levels - np.median(levels, axis=(0, 1, 2))).max(axis=-1) > STANDS_OUT
    kernel = np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8)
    return np.stack([cv2.dilate(frame.astype(np.uint8), kernel) > 0 for frame in stands_out])


def mean_where(values, where) -> float:
    """Mean of (B, C, T, H, W) where (B, 1, T, H, W) is 1."""
    where = where.expand_as(values)
    return round(float((values * where).sum() / where.sum()), 4)


if __name__ == "__main__":
    run(lambda: main(parse_args()))

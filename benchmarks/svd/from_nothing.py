"""A small Stable Video Diffusion without the published weights, for what can be measured without a GPU and a hub.

    python -m benchmarks.svd.from_nothing --data_dir DIR --output_dir FOLDER       # a LeRobot dataset, see robots/
    python train_svd.py --pretrained_model_name FOLDER --trainable all --dataset_dir DIR ...

FOLDER is a pipeline of the real classes. Its autoencoder, of 4 channels at a quarter of the size, learns here from the
frames of --data_dir; its U-Net and its image encoder are random, the former is for train_svd.py to train, whole. What
comes of it knows nothing but these videos: it shows that conditions are obeyed, not what SVD can do.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace

from utils.cli import Parser, integer, number, run

UNET = {
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
    "up_block_types": ("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
    "transformer_layers_per_block": 1,
    "cross_attention_dim": 32,
    "num_attention_heads": (2, 4),
    "projection_class_embeddings_input_dim": 96,
    "addition_time_embed_dim": 32,
}
VAE = {
    "block_out_channels": (32, 64, 64),  # three, so that it divides height and width by 4
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
}
LATENT_NOISE = 0.05  # of their deviation, while it learns
PIECE = 8  # frames that are decoded at a time


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog="\n\n".join(__doc__.split("\n\n")[1:]))
    parser.add_argument("--data_dir", type=Path, required=True, help="a LeRobot dataset of one camera")
    parser.add_argument("--output_dir", type=Path, required=True, help="of the pipeline")
    parser.add_argument("--steps", type=integer(1), default=1000, help="of the autoencoder's training")
    parser.add_argument("--batch_size", type=integer(1), default=2, help=f"pieces of {PIECE} frames")
    parser.add_argument("--learning_rate", type=number(0, above=True), default=2e-3, help="peak, of AdamW")
    parser.add_argument("--seed", type=integer(0), default=0, help="of everything random")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch
    from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline, UNetSpatioTemporalConditionModel
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from benchmarks.robots.episodes import episodes
    from tests.tiny_svd import SCHEDULER, TINY_CLIP

    torch.manual_seed(args.seed)
    videos = [torch.from_numpy(each.frames) for each in episodes(args.data_dir, PIECE)]
    held_out, videos = videos[::20], [video for n, video in enumerate(videos) if n % 20]
    vae = fit_autoencoder(videos, args)
    vae.register_to_config(scaling_factor=1 / spread(vae, videos))
    print(f"the autoencoder gives back frames that it never saw with {quality(vae, held_out):.1f} dB")
    pipeline = StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=CLIPVisionModelWithProjection(CLIPVisionConfig(**TINY_CLIP)),
        unet=UNetSpatioTemporalConditionModel(**UNET, sample_size=held_out[0].shape[1] // 4, num_frames=16),
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.save_pretrained(args.output_dir)


def fit_autoencoder(videos: list, args: argparse.Namespace):
    """An AutoencoderKLTemporalDecoder that has learnt from these videos, uint8 (T, H, W, 3) each."""
    import torch
    from diffusers import AutoencoderKLTemporalDecoder
    from tqdm.auto import trange

    from models.reconstruction import AutoencoderTraining
    from utils.hardware import multiplies_in_bf16

    vae = AutoencoderKLTemporalDecoder(**VAE, sample_size=videos[0].shape[1])
    model = AutoencoderTraining(OfClips(vae), latent_noise=LATENT_NOISE)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=args.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.learning_rate, total_steps=args.steps, pct_start=0.1)
    for _ in (bar := trange(args.steps, desc="autoencoder", unit="step", disable=None)):
        chosen = torch.randint(len(videos), (args.batch_size,)).tolist()
        begins = [int(torch.randint(len(videos[n]) - PIECE + 1, ())) for n in chosen]
        clips = torch.stack([as_clip(videos[n][b : b + PIECE]) for n, b in zip(chosen, begins, strict=True)])
        with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_in_bf16("cpu")):
            loss, terms = model(clips)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(mse=f"{terms['mse'].item():.4f}")
    return vae.eval()


class OfClips:
    """What AutoencoderTraining asks, of an autoencoder that takes frames one by one: clips (B, 3, T, H, W)."""

    def __init__(self, vae):
        self.vae = vae

    def encode(self, clips) -> SimpleNamespace:
        latents = self.vae.encode(clips.transpose(1, 2).flatten(0, 1)).latent_dist.mode()
        latents = latents.unflatten(0, (len(clips), -1)).transpose(1, 2)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latents))

    def decode(self, latents) -> SimpleNamespace:
        decoded = self.vae.decode(latents.transpose(1, 2).flatten(0, 1), num_frames=latents.shape[2]).sample
        return SimpleNamespace(sample=decoded.unflatten(0, (len(latents), -1)).transpose(1, 2))


def as_clip(frames):
    """(3, T, H, W) in [-1, 1] of uint8 (T, H, W, 3)."""
    return frames.permute(3, 0, 1, 2).float() / 127.5 - 1


def spread(vae, videos: list) -> float:
    """Standard deviation of the latents, from first frames."""
    import torch

    with torch.no_grad():
        frames = torch.stack([as_clip(video[:1])[:, 0] for video in videos[:64]])
        return vae.encode(frames).latent_dist.mode().std().item()


def quality(vae, videos: list) -> float:
    """Mean PSNR in dB of their first pieces, encoded and decoded."""
    import torch

    from models.reconstruction import psnr

    with torch.no_grad():
        clips = torch.stack([as_clip(video[:PIECE]) for video in videos])
        back = OfClips(vae).decode(OfClips(vae).encode(clips).latent_dist.mode()).sample
        pairs = zip(back.clamp(-1, 1), clips, strict=True)
        return float(torch.stack([psnr(one[None], other[None]) for one, other in pairs]).mean())


if __name__ == "__main__":
    run(lambda: main(parse_args()))

"""Train an autoencoder of videos, in whose latents train_text2video.py then learns.

    python train_autoencoder.py --data_dir ./demo_video_data --preset small    # minutes on two CPU cores
    python train_text2video.py --vae ./checkpoints/autoencoder_<time> ...      # learns in its latents

Data: <data_dir>/videos/*.mp4 as for train_text2video.py; captions are not needed. Result: a run folder whose vae/ holds
the best weights as save_pretrained writes them, metrics.jsonl, loss.png, and sheets of clips beside what came back.
"""

import argparse
from collections.abc import Iterator

from utils.arguments.data import add_data_args, buckets_of, data_args, frame_shape
from utils.arguments.presets import add_preset_args, parse_with_presets
from utils.arguments.training import (
    FREE_ON_RESUME,
    add_length_args,
    add_log_args,
    add_optimizer_args,
    add_run_args,
    check_run_args,
)
from utils.cli import Parser, integer, number
from utils.cli import run as run_script

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

FREE = FREE_ON_RESUME | {"preset", "config", "num_epochs", "cache_mb", "data_dir", "num_validation_clips"}
REMEDIES = (
    "a smaller --batch_size (with --gradient_accumulation_steps for the same effect), --gradient_checkpointing, "
    "--mixed_precision bf16, fewer --num_frames, a smaller --frame_size, fewer --model_channels"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    add_preset_args(parser, "autoencoder", default="base")
    add_data_args(parser)
    parser.set_defaults(missing_caption="empty", short_clips="skip")

    group = parser.add_argument_group("network")
    group.add_argument("--latent_channels", type=integer(1, 1024), default=16, help="numbers of a place in the latents")
    group.add_argument("--patch_frames", type=integer(1, 16), default=4, help="frames that become one latent frame")
    group.add_argument("--patch_size", type=integer(1, 64), default=8, help="px, sides of what becomes a latent place")
    group.add_argument("--model_channels", type=integer(8, 4096), default=256, help="width of the residual blocks")
    group.add_argument("--encoder_layers", type=integer(1, 64), default=4, help="residual blocks")
    group.add_argument("--decoder_layers", type=integer(1, 64), default=6, help="residual blocks")
    group.add_argument(
        "--detail_channels",
        type=integer(0, 1024),
        default=0,
        help="convolutions of so many channels over squares of 4x4 px behind the last layer: crisper outlines; 0: none",
    )

    group = parser.add_argument_group("loss, beside the absolute error")
    group.add_argument("--mse_weight", type=number(0), default=4.0, help="of the squared error")
    group.add_argument("--latent_noise", type=number(0, 10), default=0.05, help="on the latents, in their deviations")
    group.add_argument("--kl_weight", type=number(0), default=0.0, help="pull to a normal distribution; 0: none")
    group.add_argument(
        "--perceptual", default=None, help="folder of a vision backbone of transformers (ResNet, ConvNeXt, DINOv2, ...)"
    )
    group.add_argument("--perceptual_weight", type=number(0), default=0.1, help="of its distance, with --perceptual")
    group.add_argument("--adversarial_weight", type=number(0), default=0.0, help="of a discriminator; 0: none")
    group.add_argument(
        "--adversarial_start", type=integer(0), default=1000, help="step from which on the discriminator counts"
    )
    add_training_args(parser)
    parser.checks.append(check_args)
    return parse_with_presets(parser, argv, instead={"num_epochs": "max_train_steps"})


def add_training_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    add_length_args(group, batch_size=2, num_epochs=100, optimizer="muon")
    group.add_argument(
        "--crop_size", type=integer(8, 4096), default=None, help="learn from so many px squared of each; default: all"
    )
    group.add_argument("--crops_per_clip", type=integer(1, 256), default=1, help="so many such parts of each clip")
    group.add_argument(
        "--crop_choices", type=integer(1, 256), default=1, help="each the one with most detail of so many places"
    )
    add_optimizer_args(
        group, learning_rate=2e-2, lr_scheduler="warmup_stable_decay", lr_warmup_steps=20, adam_beta2=0.99
    )
    parser.set_defaults(adam_weight_decay=0.0, ema_decay=0.99)
    group.add_argument(
        "--gradient_checkpointing", action="store_true", help="recompute activations: less memory, a third more time"
    )
    add_run_args(group, "./checkpoints/autoencoder_<time>")

    group = parser.add_argument_group("logs")
    add_log_args(group, "autoencoder")
    group.add_argument("--num_validation_clips", type=integer(1, 4096), default=16, help="held-out clips measured")


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if not args.data_dir.is_dir():
        yield f"--data_dir: there is no folder {args.data_dir}; `python video_dataset.py` writes ./demo_video_data"
    buckets = buckets_of(args) if args.buckets is not None else [(*frame_shape(args), args.num_frames)]
    size, length = ("--frame_size", "--num_frames") if args.buckets is None else ("--buckets", "--buckets")
    for height, width, frames in buckets:
        if height % args.patch_size or width % args.patch_size:
            yield f"{size}: got {width}x{height}, must be multiples of --patch_size, {args.patch_size}"
        if frames % args.patch_frames:
            yield f"{length}: got {frames}, must be a multiple of --patch_frames, {args.patch_frames}"
    if args.crop_size is not None and args.crop_size % args.patch_size:
        yield f"--crop_size: got {args.crop_size}, must be a multiple of --patch_size, {args.patch_size}"
    for name in ("crops_per_clip", "crop_choices"):
        if args.crop_size is None and getattr(args, name) > 1:
            yield f"--{name}: needs --crop_size, of what size they are"
    yield from check_run_args(args, args.data_dir)


def main(args: argparse.Namespace) -> None:
    import torch

    from models.patch_autoencoder import PatchAutoencoder
    from models.reconstruction import AutoencoderTraining, PatchDiscriminator, random_crops
    from utils.files import whole_files
    from utils.runs.model_file import cpu_tensors
    from utils.tensors import tensor_bytes
    from utils.training.optimizers import make_optimizer
    from utils.training.order import seed_step
    from utils.training.training_run import TrainingRun
    from video_dataset import TextVideoDataset

    run = TrainingRun(args, "autoencoder", FREE, REMEDIES)

    # Data: clips (B, 3, T, H, W) in [-1, 1]; what a sample is depends on (seed, epoch, index) alone.
    data = data_args(args) | {"max_bad_fraction": args.max_bad_fraction}
    train_set, val_set = (TextVideoDataset(**data, split=split) for split in ("train", "val"))
    run.check_clips("--data_dir", train_set.digests() | val_set.digests())
    samples = args.num_epochs * len(train_set)
    max_train_steps = args.max_train_steps or -(-samples // run.samples_per_step(args.batch_size))

    # Model: the autoencoder and, if asked for, a discriminator learn together.
    seed_step(args.seed)
    autoencoder = PatchAutoencoder(
        latent_channels=args.latent_channels,
        patch_size=(args.patch_frames, args.patch_size),
        width=args.model_channels,
        encoder_layers=args.encoder_layers,
        decoder_layers=args.decoder_layers,
        double_z=args.kl_weight > 0,
        detail_channels=args.detail_channels,
    )
    if args.gradient_checkpointing:
        autoencoder.enable_gradient_checkpointing()
    modules = {"autoencoder": autoencoder}
    if args.adversarial_weight:
        modules["discriminator"] = PatchDiscriminator()
    if run.resumed:
        for name, module in modules.items():
            module.load_state_dict(run.resumed.tensors[name])
    model = AutoencoderTraining(
        autoencoder,
        args.patch_frames,
        args.mse_weight,
        args.latent_noise,
        args.kl_weight,
        load_perceptual(args.perceptual),
        args.perceptual_weight,
        modules.get("discriminator"),
        args.adversarial_weight,
    )
    if args.compile:
        model.compile()
    kept = args.latent_channels / (3 * args.patch_frames * args.patch_size**2)
    run.say(
        f"{len(train_set)} training and {len(val_set)} validation clips, {max_train_steps} steps, run folder "
        f"{run.run_dir}; {sum(p.numel() for p in autoencoder.parameters()) / 1e6:.1f}M parameters, a latent has "
        f"{100 * kept:.2g}% of the numbers of a clip"
    )

    def weights() -> dict[str, dict]:
        return {name: cpu_tensors(module) for name, module in modules.items()}

    trained = run.prepare(
        model,
        make_optimizer(
            args.optimizer, model, args.learning_rate, (args.adam_beta1, args.adam_beta2), args.adam_weight_decay
        ),
        train_set,
        args.batch_size,
        max_train_steps,
        weights,
    )
    run.state.setdefault("best_psnr", None)

    def validate() -> None:
        with run.averaged(), run.accelerator.autocast():
            numbers = measure(autoencoder, val_set, args)
            run.log({f"val/{name}": value for name, value in numbers.items()})
            if run.state["best_psnr"] is None or numbers["psnr"] > run.state["best_psnr"]:
                run.state["best_psnr"] = numbers["psnr"]
                if run.main_process:
                    with whole_files(run.run_dir / "vae", tensor_bytes(autoencoder.state_dict())) as folder:
                        autoencoder.save_pretrained(folder)

    with run:
        if run.step and run.missed("validate", "val/psnr"):
            validate()  # a stop does not wait for it
        for batches in run.steps():
            for batch in batches:
                videos = random_crops(batch["video"], args.crop_size, args.crops_per_clip, args.crop_choices)
                videos = videos.to(run.device, non_blocking=True)
                with run.accelerator.autocast():
                    loss, terms = trained(videos, adversarial=run.step >= args.adversarial_start)
                run.backward(loss, **terms)
            run.update()
            if run.due("validate"):
                validate()
            if run.due("sample"):
                with run.averaged(), run.accelerator.autocast(), torch.no_grad():
                    draw_samples(run, autoencoder, val_set, args.target_fps or 8)

    if run.main_process:
        best = f"{run.run_dir / 'vae'} ({run.state['best_psnr']:.2f} dB on held-out clips)"
        print(f"done: {best}, {run.run_dir / 'loss.png'}; learn in its latents with --vae {run.run_dir}")


def load_perceptual(folder: str | None):
    """The frozen network of --perceptual, or None."""
    if folder is None:
        return None
    from models.reconstruction import PerceptualDistance
    from utils.pretrained.model_folder import load_backbone

    return PerceptualDistance(load_backbone(folder, "--perceptual"))


def round_trips(autoencoder, val_set, count: int) -> Iterator[tuple]:
    """(a validation clip (1, 3, T, H, W), what comes back of it, its caption) for up to `count` clips."""
    import torch

    from models.autoencoder import VideoAutoencoder

    model = VideoAutoencoder(autoencoder)
    for index in range(min(count, len(val_set))):
        sample = val_set[index]
        video = sample["video"][None].to(autoencoder.device)
        with torch.no_grad():
            yield video, model.decode(model.encode(video), video.shape[2]), sample["text"]


def measure(autoencoder, val_set, args: argparse.Namespace) -> dict[str, float]:
    """{"psnr": dB, "ssim"} of validation clips after a round trip, means over the clips; on the demo dataset also
    "judged": the share of them in which the judge still sees what the caption says."""
    import numpy as np

    from models.reconstruction import psnr, ssim
    from utils.evaluation.judge import judge, wanted
    from utils.evaluation.scores import right
    from utils.video.frames import to_uint8

    rows = {"psnr": [], "ssim": [], "judged": []}
    demo = (args.data_dir / "dataset.json").is_file()
    for video, back, text in round_trips(autoencoder, val_set, args.num_validation_clips):
        rows["psnr"].append(psnr(back, video).item())
        if min(video.shape[3:]) > 10:
            rows["ssim"].append(ssim(back, video).item())
        if demo and "all" in (verdict := right(judge(to_uint8(back[0])), wanted(text))):
            rows["judged"].append(verdict["all"])
    return {name: float(np.mean(values)) for name, values in rows.items() if values}


def draw_samples(run, autoencoder, val_set, fps: float) -> None:
    """Clips beside what comes back of them, in samples/step_<step>/, with a contact sheet."""
    import torch

    from utils.video.frames import to_uint8

    pairs = [(torch.cat([video, back], dim=4), text) for video, back, text in round_trips(autoencoder, val_set, 4)]
    run.log_samples([to_uint8(pair[0]) for pair, _ in pairs], [text for _, text in pairs], [fps] * len(pairs))


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))

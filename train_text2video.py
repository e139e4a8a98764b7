"""Train a text-to-video diffusion model on captioned clips.

    python train_text2video.py --data_dir ./demo_video_data --preset demo      # minutes on two CPU cores
    python train_text2video.py --data_dir ./your_video_data                    # the base model, on a CUDA card

Data: <data_dir>/videos/*.mp4 with <data_dir>/captions/<same name>.txt. Result: a run folder with best_model.pth,
samples, metrics.jsonl, loss.png and the checkpoints that --resume continues from.
"""

import argparse
from collections.abc import Iterator

from utils.arguments.conditions import add_condition_args, check_condition_args
from utils.arguments.data import add_data_args, data_args, frame_shape, seen_as
from utils.arguments.presets import add_preset_args, parse_with_presets
from utils.arguments.text2video import add_benchmark_args, add_model_args, check_model_args
from utils.arguments.training import (
    FREE_ON_RESUME,
    add_length_args,
    add_log_args,
    add_optimizer_args,
    add_run_args,
    check_run_args,
)
from utils.cli import Parser, utf8_text
from utils.cli import run as run_script
from utils.pretrained.image_model import adopted
from utils.runs.new_model import (
    latent_samples,
    load_initial_weights,
    make_autoencoder,
    make_diffusion,
    make_text_encoder,
    make_unet,
    measure_latents,
    sizes_of,
)

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

# See FREE_ON_RESUME.
FREE = FREE_ON_RESUME | {"preset", "config", "num_epochs", "cache_mb", "validation_prompts", "data_dir"}
FREE |= {"dry_run", "evaluate_every", "evaluate_prompts", "text_cache_mb"}

REMEDIES = (
    "a smaller --batch_size (with --gradient_accumulation_steps for the same effect), --gradient_checkpointing, "
    "--mixed_precision bf16, fewer --num_frames, a smaller --frame_size, fewer --model_channels"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    add_preset_args(parser, "text2video", default="base")
    add_data_args(parser)
    add_model_args(parser)
    add_condition_args(parser)
    add_training_args(parser)
    add_benchmark_args(parser)
    parser.checks.append(check_args)
    # A number of epochs stands for itself, also where a preset below it has a number of steps.
    return parse_with_presets(parser, argv, instead={"num_epochs": "max_train_steps"})


def add_training_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    add_length_args(group, batch_size=4, num_epochs=1000, optimizer="adamw")
    add_optimizer_args(group, learning_rate=1e-4, lr_scheduler="cosine", lr_warmup_steps=500, adam_beta2=0.99)
    group.add_argument(
        "--gradient_checkpointing", action="store_true", help="recompute activations: less memory, a third more time"
    )
    group.add_argument("--dry_run", action="store_true", help="print what fits into memory and leave")
    add_run_args(group, "./checkpoints/text2video_<time>")

    group = parser.add_argument_group("logs")
    add_log_args(group, "text2video")
    group.add_argument(
        "--validation_prompts",
        type=utf8_text,
        nargs="+",
        default=None,
        help="prompts of the sample videos; default: validation captions",
    )


def check_args(args: argparse.Namespace) -> Iterator[str]:
    yield from check_model_args(args)
    if args.dry_run:
        return
    if not args.data_dir.is_dir():
        yield f"--data_dir: there is no folder {args.data_dir}; `python video_dataset.py` writes ./demo_video_data"
    elif args.evaluate_every and not (args.data_dir / "dataset.json").is_file():
        yield f"--evaluate_every: judges the demo dataset alone, and {args.data_dir} is another one; leave it out"
    else:
        yield from check_condition_args(args)
    yield from check_run_args(args, args.data_dir)


def main(args: argparse.Namespace) -> None:
    if args.dry_run:
        from utils.runs.memory_report import memory_report

        print(memory_report(args))
        return

    from models.diffusion.captioned import CaptionedDiffusion
    from utils.drawing.training_samples import draw_samples
    from utils.evaluation.benchmark import benchmark_accuracy
    from utils.latents.latent_clips import as_clips
    from utils.pretrained.autoencoder import pack_autoencoder
    from utils.runs.conditions import given_of, make_conditions
    from utils.runs.model_file import cpu_tensors
    from utils.training.optimizers import make_optimizer
    from utils.training.order import seed_step
    from utils.training.training_run import TrainingRun
    from video_dataset import TextVideoDataset

    run = TrainingRun(args, "text2video", FREE, REMEDIES)
    accelerator, say = run.accelerator, run.say
    with accelerator.main_process_first():
        args = adopted(args)  # an image model brings its autoencoder, text encoder and schedule
    if args.vae != "none" and args.vae == args.init_from_2d:
        say(f"{args.vae} is adopted whole: U-Net, autoencoder, text encoder, {args.scheduler_config.name}")

    # Data: clips (B, 3, T, H, W) in [-1, 1] with captions; what a sample is depends on (seed, epoch, index) alone.
    autoencoder, source = make_autoencoder(args, run.state)
    data = data_args(args, sizes_of(args, autoencoder)) | {"max_bad_fraction": args.max_bad_fraction}
    train_set, val_set = (TextVideoDataset(**data, split=split) for split in ("train", "val"))
    train_set.may_mirror = args.vectors is None  # they may mean left and right, and nobody knows which
    run.check_clips("--data_dir", train_set.digests() | val_set.digests())
    samples = args.num_epochs * len(train_set)
    max_train_steps = args.max_train_steps or -(-samples // run.samples_per_step(args.batch_size))
    say(
        f"{len(train_set)} training and {len(val_set)} validation clips, {max_train_steps} steps, "
        f"run folder {run.run_dir}"
    )

    # Model: the U-Net learns, and with it the built-in text encoder; a pretrained one is frozen, as the autoencoder is.
    train_samples, val_samples = train_set, val_set
    if autoencoder is not None:
        digest = run.state["vae_sha256"]
        if args.latent_cache is not None:
            train_samples, val_samples = latent_samples(args, accelerator, autoencoder, digest, train_set, val_set)
        measure_latents(args, autoencoder, train_samples, run.device, run.state)
    with accelerator.main_process_first():
        sets = [train_set, val_set]
        conditions, known = make_conditions(args, autoencoder, run.state, sets, [train_samples, val_samples])
    train_samples, val_samples = known
    seed_step(args.seed)
    text_encoder = make_text_encoder(args, train_set.captions(mirrored=args.augment), run.state.get("tokenizer"))
    for remark in text_encoder.remarks(train_set.captions()):
        say(f"warning: {remark}")
    unet = make_unet(args, text_encoder.dim, 3 if autoencoder is None else autoencoder.channels)
    if conditions.names:
        unet.add_conditions(conditions)
        say(f"conditions: {', '.join(conditions.names)}")
    if args.init_from is not None and not run.resumed:
        say(load_initial_weights(args, unet, text_encoder, run.state.get("vae_sha256")))
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if args.compile:
        unet.compile()
    modules = {"unet": unet}
    if text_encoder.trainable:
        modules["text_encoder"] = text_encoder
    else:
        texts = ["", *train_set.captions(mirrored=args.augment), *val_set.captions(), *(args.validation_prompts or [])]
        read_captions_once(accelerator, text_encoder, texts, args.text_cache_mb)
    if run.resumed:
        for name, module in modules.items():
            module.load_state_dict(run.resumed.tensors[name])
    model = CaptionedDiffusion(make_diffusion(args, unet, autoencoder), text_encoder, autoencoder)
    say(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.1f}M parameters in the U-Net, text by {text_encoder.name}")

    # Optimizer; samples are drawn from the moving average.
    def weights() -> dict[str, dict]:
        if text_encoder.trainable:
            run.state["tokenizer"] = text_encoder.tokenizer.backend_tokenizer.to_str()
        return {name: cpu_tensors(module) for name, module in modules.items()}

    betas = (args.adam_beta1, args.adam_beta2)
    trained = run.prepare(
        model,
        make_optimizer(args.optimizer, model, args.learning_rate, betas, args.adam_weight_decay),
        train_samples,
        args.batch_size,
        max_train_steps,
        weights,
    )
    run.state.setdefault("best_val_loss", None)
    how = {"guidance_scale": args.guidance_scale, "guidance_interval": tuple(args.guidance_interval)}

    def validate() -> None:
        with run.averaged(), accelerator.autocast():
            val_loss = validation_loss(model, val_samples, args.batch_size, args.seed)
            run.log({"val/loss": val_loss})
            if run.state["best_val_loss"] is None or val_loss < run.state["best_val_loss"]:
                run.state["best_val_loss"] = val_loss
                latents = autoencoder and pack_autoencoder(autoencoder, source, digest)
                save_best(run, args, model, latents, val_loss)

    with run:
        if run.step and run.missed("validate", "val/loss"):
            validate()  # a stop does not wait for it
        for batches in run.steps():
            for batch in batches:
                with accelerator.autocast():
                    known = given_of(batch, conditions, autoencoder, run.device, args.condition_dropout)
                    loss = trained(as_clips(batch, autoencoder, run.device), batch["text"], known)
                    run.backward(loss)
            run.update()
            if run.due("validate"):
                validate()
            if run.due("sample"):
                with run.averaged(), accelerator.autocast():
                    draw_samples(
                        run,
                        args,
                        model,
                        val_set,
                        val_samples,
                        args.validation_prompts,
                        how | {"num_inference_steps": min(25, model.diffusion.num_timesteps)},
                    )
            if args.evaluate_every and run.due("evaluate"):
                with run.averaged(), accelerator.autocast():
                    run.log(
                        benchmark_accuracy(
                            args, model, how | {"num_inference_steps": min(15, model.diffusion.num_timesteps)}
                        )
                    )

    if run.main_process:
        best = f"{run.run_dir / 'best_model.pth'} (validation loss {run.state['best_val_loss']:.4f})"
        print(f"done: {best}, {run.run_dir / 'loss.png'}")


def read_captions_once(accelerator, text_encoder, texts: list[str], limit_mb: int) -> None:
    """Let a frozen text encoder read all captions now, in the precision of training, if there is memory for it."""
    needed = -(-text_encoder.memory(texts) // 2**20)
    if needed > limit_mb:
        accelerator.print(
            f"the captions' embeddings take {needed} MB, --text_cache_mb allows {limit_mb}: computed in every step"
        )
        return
    with accelerator.autocast():
        text_encoder.remember(texts, accelerator.device, progress=accelerator.is_main_process)


def validation_loss(model, val_set, batch_size: int, seed: int, max_clips: int = 64, rounds: int = 4) -> float:
    """Mean loss of up to max_clips validation clips, each at `rounds` timesteps spread over the whole schedule.

    Noise and timesteps are the same every time, so that the numbers of one run, and of runs on the same data, compare.
    """
    import torch
    from torch.utils.data import default_collate

    from utils.latents.latent_clips import as_clips
    from utils.runs.conditions import fixed_conditions

    diffusion = model.diffusion
    device = diffusion.alphas_cumprod.device
    count = min(len(val_set), max_clips)
    spread = (torch.arange(rounds * count) + 0.5) / (rounds * count) * diffusion.num_timesteps
    timesteps = spread.long()[torch.randperm(rounds * count, generator=torch.Generator().manual_seed(seed))]
    of_a_shape = [[i for i in clips if i < count] for clips, _ in val_set.groups()]
    batches = [clips[n : n + batch_size] for clips in of_a_shape for n in range(0, len(clips), batch_size)]
    total, done = 0.0, 0
    with torch.no_grad():
        for batch in batches * rounds:
            samples = default_collate([val_set[i] for i in batch])
            videos = as_clips(samples, model.autoencoder, device)
            known = fixed_conditions(samples, model, seed + done)
            noise = torch.randn(videos.shape, generator=torch.Generator().manual_seed(seed + done)).to(device)
            where = slice(done, done + len(batch))
            embeddings, mask = model.text_encoder.encode(samples["text"])
            fixed = {"noise": noise, "timesteps": timesteps[where].to(device), "conditions": known}
            loss = diffusion(videos, embeddings, model.needed(mask), **fixed)
            total += loss.item() * len(batch)
            done += len(batch)
    return total / (rounds * count)


def save_best(run, args: argparse.Namespace, model, autoencoder: dict | None, val_loss: float) -> None:
    """best_model.pth. All processes gather the weights, the main process writes them."""
    from models.adapters.low_rank import low_rank_of
    from utils.lerobot.origin import origin_of
    from utils.runs.adapters import save_adapters
    from utils.runs.model_file import cpu_tensors, pack_model, save_model

    height, width = frame_shape(args)
    about = {
        "step": run.step,
        "val_loss": val_loss,
        "num_frames": args.num_frames,
        "height": height,
        "width": width,
        "guidance_scale": args.guidance_scale,
        "guidance_interval": list(args.guidance_interval),
        "data": seen_as(args),
        "origin": origin_of(args.data_dir),
    }
    packed = pack_model(model.diffusion, model.text_encoder, autoencoder, **about)
    low_rank = low_rank_of(cpu_tensors(model.diffusion.unet)) if args.trainable == "lora" else {}
    if run.main_process:
        save_model(run.run_dir / "best_model.pth", packed)
        save_adapters(run.run_dir, packed, low_rank)


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))

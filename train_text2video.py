"""Train a text-to-video diffusion model on captioned clips.

    python train_text2video.py --data_dir ./demo_video_data --preset demo      # minutes on two CPU cores
    python train_text2video.py --data_dir ./your_video_data                    # the base model, on a CUDA card

Data: <data_dir>/videos/*.mp4 with <data_dir>/captions/<same name>.txt. Result: a run folder with best_model.pth,
samples, metrics.jsonl, loss.png and the checkpoints that --resume continues from.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.text2video import add_model_args, check_model_args
from utils.arguments.training import (
    FREE_ON_RESUME,
    TRACKERS,
    add_log_args,
    add_optimizer_args,
    add_run_args,
    check_run_args,
)
from utils.cli import Parser, UserError, choice, integer, resume_command, run, utf8_text
from utils.runs.new_model import load_initial_weights, make_diffusion, make_text_encoder, make_unet
from video_dataset import add_data_args, data_args, seen_as

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

# What each preset changes of the defaults below; a flag on the command line has the last word.
PRESETS = {
    "base": {},
    "demo": {
        "text_encoder": "builtin",
        "num_frames": 8,
        "frame_size": 32,
        "target_fps": 4.0,
        "augment": False,  # a mirrored clip would show combinations that the demo holds out
        "batch_size": 8,
        "text_dim": 64,
        "model_channels": 48,
        "channel_mult": [1.0, 2.0],
        "layers_per_block": 1,
        "cross_attention_levels": [0, 0],
        "self_attention_levels": [0, 0],
        "temporal_attention_levels": [0, 1],
        "num_attention_heads": 4,
        "conv_type": "factorised",
        "patch_size": 4,
        "norm_num_groups": 16,
        "noise_shift": 3.0,
        "timestep_sampling": "logit_normal",
        "logit_std": 1.2,
        "text_dropout": 0.02,
        "max_train_steps": 2900,
        "optimizer": "muon",
        "learning_rate": 2e-3,
        "lr_scheduler": "warmup_stable_decay",
        "lr_warmup_steps": 20,
        "ema_decay": 0.995,
        "guidance_scale": 2.0,
        "num_workers": 0,
        "sample_every": 1000,
    },
    "tiny": {
        "text_encoder": "builtin",
        "text_dim": 32,
        "num_frames": 4,
        "frame_size": 16,
        "model_channels": 16,
        "channel_mult": [1.0, 2.0],
        "layers_per_block": 1,
        "num_attention_heads": 2,
        "conv_type": "factorised",
        "norm_num_groups": 8,
        "patch_size": 2,
        "num_workers": 0,
    },
}

# See FREE_ON_RESUME.
FREE = FREE_ON_RESUME | {"preset", "num_epochs", "cache_mb", "validation_prompts", "data_dir"}
FREE |= {"evaluate_every", "evaluate_prompts", "text_cache_mb"}

REMEDIES = (
    "a smaller --batch_size (with --gradient_accumulation_steps for the same effect), --gradient_checkpointing, "
    "--mixed_precision bf16, fewer --num_frames, a smaller --frame_size, fewer --model_channels"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument("--preset", choices=PRESETS, default="base", help="settings to start from; flags override them")
    add_data_args(parser)
    add_model_args(parser)
    add_training_args(parser)
    group = parser.add_argument_group("benchmark, on the demo dataset")
    group.add_argument(
        "--evaluate_every", type=integer(0), default=0, help="steps between scores of prompts obeyed; 0: none"
    )
    group.add_argument(
        "--evaluate_prompts", type=integer(1, 10_000), default=48, help="per group: seen and held-out combinations"
    )
    parser.checks.append(check_args)
    # The preset first, then the command line over it; --num_epochs there also unseats the preset's number of steps.
    argv = sys.argv[1:] if argv is None else argv
    preset = dict(PRESETS[parser.parse_known_args(argv)[0].preset])
    if any(flag.split("=")[0] in ("--num_epochs", "--num_train_epochs") for flag in argv):
        preset.pop("max_train_steps", None)
    parser.set_defaults(**preset)
    return parser.parse_args(argv)


def add_training_args(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument(
        "--batch_size", "--train_batch_size", type=integer(1), default=4, help="clips per process and micro-batch"
    )
    group.add_argument(
        "--num_epochs", "--num_train_epochs", type=integer(1), default=1000, help="passes over the training clips"
    )
    group.add_argument(
        "--max_train_steps", type=integer(1), default=None, help="optimizer steps; overrides --num_epochs"
    )
    group.add_argument(
        "--optimizer",
        type=choice("adamw", "muon"),
        default="adamw",
        help="muon: for the weight matrices, AdamW for the rest",
    )
    add_optimizer_args(group, learning_rate=1e-4, lr_scheduler="cosine", lr_warmup_steps=500, adam_beta2=0.99)
    group.add_argument(
        "--gradient_checkpointing", action="store_true", help="recompute activations: less memory, a third more time"
    )
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
    if not args.data_dir.is_dir():
        yield f"--data_dir: there is no folder {args.data_dir}; `python video_dataset.py` writes ./demo_video_data"
    elif args.evaluate_every and not (args.data_dir / "dataset.json").is_file():
        yield f"--evaluate_every: judges the demo dataset alone, and {args.data_dir} is another one; leave it out"
    yield from check_run_args(args, args.data_dir)


def main(args: argparse.Namespace) -> None:
    import torch
    from tqdm.auto import tqdm

    from models.diffusion import CaptionedDiffusion
    from utils.logs.metrics import Metrics
    from utils.logs.plots import plot_metrics
    from utils.logs.trackers import start_trackers
    from utils.runs.checkpoint import check_room, find_run, restore_training_state, save_checkpoint, training_state
    from utils.runs.model_file import cpu_tensors
    from utils.runs.out_of_memory import explain_out_of_memory
    from utils.runs.run_folder import check_clips, check_settings, write_settings
    from utils.training.batches import Batches, saved_first
    from utils.training.divergence import NumberGuard
    from utils.training.ema import ema_weights, evaluation_mode, moving_average
    from utils.training.optimizers import learning_rate_schedule, make_optimizer
    from utils.training.order import EndlessSampler, seed_step
    from utils.training.processes import any_process, make_accelerator
    from utils.training.signals import StopSignals
    from video_dataset import TextVideoDataset

    run_dir, resumed = find_run(args.resume, args.output_dir, Path("checkpoints"), "text2video")
    if resumed:
        check_settings(run_dir, vars(args), FREE)
    accelerator = make_accelerator(args, run_dir)
    rank, world_size, main_process = accelerator.process_index, accelerator.num_processes, accelerator.is_main_process
    say = accelerator.print
    if main_process:
        write_settings(run_dir, vars(args))

    # Data: clips (B, 3, T, H, W) in [-1, 1] with captions; what a sample is depends on (seed, epoch, index) alone.
    readable = {"max_bad_fraction": args.max_bad_fraction}
    train_set = TextVideoDataset(**data_args(args), **readable, split="train")
    val_set = TextVideoDataset(**data_args(args), **readable, split="val")
    samples_per_step = args.batch_size * args.gradient_accumulation_steps * world_size
    max_train_steps = args.max_train_steps or -(-args.num_epochs * len(train_set) // samples_per_step)
    state = resumed.state if resumed else {"step": 0, "best_val_loss": None, "wandb_run_id": None}
    clips = train_set.digests() | val_set.digests()
    if resumed:
        check_clips("--data_dir", state.get("clips"), clips, args.allow_dataset_change)
    say(f"{len(train_set)} training and {len(val_set)} validation clips, {max_train_steps} steps, run folder {run_dir}")

    # Model: the U-Net learns, and with it the built-in text encoder; a pretrained one is frozen.
    seed_step(args.seed)
    text_encoder = make_text_encoder(args, train_set.captions(mirrored=args.augment), state.get("tokenizer"))
    for remark in text_encoder.remarks(train_set.captions()):
        say(f"warning: {remark}")
    unet = make_unet(args, text_encoder.dim)
    diffusion = make_diffusion(args, unet)
    if args.init_from is not None:
        load_initial_weights(args.init_from, unet, text_encoder)
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if args.compile:
        unet.compile()
    if not text_encoder.trainable:
        texts = ["", *train_set.captions(mirrored=args.augment), *val_set.captions(), *(args.validation_prompts or [])]
        read_captions_once(accelerator, text_encoder, texts, args.text_cache_mb)
    modules = {"unet": unet} | ({"text_encoder": text_encoder} if text_encoder.trainable else {})
    if resumed:
        for name, module in modules.items():
            module.load_state_dict(resumed.tensors[name])
    model = CaptionedDiffusion(diffusion, text_encoder)
    say(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.1f}M parameters in the U-Net, text by {text_encoder.name}")

    # Optimizer, schedule, and the moving average that samples are drawn from.
    betas = (args.adam_beta1, args.adam_beta2)
    optimizer = make_optimizer(args.optimizer, model, args.learning_rate, betas, args.adam_weight_decay)
    schedule = learning_rate_schedule(args.lr_scheduler, optimizer, args.lr_warmup_steps, max_train_steps)
    if args.optimizer == "muon" and accelerator.distributed_type == "FSDP":
        raise UserError(
            "--optimizer: muon needs whole matrices, which FSDP cuts up; use adamw, or another configuration"
        )
    trained, optimizer = accelerator.prepare(model, optimizer)
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    ema = moving_average(parameters, args.ema_decay)
    if resumed:
        restore_training_state(resumed, optimizer.optimizer, schedule, ema, accelerator.scaler)
    check_room(run_dir, args.checkpoints_total_limit, parameters, ema)

    # Logs. The step is the only clock: noise, timesteps and text dropout of a step follow from (seed, step).
    step = state["step"]
    wandb_run_id = start_trackers(
        accelerator, TRACKERS[args.report_to], args.wandb_project, run_dir, vars(args), state["wandb_run_id"]
    )
    metrics = Metrics(run_dir / "metrics.jsonl", step, accelerator.log, main_process)
    best_val_loss = state["best_val_loss"]
    signals = StopSignals()

    def save() -> None:
        """Everything that the next step depends on, so that a resumed run equals an uninterrupted one.

        All processes gather it, where FSDP has spread it over them; the main process writes.
        """
        tensors, plain = training_state(optimizer.optimizer, schedule, ema, accelerator.scaler)
        tensors |= {name: cpu_tensors(module) for name, module in modules.items()}
        now = {
            "step": step,
            "best_val_loss": best_val_loss,
            "wandb_run_id": wandb_run_id,
            "clips": clips,
            **plain,
        }
        if text_encoder.trainable:
            now["tokenizer"] = text_encoder.tokenizer.backend_tokenizer.to_str()
        if main_process:
            save_checkpoint(run_dir, step, tensors, now, args.checkpoints_total_limit)

    def validate() -> None:
        nonlocal best_val_loss
        with ema_weights(ema, parameters), evaluation_mode(trained), accelerator.autocast():
            val_loss = validation_loss(model, val_set, args.batch_size, args.seed)
            metrics.write(step, **{"val/loss": val_loss})
            if best_val_loss is None or val_loss < best_val_loss:
                best_val_loss = val_loss
                save_best(run_dir, args, model, step, val_loss, main_process)

    sampler = EndlessSampler(len(train_set), args.seed, step * samples_per_step, rank, world_size)
    pin_memory, kept = accelerator.device.type == "cuda", args.gradient_accumulation_steps
    batches = Batches(train_set, args.batch_size, args.num_workers, sampler, pin_memory, kept)
    numbers = NumberGuard(accelerator, batches, run_dir, args.seed)
    bar = tqdm(
        total=max_train_steps, initial=step, desc="training", unit="step", disable=not accelerator.is_main_process
    )
    if step >= max_train_steps:
        say(f"{run_dir} has its {max_train_steps} steps already; --max_train_steps or --num_epochs continue it")
    trained.train()
    waited, since, losses = 0.0, time.perf_counter(), []

    with bar, signals, explain_out_of_memory(REMEDIES, vars(args), run_dir), saved_first(save, run_dir, lambda: step):
        if step and step % args.validate_every == 0 and metrics.lacks("val/loss", step):
            validate()  # a stop does not wait for it
        while step < max_train_steps:
            loss = torch.zeros((), device=accelerator.device)
            for micro in range(args.gradient_accumulation_steps):
                started = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - started
                seed_step(args.seed, step, micro, rank)
                with accelerator.accumulate(trained), accelerator.autocast():
                    micro_loss = trained(batch["video"].to(accelerator.device, non_blocking=True), batch["text"])
                    accelerator.backward(micro_loss)
                loss += micro_loss.detach() / args.gradient_accumulation_steps
            grad_norm = accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
            losses.append(loss.item())
            numbers.check(step + 1, losses[-1], float(grad_norm), schedule.get_last_lr()[0])
            optimizer.step()
            optimizer.zero_grad()
            if not numbers.overflowed():
                schedule.step()
                if ema is not None:
                    ema.step(parameters)
            step += 1
            bar.update(), bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}")

            last = step == max_train_steps
            stopping = any_process(accelerator, signals.received is not None)
            if last or step % args.log_every == 0:
                elapsed = time.perf_counter() - since
                metrics.write(
                    step,
                    **{
                        "train/loss": sum(losses) / len(losses),
                        "train/learning_rate": schedule.get_last_lr()[0],
                        "train/grad_norm": float(grad_norm),
                        "train/skipped_steps": numbers.skipped,
                        "train/data_wait_share": waited / elapsed,
                        "train/steps_per_second": len(losses) / elapsed,
                        "train/epoch": step * samples_per_step / len(train_set),
                    },
                )
                waited, since, losses = 0.0, time.perf_counter(), []
            if last or (step % args.validate_every == 0 and not stopping):
                validate()
            if last or (step % args.sample_every == 0 and not stopping):
                with ema_weights(ema, parameters), evaluation_mode(trained), accelerator.autocast():
                    draw_samples(accelerator, args, model, val_set, run_dir, step, metrics)
            if args.evaluate_every and (last or (step % args.evaluate_every == 0 and not stopping)):
                with ema_weights(ema, parameters), evaluation_mode(trained), accelerator.autocast():
                    metrics.write(step, **benchmark_accuracy(args, model))
            if last or stopping or step % args.checkpoint_every == 0:
                save()
            if stopping:
                break

    if signals.received is not None:
        say(f"stopped after step {step} of {max_train_steps}, saved in {run_dir}")
        say(f"continue with: {resume_command(run_dir)}")
    accelerator.end_training()
    if main_process:
        plot_metrics(metrics.rows, run_dir / "loss.png")
    signals.leave()
    if main_process:
        print(f"done: {run_dir / 'best_model.pth'} (validation loss {best_val_loss:.4f}), {run_dir / 'loss.png'}")


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

    diffusion = model.diffusion
    device = diffusion.alphas_cumprod.device
    count = min(len(val_set), max_clips)
    spread = (torch.arange(rounds * count) + 0.5) / (rounds * count) * diffusion.num_timesteps
    timesteps = spread.long()[torch.randperm(rounds * count, generator=torch.Generator().manual_seed(seed))]
    total = 0.0
    with torch.no_grad():
        for r in range(rounds):
            for first in range(0, count, batch_size):
                clips = [val_set[i] for i in range(first, min(first + batch_size, count))]
                videos = torch.stack([clip["video"] for clip in clips])
                generator = torch.Generator().manual_seed(seed + r * count + first)
                noise = torch.randn(videos.shape, generator=generator).to(device)
                where = slice(r * count + first, r * count + first + len(clips))
                embeddings, mask = model.text_encoder.encode([clip["text"] for clip in clips])
                loss = diffusion(
                    videos.to(device), embeddings, mask, noise=noise, timesteps=timesteps[where].to(device)
                )
                total += loss.item() * len(clips)
    return total / (rounds * count)


def save_best(run_dir: Path, args: argparse.Namespace, model, step: int, val_loss: float, main_process: bool) -> None:
    """best_model.pth. All processes gather the weights, the main process writes them."""
    from utils.runs.model_file import pack_model, save_model

    about = {
        "step": step,
        "val_loss": val_loss,
        "num_frames": args.num_frames,
        "height": args.frame_size,
        "width": args.frame_size,
        "guidance_scale": args.guidance_scale,
        "data": seen_as(args),
    }
    packed = pack_model(model.diffusion, model.text_encoder, **about)
    if main_process:
        save_model(run_dir / "best_model.pth", packed)


def benchmark_accuracy(args: argparse.Namespace, model) -> dict[str, float]:
    """Shares of the demo benchmark's videos that show what their prompts say, as evaluate_text2video.py judges them."""
    from utils.evaluation.benchmark import accuracies, demo_settings, judge_model
    from utils.evaluation.scores import score_groups

    settings = {
        "num_frames": args.num_frames,
        "height": args.frame_size,
        "width": args.frame_size,
        "num_inference_steps": min(15, args.num_timesteps),
        "guidance_scale": args.guidance_scale,
    }
    hard = demo_settings(args.data_dir)["hard"]
    return accuracies(score_groups(judge_model(model, args.evaluate_prompts, hard, 16, settings)))


def draw_samples(accelerator, args: argparse.Namespace, model, val_set, run_dir: Path, step: int, metrics) -> None:
    """Videos of fixed prompts and fixed seeds in samples/step_<step>/, with a contact sheet.

    Their motion (mean absolute change from frame to frame, of 255) is logged next to that of the data: a model that
    has turned static shows at once.
    """
    import numpy as np

    from utils.logs.trackers import log_media
    from utils.video.contact_sheet import contact_sheet
    from utils.video.encode import write_image, write_video
    from utils.video.frames import to_uint8

    prompts = args.validation_prompts or list(dict.fromkeys(val_set.captions()))[:4]
    videos = model.sample(
        prompts,
        seeds=range(len(prompts)),
        num_frames=args.num_frames,
        height=args.frame_size,
        width=args.frame_size,
        num_inference_steps=min(25, args.num_timesteps),
        guidance_scale=args.guidance_scale,
    )
    if not accelerator.is_main_process:
        return
    folder = run_dir / "samples" / f"step_{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    clips = [to_uint8(video) for video in videos]
    paths = [folder / f"{i}.mp4" for i in range(len(clips))]
    for path, clip in zip(paths, clips, strict=True):
        write_video(path, clip, args.target_fps or 8)
    sheet = contact_sheet(clips, prompts)
    write_image(folder / "contact_sheet.png", sheet)
    real = [to_uint8(val_set[i]["video"]) for i in range(min(len(val_set), 16))]
    motion = [
        float(np.mean([np.abs(np.diff(clip.astype(np.int16), axis=0)).mean() for clip in group]))
        for group in (clips, real)
    ]
    metrics.write(step, **{"samples/motion": motion[0], "samples/motion_of_data": motion[1]})
    log_media(accelerator, step, dict(zip(prompts, paths, strict=True)), sheet)


if __name__ == "__main__":
    run(lambda: main(parse_args()))

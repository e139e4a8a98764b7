"""Fine-tune Stable Video Diffusion on your own clips, on one GPU.

    python train_svd.py --pretrained_model_name stabilityai/stable-video-diffusion-img2vid-xt \\
        --dataset_dir ./dataset --output_dir ./outputs
    python train_svd.py --dry_run          # what it needs in memory, without weights or data

Data: a folder of frames per clip, as prepare_dataset.py writes them. Result: --output_dir is a pipeline that
infer_svd.py and diffusers load, beside samples, metrics.jsonl, loss.png and the checkpoints that --resume needs.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.training import (
    FREE_ON_RESUME,
    TRACKERS,
    add_log_args,
    add_optimizer_args,
    add_run_args,
    check_run_args,
)
from utils.cli import Parser, UserError, choice, integer, number, printable, resume_command, run, without_secrets

# See FREE_ON_RESUME.
FREE = FREE_ON_RESUME | {"dataset_dir", "cache", "cache_dir", "checkpointing", "dry_run"}

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

DEFAULT_MODEL = "stabilityai/stable-video-diffusion-img2vid-xt"
VALIDATION_SIGMAS = (0.05, 0.3, 1.0, 3.0, 10.0, 50.0)
REMEDIES = (
    "--optimizer adamw8bit, --checkpointing full, fewer --num_frames, a smaller --width and --height, "
    "--trainable temporal_attn or lora; --dry_run shows what each one saves"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("model")
    group.add_argument(
        "--pretrained_model_name",
        "--pretrained_model_name_or_path",
        default=DEFAULT_MODEL,
        help="hub name or local folder of a StableVideoDiffusionPipeline",
    )
    group.add_argument("--revision", default=None, help="commit, tag or branch on the hub")
    group.add_argument(
        "--trainable",
        type=choice("temporal", "temporal_attn", "all", "lora"),
        default="temporal",
        help="all layers over time, their transformers alone, the whole U-Net, or adapters of those transformers",
    )
    group.add_argument("--lora_rank", type=integer(1, 1024), default=16, help="width of the adapters")
    group.add_argument("--lora_alpha", type=number(0, above=True), default=16.0, help="their scale, times the rank")

    group = parser.add_argument_group("data")
    group.add_argument("--dataset_dir", type=Path, default=None, help="holds video_0001/00000.png ...")
    group.add_argument("--num_frames", type=integer(2, 256), default=25, help="consecutive frames per clip")
    group.add_argument("--frame_stride", type=integer(1, 64), default=1, help="take every n-th frame")
    group.add_argument("--width", type=integer(64, 4096, multiple_of=64), default=512, help="px")
    group.add_argument("--height", type=integer(64, 4096, multiple_of=64), default=320, help="px")
    group.add_argument("--resize_mode", type=choice("crop", "pad", "stretch"), default="crop", help="to width x height")
    group.add_argument("--random_crop", action="store_true", help="crop anywhere, not in the middle; needs --no_cache")
    group.add_argument("--fps", type=number(1, 240), default=7.0, help="of clips that no manifest describes")
    group.add_argument(
        "--motion",
        type=choice("quantile", "zscore", "const"),
        default=None,
        help="how measured motion becomes a motion bucket: rank in the dataset, standard deviations, or always 127; "
        "default: the buckets of the manifest, else quantile",
    )
    group.add_argument("--val_fraction", type=number(0, 0.9), default=0.1, help="clips held out, at least one of two")
    group.add_argument("--max_samples", type=integer(1), default=None, help="only the first clips, for debugging")
    group.add_argument("--no_cache", dest="cache", action="store_false", help="encode frames in every step, not once")
    group.add_argument("--cache_dir", type=Path, default=None, help="of latents; default <dataset_dir>/.latents")

    group = parser.add_argument_group("training")
    group.add_argument("--train_batch_size", "--batch_size", type=integer(1), default=1, help="clips per micro-batch")
    group.add_argument("--max_train_steps", type=integer(1), default=5000, help="optimizer steps")
    add_optimizer_args(
        group, learning_rate=1e-5, lr_scheduler="constant_with_warmup", lr_warmup_steps=100, adam_beta2=0.999
    )
    group.add_argument(
        "--optimizer",
        type=choice("auto", "adamw", "adamw8bit"),
        default="auto",
        help="auto: 8-bit states where bitsandbytes and a CUDA card are there",
    )
    group.add_argument(
        "--loss", type=choice("edm", "eps"), default="edm", help="error of the clip as SVD weighs it, or of the noise"
    )
    group.add_argument("--p_mean", type=number(), default=0.7, help="mean of ln sigma")
    group.add_argument("--p_std", type=number(0, above=True), default=1.6, help="standard deviation of ln sigma")
    group.add_argument(
        "--conditioning_dropout_prob", type=number(0, 1), default=0.1, help="share of clips trained without the image"
    )
    group.add_argument(
        "--checkpointing",
        type=choice("none", "diffusers", "full"),
        default="full",
        help="recompute activations: not, all but the transformers over time, or those too",
    )
    add_run_args(group, "./checkpoints/svd_<time>")
    group.add_argument("--save_trainable_only", action="store_true", help="leave the trained weights, not a pipeline")
    group.add_argument("--dry_run", action="store_true", help="print what fits into memory and leave")

    group = parser.add_argument_group("logs")
    add_log_args(group, "svd")
    group.add_argument("--num_validation_clips", type=integer(1, 64), default=4, help="held-out clips that are scored")
    group.add_argument("--num_inference_steps", type=integer(1, 1000), default=25, help="of the sample videos")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    if args.dry_run:
        return
    if args.dataset_dir is None:
        yield "--dataset_dir: is needed; prepare_dataset.py makes one of your videos"
    elif not args.dataset_dir.is_dir():
        yield f"--dataset_dir: there is no folder {args.dataset_dir}; prepare_dataset.py makes one of your videos"
    else:
        yield from check_run_args(args, args.dataset_dir)
    if args.random_crop and args.cache:
        yield "--random_crop: needs --no_cache, for cached latents are of the middle"


def main(args: argparse.Namespace) -> None:
    if args.dry_run:
        print(memory_report(args))
        return

    import torch
    from tqdm.auto import tqdm

    from models.svd.conditioning import encode_latents, image_embeddings, make_conditioning
    from models.svd.memory import enable_full_checkpointing, use_one_token_attention
    from models.svd.objective import draw_sigmas, svd_loss
    from utils.frame_folders.frame_clips import FrameClips, clip_digests, find_frame_folders, split_folders
    from utils.frame_folders.latent_cache import LatentCache
    from utils.logs.metrics import Metrics
    from utils.logs.plots import plot_metrics
    from utils.logs.trackers import start_trackers
    from utils.runs.checkpoint import (
        check_room,
        find_run,
        restore_training_state,
        save_checkpoint,
        training_state,
        whole,
    )
    from utils.runs.out_of_memory import explain_out_of_memory
    from utils.runs.run_folder import check_clips, check_settings, write_settings
    from utils.runs.svd_files import load_pipeline, pipeline_bytes, train_part
    from utils.training.batches import Batches, saved_first
    from utils.training.divergence import NumberGuard
    from utils.training.ema import ema_weights, evaluation_mode, moving_average
    from utils.training.optimizers import learning_rate_schedule
    from utils.training.order import EndlessSampler, seed_step
    from utils.training.processes import any_process, make_accelerator
    from utils.training.signals import StopSignals

    run_dir, resumed = find_run(args.resume, args.output_dir, Path("checkpoints"), "svd")
    if resumed:
        check_settings(run_dir, vars(args), FREE)
    accelerator = make_accelerator(args, run_dir)
    device, rank, world_size = accelerator.device, accelerator.process_index, accelerator.num_processes
    main_process, say = accelerator.is_main_process, accelerator.print
    if main_process:
        write_settings(run_dir, vars(args))

    # Clips: which there are, how fast they run and how much moves in them; before gigabytes of weights are read.
    clips, skipped = find_frame_folders(
        args.dataset_dir, args.num_frames, args.frame_stride, args.fps, args.motion, args.max_samples
    )
    for reason, names in skipped.items():
        few = printable(", ".join(names[:5])) + (" ..." if len(names) > 5 else "")
        say(f"skipped {len(names)} clips: {reason}: {few}")
    train_clips, val_clips = split_folders(clips, args.val_fraction, args.seed)
    state = resumed.state if resumed else {"step": 0, "wandb_run_id": None}
    digests = clip_digests(clips)
    if resumed:
        check_clips("--dataset_dir", state.get("clips"), digests, args.allow_dataset_change)

    # Model: the VAE and the image encoder are frozen; of the U-Net a part learns, in float32, and the rest is frozen in
    # half precision.
    pipeline = load_pipeline(args.pretrained_model_name, args.revision)
    result = None if args.save_trainable_only else pipeline_bytes(pipeline)
    vae, image_encoder, feature_extractor = pipeline.vae, pipeline.image_encoder, pipeline.feature_extractor
    for module in (vae, image_encoder):
        module.requires_grad_(False).eval().to(device)
    frozen_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision)
    lora = {"rank": args.lora_rank, "alpha": args.lora_alpha} if args.trainable == "lora" else None
    seed_step(args.seed)
    unet = train_part(pipeline.unet, args.trainable, frozen_dtype, lora)
    use_one_token_attention(unet)
    if args.checkpointing == "full":
        enable_full_checkpointing(unet)
    elif args.checkpointing == "diffusers":
        unet.enable_gradient_checkpointing()

    # Samples: windows of consecutive frames, each a function of (seed, epoch, index) alone. Latents come from a
    # cache that is filled once; the first frame is read again, because it gets another noise each time.
    cache = None
    if args.cache:
        cache_dir = args.cache_dir or args.dataset_dir / ".latents"
        cache = LatentCache(cache_dir, args.width, args.height, args.resize_mode, vae, image_encoder)
        with accelerator.main_process_first():
            cache.fill(clips, vae, image_encoder, feature_extractor)
        image_encoder.to("cpu")
    window = {"frame_stride": args.frame_stride, "resize_mode": args.resize_mode, "seed": args.seed, "cache": cache}
    window["max_unreadable"] = int(args.max_bad_fraction * len(clips))
    size = (args.num_frames, args.width, args.height)
    train_set = FrameClips(train_clips, *size, **window, random_crop=args.random_crop)
    val_set = FrameClips(val_clips, *size, **window)
    samples_per_step = args.train_batch_size * args.gradient_accumulation_steps * world_size

    def encode(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, T, 4, H/8, W/8), scaled, and image embeddings (B, 1, D) of a batch."""
        if cache is not None:
            return batch["latents"].to(device), batch["image_embeddings"].to(device)
        first_frames = batch["first_frame"].to(device)
        return encode_latents(vae, batch["frames"].to(device)), image_embeddings(
            image_encoder, feature_extractor, first_frames
        )

    # Optimizer, schedule, and the moving average that samples are drawn from.
    names = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    if resumed:
        own = dict(unet.named_parameters())
        for name in names:
            own[name].data.copy_(resumed.tensors["trained"][name])
    optimizer = make_optimizer(args, [p for p in unet.parameters() if p.requires_grad], device)
    schedule = learning_rate_schedule(args.lr_scheduler, optimizer, args.lr_warmup_steps, args.max_train_steps)
    if args.compile:
        unet.compile()
    trained, optimizer = accelerator.prepare(unet, optimizer)
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    ema = moving_average(parameters, args.ema_decay)
    if resumed:
        restore_training_state(resumed, optimizer.optimizer, schedule, ema, accelerator.scaler)
    check_room(run_dir, args.checkpoints_total_limit, parameters, ema, result)
    say(
        f"{len(train_clips)} training and {len(val_clips)} validation clips; "
        f"{sum(p.numel() for p in parameters):,} of {sum(p.numel() for p in unet.parameters()):,} parameters learn; "
        f"run folder {run_dir}"
    )

    # Logs. The step is the only clock: sigmas, noise and dropout of a step follow from (seed, step).
    step = state["step"]
    wandb_run_id = start_trackers(
        accelerator, TRACKERS[args.report_to], args.wandb_project, run_dir, vars(args), state["wandb_run_id"]
    )
    metrics = Metrics(run_dir / "metrics.jsonl", step, accelerator.log, main_process)
    signals = StopSignals()

    def save() -> None:
        """Everything that the next step depends on, so that a resumed run equals an uninterrupted one."""
        tensors, plain = training_state(optimizer.optimizer, schedule, ema, accelerator.scaler)
        tensors["trained"] = {name: whole(p.detach()) for name, p in zip(names, parameters, strict=True)}
        now = {"step": step, "wandb_run_id": wandb_run_id, "clips": digests, **plain}
        if main_process:
            save_checkpoint(run_dir, step, tensors, now, args.checkpoints_total_limit)

    sampler = EndlessSampler(len(train_set), args.seed, step * samples_per_step, rank, world_size)
    pin_memory, kept = device.type == "cuda", args.gradient_accumulation_steps
    batches = Batches(train_set, args.train_batch_size, args.num_workers, sampler, pin_memory, kept)
    numbers = NumberGuard(accelerator, batches, run_dir, args.seed)
    bar = tqdm(total=args.max_train_steps, initial=step, desc="training", unit="step", disable=not main_process)
    if step >= args.max_train_steps:
        say(f"{run_dir} has its {args.max_train_steps} steps already; --max_train_steps continues it")
    trained.train()
    waited, since, rows = 0.0, time.perf_counter(), []

    def validate() -> None:
        with ema_weights(ema, parameters), evaluation_mode(trained):
            losses = validation_losses(trained, vae, val_set, encode, args.num_validation_clips, args.seed)
            mean = sum(losses.values()) / len(losses)
            metrics.write(step, **{"val/loss": mean}, **{f"val/sigma_{s:g}": loss for s, loss in losses.items()})

    def sample() -> None:
        with ema_weights(ema, parameters), evaluation_mode(trained):
            draw_samples(accelerator, args, pipeline, unet, val_set, run_dir, step, metrics)

    with bar, signals, explain_out_of_memory(REMEDIES, vars(args), run_dir), saved_first(save, run_dir, lambda: step):
        if step % args.validate_every == 0 and metrics.lacks("val/loss", step):
            validate()  # of the pretrained model, which training has to beat; later, what a stop did not wait for
        while step < args.max_train_steps:
            logs = []
            for micro in range(args.gradient_accumulation_steps):
                started = time.perf_counter()
                batch = next(batches)
                waited += time.perf_counter() - started
                seed_step(args.seed, step, micro, rank)
                with accelerator.accumulate(trained):
                    latents, embeddings = encode(batch)
                    stratum = (micro, args.gradient_accumulation_steps)
                    sigmas = draw_sigmas(len(latents), args.p_mean, args.p_std, stratum=stratum).to(device)
                    noise = torch.randn(latents.shape).to(device)
                    conditioning = make_conditioning(
                        vae,
                        batch["first_frame"].to(device),
                        embeddings,
                        batch["fps"],
                        batch["motion_bucket_id"],
                        dropout=args.conditioning_dropout_prob,
                    )
                    losses, errors = svd_loss(trained, latents, conditioning, sigmas, noise, args.loss)
                    accelerator.backward(losses.mean())
                logs.append(torch.stack([losses.detach().mean(), errors["edm"].mean(), errors["eps"].mean()]))
            grad_norm = accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
            rows.append(torch.stack(logs).mean(dim=0).tolist())
            numbers.check(step + 1, rows[-1][0], float(grad_norm), schedule.get_last_lr()[0])
            optimizer.step()
            optimizer.zero_grad()
            if not numbers.overflowed():
                schedule.step()
                if ema is not None:
                    ema.step(parameters)
            step += 1
            bar.update(), bar.set_postfix(loss=f"{sum(row[0] for row in rows) / len(rows):.4f}")

            last = step == args.max_train_steps
            stopping = any_process(accelerator, signals.received is not None)
            if last or step % args.log_every == 0:
                elapsed = time.perf_counter() - since
                means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
                metrics.write(
                    step,
                    **dict(zip(("train/loss", "train/loss_edm", "train/loss_eps"), means, strict=True)),
                    **{
                        "train/learning_rate": schedule.get_last_lr()[0],
                        "train/grad_norm": float(grad_norm),
                        "train/skipped_steps": numbers.skipped,
                        "train/data_wait_share": waited / elapsed,
                        "train/steps_per_second": len(rows) / elapsed,
                    },
                )
                waited, since, rows = 0.0, time.perf_counter(), []
            if last or (step % args.validate_every == 0 and not stopping):
                validate()
            if last or (step % args.sample_every == 0 and not stopping):
                sample()
            if last or stopping or step % args.checkpoint_every == 0:
                save()
            if stopping:
                break

    if signals.received is not None:
        say(f"stopped after step {step} of {args.max_train_steps}, saved in {run_dir}")
        say(f"continue with: {resume_command(run_dir)}")
    accelerator.end_training()
    if main_process:
        plot_metrics(metrics.rows, run_dir / "loss.png")
    signals.leave()
    with ema_weights(ema, parameters):
        tensors = {name: whole(p.detach()).cpu().clone() for name, p in zip(names, parameters, strict=True)}
    if main_process:
        export(args, run_dir, tensors, lora, clips, step)
        print(f"done: {run_dir} (infer_svd.py --model_dir {run_dir} --input_image ...), {run_dir / 'loss.png'}")


def make_optimizer(args: argparse.Namespace, parameters: list, device):
    """AdamW, with 8-bit states if asked for or, on a CUDA card with bitsandbytes, by default."""
    import importlib.util

    import torch

    settings = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "weight_decay": args.adam_weight_decay,
    }
    available = device.type == "cuda" and importlib.util.find_spec("bitsandbytes") is not None
    if args.optimizer == "adamw8bit" and not available:
        raise UserError("--optimizer: adamw8bit needs a CUDA card and `pip install bitsandbytes`; use adamw, or auto")
    if args.optimizer == "adamw" or not available:
        return torch.optim.AdamW(parameters, fused=True, **settings)
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(parameters, **settings)


def validation_losses(unet, vae, val_set, encode, max_clips: int, seed: int) -> dict[float, float]:
    """{sigma: mean edm loss} of up to max_clips held-out clips, always with the same noise.

    The loss of training depends on the noise level far more than on the network; at a fixed level it shows progress.
    """
    import torch
    from torch.utils.data import default_collate

    from models.svd.conditioning import make_conditioning
    from models.svd.objective import svd_loss

    totals = dict.fromkeys(VALIDATION_SIGMAS, 0.0)
    count = min(len(val_set), max_clips)
    with torch.no_grad():
        for i in range(count):
            batch = default_collate([val_set[i]])
            latents, embeddings = encode(batch)
            for k, sigma in enumerate(VALIDATION_SIGMAS):
                generator = torch.Generator().manual_seed(seed + i * len(VALIDATION_SIGMAS) + k)
                first_frames = batch["first_frame"].to(latents.device)
                conditioning = make_conditioning(
                    vae,
                    first_frames,
                    embeddings,
                    batch["fps"],
                    batch["motion_bucket_id"],
                    dropout=0,
                    noise_aug=torch.full((1,), 0.02),  # what the pipeline adds by default
                    generator=generator,
                )
                noise = torch.randn(latents.shape, generator=generator).to(latents.device)
                sigmas = torch.full((1,), sigma, device=latents.device)
                totals[sigma] += svd_loss(unet, latents, conditioning, sigmas, noise)[0].item() / count
    return totals


def draw_samples(accelerator, args: argparse.Namespace, pipeline, unet, val_set, run_dir: Path, step, metrics) -> None:
    """Videos of held-out first frames in samples/step_<step>/, with a contact sheet, and how much moves in them.

    A model that turns static is the usual way for such a training to fail, and no loss shows it.
    """
    import numpy as np
    import torch
    from PIL import Image

    from utils.logs.trackers import log_media
    from utils.video.contact_sheet import contact_sheet
    from utils.video.encode import write_image, write_video
    from utils.video.frames import to_uint8
    from utils.video.motion import motion_score

    pipeline.unet = unet
    pipeline.image_encoder.to(accelerator.device)
    pipeline.set_progress_bar_config(disable=True)
    clips, names, scores = [], [], []
    for i in range(min(len(val_set), 2)):
        clip, item = val_set.folders[i], val_set[i]
        first_frame = to_uint8(item["first_frame"][:, None])[0]
        fps = item["fps"].item()
        frames = pipeline(
            Image.fromarray(first_frame),
            height=args.height,
            width=args.width,
            num_frames=args.num_frames,
            num_inference_steps=args.num_inference_steps,
            fps=round(fps),
            motion_bucket_id=clip.motion_bucket_id,
            generator=torch.Generator().manual_seed(args.seed + i),
            decode_chunk_size=8,
            output_type="np",
        ).frames[0]
        clips.append(np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8))
        names.append(f"{clip.folder.name}, motion bucket {clip.motion_bucket_id}")
        scores.append((motion_score(clips[-1], fps), clip.motion_score))
    if val_set.cache is not None:
        pipeline.image_encoder.to("cpu")
    if not accelerator.is_main_process:
        return
    folder = run_dir / "samples" / f"step_{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i}.mp4" for i in range(len(clips))]
    for i, path in enumerate(paths):
        write_video(path, clips[i], val_set[i]["fps"].item())
    sheet = contact_sheet(clips, names)
    write_image(folder / "contact_sheet.png", sheet)
    motion, of_data = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    metrics.write(step, **{"samples/motion": motion, "samples/motion_of_data": of_data})
    if motion < 0.25 * of_data:
        accelerator.print(
            f"warning: at step {step} the samples move {motion:.3f} short sides/s, the clips {of_data:.3f}: the model "
            "is turning static; try --trainable all or lora, a larger dataset, fewer steps"
        )
    log_media(accelerator, step, dict(zip(names, paths, strict=True)), sheet)


def export(args: argparse.Namespace, run_dir: Path, tensors: dict, lora: dict | None, clips: list, step: int) -> None:
    """Leave a pipeline in the run folder, or the trained weights alone; svd.json tells infer_svd.py how it was trained.

    The frozen weights are read again from the base model: the training held them in half precision.
    """
    import json

    from utils.files import write_text
    from utils.runs.svd_files import apply_trained, load_pipeline, model_card, save_pipeline, save_trained

    about = {
        "base_model": args.pretrained_model_name,
        "revision": args.revision,
        "trainable": args.trainable,
        "lora": lora,
        "step": step,
        "num_frames": args.num_frames,
        "width": args.width,
        "height": args.height,
        "fps": sorted(clip.fps / args.frame_stride for clip in clips)[len(clips) // 2],
        "motion_scores": sorted(round(clip.motion_score, 6) for clip in clips),
        "motion_bucket_ids": sorted(clip.motion_bucket_id for clip in clips),
    }
    if args.save_trainable_only or lora is not None:
        save_trained(tensors, about, run_dir)
    if not args.save_trainable_only:
        pipeline = load_pipeline(args.pretrained_model_name, args.revision)
        pipeline.unet = apply_trained(pipeline.unet, tensors, about)
        save_pipeline(pipeline, run_dir)
    write_text(run_dir / "svd.json", json.dumps(about, indent=1) + "\n")
    write_text(run_dir / "README.md", model_card(about, len(clips), without_secrets(vars(args))))


def memory_report(args: argparse.Namespace) -> str:
    """What training needs on a GPU, by item, and what fits: counted on the meta device from the U-Net's config."""
    import json

    from models.svd.ledger import IMG2VID_XT, memory_ledger, meta_unet, scope_counts

    file = Path(args.pretrained_model_name, "unet", "config.json")
    config = IMG2VID_XT
    if file.exists():
        config = {k: v for k, v in json.loads(file.read_text()).items() if not k.startswith("_")}
    optimizer = "adamw8bit" if args.optimizer == "adamw8bit" else "adamw"
    settings = {
        "num_frames": args.num_frames,
        "height": args.height,
        "width": args.width,
        "batch_size": args.train_batch_size,
        "lora_rank": args.lora_rank,
        "ema": args.ema_decay > 0,
        "config": config,
    }
    trained, frozen = scope_counts(meta_unet(config), args.trainable, args.lora_rank)
    ledger = memory_ledger(args.trainable, checkpointing=args.checkpointing, optimizer=optimizer, **settings)
    lines = [
        f"{args.num_frames} frames of {args.width}x{args.height}, batch {args.train_batch_size}, --trainable "
        f"{args.trainable}, --checkpointing {args.checkpointing}, --optimizer {optimizer}; predicted, bf16",
        f"parameters: {trained:,} learn, {frozen:,} are frozen",
    ]
    for name, size in complete(ledger).items():
        lines.append(f"  {name.replace('level', 'activations, level'):22} {size / 2**30:6.2f} GiB")
    lines += ["", "with                                              total  12 GB  16 GB  24 GB  40 GB  80 GB"]
    choices = (
        (args.trainable, optimizer, args.checkpointing),
        ("temporal", "adamw", "full"),
        ("temporal", "adamw8bit", "full"),
        ("temporal", "adamw", "diffusers"),
        ("temporal", "adamw", "none"),
        ("temporal_attn", "adamw8bit", "full"),
        ("lora", "adamw", "full"),
        ("all", "adamw8bit", "full"),
    )
    for trainable, name, checkpointing in dict.fromkeys(choices):
        one = memory_ledger(trainable, checkpointing=checkpointing, optimizer=name, **settings)
        total = complete(one)["total"]
        fits = "".join(f"{'yes' if total <= card * 10**9 else 'no':>7}" for card in (12, 16, 24, 40, 80))
        lines.append(f"{f'{trainable}, {name}, checkpointing {checkpointing}':45} {total / 2**30:5.1f} GiB{fits}")
    return "\n".join(lines)


def complete(ledger: dict[str, int]) -> dict[str, int]:
    """The ledger with what that of the U-Net leaves out: the VAE in float32 and what CUDA takes for itself."""
    fixed = {"VAE": 97_742_847 * 4, "CUDA, fragmentation": 15 * 10**8}
    items = {name: size for name, size in ledger.items() if name != "total"} | fixed
    return items | {"total": sum(items.values())}


if __name__ == "__main__":
    run(lambda: main(parse_args()))

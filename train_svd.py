"""Fine-tune Stable Video Diffusion on your own clips, on one GPU.

    python train_svd.py --pretrained_model_name stabilityai/stable-video-diffusion-img2vid-xt \\
        --dataset_dir ./dataset --output_dir ./outputs
    python train_svd.py --dry_run          # what it needs in memory, without weights or data

Data: a folder of frames per clip, as prepare_dataset.py writes them. Result: --output_dir is a pipeline that
infer_svd.py and diffusers load, beside samples, metrics.jsonl, loss.png and the checkpoints that --resume needs.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from utils.arguments.presets import add_preset_args, parse_with_presets
from utils.arguments.training import (
    FREE_ON_RESUME,
    add_log_args,
    add_optimizer_args,
    add_run_args,
    check_run_args,
)
from utils.cli import Parser, choice, integer, number, printable
from utils.cli import run as run_script

# See FREE_ON_RESUME.
FREE = FREE_ON_RESUME | {"preset", "config", "dataset_dir", "cache", "cache_dir", "checkpointing", "dry_run"}

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

DEFAULT_MODEL = "stabilityai/stable-video-diffusion-img2vid-xt"
VALIDATION_SIGMAS = (0.05, 0.3, 1.0, 3.0, 10.0, 50.0)
REMEDIES = (
    "--optimizer adamw8bit, --checkpointing full, fewer --num_frames, a smaller --width and --height, "
    "--trainable temporal_attn or lora; --dry_run shows what each one saves"
)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    add_preset_args(parser, "svd", default="guide")
    group = parser.add_argument_group("model")
    group.add_argument(
        "--pretrained_model_name",
        "--pretrained_model_name_or_path",
        default=DEFAULT_MODEL,
        help="hub name or local folder of a StableVideoDiffusionPipeline, or a file: svd_xt.safetensors",
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
    group.add_argument(
        "--dataset_dir", type=Path, default=None, help="holds video_0001/00000.png ..., or is a LeRobot dataset"
    )
    group.add_argument(
        "--cameras", nargs="+", metavar="NAME", help="of a LeRobot dataset, side by side; default: the only one"
    )
    group.add_argument("--num_frames", type=integer(2, 256), default=25, help="consecutive frames per clip")
    group.add_argument("--frame_stride", type=integer(1, 64), default=1, help="take every n-th frame")
    group.add_argument("--width", type=integer(64, 4096, multiple_of=64), default=512, help="px")
    group.add_argument("--height", type=integer(64, 4096, multiple_of=64), default=320, help="px")
    group.add_argument("--resize_mode", type=choice("crop", "pad", "stretch"), default="crop", help="to width x height")
    group.add_argument("--random_crop", action="store_true", help="crop anywhere, not in the middle; needs --no_cache")
    group.add_argument("--fps", type=number(1, 240), default=7.0, help="of clips that no manifest describes")
    group.add_argument(
        "--vectors",
        nargs="*",
        metavar="NAME",
        help="numbers per frame: folders of <clip>.csv, ..., or of episodes",
    )
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
    return parse_with_presets(parser, argv)


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
        from utils.svd.memory_report import memory_report

        print(memory_report(args))
        return

    import torch

    from models.svd.conditioning import encode_latents, image_embeddings, make_conditioning
    from models.svd.objective import draw_sigmas, svd_loss
    from models.svd.steering import add_steering
    from utils.frame_folders.frame_clips import clip_digests, find_frame_folders
    from utils.motion.score import MOTION_MEASURE
    from utils.runs.checkpoint import whole
    from utils.svd.export import export
    from utils.svd.pipeline import load_pipeline, pipeline_bytes
    from utils.svd.vectors import given_vectors, make_vectors
    from utils.training.optimizers import adamw_of_bits
    from utils.training.training_run import TrainingRun

    run = TrainingRun(args, "svd", FREE, REMEDIES)
    device = run.device

    # Clips: which there are, how fast they run and how much moves in them; before gigabytes of weights are read.
    clips, skipped = find_frame_folders(
        args.dataset_dir, args.num_frames, args.frame_stride, args.fps, args.motion, args.max_samples, args.cameras
    )
    for reason, names in skipped.items():
        few = printable(", ".join(names[:5])) + (" ..." if len(names) > 5 else "")
        run.say(f"skipped {len(names)} clips: {reason}: {few}")
    if clips[0].motion_measure != MOTION_MEASURE:
        run.say("note: the manifest's motion scores are of an older measure; prepare_dataset.py measures them again")
    run.check_clips("--dataset_dir", clip_digests(clips))

    # Model: the VAE and the image encoder are frozen, and of the U-Net all but the part that learns.
    pipeline = load_pipeline(args.pretrained_model_name, args.revision)
    result = None if args.save_trainable_only else pipeline_bytes(pipeline)
    lora = {"rank": args.lora_rank, "alpha": args.lora_alpha} if args.trainable == "lora" else None
    unet = freeze(args, run.accelerator, pipeline, lora)
    beside, conditions = make_vectors(args, clips, run.state)
    if beside is not None:
        add_steering(unet, conditions)
    vae, image_encoder, feature_extractor = pipeline.vae, pipeline.image_encoder, pipeline.feature_extractor
    learning = {name: parameter for name, parameter in unet.named_parameters() if parameter.requires_grad}
    if run.resumed:
        for name, parameter in learning.items():
            parameter.data.copy_(run.resumed.tensors["trained"][name])

    # Samples: windows of consecutive frames, each a function of (seed, epoch, index) alone.
    train_set, val_set = make_datasets(args, run.accelerator, clips, pipeline, beside)

    def encode(batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, T, 4, H/8, W/8), scaled, and image embeddings (B, 1, D) of a batch."""
        if train_set.cache is not None:
            return tuple(batch[name].to(device, non_blocking=True) for name in ("latents", "image_embeddings"))
        first_frames = batch["first_frame"].to(device, non_blocking=True)
        embeddings = image_embeddings(image_encoder, feature_extractor, first_frames)
        return encode_latents(vae, batch["frames"].to(device, non_blocking=True)), embeddings

    def weights() -> dict[str, dict[str, torch.Tensor]]:
        return {"trained": {name: whole(p.detach()) for name, p in zip(learning, run.parameters, strict=True)}}

    betas = args.adam_beta1, args.adam_beta2
    settings = args.learning_rate, betas, args.adam_weight_decay
    optimizer = adamw_of_bits(args.optimizer, list(learning.values()), *settings, device)
    trained = run.prepare(unet, optimizer, train_set, args.train_batch_size, args.max_train_steps, weights, result)
    run.say(
        f"{len(train_set)} training and {len(val_set)} validation clips; "
        f"{sum(p.numel() for p in run.parameters):,} of {sum(p.numel() for p in unet.parameters()):,} parameters "
        f"learn; run folder {run.run_dir}"
    )

    def validate() -> None:
        with run.averaged():
            losses = validation_losses(trained, vae, val_set, encode, args.num_validation_clips, args.seed, conditions)
        mean = sum(losses.values()) / len(losses)
        run.log({"val/loss": mean} | {f"val/sigma_{s:g}": loss for s, loss in losses.items()})

    with run:
        if run.missed("validate", "val/loss"):
            validate()  # of the pretrained model, which training has to beat; later, what a stop did not wait for
        for batches in run.steps():
            for stratum, batch in enumerate(batches):
                latents, embeddings = encode(batch)
                of_all = (stratum, args.gradient_accumulation_steps)
                sigmas = draw_sigmas(len(latents), args.p_mean, args.p_std, stratum=of_all).to(device)
                noise = torch.randn(latents.shape).to(device)
                first_frames, motion = batch["first_frame"].to(device, non_blocking=True), batch["motion_bucket_id"]
                dropout = args.conditioning_dropout_prob
                conditioning = make_conditioning(vae, first_frames, embeddings, batch["fps"], motion, dropout=dropout)
                vectors = given_vectors(batch, conditions, dropout)
                losses, errors = svd_loss(trained, latents, conditioning, sigmas, noise, args.loss, vectors)
                run.backward(losses.mean(), edm=errors["edm"].mean(), eps=errors["eps"].mean())
            run.update()
            if run.due("validate"):
                validate()
            if run.due("sample"):
                with run.averaged():
                    draw_samples(run, args, pipeline, unet, val_set)
        with run.averaged():
            tensors = {name: tensor.cpu().clone() for name, tensor in weights()["trained"].items()}

    if run.main_process:
        export(args, run.run_dir, tensors, lora, clips, run.step, run.state.get("conditions"))
        how = f"infer_svd.py --model_dir {run.run_dir} --input_image ..."
        print(f"done: {run.run_dir} ({how}), {run.run_dir / 'loss.png'}")


def freeze(args: argparse.Namespace, accelerator, pipeline, lora: dict | None):
    """The pipeline's U-Net, of which a part learns, in float32; the rest, and VAE and image encoder, are frozen.

    What is frozen of the U-Net is in the precision that the training computes in; where that is float32, all is.
    """
    import torch

    from models.svd.memory import cast, enable_full_checkpointing, use_one_token_attention
    from utils.svd.weights import train_part
    from utils.training.order import seed_step

    for module in (pipeline.vae, pipeline.image_encoder):
        module.requires_grad_(False).eval().to(accelerator.device)
        if accelerator.mixed_precision == "no":
            cast(module, torch.float32)
    frozen_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)
    seed_step(args.seed)
    unet = train_part(pipeline.unet, args.trainable, frozen_dtype, lora)
    use_one_token_attention(unet)
    if args.checkpointing == "full":
        enable_full_checkpointing(unet)
    elif args.checkpointing == "diffusers":
        unet.enable_gradient_checkpointing()
    if args.compile:
        unet.compile()
    return unet


def make_datasets(args: argparse.Namespace, accelerator, clips: list, pipeline, conditions) -> tuple:
    """FrameClips to train on and to validate with. conditions: vectors beside them, or None.

    Latents come from a cache that is filled once; the first frame is read again, because it gets another noise each
    time.
    """
    from utils.frame_folders.frame_clips import FrameClips, split_folders
    from utils.frame_folders.latent_cache import LatentCache

    cache = None
    if args.cache:
        cache_dir = args.cache_dir or args.dataset_dir / ".latents"
        cache = LatentCache(cache_dir, args.width, args.height, args.resize_mode, pipeline.vae, pipeline.image_encoder)
        with accelerator.main_process_first():
            cache.fill(clips, pipeline.vae, pipeline.image_encoder, pipeline.feature_extractor)
        pipeline.image_encoder.to("cpu")
    window = {"frame_stride": args.frame_stride, "resize_mode": args.resize_mode, "seed": args.seed, "cache": cache}
    window["conditions"] = conditions
    window["max_unreadable"] = int(args.max_bad_fraction * len(clips))
    size = (args.num_frames, args.width, args.height)
    train_clips, val_clips = split_folders(clips, args.val_fraction, args.seed)
    train_set = FrameClips(train_clips, *size, **window, random_crop=args.random_crop)
    return train_set, FrameClips(val_clips, *size, **window)


def validation_losses(unet, vae, val_set, encode, max_clips: int, seed: int, conditions) -> dict[float, float]:
    """{sigma: mean edm loss} of up to max_clips held-out clips, always with the same noise.

    The loss of training depends on the noise level far more than on the network; at a fixed level it shows progress.
    """
    import torch
    from torch.utils.data import default_collate

    from models.svd.conditioning import make_conditioning
    from models.svd.objective import svd_loss
    from utils.svd.vectors import given_vectors

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
                loss, _ = svd_loss(unet, latents, conditioning, sigmas, noise, vectors=given_vectors(batch, conditions))
                totals[sigma] += loss.item() / count
    return totals


def draw_samples(run, args: argparse.Namespace, pipeline, unet, val_set) -> None:
    """Videos of held-out first frames in samples/step_<step>/, with a contact sheet, and how much moves in them.

    A model that turns static is the usual way for such a training to fail, and no loss shows it.
    """
    import numpy as np
    import torch
    from PIL import Image

    from utils.motion.score import MOTION_MEASURE, motion_score
    from utils.video.frames import to_uint8

    pipeline.unet = unet
    pipeline.image_encoder.to(run.device)
    pipeline.set_progress_bar_config(disable=True)
    clips, names, rates, scores = [], [], [], []
    for i in range(min(len(val_set), 2)):
        clip, item = val_set.folders[i], val_set[i]
        first_frame = to_uint8(item["first_frame"][:, None])[0]
        rates.append(item["fps"].item())
        frames = pipeline(
            Image.fromarray(first_frame),
            height=args.height,
            width=args.width,
            num_frames=args.num_frames,
            num_inference_steps=args.num_inference_steps,
            fps=round(rates[-1]),
            motion_bucket_id=clip.motion_bucket_id,
            generator=torch.Generator().manual_seed(args.seed + i),
            decode_chunk_size=8,
            output_type="np",
        ).frames[0]
        clips.append(np.rint(np.clip(frames, 0, 1) * 255).astype(np.uint8))
        names.append(f"{clip.folder.name}, motion bucket {clip.motion_bucket_id}")
        scores.append((motion_score(clips[-1], rates[-1]), clip.motion_score))
    if val_set.cache is not None:
        pipeline.image_encoder.to("cpu")
    run.log_samples(clips, names, rates)
    motion, of_data = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    run.log({"samples/motion": motion, "samples/motion_of_data": of_data})
    if motion < 0.25 * of_data and val_set.folders[0].motion_measure == MOTION_MEASURE:
        run.say(
            f"warning: at step {run.step} the samples move {motion:.3f} short sides/s, the clips {of_data:.3f}: the "
            "model is turning static; try --trainable all or lora, a larger dataset, fewer steps"
        )


if __name__ == "__main__":
    run_script(lambda: main(parse_args()))

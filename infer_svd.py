"""Animate images with a fine-tuned (or the original) Stable Video Diffusion.

    python infer_svd.py --model_dir ./outputs --input_image ./image.png --output_video ./sample_output.mp4
    python infer_svd.py --model_dir ./outputs --input_image ./images --output_dir ./videos --motion fast

Size, number of frames and frame rate are those of the training unless a flag says otherwise.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from utils.cli import (
    Bad,
    Parser,
    UserError,
    choice,
    integer,
    number,
    output_problems,
    printable,
    run,
    versions,
    without_secrets,
)

# torch and what is built on it are imported in main(): --help and a misspelt flag answer at once.

MOTION_WORDS = {"slow": 0.1, "median": 0.5, "fast": 0.9}


def motion_share(text: str) -> float | Bad:
    """An argparse type: slow, median, fast, or a percentage of the training clips, as a share."""
    if text in MOTION_WORDS:
        return MOTION_WORDS[text]
    share = number(0, 100)(text.removesuffix("%"))
    if isinstance(share, Bad) or not text.endswith("%"):
        return Bad(f"got {text}, must be slow, median, fast, or a percentage such as 75%")
    return share / 100


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    group = parser.add_argument_group("model")
    group.add_argument("--model_dir", required=True, help="output of train_svd.py, or any SVD: folder, file or name")
    group.add_argument("--revision", default=None, help="commit, tag or branch on the hub")
    group.add_argument("--base_model", default=None, help="where the base of --save_trainable_only weights lies now")
    group.add_argument("--lora", type=Path, default=None, help="folder of LoRA adapters to add, of peft's format")
    group.add_argument("--merge", type=Path, default=None, metavar="FOLDER", help="also write the whole pipeline here")
    group.add_argument(
        "--dtype", type=choice("auto", "fp32", "fp16", "bf16"), default="auto", help="auto: fp16 on a GPU, else fp32"
    )
    group.add_argument(
        "--offload",
        type=choice("none", "model", "sequential"),
        default="none",
        help="keep in CPU memory what is not at work: whole models, or single layers (slow)",
    )

    group = parser.add_argument_group("input")
    group.add_argument("--input_image", type=Path, nargs="+", required=True, help="images, or folders of images")
    group.add_argument("--width", type=integer(64, 4096, multiple_of=64), default=None, help="px; as trained")
    group.add_argument("--height", type=integer(64, 4096, multiple_of=64), default=None, help="px; as trained")
    group.add_argument(
        "--resize_mode", type=choice("crop", "pad", "stretch"), default="crop", help="of images to width x height"
    )

    group.add_argument(
        "--vectors", type=Path, help="numbers per frame (.csv, .parquet, .npy), of a model trained with them"
    )

    group = parser.add_argument_group("sampling")
    group.add_argument("--num_frames", type=integer(2, 1024), default=None, help="per segment; as trained")
    group.add_argument("--segments", type=integer(1, 64), default=1, help="chain this many, each on the last frame")
    group.add_argument("--num_inference_steps", type=integer(1, 1000), default=25, help="denoising steps")
    group.add_argument("--motion_bucket_id", type=integer(1, 255), default=180, help="larger is more motion")
    group.add_argument(
        "--motion",
        type=motion_share,
        default=None,
        help="instead of a bucket: slow, median or fast among the training clips, or a percentage such as 75%%",
    )
    group.add_argument(
        "--noise_aug_strength", type=number(0, 10), default=0.1, help="noise on the image; larger is freer"
    )
    group.add_argument("--fps", type=number(1, 240), default=7.0, help="of the motion, and of the file")
    group.add_argument("--export_fps", type=number(1, 240), default=None, help="of the file alone")
    group.add_argument("--min_guidance", type=number(0), default=1.0, help="guidance of the first frame")
    group.add_argument("--max_guidance", type=number(0), default=3.0, help="guidance of the last frame")
    group.add_argument("--seed", type=integer(0, 2**32 - 1), default=0, help="the same seed is the same video")
    group.add_argument("--decode_chunk_size", type=integer(1, 1024), default=8, help="frames decoded at once")

    group = parser.add_argument_group("output")
    group.add_argument("--output_video", type=Path, default=None, help="MP4 of a single image; or else:")
    group.add_argument(
        "--output_dir", type=Path, default=Path("svd_videos"), help="<image>_<seed>.mp4 each, and index.html"
    )
    group.add_argument("--save_gif", action="store_true", help="an animated GIF each")
    group.add_argument("--save_frames", action="store_true", help="a folder of PNG frames each")
    group.add_argument("--visualize", action="store_true", help="a contact sheet each")
    group.add_argument("--overwrite", action="store_true", help="draw again what is there already")
    group.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.checks.append(check_args)
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> Iterator[str]:
    for path in args.input_image:
        if not path.exists():
            yield f"--input_image: there is no {path}; give a picture, or a folder of pictures"
    if args.vectors is not None and not args.vectors.is_file():
        yield f"--vectors: there is no file {args.vectors}"
    if args.vectors is not None and args.segments > 1:
        yield "--vectors: are for one segment; leave --segments out"
    if args.max_guidance < args.min_guidance:
        yield f"--max_guidance: got {args.max_guidance:g}, must be at least --min_guidance {args.min_guidance:g}"
    if args.output_video is not None:
        if args.output_video.suffix.lower() != ".mp4":
            yield f"--output_video: got {args.output_video}, must end in .mp4; --save_gif writes a GIF beside it"
        if args.output_video.is_dir():
            yield f"--output_video: {args.output_video} is a folder"
        if len(args.input_image) > 1 or any(path.is_dir() for path in args.input_image):
            yield "--output_video: names one file; for several images use --output_dir"
        yield from (p.replace("--output_dir", "--output_video") for p in output_problems(args.output_video.parent))
    else:
        if any(path.is_dir() and path.resolve() == args.output_dir.resolve() for path in args.input_image):
            yield "--output_dir: is the folder of --input_image, the next run would take what is written; use another"
        yield from output_problems(args.output_dir)
    if args.merge is not None:
        yield from (p.replace("--output_dir", "--merge") for p in output_problems(args.merge))
        if args.merge.resolve() == Path(args.model_dir).resolve():
            yield "--merge: that is --model_dir itself; choose another folder"


def main(args: argparse.Namespace) -> None:
    jobs = find_jobs(args)

    import torch
    from accelerate import PartialState
    from tqdm.auto import tqdm

    from utils.svd.export import comparable_scores
    from utils.svd.vectors import steer

    # Split before looking what is there: by then a faster process may have written its first videos.
    processes = PartialState(cpu=not torch.accelerator.is_available())
    share = list(jobs.items())[processes.process_index :: processes.num_processes]
    mine = [(image, video) for image, video in share if args.overwrite or not is_done(video)]
    if len(mine) < len(share):
        processes.print(
            f"{len(share) - len(mine)} of {len(share)} videos are there already, --overwrite draws them again"
        )
    if mine or (args.merge and processes.is_main_process):
        for image, _ in mine:  # all of them, before gigabytes of weights are read
            read_picture(image)
        pipeline, about = load_model(args, processes.device)
        settings = sampling_settings(args, pipeline, about)
        if args.vectors is not None:
            folder = args.lora or Path(args.model_dir)
            steer(pipeline.unet, args.vectors, folder, about, settings["num_frames"], args.fps)
        training_motion = comparable_scores(about)
        for image, video in tqdm(mine, desc="videos", unit="video", disable=len(mine) == 1 or None):
            animate(args, pipeline, settings, image, video, training_motion)
    processes.wait_for_everyone()
    if processes.is_main_process:
        print("\n".join(printable(video) for video in jobs.values()))
        if args.output_video is None:
            print(f"{len(jobs)} videos, shown by {write_page(args.output_dir, jobs)}")
    if processes.num_processes > 1:
        processes.destroy_process_group()


def find_jobs(args: argparse.Namespace) -> dict[Path, Path]:
    """Image -> the video to be made of it. Raises UserError if a folder holds no image or two images share a name."""
    from utils.decoding.images import IMAGE_SUFFIXES

    images = []
    for path in args.input_image:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name[0] != ".")
            if not inside:
                raise UserError(f"--input_image: {printable(path)} holds no image ({', '.join(IMAGE_SUFFIXES)})")
        images += inside
    if args.output_video is not None:
        return {images[0]: args.output_video}
    names = [image.stem for image in images]
    if len(set(names)) < len(names):  # frames of different clips, say
        names = [f"{image.resolve().parent.name}_{image.stem}" for image in images]
    if len(set(names)) < len(names):
        raise UserError("--input_image: two images have the same folder and name but for the ending; rename one")
    return {image: args.output_dir / f"{name}_{args.seed}.mp4" for image, name in zip(images, names, strict=True)}


def is_done(video: Path) -> bool:
    """A video counts as made when its sidecar, which is written last, is there."""
    return video.exists() and video.with_suffix(".json").exists()


def load_model(args: argparse.Namespace, device) -> tuple:
    """(pipeline on the device, what train_svd.py noted about its training)."""
    import torch
    from accelerate import PartialState

    from utils.svd.finetuned import load_finetuned
    from utils.svd.pipeline import save_pipeline

    if args.dtype == "fp16" and device.type == "cpu":
        raise UserError("--dtype: fp16 needs a GPU; use bf16, or fp32")
    if args.offload == "sequential" and device.type == "cpu":
        raise UserError("--offload: sequential needs a GPU, there is nothing to move away from; use none")
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = dtypes[args.dtype] if args.dtype != "auto" else torch.float32 if device.type == "cpu" else torch.float16
    pipeline, about = load_finetuned(args.model_dir, args.revision, args.base_model, args.lora, dtype)
    if args.merge is not None and PartialState().is_main_process:
        args.merge.mkdir(parents=True, exist_ok=True)
        save_pipeline(pipeline, args.merge)
        print(f"pipeline written: {printable(args.merge)}")
    place(pipeline, args.offload, device)
    return pipeline, about


def place(pipeline, offload: str, device) -> None:
    """The pipeline on the device, or with offload (see --offload) there as far as it is at work; with the exact
    shortcut for attention to the image, which is a single token."""
    from models.svd.memory import use_one_token_attention

    use_one_token_attention(pipeline.unet)
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)


def sampling_settings(args: argparse.Namespace, pipeline, about: dict) -> dict:
    """The arguments of the pipeline: flags, else what the model was trained with, else SVD's own."""
    bucket = args.motion_bucket_id
    if args.motion is not None:
        if not about.get("motion_bucket_ids"):
            raise UserError("--motion: the model carries no record of its clips (svd.json); use --motion_bucket_id")
        import numpy as np

        score = np.quantile(about["motion_scores"], args.motion)
        bucket = round(np.quantile(about["motion_bucket_ids"], args.motion))  # which rise with the scores
        print(f"--motion {args.motion:.0%}: {score:.3f} short sides/s among the training clips, motion bucket {bucket}")
    return {
        "num_frames": args.num_frames or about.get("num_frames") or pipeline.unet.config.num_frames,
        "width": args.width or about.get("width", 1024),
        "height": args.height or about.get("height", 576),
        "num_inference_steps": args.num_inference_steps,
        "min_guidance_scale": args.min_guidance,
        "max_guidance_scale": args.max_guidance,
        "fps": round(args.fps),
        "motion_bucket_id": bucket,
        "noise_aug_strength": args.noise_aug_strength,
    }


def read_picture(image: Path):
    """The image, uint8 RGB (H, W, 3). Raises UserError unless it is one, of at least 64x64."""
    from utils.decoding.images import read_image

    picture = read_image(image, "--input_image")
    if min(picture.shape[:2]) < 64:
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        raise UserError(f"--input_image: {printable(image)} has {size} pixels; give a picture of at least 64x64")
    return picture


def animate(
    args: argparse.Namespace, pipeline, settings: dict, image: Path, video: Path, training_motion: list[float]
) -> None:
    """The video of one image, and what belongs to it; each file appears whole under its name or not at all."""
    from utils.decoding.images import what_is_lost
    from utils.files import write_text
    from utils.motion.score import MOTION_MEASURE, motion_meter
    from utils.runs.out_of_memory import explain_out_of_memory
    from utils.video.contact_sheet import contact_sheet
    from utils.video.encode import write_frames, write_gif, write_image, write_video
    from utils.video.frames import resize_frames

    width, height = settings["width"], settings["height"]
    picture = read_picture(image)
    for note in what_is_lost(image, width, height, args.resize_mode):
        print(f"note: {printable(image)}: {note}")
    picture = resize_frames(picture[None], height, width, args.resize_mode)[0]
    remedies = "--decode_chunk_size 2, --offload model, fewer --num_frames, a smaller --width and --height"
    with explain_out_of_memory(remedies, vars(args) | settings):
        frames, drift = chain(args, pipeline, settings, picture)
    fps, meter = args.export_fps or args.fps, motion_meter(frames, args.fps)
    about = {
        "image": str(image),
        "model": args.model_dir,
        "seed": args.seed,
        "segments": args.segments,
        **settings,
        **({"vectors": str(args.vectors)} if args.vectors else {}),
        "export_fps": fps,
        "frames": len(frames),
        "motion_score": round(meter.score(), 5),
        "motion_measure": MOTION_MEASURE,
        "training_motion": training_motion,
        "colour_drift": [round(value, 3) for value in drift],
        "versions": versions(),
    }
    try:
        video.parent.mkdir(parents=True, exist_ok=True)
        video.with_suffix(".json").unlink(missing_ok=True)  # of an older video, which it vouches for
        write_video(video, frames, fps)
        if args.save_gif:
            write_gif(video.with_suffix(".gif"), frames, fps)
        if args.save_frames:
            write_frames(video.with_name(f"{video.stem}_frames"), frames)
        if args.visualize:
            write_image(video.with_suffix(".png"), contact_sheet([picture[None], frames], [image.name, "video"]))
        write_image(video.with_suffix(".input.png"), picture)
        write_text(video.with_suffix(".json"), json.dumps(without_secrets(about), indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError(f"--output_video: {video} cannot be written ({error})") from None
    if meter.static():
        remedy = "a larger --motion_bucket_id, or --noise_aug_strength, gives more"
        print(f"warning: nothing moves in {printable(video)}; {remedy}")


def write_page(output_dir: Path, jobs: dict[Path, Path]) -> Path:
    """index.html: each input beside its video, how much moves in it and how much moved in the training clips."""
    import numpy as np

    from utils.video.gallery import write_gallery

    rows = []
    for image, video in jobs.items():
        about = json.loads(video.with_suffix(".json").read_text(encoding="utf-8"))
        note = f"motion bucket {about['motion_bucket_id']}: {about['motion_score']:.3f} short sides/s"
        rows.append({"video": video, "image": video.with_suffix(".input.png"), "prompt": str(image), "note": note})
    scores = about["training_motion"]
    data = (
        f"; the training clips: {np.median(scores):.3f} (median), {min(scores):.3f} to {max(scores):.3f}"
        if scores
        else ""
    )
    settings = f"{about['model']}: {about['num_frames']} frames of {about['width']}x{about['height']}"
    page = output_dir / "index.html"
    write_gallery(page, "Image to video", f"{settings}. Motion in short sides per second{data}.", {"Videos": rows})
    return page


def chain(args: argparse.Namespace, pipeline, settings: dict, picture) -> tuple:
    """(frames uint8 (T, H, W, 3), drift of each segment) of the picture, animated --segments times from the last frame.

    What the autoencoder loses adds up from segment to segment: colours are matched to the picture's, and the frame at a
    seam, which both segments hold, is shown once. Drift is the mean colour distance to the picture, before the match.
    """
    import numpy as np
    import torch
    from PIL import Image

    from models.svd.colours import colour_distance, match_colours

    generator = torch.Generator().manual_seed(args.seed)
    parts, drift, start = [], [], picture
    for segment in range(args.segments):
        frames = sample(pipeline, Image.fromarray(start), settings, args.decode_chunk_size, generator)
        drift.append(colour_distance(frames, picture))
        if segment > 0:
            frames = match_colours(frames, picture)[1:]
        parts.append(frames)
        start = frames[-1]
    if args.segments > 1:
        print(f"colour drift per segment: {', '.join(f'{value:.1f}' for value in drift)} (of 255)")
    return np.concatenate(parts), drift


def sample(pipeline, image, settings: dict, chunk: int, generator):
    """One call of the pipeline: frames, uint8 (T, H, W, 3). A VAE that overflows in half precision decodes again in
    float32. Raises UserError if the network itself returns no numbers."""
    import torch

    from utils.video.frames import to_uint8

    latents = pipeline(image, **settings, generator=generator, output_type="latent").frames
    if not torch.isfinite(latents).all():
        raise UserError("--dtype: the U-Net overflows in this precision; use bf16 or fp32")
    for dtype in (pipeline.unet.dtype, torch.float32):
        if pipeline.vae.dtype != dtype:  # the pipeline leaves it in float32 where it had to encode the image so
            pipeline.vae.to(dtype)
        with torch.no_grad():
            video = pipeline.decode_latents(latents.to(dtype), latents.shape[1], chunk)[0]
        if torch.isfinite(video).all():
            return to_uint8(video)
        print("the VAE overflows in half precision, decoding again in float32")
    raise UserError("--dtype: the decoded frames are not numbers; use --dtype fp32")


if __name__ == "__main__":
    run(lambda: main(parse_args()))

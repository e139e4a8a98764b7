"""What a video of Stable Video Diffusion costs: infer_svd.py against the plain call of diffusers, and each saving.

    OMP_NUM_THREADS=1 python -m benchmarks.svd.infer    # minutes on one core; a GPU is timed too

Counted, on the meta device, so exactly and without weights or a GPU: the floating-point operations of sampling from
img2vid-xt with guidance, and the bytes that its parts make and that exist at once, in half precision: the U-Net's, and
the VAE decoder's for several numbers of frames at once. CUDA's own memory and scratch space of kernels are left out.

Timed: on a GPU img2vid-xt with random weights, seconds and peak memory of every variant. Without one a tiny model, all
variants in turn: it shows what they save there, not at full size. In both cases how far a video is from that of the
plain call, which decodes 8 frames at once as infer_svd.py does: the decoder looks across these and no further, so
another number makes another video, with random weights far more so than with trained ones.
"""

import argparse
import gc
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.svd.networks import Networks
from benchmarks.svd.recipes import GIB, TERA, Clip, clip_size, parse_clip
from utils.cli import Parser, integer, run


class Variant(NamedTuple):
    """One way to sample; the defaults are those of infer_svd.py on a GPU."""

    plain: bool = False  # the call of diffusers' pipeline
    one_token: bool = True
    chunk: int = 8  # frames decoded at once
    offload: str = "none"
    dtype: str = "float16"


PLAIN = "plain diffusers"
VARIANTS = {
    PLAIN: Variant(plain=True, one_token=False),
    "ours": Variant(),
    "no one-token shortcut": Variant(one_token=False),
    "2 frames decoded at once": Variant(chunk=2),
    "25 frames decoded at once": Variant(chunk=25),
}
ON_GPU_ONLY = {
    "whole models offloaded": Variant(offload="model"),
    "single layers offloaded": Variant(offload="sequential"),
    "bfloat16": Variant(dtype="bfloat16"),
    "float32": Variant(dtype="float32"),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    clips = ["512x320x25", "1024x576x25"]
    parser.add_argument("--clips", type=clip_size, nargs="+", default=clips, help="WIDTHxHEIGHTxFRAMES of the counts")
    parser.add_argument("--tiny_clip", type=clip_size, default="64x64x25", help="what is timed without a GPU")
    parser.add_argument("--num_inference_steps", type=integer(1, 1000), default=25, help="of every video")
    parser.add_argument("--repeats", type=integer(2, 1000), default=9, help="timed videos of each variant")
    parser.add_argument("--tiny", action="store_true", help="count the tiny model, to try the benchmark itself")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.measure import write_result
    from benchmarks.svd.networks import full_networks, tiny_networks

    networks, steps = tiny_networks() if args.tiny else full_networks(), args.num_inference_steps
    counted = {text: count(parse_clip(text), steps, networks) for text in args.clips}
    for clip, figures in counted.items():
        print("\n".join(f"{clip}, {name}, counted: {items}" for name, items in figures.items()))
    if torch.cuda.is_available():
        clips = {text: time_full_size(parse_clip(text), steps, args.repeats) for text in args.clips}
        timed = {"model": "img2vid-xt, random weights", "clips": clips}
    else:
        clips = {args.tiny_clip: time_tiny(parse_clip(args.tiny_clip), steps, args.repeats)}
        timed = {"model": "tests/tiny_svd.py on a CPU, not img2vid-xt", "clips": clips}
    print(f"timed: {timed['model']}")
    for clip, variants in clips.items():
        print("\n".join(f"{clip}, {name}: {figures}" for name, figures in variants.items()))
    command = f"python -m benchmarks.svd.infer --clips {' '.join(args.clips)} --num_inference_steps {steps}"
    variants = {name: variant._asdict() for name, variant in (VARIANTS | ON_GPU_ONLY).items()}
    result = {"command": f"{command} --repeats {args.repeats}", "variants": variants, "counted": counted}
    plot(counted, timed, write_result("infer_svd", {**result, "timed": timed}).with_suffix(".png"))


# Counts ---------------------------------------------------------------------------------------------------------------


def count(clip: Clip, num_inference_steps: int, networks: Networks) -> dict[str, dict[str, float]]:
    """{"tflop", "weights_gib", "live_gib"} of one video in half precision, by part.

    The U-Net with and without the one-token shortcut, the decoder's "live_gib" for several numbers of frames at once:
    what a part makes and what of it exists at once, besides its weights.
    """
    import torch

    from benchmarks.svd.counts import flops_of, flops_of_encoder
    from benchmarks.svd.networks import make_pipeline
    from models.svd.memory import use_one_token_attention

    pipeline = make_pipeline(networks, "meta")
    unet, vae, image_encoder = (part.half() for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder))
    height, width = clip.height // 8, clip.width // 8

    def inputs(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
        return [torch.empty(shape, device="meta", dtype=torch.float16) for shape in shapes]

    def denoise() -> None:  # with and without the image at once, for guidance
        ids = unet.config.projection_class_embeddings_input_dim // unet.config.addition_time_embed_dim
        sample = (2, clip.num_frames, unet.config.in_channels, height, width)
        latents, timestep, context, time_ids = inputs(sample, (), (2, 1, unet.config.cross_attention_dim), (2, ids))
        unet(latents, timestep, context, added_time_ids=time_ids)

    def decode(frames: int) -> None:
        vae.decode(*inputs((frames, vae.config.latent_channels, height, width)), num_frames=frames)

    weights = {"U-Net": unet, "VAE": vae, "CLIP": image_encoder}
    flops, live = {"encoders": sum(flops_of_encoder(networks, clip).values())}, {}
    with torch.no_grad():
        for one_token, name in ((False, "U-Net, plain"), (True, "U-Net, one-token shortcut")):
            use_one_token_attention(unet, one_token)
            flops[name] = flops_of(denoise).total() * num_inference_steps
            live[name] = live_bytes(denoise)
        flops["decoder"] = flops_of(lambda: decode(clip.num_frames)).total()
        for frames in sorted({min(variant.chunk, clip.num_frames) for variant in VARIANTS.values()}):
            live[f"decoder, {frames} frames at once"] = live_bytes(lambda frames=frames: decode(frames))
    return {
        "tflop": {name: round(value / TERA, 6) for name, value in flops.items()},
        "weights_gib": {name: round(_bytes(part) / GIB, 6) for name, part in weights.items()},
        "live_gib": {name: round(value / GIB, 6) for name, value in live.items()},
    }


def _bytes(module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def live_bytes(call: Callable[[], object]) -> int:
    """The most bytes, of tensors that call() makes on the meta device, that exist at once; attention is flash."""
    import weakref
    from unittest.mock import patch

    import torch
    from torch.nn import functional
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    from benchmarks.svd.counts import flash_attention

    class LiveBytes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.sizes, self.peak = {}, 0  # of the storages that exist

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            given = {storage._cdata for storage in storages((args, kwargs))}
            for storage in storages(result):
                if storage._cdata not in given | self.sizes.keys():
                    self.sizes[storage._cdata] = storage.nbytes()
                    weakref.finalize(storage, self.sizes.pop, storage._cdata)
            self.peak = max(self.peak, sum(self.sizes.values()))
            return result

    def storages(values) -> list[torch.UntypedStorage]:
        return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]

    with patch.object(functional, "scaled_dot_product_attention", flash_attention), LiveBytes() as counter:
        call()
    return counter.peak


# Times ----------------------------------------------------------------------------------------------------------------


def sampler(variant: Variant, pipeline, clip: Clip, num_inference_steps: int, device) -> Callable[[], object]:
    """A function that makes the video of a random picture, uint8 (T, H, W, 3), always the same."""
    import numpy as np
    import torch
    from PIL import Image

    import infer_svd
    from models.svd.memory import cast, use_one_token_attention

    pixels = np.random.default_rng(0).integers(0, 256, (clip.height, clip.width, 3), dtype=np.uint8)
    image, dtype = Image.fromarray(pixels), getattr(torch, variant.dtype)
    settings = {**clip._asdict(), "num_inference_steps": num_inference_steps}

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    if variant.plain:
        pipeline.to(device, dtype)
        settings |= {"decode_chunk_size": variant.chunk, "output_type": "np"}
        return lambda: np.rint(pipeline(image, **settings, generator=generator()).frames[0] * 255).astype(np.uint8)
    for part in (pipeline.unet, pipeline.vae, pipeline.image_encoder):
        cast(part, dtype)
    infer_svd.place(pipeline, variant.offload, torch.device(device))
    use_one_token_attention(pipeline.unet, variant.one_token)
    return lambda: infer_svd.sample(pipeline, image, settings, variant.chunk, generator())


def largest_difference(video, other) -> int:
    """Between two uint8 videos, of 255."""
    return int(abs(video.astype(int) - other.astype(int)).max())


def time_tiny(clip: Clip, num_inference_steps: int, repeats: int) -> dict[str, dict]:
    """Seconds of a video of the tiny model in float32, their ratio to the plain call's, and how far its video is."""
    from benchmarks.svd.times import alternate, ratios
    from tests.tiny_svd import tiny_svd_pipeline

    calls = {
        name: sampler(variant._replace(dtype="float32"), tiny_svd_pipeline(), clip, num_inference_steps, "cpu")
        for name, variant in VARIANTS.items()
    }
    videos = {name: call() for name, call in calls.items()}
    results = ratios(alternate(calls, repeats), PLAIN)
    return {
        name: {**figures, "largest_difference": largest_difference(videos[name], videos[PLAIN])}
        for name, figures in results.items()
    }


def time_full_size(clip: Clip, num_inference_steps: int, repeats: int) -> dict[str, dict]:
    """Seconds, peak memory and distance to the plain call's video of every variant; what failed says why."""
    import torch

    from benchmarks.svd.networks import full_networks, make_pipeline
    from benchmarks.svd.times import gpu_seconds

    results, plain_video = {}, None
    for name, variant in (VARIANTS | ON_GPU_ONLY).items():
        try:
            torch.manual_seed(0)
            call = sampler(variant, make_pipeline(full_networks(), "cuda"), clip, num_inference_steps, "cuda")
            gc.collect(), torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
            video = call()
            plain_video = video if name == PLAIN else plain_video
            results[name] = {
                "seconds": round(gpu_seconds(call, repeats, warm_up=1), 3),
                "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
                "largest_difference": None if plain_video is None else largest_difference(video, plain_video),
            }
        except Exception as error:  # one variant less is no reason to lose the others
            results[name] = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
        call = None
        gc.collect(), torch.cuda.empty_cache()
    return results


def plot(counted: dict[str, dict], timed: dict, path: Path) -> None:
    """Operations, bytes, and seconds against the plain call."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    charts = [(f"{clip}: TFLOP of a video, counted", figures["tflop"]) for clip, figures in counted.items()]
    for clip, figures in counted.items():
        weights = {f"weights, {name}": size for name, size in figures["weights_gib"].items()}
        charts.append((f"{clip}: GiB at once in half precision, counted", weights | figures["live_gib"]))
    for clip, variants in timed["clips"].items():
        seconds = {name: figures["seconds"] for name, figures in variants.items() if "seconds" in figures}
        charts.append((f"{clip}: seconds of a video; {timed['model']}", seconds))
    figure, axes = pyplot.subplots(len(charts), figsize=(9, 2.6 * len(charts)), dpi=110, squeeze=False)
    for (title, values), chart in zip(charts, axes[:, 0], strict=True):
        bars = chart.barh(list(values), list(values.values()))
        chart.bar_label(bars, fmt="%.4g", padding=3, fontsize=8)
        chart.set_title(title, fontsize=10), chart.margins(x=0.12)
        chart.invert_yaxis(), chart.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))

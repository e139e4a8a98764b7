"""What one step of fine-tuning Stable Video Diffusion costs: ours, that of diffusers' training scripts, each saving.

    OMP_NUM_THREADS=1 python -m benchmarks.svd_step     # five minutes on one core; a GPU is timed too

Counted, on the meta device, so exactly and without weights or a GPU: the floating-point operations of a step of
img2vid-xt in its linear layers, convolutions and attention, recomputed ones included, and the bytes that it keeps.
Element-wise work and the optimizer are left out of the former; CUDA's own memory and the encoders' activations, which
are gone before the U-Net's are there, out of the latter.

Timed: the same steps. On a GPU img2vid-xt with random weights, one variant after the other, with the peak of memory and
the share of the speed at which the card multiplies large bfloat16 matrices. Without one a tiny model, all variants in
turn: it shows that they run and what they save there, not what they save at full size.

"ours" is train_svd.py. "peer" is the way of diffusers' training scripts with the same scope: the VAE encodes every
frame and CLIP the first one in every step, all U-Net weights are float32 and have a moving average, and recomputation
is that of enable_gradient_checkpointing(). In both the VAE is in float32, as its config asks, and CLIP in bfloat16.
"""

import argparse
import gc
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from utils.cli import Bad, Parser, integer, run

VAE = {  # of stable-video-diffusion-img2vid-xt
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
}
CLIP = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 1024,
    "hidden_act": "gelu",
}
GIB = 2**30
TERA = 10**12
MEMORY_GOALS = {"512x320x25": 22, "1024x576x25": 40}  # GiB
COST_GOAL, UTILISATION_GOAL = 0.5, 0.4  # of the peer's step; of the card's matrix products


class Recipe(NamedTuple):
    """What a step computes and keeps; the defaults are train_svd.py's, apart from 8-bit states where it finds them."""

    scope: str = "temporal"
    cache: bool = True  # of latents and embeddings: without it all frames are encoded in every step
    checkpointing: str = "full"
    one_token: bool = True
    frozen: str = "bfloat16"
    optimizer: str = "adamw"
    average_all: bool = False  # a moving average of the frozen weights too
    channels_last: bool = False
    compile: bool = False
    tf32: bool | None = None  # None: as torch has it, for convolutions and not for matrix products


OURS = Recipe()
PEER = Recipe(cache=False, checkpointing="diffusers", one_token=False, frozen="float32", average_all=True)
VARIANTS = {
    "ours": OURS,
    "peer": PEER,
    "peer, all weights learn": PEER._replace(scope="all"),
    "no cache": OURS._replace(cache=False),
    "diffusers' checkpointing": OURS._replace(checkpointing="diffusers"),
    "no checkpointing": OURS._replace(checkpointing="none"),
    "no one-token shortcut": OURS._replace(one_token=False),
    "frozen weights in float32": OURS._replace(frozen="float32"),
    "8-bit AdamW": OURS._replace(optimizer="adamw8bit"),
}
# The same counts as ours or as "no cache"; what they do can only be timed, and on a GPU.
TIMED_ONLY = {
    "channels last": OURS._replace(channels_last=True),
    "compiled": OURS._replace(compile=True),
    "no TF32": OURS._replace(cache=False, tf32=False),
    "TF32 everywhere": OURS._replace(cache=False, tf32=True),
}


class Clip(NamedTuple):
    width: int
    height: int
    num_frames: int

    def __str__(self) -> str:
        return "x".join(map(str, self))


def clip_size(text: str) -> str | Bad:
    """An argparse type: WIDTHxHEIGHTxFRAMES."""
    sizes = re.fullmatch(r"(\d{2,4})x(\d{2,4})x(\d{1,3})", text)
    if not sizes or int(sizes[1]) % 64 or int(sizes[2]) % 64 or int(sizes[3]) < 2:
        return Bad(f"got {text}, must be WIDTHxHEIGHTxFRAMES such as 512x320x25, in multiples of 64 pixels")
    return text


def parse_clip(text: str) -> Clip:
    return Clip(*map(int, text.split("x")))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 1)[1])
    parser.add_argument(
        "--clips", type=clip_size, nargs="+", default=list(MEMORY_GOALS), help="WIDTHxHEIGHTxFRAMES, counted and timed"
    )
    parser.add_argument("--tiny_clip", type=clip_size, default="128x128x8", help="what is timed without a GPU")
    parser.add_argument("--repeats", type=integer(2, 1000), default=25, help="timed steps of each variant")
    parser.add_argument("--tiny", action="store_true", help="count the tiny model, to try the benchmark itself")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.measure import matmul_peak, write_result

    networks = tiny_networks() if args.tiny else full_networks()
    counted = {}
    for clip in map(parse_clip, args.clips):
        counted[str(clip)] = {name: count(recipe, clip, networks) for name, recipe in VARIANTS.items()}
        print_counts(clip, counted[str(clip)])

    if torch.cuda.is_available():
        peak = matmul_peak("cuda", "bf16")
        timed = {"model": "img2vid-xt, random weights", "matmul_tflops": round(peak / TERA, 1), "clips": {}}
        for clip in map(parse_clip, args.clips):
            timed["clips"][str(clip)] = time_full_size(clip, args.repeats)
            add_utilisation(timed["clips"][str(clip)], counted[str(clip)], peak)
        judged = goals(counted, timed["clips"])
    else:
        variants = time_tiny(parse_clip(args.tiny_clip), args.repeats)
        timed = {"model": "tests/tiny_svd.py on a CPU, not img2vid-xt", "clips": {args.tiny_clip: variants}}
        judged = goals(counted, {})
    print(f"timed: {timed['model']}")
    for clip, variants in timed["clips"].items():
        print("\n".join(f"{clip}, {name}: {figures}" for name, figures in variants.items()))
    for goal in judged:
        verdict = {True: "met", False: "missed", None: "not measured, needs a GPU"}[goal["met"]]
        print(f"{goal['goal']}: {goal['value']}, {verdict}")
    recipes = {name: recipe._asdict() for name, recipe in (VARIANTS | TIMED_ONLY).items()}
    command = f"python -m benchmarks.svd_step --clips {' '.join(args.clips)} --repeats {args.repeats}"
    result = {"command": command, "recipes": recipes, "counted": counted, "timed": timed, "goals": judged}
    plot(counted, write_result("svd_step", result).with_suffix(".png"))


def goals(counted: dict, timed: dict) -> list[dict]:
    """[{"goal", "value", "met"}]. counted, timed: {clip: {variant: figures}}; what `timed` lacks is not judged."""
    first = next(iter(counted))
    judged = []

    def judge(goal: str, value: float | None, met: bool | None) -> None:
        judged.append({"goal": goal, "value": value, "met": met})

    def on_gpu(clip: str, variant: str, key: str) -> float | None:
        return timed.get(clip, {}).get(variant, {}).get(key)

    def share(ours: float | None, peer: float | None) -> float | None:
        return round(ours / peer, 3) if ours and peer else None

    operations = share(*(sum_of(counted[first][name]["tflop"]) for name in ("ours", "peer")))
    seconds = share(*(on_gpu(first, name, "seconds") for name in ("ours", "peer")))
    text = f"{first}: at most {COST_GOAL} of the peer's"
    judge(f"{text} operations, counted", operations, operations <= COST_GOAL)
    judge(f"{text} seconds", seconds, seconds and seconds <= COST_GOAL)
    for clip, gib in MEMORY_GOALS.items():
        if clip in counted:
            size, peak = round(sum_of(counted[clip]["ours"]["gib"]), 2), on_gpu(clip, "ours", "peak_gib")
            judge(f"{clip}: at most {gib} GiB, counted", size, size <= gib)
            judge(f"{clip}: at most {gib} GiB, measured", peak, peak and peak <= gib)
    used = on_gpu(first, "ours", "utilisation")
    text = f"{first}: the U-Net at {UTILISATION_GOAL:.0%} or more of the card's matrix products"
    judge(text, used, used and used >= UTILISATION_GOAL)
    return judged


def sum_of(items: dict) -> float:
    """The numbers in a dictionary of numbers and such dictionaries, added up."""
    return sum(sum_of(value) if isinstance(value, dict) else value for value in items.values())


# Networks -------------------------------------------------------------------------------------------------------------


class Networks(NamedTuple):
    """Configurations of the three networks of a pipeline."""

    unet: dict
    vae: dict
    clip: dict


def full_networks() -> Networks:
    from models.svd.ledger import IMG2VID_XT

    return Networks(IMG2VID_XT, VAE, CLIP)


def tiny_networks() -> Networks:
    from tests.tiny_svd import TINY_CLIP, TINY_UNET, TINY_VAE

    return Networks(TINY_UNET, TINY_VAE, TINY_CLIP)


def make_pipeline(networks: Networks, device):
    """A pipeline with random weights in float32, made on the device; on "meta" without weights, to be counted."""
    import torch
    from diffusers import (
        AutoencoderKLTemporalDecoder,
        EulerDiscreteScheduler,
        StableVideoDiffusionPipeline,
        UNetSpatioTemporalConditionModel,
    )
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from tests.tiny_svd import SCHEDULER

    with torch.device(device):
        unet = UNetSpatioTemporalConditionModel(**networks.unet)
        vae = AutoencoderKLTemporalDecoder(**networks.vae)
        clip = CLIPVisionModelWithProjection(CLIPVisionConfig(**networks.clip))
    pipeline = StableVideoDiffusionPipeline(
        vae=vae.to(device).eval(),
        image_encoder=clip.to(device).eval(),
        unet=unet.to(device).eval(),  # diffusers builds the mixing factors on the CPU
        scheduler=EulerDiscreteScheduler(**SCHEDULER),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


# Counts ---------------------------------------------------------------------------------------------------------------


def count(recipe: Recipe, clip: Clip, networks: Networks) -> dict:
    """{"tflop": {"VAE", "CLIP", "forward": {kind: TFLOP}, "backward": {kind: TFLOP}}, "gib": {item: GiB}} of a step."""
    encoded = 1 if recipe.cache else clip.num_frames + 1  # the first frame again with noise, as conditioning
    flops = {
        "VAE": flops_of_encoder(networks, clip)["VAE"] * encoded,
        "CLIP": 0 if recipe.cache else flops_of_encoder(networks, clip)["CLIP"],
        **flops_of_unet(recipe, clip, networks.unet),
    }
    nbytes = bytes_of(recipe, clip, networks)
    return {
        "tflop": {name: _scaled(value, TERA) for name, value in flops.items()},
        "gib": {name: _scaled(value, GIB) for name, value in nbytes.items()},
    }


def _scaled(value, unit: int):
    if isinstance(value, dict):
        return {name: _scaled(each, unit) for name, each in value.items()}
    return round(value / unit, 6)


def flops_of(call: Callable[[], object]) -> Counter:
    """Operations of what call() computes on the meta device: "linear", "convolution" and "attention".

    Two for a multiplication and an addition. Attention is counted as flash attention computes it: its backward pass
    multiplies queries and keys once more.
    """
    from unittest.mock import patch

    from torch.nn import functional
    from torch.utils.flop_counter import FlopCounterMode

    counts = Counter()
    with (
        patch.object(functional, "scaled_dot_product_attention", flash_attention),
        FlopCounterMode(display=False) as counter,
    ):
        call()
    for operation, flops in counter.get_flop_counts()["Global"].items():
        kinds = [kind for kind in ("convolution", "attention") if kind in str(operation)]
        counts[kinds[0] if kinds else "linear"] += flops
    return counts


def flash_attention(query, key, value, **_):
    """What a GPU makes of scaled_dot_product_attention, also on the meta device: there is no matrix of all pairs."""
    import torch

    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]


def flops_of_encoder(networks: Networks, clip: Clip) -> dict[str, int]:
    """Operations that encoding one frame takes, by "VAE" and "CLIP"."""
    import torch

    pipeline = make_pipeline(networks, "meta")
    frame = torch.empty(1, 3, clip.height, clip.width, device="meta")
    pixels = torch.empty(1, 3, 224, 224, device="meta")
    with torch.no_grad():
        return {
            "VAE": flops_of(lambda: pipeline.vae.encode(frame)).total(),
            "CLIP": flops_of(lambda: pipeline.image_encoder(pixels)).total(),
        }


def flops_of_unet(recipe: Recipe, clip: Clip, config: dict) -> dict[str, dict[str, int]]:
    """Operations of the U-Net, "forward" and "backward", by kind; what checkpointing repeats is in the latter."""
    import torch

    from models.svd.conditioning import Conditioning
    from models.svd.ledger import meta_unet
    from models.svd.objective import svd_loss

    unet = meta_unet(config)
    set_up(unet, recipe._replace(frozen="float32"))  # there is no autocast on the meta device
    height, width = clip.height // 8, clip.width // 8
    ids = unet.config.projection_class_embeddings_input_dim // unet.config.addition_time_embed_dim
    with torch.device("meta"):
        latents, sigmas = torch.empty(1, clip.num_frames, 4, height, width), torch.empty(1)
        embeddings = torch.empty(1, 1, unet.config.cross_attention_dim)
        conditioning = Conditioning(torch.empty(1, 4, height, width), embeddings, torch.empty(1, ids))
    losses = []
    forward = flops_of(lambda: losses.extend(svd_loss(unet, latents, conditioning, sigmas, latents)[0]))
    return {"forward": dict(forward), "backward": dict(flops_of(losses[0].backward))}


def bytes_of(recipe: Recipe, clip: Clip, networks: Networks) -> dict[str, int]:
    """What is in memory at the peak of a step, by item."""
    import torch

    from models.svd.ledger import activation_bytes, meta_unet, scope_counts, static_bytes

    unet = meta_unet(networks.unet)
    _, frozen = scope_counts(unet, recipe.scope)
    ledger = static_bytes(unet, recipe.scope, recipe.optimizer, ema=True)
    ledger["frozen weights"] = frozen * getattr(torch, recipe.frozen).itemsize
    ledger["ema"] += 4 * frozen if recipe.average_all else 0
    activations = activation_bytes(
        recipe.scope,
        **clip._asdict(),
        checkpointing=recipe.checkpointing,
        one_token=recipe.one_token,
        frozen_dtype=getattr(torch, recipe.frozen),
        config=networks.unet,
    )
    recomputed = activations.pop("recomputed")
    ledger |= {"activations": sum(activations.values()), "recomputed": recomputed}
    pipeline = make_pipeline(networks, "meta")
    ledger["VAE"] = 4 * sum(parameter.numel() for parameter in pipeline.vae.parameters())
    if not recipe.cache:
        ledger["CLIP"] = 2 * sum(parameter.numel() for parameter in pipeline.image_encoder.parameters())
    return ledger


def print_counts(clip: Clip, variants: dict) -> None:
    print(f"{clip}, counted             TFLOP   VAE, CLIP  forward  backward |   GiB  activations")
    for name, each in variants.items():
        flops, gib = each["tflop"], each["gib"]
        parts = flops["VAE"] + flops["CLIP"], sum_of(flops["forward"]), sum_of(flops["backward"])
        columns = "".join(f"{part:10.2f}" for part in (sum_of(flops), *parts))
        print(f"{name:26}{columns} |{sum_of(gib):6.2f}  {gib['activations'] + gib['recomputed']:10.2f}")


# Times ----------------------------------------------------------------------------------------------------------------


def set_up(unet, recipe: Recipe) -> None:
    """What is frozen, recomputed and left out of the U-Net, as train_svd.py sets it up."""
    import torch

    from models.svd.memory import enable_full_checkpointing, use_one_token_attention
    from utils.runs.svd_files import train_part

    train_part(unet, recipe.scope, getattr(torch, recipe.frozen), None)
    use_one_token_attention(unet, recipe.one_token)
    if recipe.checkpointing == "full":
        enable_full_checkpointing(unet)
    elif recipe.checkpointing == "diffusers":
        unet.enable_gradient_checkpointing()


class TrainingStep:
    """A step of train_svd.py's loop on one random clip: noise and conditioning, loss and gradients, update.

    pipeline: on the device; it is changed. With bf16 the U-Net computes in bfloat16, else all is float32.
    """

    def __init__(self, recipe: Recipe, pipeline, clip: Clip, bf16: bool):
        import torch

        import train_svd
        from models.svd.conditioning import encode_latents, image_embeddings
        from utils.training.ema import moving_average

        self.recipe, self.vae, self.unet, self.bf16, self.steps = recipe, pipeline.vae, pipeline.unet, bf16, 0
        self.device = self.vae.device
        for module in (self.vae, pipeline.image_encoder):
            module.requires_grad_(False)
        set_up(self.unet, recipe if bf16 else recipe._replace(frozen="float32"))
        if bf16:
            pipeline.image_encoder.to(torch.bfloat16)
        self.names = [name for name, parameter in self.unet.named_parameters() if parameter.requires_grad]
        self.parameters = [parameter for parameter in self.unet.parameters() if parameter.requires_grad]
        if recipe.channels_last:
            for parameter in (*self.unet.parameters(), *self.vae.parameters()):
                if parameter.dim() == 4:  # a convolution over time has five dimensions
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        settings = train_svd.parse_args(["--dry_run", "--optimizer", recipe.optimizer])
        self.max_grad_norm = settings.max_grad_norm
        self.optimizer = train_svd.make_optimizer(settings, self.parameters, self.device)
        averaged = list(self.unet.parameters()) if recipe.average_all else self.parameters
        self.averaged, self.ema = averaged, moving_average(averaged, settings.ema_decay)
        if recipe.compile:
            self.unet.compile()
        self.unet.train()

        generator = torch.Generator().manual_seed(0)
        shape = (1, clip.num_frames, 3, clip.height, clip.width)
        self.frames = (torch.rand(shape, generator=generator) * 2 - 1).to(self.device)
        self.encode = lambda: (
            encode_latents(self.vae, self.frames),
            image_embeddings(pipeline.image_encoder, pipeline.feature_extractor, self.frames[:, 0]),
        )
        if recipe.cache:
            cached = self.encode()
            self.encode = lambda: cached
            pipeline.image_encoder.to("cpu")

    def __call__(self) -> float:
        from utils.training.order import seed_step

        seed_step(0, self.steps)
        self.steps += 1
        loss = self.gradients(*self.inputs())
        self.update()
        return loss.item()

    def inputs(self) -> tuple:
        """The arguments of svd_loss: latents, conditioning, sigmas and noise."""
        import torch

        from models.svd.conditioning import make_conditioning
        from models.svd.objective import draw_sigmas

        latents, embeddings = self.encode()
        sigmas, noise = draw_sigmas(len(latents)).to(self.device), torch.randn(latents.shape).to(self.device)
        fps, motion = torch.tensor([7.0]), torch.tensor([127])
        conditioning = make_conditioning(self.vae, self.frames[:, 0], embeddings, fps, motion)
        return latents, conditioning, sigmas, noise

    def gradients(self, latents, conditioning, sigmas, noise):
        """The loss; its gradients are added to those of the parameters."""
        import torch

        from models.svd.objective import svd_loss

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            losses, _ = svd_loss(self.unet, latents, conditioning, sigmas, noise)
        losses.mean().backward()
        return losses.detach().mean()

    def update(self) -> None:
        import torch

        float(torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm))  # the trainer looks at it each time
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.averaged)


def alternate(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Processor seconds of each call, `repeats` of them, all calls in turn, so that a busy machine slows all alike."""
    for call in calls.values():
        call(), call()
    seconds = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return seconds


def ratios(seconds: dict[str, list[float]], reference: str) -> dict[str, dict]:
    """{name: {"seconds": median, "ratio": median of those to `reference` in the same round, "quartiles": of these}}."""
    results = {}
    for name, each in seconds.items():
        shares = [a / b for a, b in zip(each, seconds[reference], strict=True)]
        low, median, high = (round(share, 3) for share in statistics.quantiles(shares, n=4, method="inclusive"))
        median_seconds = round(statistics.median(each), 4)
        results[name] = {"seconds": median_seconds, "ratio": median, "quartiles": [low, high]}
    return results


def time_tiny(clip: Clip, repeats: int) -> dict[str, dict]:
    """Seconds of a step of the tiny model, and their ratio to ours, of every variant that a CPU can run."""
    from tests.tiny_svd import tiny_svd_pipeline
    from utils.hardware import choose_precision

    bf16 = choose_precision("auto", on_cpu=True) == "bf16"
    recipes = {name: recipe for name, recipe in VARIANTS.items() if recipe.optimizer != "adamw8bit"}
    steps = {name: TrainingStep(recipe, tiny_svd_pipeline(), clip, bf16) for name, recipe in recipes.items()}
    return ratios(alternate(steps, repeats), "ours")


def time_full_size(clip: Clip, repeats: int) -> dict[str, dict]:
    """Seconds and memory of every variant of a step of img2vid-xt; what failed, say for lack of memory, says why."""
    import torch

    results = {}
    for name, recipe in (VARIANTS | TIMED_ONLY).items():
        switches = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        if recipe.tf32 is not None:
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = recipe.tf32
        try:
            pipeline = make_pipeline(full_networks(), "cuda")
            results[name] = measure(TrainingStep(recipe, pipeline, clip, bf16=True), repeats)
        except Exception as error:  # one variant less is no reason to lose the others
            results[name] = {"failed": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"}
        pipeline = None
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = switches
        gc.collect(), torch._dynamo.reset(), torch.cuda.empty_cache()
    return results


def measure(step: TrainingStep, repeats: int) -> dict[str, float]:
    """{"seconds", "unet_seconds": of the U-Net alone, "peak_gib"} of a step on a GPU: medians and the peak."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    seconds = gpu_seconds(step, repeats)
    peak = torch.cuda.max_memory_allocated()
    inputs = step.inputs()
    unet_seconds = gpu_seconds(lambda: step.gradients(*inputs), repeats)
    return {"seconds": round(seconds, 4), "unet_seconds": round(unet_seconds, 4), "peak_gib": round(peak / GIB, 2)}


def gpu_seconds(call: Callable[[], object], repeats: int, warm_up: int = 3) -> float:
    """The median of `repeats` calls after some that do not count: they choose kernels, make the optimizer's state."""
    import torch

    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def add_utilisation(timed: dict[str, dict], counted: dict[str, dict], peak: float) -> None:
    """Give each timed variant its "utilisation": counted operations of the U-Net per second, as a share of `peak`."""
    for name, figures in timed.items():
        if "unet_seconds" in figures:
            tflop = counted[name if name in counted else "ours"]["tflop"]
            operations = TERA * (sum_of(tflop["forward"]) + sum_of(tflop["backward"]))
            figures["utilisation"] = round(operations / figures["unet_seconds"] / peak, 3)


def plot(counted: dict[str, dict], path: Path) -> None:
    """Operations and bytes of every variant, a row of two charts for each size of clip."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kept, learning = ("activations", "recomputed"), ("gradients", "optimizer", "ema")
    operations = {
        "VAE and CLIP": lambda flops: flops["VAE"] + flops["CLIP"],
        "U-Net, forward": lambda flops: sum_of(flops["forward"]),
        "U-Net, backward": lambda flops: sum_of(flops["backward"]),
    }
    memory = {
        "activations": lambda gib: sum(gib[item] for item in kept),
        "gradients, optimizer, average": lambda gib: sum(gib[item] for item in learning),
        "weights": lambda gib: sum(size for item, size in gib.items() if item not in kept + learning),
    }
    figure, rows = pyplot.subplots(len(counted), 2, figsize=(12, 3.6 * len(counted)), dpi=110, squeeze=False)
    for (clip, variants), (left, right) in zip(counted.items(), rows, strict=True):
        for axes, key, parts, unit in ((left, "tflop", operations, "TFLOP a step"), (right, "gib", memory, "GiB")):
            start = [0.0] * len(variants)
            for label, part in parts.items():
                widths = [part(variant[key]) for variant in variants.values()]
                axes.barh(list(variants), widths, left=start, label=label)
                start = [a + b for a, b in zip(start, widths, strict=True)]
            for row, total in enumerate(start):
                axes.text(total, row, f" {total:.1f}", va="center", fontsize=8)
            axes.set(xlabel=f"{unit}, counted", title=clip, xlim=(0, 1.4 * max(start)))  # room for the legend
            axes.invert_yaxis(), axes.grid(axis="x", alpha=0.3)
        right.set_yticklabels([])
        if clip in MEMORY_GOALS:
            right.axvline(MEMORY_GOALS[clip], color="black", linestyle="--", linewidth=1, label="goal for ours")
        left.legend(fontsize=8), right.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


if __name__ == "__main__":
    run(lambda: main(parse_args()))

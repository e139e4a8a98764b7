"""Steps, timed: on a GPU at full size, without one a tiny model."""

import gc
import statistics
import time
from collections.abc import Callable

from benchmarks.svd.networks import full_networks, make_pipeline
from benchmarks.svd.recipes import GIB, TERA, TIMED_ONLY, VARIANTS, Clip, Recipe, sum_of


def set_up(unet, recipe: Recipe) -> None:
    """What is frozen, recomputed and left out of the U-Net, as train_svd.py sets it up."""
    import torch

    from models.svd.memory import enable_full_checkpointing, use_one_token_attention
    from utils.svd.weights import train_part

    lora = {"rank": 16, "alpha": 16} if recipe.scope == "lora" else None
    train_part(unet, recipe.scope, getattr(torch, recipe.frozen), lora)
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
        from utils.training.optimizers import adamw_of_bits

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
        how = settings.learning_rate, (settings.adam_beta1, settings.adam_beta2), settings.adam_weight_decay
        self.optimizer = adamw_of_bits(settings.optimizer, self.parameters, *how, self.device)
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

    def forward(self, latents, conditioning, sigmas, noise):
        """The loss."""
        import torch

        from models.svd.objective import svd_loss

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            losses, _ = svd_loss(self.unet, latents, conditioning, sigmas, noise)
        return losses.mean()

    def gradients(self, *inputs):
        """The loss; its gradients are added to those of the parameters."""
        loss = self.forward(*inputs)
        loss.backward()
        return loss.detach()

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

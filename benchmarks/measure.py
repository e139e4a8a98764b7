"""What every benchmark needs: where it ran, a place for its numbers, and the cost of a training step."""

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from utils.cli import UserError, printable, versions
from utils.files import write_text

RESULTS = Path(__file__).parent / "results"


def hardware() -> dict:
    """What a figure depends on besides the code: processor, cores, threads, memory, GPU, versions."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": versions(),
    }


def write_result(name: str, result: dict, folder: Path | None = None) -> Path:
    """<name>.json in the folder, or benchmarks/results, with the hardware and the date; the file is replaced whole."""
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    whole = {"date": time.strftime("%Y-%m-%d"), "hardware": hardware(), **result}
    partial = path.with_name(f".{path.name}.tmp")
    partial.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)
    return path


def same_settings(folder: Path, settings: dict) -> None:
    """Note in a folder what decides the figures that are kept there. Raises UserError if they were made with others."""
    file, text = folder / "settings.json", json.dumps(settings, indent=1, default=str) + "\n"
    if file.is_file() and file.read_text(encoding="utf-8") != text:
        before = json.loads(file.read_text(encoding="utf-8"))
        differ = [name for name, value in json.loads(text).items() if before.get(name) != value]
        raise UserError(
            f"--work_dir: {printable(folder)} has figures of other {', '.join(differ)}; choose another folder"
        )
    write_text(file, text)


class TrainingStep:
    """One training step of train_text2video.py's settings on random clips, to be timed: forward, backward, clipping,
    optimizer and moving average. `args` are the trainer's parsed arguments. What is random is drawn on the CPU, so that
    every device computes the same."""

    def __init__(self, args: argparse.Namespace, captions: list[str], device: str = "cpu"):
        from models.diffusion.captioned import CaptionedDiffusion
        from utils.hardware import choose_precision
        from utils.runs.new_model import make_diffusion, make_text_encoder, make_unet
        from utils.training.ema import moving_average
        from utils.training.optimizers import make_optimizer

        torch.manual_seed(args.seed)
        encoder = make_text_encoder(args, captions)
        model = CaptionedDiffusion(make_diffusion(args, make_unet(args, encoder.dim)), encoder).train()
        self.device, self.model = device, model.to(device)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        betas = (args.adam_beta1, args.adam_beta2)
        self.optimizer = make_optimizer(args.optimizer, self.model, args.learning_rate, betas, args.adam_weight_decay)
        self.ema = moving_average(self.parameters, args.ema_decay)
        self.bf16 = choose_precision(args.mixed_precision, on_cpu=device == "cpu") == "bf16"
        videos = torch.rand(args.batch_size, 3, args.num_frames, args.frame_size, args.frame_size) * 2 - 1
        self.videos = videos.to(device)
        self.captions = [captions[i % len(captions)] for i in range(args.batch_size)]
        self.max_grad_norm = args.max_grad_norm

    def __call__(self) -> torch.Tensor:
        """Take the step; the loss before it."""
        diffusion = self.model.diffusion
        noise = torch.randn(self.videos.shape)
        timesteps = diffusion.draw_timesteps(len(noise), noise.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            embeddings, mask = self.model.text_encoder(diffusion.drop_text(self.captions))
            given = {"noise": noise.to(self.device), "timesteps": timesteps.to(self.device)}
            loss = diffusion(self.videos, embeddings, self.model.needed(mask), **given)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.step(self.parameters)
        return loss.detach()


def matmul_peak(device: str, precision: str, size: int | None = None) -> float:
    """FLOP/s of a product of two square matrices, in "fp32" or "bf16": what the hardware gives at its best."""
    size = size or (8192 if device == "cuda" else 1536)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def cost_ratio(step, reference, repeats: int = 9) -> float:
    """How many times the processor seconds of `reference` one call of `step` takes: the median of alternating pairs.

    Processor seconds of this process, so that other programs on the machine do not count.
    """
    for _ in range(2):
        step(), reference()
    ratios = []
    for _ in range(repeats):
        seconds = []
        for call in (step, reference):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
        ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)

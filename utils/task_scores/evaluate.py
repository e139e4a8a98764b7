"""Measuring a task on the demo: 48 prompts of seen and 48 of held-out combinations, each with a true clip."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from models.conditions import ConditionSettings
from models.diffusion.editing import invert
from models.metrics.distances import share_interval
from utils.cli import UserError
from utils.demo_data import shapes
from utils.drawing.editing import kept_places
from utils.drawing.generator import Generator
from utils.drawing.masks import blended
from utils.evaluation.benchmark import GROUPS
from utils.evaluation.judge import wanted
from utils.runs.conditions import given_of
from utils.task_scores.tasks import TASKS, Task
from utils.task_scores.truth import Truth, make_truths
from utils.video.frames import to_uint8

SHOWN = 6  # truths on the contact sheet
STRENGTH = 0.5  # of edits, see edit_text2video.py


class TaskScores:
    """Measures tasks of one model, each on the same prompts and true clips. demo, read: see make_truths."""

    def __init__(self, generator: Generator, num_prompts: int, demo: dict, read: Callable):
        self.generator = generator
        known = [each for each in ("depth", "vectors", "audio") if each in generator.conditions.names]
        self.truths = {}
        for group, held_out in GROUPS.items():
            prompts = shapes.benchmark_prompts(num_prompts, demo["hard"], held_out)
            with TemporaryDirectory() as folder:
                self.truths[group] = make_truths(prompts, Path(folder), demo, read, generator.reading, known)
        self.from_text: dict[str, list[np.ndarray]] = {}  # of each group, for tasks that ask for the same

    def evaluate(self, name: str) -> tuple[dict, list]:
        """({way: {group: {what: share or mean}}}, rows of a contact sheet: (label, frames)).

        Raises UserError for a model that does not know what the task needs.
        """
        task, settings = TASKS[name], self.generator.conditions
        if task.needs and task.needs not in settings.names:
            knows = ", ".join(settings.names) or "none"
            raise UserError(f"--task {name}: needs {task.needs}; conditions that this model knows: {knows}")
        ways = [way for way in task.ways if way != "inversion and depth" or "depth" in settings.maps]
        found, rows = {way: {} for way in ways}, []
        for group, truths in self.truths.items():
            shown = truths[:SHOWN] if group == "seen" else []
            rows += [(f"truth: {truth.prompt}", to_uint8(truth.video)) for truth in shown]
            for way in ways:
                drawn = self._drawn(task, way, group)
                prompts = [task.asks(truth) if task.asks else truth.prompt for truth in truths]
                asked = [wanted(prompt) for prompt in prompts]
                against = truths[1:] + truths[:1] if way == "swapped" else truths
                found[way][group] = summary([task.measure(*each) for each in zip(drawn, against, asked, strict=True)])
                labels = [f"{way}: {prompt}" for prompt in prompts[: len(shown)]]
                rows += zip(labels, drawn, strict=False)
        return found, rows

    def _drawn(self, task: Task, way: str, group: str) -> list[np.ndarray]:
        if way != "text alone" or task.asks is not None:
            return Drawing(self.generator, task, self.truths[group], way).frames()
        if group not in self.from_text:
            self.from_text[group] = Drawing(self.generator, task, self.truths[group], way).frames()
        return self.from_text[group]


def summary(scores: list[dict]) -> dict:
    """Of each measure the share that is right, a Distance with its interval, or the mean of numbers."""
    found = {}
    for name in scores[0]:
        values = [score[name] for score in scores]
        if isinstance(values[0], bool):
            found[name] = share_interval(values, name)
        else:
            found[name] = float(np.mean(values))
    return found


class Drawing:
    """The results of a task, done in one of its ways."""

    def __init__(self, generator: Generator, task: Task, truths: list[Truth], way: str):
        self.generator, self.task, self.truths, self.way = generator, task, truths, way
        self.model, self.device = generator.model, generator.device

    @torch.no_grad()
    def frames(self) -> list[np.ndarray]:
        """uint8 (T, H, W, 3) of each truth."""
        from tqdm.auto import tqdm

        generator, size = self.generator, self.generator.args.batch_size
        dtype = generator.dtype
        drawn = []
        for first in tqdm(range(0, len(self.truths), size), desc=self.way, unit="batch"):
            numbers = list(range(first, min(first + size, len(self.truths))))
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                videos = self._draw(numbers)
            drawn += [self._finished(n, to_uint8(video)) for n, video in zip(numbers, videos, strict=True)]
        return drawn

    def _draw(self, numbers: list[int]) -> torch.Tensor:
        generator, task = self.generator, self.task
        chosen = [self.truths[n] for n in numbers]
        prompts = [task.asks(truth) if task.asks else truth.prompt for truth in chosen]
        how = {**generator.how, "negative_prompt": generator.args.negative_prompt}
        if self.way == "conditioned":
            how["conditions"] = self._given(chosen, task.needs)
        elif self.way == "swapped":
            others = [self.truths[(n + 1) % len(self.truths)] for n in numbers]
            how["conditions"] = self._given(others, task.needs)
        elif self.way == "replacement":
            how["replacement"] = self._replacement(chosen)
        elif self.way == "sdedit":
            how |= {"start": self._clips(chosen), "strength": STRENGTH}
        elif self.way.startswith("inversion"):
            given = self._given(chosen, "depth") if self.way.endswith("depth") else {}
            how |= {"sampler": "ddim", "noise": self._inverted(chosen, numbers, given), "conditions": given}
            how["strength"] = STRENGTH
        seeds = [generator.args.seed + n for n in numbers]
        return self.model.sample(prompts, seeds, num_frames=generator.num_frames, **how)

    def _given(self, truths: list[Truth], name: str) -> dict[str, torch.Tensor]:
        """One condition alone, of these truths."""
        settings = self.generator.conditions
        settings = ConditionSettings(name == "known", settings.maps, settings.vectors, settings.fold)
        batch, mask = {"video": torch.stack([truth.video for truth in truths])}, None
        if name == "known":
            mask = torch.stack([self.task.mask(truth) for truth in truths])
        else:
            batch["conditions"] = {name: torch.stack([truth.conditions[name] for truth in truths])}
            batch["present"] = {name: torch.ones(len(truths))}
        return given_of(batch, settings, self.model.autoencoder, self.device, mask=mask)

    def _clips(self, truths: list[Truth]) -> torch.Tensor:
        videos = torch.stack([truth.video for truth in truths]).to(self.device)
        return videos if self.model.autoencoder is None else self.model.autoencoder.encode(videos)

    def _replacement(self, truths: list[Truth]) -> tuple[torch.Tensor, torch.Tensor]:
        holes = 1 - torch.stack([self.task.mask(truth) for truth in truths]).to(self.device)
        return self._clips(truths), kept_places(holes, self.model.autoencoder)

    def _inverted(self, truths: list[Truth], numbers: list[int], given: dict) -> torch.Tensor:
        texts, mask = self.model.text_encoder.encode([truth.prompt for truth in truths])
        generators = [torch.Generator().manual_seed(self.generator.args.seed + n) for n in numbers]
        how = {"num_inference_steps": self.generator.num_inference_steps, "conditions": given, "strength": STRENGTH}
        clips = self._clips(truths)
        return invert(self.model.diffusion, clips, texts, self.model.needed(mask), generators=generators, **how)

    def _finished(self, n: int, frames: np.ndarray) -> np.ndarray:
        """Inpainting leaves what is outside as it was."""
        if self.task is not TASKS["inpainting"]:
            return frames
        truth = self.truths[n]
        hole = ~self.task.mask(truth)[0].bool().numpy()
        return blended(to_uint8(truth.video), frames, hole, 0)

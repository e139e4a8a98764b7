"""A training run: all that trainers share, so that a script keeps the loop that shows how its model learns.

    run = TrainingRun(args, "text2video", FREE, REMEDIES)    # run folder, devices, and what it resumes from
    model = run.prepare(model, optimizer, ...)               # schedule, moving average, what was saved of both
    with run:                                                # signals, logs, errors that are told in one line
        for batches in run.steps():                          # ends at max_train_steps, or at a signal, saved
            for batch in batches:                            # gradient_accumulation_steps of them
                run.backward(loss_of(model, batch))
            run.update()                                     # clip, guard, optimizer, schedule, moving average, log
            if run.due("validate"):
                with run.averaged():
                    run.log({"val/loss": validation_loss(model)})

What is learnt, drawn or validated is the script's. The step is the only clock: all random numbers of a step follow from
(seed, step, micro-batch, process), and so a resumed run equals an uninterrupted one.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from utils.arguments.training import TRACKERS
from utils.cli import resume_command
from utils.data.readable import ReadableClips
from utils.logs.metrics import Metrics
from utils.logs.plots import plot_metrics
from utils.logs.samples import write_samples
from utils.logs.trackers import log_media, start_trackers
from utils.runs.checkpoint import check_room, find_run, restore_training_state, save_checkpoint, training_state, whole
from utils.runs.out_of_memory import explain_out_of_memory
from utils.runs.run_folder import check_clips, check_settings, write_settings
from utils.training.batches import Batches, saved_first
from utils.training.divergence import NumberGuard
from utils.training.ema import ema_weights, evaluation_mode, moving_average
from utils.training.optimizers import learning_rate_schedule
from utils.training.order import BucketSampler, EndlessSampler, seed_step
from utils.training.processes import any_process, fit_fsdp, make_accelerator
from utils.training.signals import StopSignals


class TrainingRun:
    """One training, new or resumed, in its folder; `args` has the flags of utils/arguments/training.py.

    name: of the runs of this trainer. free: settings that may differ when a run is resumed. remedies: the flags that
    help when memory is short, in the order to try them.

    step: finished optimizer steps. resumed: the checkpoint that it goes on from, or None. state: plain data that is
    saved with it and found again in a resumed run. Raises UserError if there is nothing to resume, if the settings are
    not those of the run, or if another process works in its folder.
    """

    def __init__(self, args: argparse.Namespace, name: str, free: set[str], remedies: str):
        self.args, self.remedies = args, remedies
        self.run_dir, self.resumed = find_run(args.resume, args.output_dir, Path("checkpoints"), name)
        if self.resumed:
            check_settings(self.run_dir, vars(args), free)
        self.accelerator = make_accelerator(args, name, self.run_dir)
        self.device, self.say = self.accelerator.device, self.accelerator.print
        self.main_process = self.accelerator.is_main_process
        if self.main_process:
            write_settings(self.run_dir, vars(args))
        self.state = dict(self.resumed.state) if self.resumed else {}
        self.step: int = self.state.get("step", 0)
        self.signals, self.stopping = StopSignals(), False

    def check_clips(self, flag: str, digests: dict[str, str]) -> None:
        """Refuse to resume on other clips than before, {name: digest} in order; `flag` names their folder."""
        if self.resumed:
            check_clips(flag, self.state.get("clips"), digests, self.args.allow_dataset_change)
        self.state["clips"] = digests

    def samples_per_step(self, batch_size: int) -> int:
        """Samples that all processes together take in an optimizer step, for a batch size per process."""
        return batch_size * self.args.gradient_accumulation_steps * self.accelerator.num_processes

    def prepare(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train_set,
        batch_size: int,
        max_train_steps: int,
        weights: Callable[[], dict[str, dict[str, Tensor]]],
        result_bytes: int | None = None,
    ) -> nn.Module:
        """The model as accelerate wraps it; with it whatever a checkpoint holds besides weights is restored.

        train_set: samples by (epoch, index), as dicts that default_collate takes; "path" names a sample's file. If it
        has groups (see ReadableClips), no batch mixes them.
        weights: groups of named tensors that a checkpoint keeps; to load them back, from `resumed.tensors`, is the
        script's.
        result_bytes: size of what the training leaves besides checkpoints, if that is not the weights.
        """
        args, accelerator = self.args, self.accelerator
        self.batch_size, self.max_train_steps, self.weights = batch_size, max_train_steps, weights
        self.train_set = train_set
        self.schedule = learning_rate_schedule(args.lr_scheduler, optimizer, args.lr_warmup_steps, max_train_steps)
        fit_fsdp(accelerator, model)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.ema = moving_average(self.parameters, args.ema_decay)
        if self.resumed:
            restore_training_state(self.resumed, self.optimizer.optimizer, self.schedule, self.ema, accelerator.scaler)
        check_room(self.run_dir, args.checkpoints_total_limit, self.parameters, self.ema, result_bytes)
        return self.model

    # ------------------------------------------------------------------------------------------ the time of training

    def __enter__(self) -> "TrainingRun":
        args, accelerator = self.args, self.accelerator
        self.state["wandb_run_id"] = start_trackers(
            accelerator,
            TRACKERS[args.report_to],
            args.wandb_project,
            self.run_dir,
            vars(args),
            self.state.get("wandb_run_id"),
        )
        self.metrics = Metrics(self.run_dir / "metrics.jsonl", self.step, accelerator.log, self.main_process)
        rank, world_size = accelerator.process_index, accelerator.num_processes
        start = self.step * self.samples_per_step(self.batch_size)
        groups = self.train_set.groups() if isinstance(self.train_set, ReadableClips) else ()
        if len(groups) > 1:
            sampler = BucketSampler(groups, self.batch_size, args.seed, start, rank, world_size)
        else:
            sampler = EndlessSampler(len(self.train_set), args.seed, start, rank, world_size)
        pin_memory, kept = self.device.type == "cuda", args.gradient_accumulation_steps
        self.batches = Batches(self.train_set, self.batch_size, args.num_workers, sampler, pin_memory, kept)
        self.numbers = NumberGuard(accelerator, self.batches, self.run_dir, args.seed)
        self.bar = tqdm(
            total=self.max_train_steps,
            initial=self.step,
            desc="training",
            unit="step",
            disable=not self.main_process,
        )
        if self.step >= self.max_train_steps:
            self.say(f"{self.run_dir} has its {self.max_train_steps} steps already; --max_train_steps continues it")
        self.model.train()
        self.contexts = ExitStack()
        self.contexts.callback(self.batches.close)
        for context in (
            self.bar,
            self.signals,
            explain_out_of_memory(self.remedies, vars(args), self.run_dir),
            saved_first(self.save, self.run_dir, lambda: self.step),
        ):
            self.contexts.enter_context(context)
        return self

    def __exit__(self, *error) -> None:
        """Tell how it ended. Raises Stopped if a signal asked for it."""
        self.contexts.__exit__(*error)
        if error[0] is not None:
            return
        if self.signals.received is not None:
            self.say(f"stopped after step {self.step} of {self.max_train_steps}, saved in {self.run_dir}")
            self.say(f"continue with: {resume_command(self.run_dir)}")
        self.accelerator.end_training()
        if self.main_process:
            plot_metrics(self.metrics.rows, self.run_dir / "loss.png")
        self.signals.leave()

    def steps(self) -> Iterator[Iterator[dict]]:
        """For each optimizer step its micro-batches; what is due is saved once the body of the loop is through."""
        self._begin_row()
        while self.step < self.max_train_steps and not self.stopping:
            before, self.losses = self.step, {}
            yield self._micro_batches()
            if self.step != before + 1:
                raise RuntimeError("the loop over TrainingRun.steps() has to call update() once in each step")
            if self.stopping or self.due("checkpoint"):
                self.save()

    def _micro_batches(self) -> Iterator[dict]:
        for micro in range(self.args.gradient_accumulation_steps):
            started = time.perf_counter()
            batch = next(self.batches)
            self.waited += time.perf_counter() - started
            seed_step(self.args.seed, self.step, micro, self.accelerator.process_index)
            with self.accelerator.accumulate(self.model):
                yield batch

    def backward(self, loss: Tensor, **logged: Tensor) -> None:
        """Gradients of the mean over the step's micro-batches. logged: further numbers, as train/loss_<name>."""
        self.accelerator.backward(loss)
        for name, value in {"loss": loss, **{f"loss_{name}": value for name, value in logged.items()}}.items():
            share = value.detach() / self.args.gradient_accumulation_steps
            self.losses[name] = self.losses[name] + share if name in self.losses else share

    def update(self) -> None:
        """End the step: clip, refuse numbers that are none, optimizer, schedule, moving average, log.

        Raises Diverged, with the weights as they were, for a loss or a gradient that is not a number.
        """
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.args.max_grad_norm)
        *losses, grad_norm = self._on_the_cpu([*self.losses.values(), grad_norm])
        self.rows.append(losses)
        self.numbers.check(self.step + 1, losses[0], grad_norm, self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.numbers.overflowed():
            self.schedule.step()
            if self.ema is not None:
                self.ema.step(self.parameters)
        self.step += 1
        means = [sum(column) / len(self.rows) for column in zip(*self.rows, strict=True)]
        self.bar.update()
        self.bar.set_postfix(loss=f"{means[0]:.4f}")
        self.stopping = any_process(self.accelerator, self.signals.received is not None)
        if self.last or self.step % self.args.log_every == 0:
            self._log_row(dict(zip(self.losses, means, strict=True)), grad_norm)

    @staticmethod
    def _on_the_cpu(numbers: list[Tensor]) -> list[float]:
        """Their values. A GPU has to finish its work for each look at it: one, in which all are seen."""
        return torch.stack([whole(number).float() for number in numbers]).tolist()

    def _begin_row(self) -> None:
        self.waited, self.since, self.rows = 0.0, time.perf_counter(), []

    def _log_row(self, losses: dict[str, float], grad_norm: float) -> None:
        elapsed = time.perf_counter() - self.since
        numbers = {
            **losses,
            "learning_rate": self.schedule.get_last_lr()[0],
            "grad_norm": grad_norm,
            "skipped_steps": self.numbers.skipped,
            "data_wait_share": self.waited / elapsed,
            "steps_per_second": len(self.rows) / elapsed,
            "epoch": self.step * self.samples_per_step(self.batch_size) / len(self.train_set),
        }
        self.log({f"train/{name}": value for name, value in numbers.items()})
        self._begin_row()

    # -------------------------------------------------------------------------------------- what a script asks or says

    @property
    def last(self) -> bool:
        """Whether all steps are done."""
        return self.step == self.max_train_steps

    def due(self, what: str) -> bool:
        """Whether it is time to do so after this step: at multiples of --<what>_every and at the end.

        A run that was asked to stop only saves; what it left out a resumed run makes up for, see `missed`.
        """
        every = getattr(self.args, f"{what}_every")
        return self.last or (every > 0 and self.step % every == 0 and not self.stopping)

    def missed(self, what: str, name: str) -> bool:
        """Whether a number that belongs to the present step, at --<what>_every, is not among the metrics yet."""
        return self.step % getattr(self.args, f"{what}_every") == 0 and self.metrics.lacks(name, self.step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside the block the model has its averaged weights and is in eval mode."""
        with ema_weights(self.ema, self.parameters), evaluation_mode(self.model):
            yield

    def log(self, values: dict[str, float]) -> None:
        """Numbers of the present step, for metrics.jsonl and the trackers."""
        self.metrics.write(self.step, **values)

    def log_samples(self, clips: Sequence[np.ndarray], names: Sequence[str], fps: Sequence[float]) -> None:
        """Sample videos, uint8 (T, H, W, 3) each, for samples/step_<step>/ with a contact sheet, and the trackers."""
        if self.main_process:
            paths, sheet = write_samples(self.run_dir / "samples" / f"step_{self.step:06d}", clips, names, fps)
            log_media(self.accelerator, self.step, dict(zip(names, paths, strict=True)), sheet)

    def save(self) -> None:
        """Everything that the next step depends on, so that a resumed run equals an uninterrupted one.

        All processes gather it, where FSDP has spread it over them; the main process writes.
        """
        tensors, plain = training_state(self.optimizer.optimizer, self.schedule, self.ema, self.accelerator.scaler)
        tensors |= self.weights()  # which may also bring the state up to date
        now = {**self.state, **plain, "step": self.step}
        if self.main_process:
            save_checkpoint(self.run_dir, self.step, tensors, now, self.args.checkpoints_total_limit)

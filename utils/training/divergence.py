"""Losses and gradients that are not numbers: kept out of the weights, their clips left in a folder to be looked at."""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

from utils.cli import Diverged, printable
from utils.runs.run_folder import how_to_continue
from utils.training.batches import Batches, names
from utils.training.processes import any_process

MOST_SKIPPED = 50  # steps in a row


class NumberGuard:
    """Watches the numbers of every step.

    skipped: steps that the GradScaler of fp16 left out because their gradients overflowed. It halves its scale until
    they fit, so some are normal; more than MOST_SKIPPED in a row are not.
    """

    def __init__(self, accelerator, batches: Batches, run_dir: Path, seed: int):
        self.accelerator, self.batches, self.run_dir, self.seed = accelerator, batches, run_dir, seed
        self.skipped = self.in_a_row = 0
        self.scale = 0.0
        self.now: dict[str, float] = {}

    def check(self, step: int, loss: float, grad_norm: float, learning_rate: float) -> None:
        """Call it before the optimizer's step. Raises Diverged, on all processes together, if there is no way on."""
        self.now = {"step": step, "loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
        scaler = self.accelerator.scaler
        if scaler is not None:
            self.scale = scaler.get_scale()
        good = math.isfinite(loss) and (math.isfinite(grad_norm) or scaler is not None)
        if any_process(self.accelerator, not good):
            self._end("the weights were not changed")

    def overflowed(self) -> bool:
        """Whether the optimizer's step was skipped; then the schedule and the moving average must not move either."""
        scaler = self.accelerator.scaler
        # accelerate's optimizer.step_was_skipped is never true of a fused optimizer, which does the skipping itself.
        if scaler is None or scaler.get_scale() >= self.scale:
            self.in_a_row = 0
            return False
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row > MOST_SKIPPED:
            self._end(f"fp16 has skipped {self.in_a_row} steps in a row")
        return True

    def _end(self, what: str) -> None:
        now = self.now
        clips = names([path for batch in self.batches.recent for path in batch.get("path", ())])
        raise Diverged(
            f"step {now['step']}: loss {now['loss']:g}, gradient norm {now['grad_norm']:g}, learning rate "
            f"{now['learning_rate']:g}, clips {clips} (see {self._write()}): {what}. Mend the clips, or start a run "
            f"with a lower --learning_rate or --mixed_precision no; {how_to_continue(self.run_dir)}"
        )

    def _write(self) -> Path:
        """The batches of the step, for a closer look: nothing that a training could be resumed from."""
        rank = self.accelerator.process_index
        folder = self.run_dir / "crash" / (f"step-{self.now['step']:08d}" + (f"-process-{rank}" if rank else ""))
        tensors, plain = {}, []
        for micro, batch in enumerate(self.batches.recent):
            tensors |= {f"{micro}.{name}": value for name, value in batch.items() if isinstance(value, torch.Tensor)}
            plain.append({name: value for name, value in batch.items() if not isinstance(value, torch.Tensor)})
        about = {**self.now, "seed": self.seed, "micro_batches": plain}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(about, indent=1, ensure_ascii=False, default=str) + "\n"
            (folder / "step.json").write_text(text, encoding="utf-8")
            save_file(tensors, folder / "batches.safetensors")
        except Exception as error:  # a full disk, say, must not hide what happened
            print(f"warning: {folder} is not complete ({printable(error)})")
        return folder

"""Checkpoints that are whole or absent.

A checkpoint is a folder checkpoint-00000500/ of safetensors files and state.json, written under another name, synced,
sealed by manifest.json with the SHA-256 of every file, and renamed. Nothing that is loaded here can execute code.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from utils.cli import UserError, without_secrets

MANIFEST, CHECKPOINT_FORMAT = "manifest.json", 1


class CheckpointError(ValueError):
    """Why a checkpoint cannot be used, in one line."""


def save_checkpoint(
    run_dir: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict, keep: int
) -> Path:
    """Write run_dir/checkpoint-<step> from groups of named tensors and plain JSON data; keep the newest `keep`.

    The older ones are removed only when the new one is complete, so at every moment one can be loaded.
    """
    final = run_dir / f"checkpoint-{step:08d}"
    partial = run_dir / f".checkpoint-{step:08d}-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for group, named in tensors.items():
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()},
                partial / f"{group}.safetensors",
            )
        (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        files = {path.name: sha256(path) for path in sorted(partial.iterdir())}
        manifest = {"format": CHECKPOINT_FORMAT, "step": step, "sha256": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in (*partial.iterdir(), partial):
            _sync(path)
        shutil.rmtree(final, ignore_errors=True)  # only a broken one can be in the way
        os.rename(partial, final)
        _sync(run_dir)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in list_checkpoints(run_dir)[keep:]:
        shutil.rmtree(old)
    return final


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, newest first."""
    return sorted((path for path in run_dir.glob("checkpoint-*") if path.is_dir()), reverse=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """(tensors, state) as they were given to save_checkpoint. Raises CheckpointError if any file is not what it was."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] > CHECKPOINT_FORMAT:
            found = f"format {manifest['format']}, this program reads up to {CHECKPOINT_FORMAT}"
            raise CheckpointError(f"{folder} has {found}: update it")
        files = manifest["sha256"]
        for name, digest in files.items():
            if sha256(folder / name) != digest:
                raise CheckpointError(f"{folder / name} is damaged (its SHA-256 differs from the manifest)")
        tensors = {Path(name).stem: load_file(folder / name) for name in files if name.endswith(".safetensors")}
        for group, named in tensors.items():
            require_numbers({f"{group}: {name}": tensor for name, tensor in named.items()})
        return tensors, json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged file provokes in a library, it means one thing
        raise CheckpointError(f"{folder} is not a complete checkpoint ({error})") from None


def newest_checkpoint(run_dir: Path) -> tuple[Path, dict[str, dict[str, torch.Tensor]], dict] | None:
    """(folder, tensors, state) of the newest checkpoint that verifies; None if the run has none at all.

    Damaged ones are passed over by name. Raises UserError if there are checkpoints and all are damaged: a run never
    starts over silently.
    """
    reasons = []
    for folder in list_checkpoints(run_dir):
        try:
            tensors, state = load_checkpoint(folder)
        except CheckpointError as error:
            print(f"warning: passing over {error}", flush=True)
            reasons.append(str(error))
            continue
        return folder, tensors, state
    if reasons:
        raise UserError(f"--resume: no checkpoint of {run_dir} can be used: {'; '.join(reasons)}")
    return None


@dataclass
class Resumed:
    """What a run continues from: groups of named tensors and plain data, as they were given to save_checkpoint."""

    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict


def find_run(resume: str | None, output_dir: Path | None, root: Path, name: str) -> tuple[Path, Resumed | None]:
    """The run folder, and what to resume from (None for a new run).

    resume: None, a new run; "latest", the newest checkpoint of output_dir, or of the newest root/<name>_* run; "auto",
    the same, or a new run if there is none; or the path of a run folder or of a checkpoint in it. A new run without
    output_dir gets root/<name>_<time>. Raises UserError if there is nothing to resume, or if output_dir already holds
    a run and resume is None.
    """
    if resume in (None, "latest", "auto"):
        runs = [output_dir] if output_dir else sorted(root.glob(f"{name}_*"), reverse=True)
        runs = [run for run in runs if list_checkpoints(run)]
        if resume is None and output_dir and runs:
            raise UserError(
                f"--output_dir: {output_dir} holds a run; continue it with --resume latest, or choose another folder"
            )
        if resume is None or (resume == "auto" and not runs):
            return output_dir or root / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}", None
        if not runs:
            raise UserError(
                f"--resume: there is no checkpoint in {output_dir or root}; leave --resume out to start a run"
            )
        folder = runs[0]
    else:
        folder = Path(resume)
    if (folder / MANIFEST).exists():
        try:
            tensors, state = load_checkpoint(folder)
        except CheckpointError as error:
            others = ", ".join(path.name for path in list_checkpoints(folder.parent) if path != folder)
            raise UserError(f"--resume: {error}; others in this run: {others or 'none'}") from None
        run_dir = folder.parent
    else:
        found = newest_checkpoint(folder)
        if found is None:
            raise UserError(f"--resume: there is no checkpoint in {folder}; leave --resume out to start a run")
        checkpoint, tensors, state = found
        folder, run_dir = checkpoint, folder
    print(f"resuming from {folder}", flush=True)
    return run_dir, Resumed(tensors, state)


def write_settings(run_dir: Path, settings: dict) -> None:
    """Keep the flags of a run in args.json."""
    plain = without_secrets({key: str(v) if isinstance(v, Path) else v for key, v in settings.items()})
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "args.json").write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output_dir: {run_dir} cannot be written ({error.strerror})") from None


def check_settings(run_dir: Path, settings: dict, free: set[str]) -> None:
    """Raises UserError that names each setting, not in `free`, that differs from the args.json of a resumed run."""
    try:
        before = dict(json.loads((run_dir / "args.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--resume: {run_dir / 'args.json'} cannot be read ({error}); start a new run") from None
    now = without_secrets({key: str(v) if isinstance(v, Path) else v for key, v in settings.items()})
    changes = [
        f"--{key} {before[key]} -> {now[key]}" for key in before.keys() & now.keys() - free if before[key] != now[key]
    ]
    if changes:
        raise UserError(
            f"--resume: {run_dir} was started with other settings: {', '.join(sorted(changes))}; use the same ones"
        )


def training_state(optimizer, schedule, ema, scaler) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """What the next step depends on besides the weights: (groups of named tensors, plain data) for save_checkpoint.

    ema and scaler may be None. Where FSDP has spread the tensors over processes, all of them have to call.
    """
    state = optimizer.state_dict()
    tensors = {
        "optimizer": {
            f"{i}.{name}": whole(value) if isinstance(value, torch.Tensor) else torch.tensor(value)
            for i, moments in state["state"].items()
            for name, value in moments.items()
        }
    }
    plain = {
        "optimizer_groups": state["param_groups"],
        "schedule": {key: value for key, value in schedule.state_dict().items() if key != "lr_lambdas"},
        "scaler": scaler.state_dict() if scaler is not None else None,
    }
    if ema is not None:
        plain["ema"] = ema.state_dict()
        averages = plain["ema"].pop("shadow_params")
        tensors["ema"] = {str(i): whole(average) for i, average in enumerate(averages)}
    return tensors, plain


def restore_training_state(resumed: Resumed, optimizer, schedule, ema, scaler) -> None:
    """The inverse of training_state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {}
    for key, value in resumed.tensors["optimizer"].items():
        i, name = key.split(".", 1)
        parameter = parameters[int(i)]
        if value.dtype == torch.int64:  # the step counter of an 8-bit optimizer, a plain number
            value = value.item()
        elif value.shape == parameter.shape:
            value = spread(value, parameter)
        moments.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": resumed.state["optimizer_groups"]})
    schedule.load_state_dict({**resumed.state["schedule"], "lr_lambdas": [None] * len(optimizer.param_groups)})
    if scaler is not None:
        scaler.load_state_dict(resumed.state["scaler"])
    if ema is not None:
        shadow = [spread(resumed.tensors["ema"][str(i)], parameter) for i, parameter in enumerate(parameters)]
        ema.load_state_dict({**resumed.state["ema"], "shadow_params": shadow})


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that FSDP has spread over processes, in one piece (all of them have to ask); others as they are."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A whole tensor, on the device of `parameter` and spread over processes as it is: the inverse of `whole`."""
    tensor = tensor.to(parameter.device)
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


def require_numbers(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError that names the first tensor that holds a NaN or an infinity."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.sum(dtype=torch.float32)):
            raise ValueError(f"{name} holds values that are not numbers")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Ask the kernel to put a file or folder on the disk: a rename alone does not survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

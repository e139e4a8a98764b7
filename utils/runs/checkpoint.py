"""Checkpoints that are whole or absent.

A checkpoint is a folder checkpoint-00000500/ of safetensors files and state.json, written under another name, synced,
sealed by manifest.json with the SHA-256 of every file, and renamed. Nothing that is loaded here can execute code.
"""

import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from utils.cli import UserError, out_of_memory, printable
from utils.files import explain_full_disk, free_space, partial_path, size, sync_to_disk
from utils.runs.run_folder import CHECKPOINT_NAME, first_process, list_checkpoints, lock_run
from utils.tensors import require_numbers, tensor_bytes

MANIFEST, CHECKPOINT_FORMAT = "manifest.json", 1


class CheckpointError(ValueError):
    """Why a checkpoint cannot be used, in one line."""


def save_checkpoint(
    run_dir: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict, keep: int
) -> Path:
    """Write run_dir/checkpoint-<step> from groups of named tensors and plain JSON data; keep it and `keep` - 1 older.

    What is removed, the oldest and those of later steps, goes only when the new one is complete: at every moment one
    can be loaded. Raises UserError if the disk is full.
    """
    final = run_dir / f"checkpoint-{step:08d}"
    partial = partial_path(final)
    with explain_full_disk(final, tensor_bytes(tensors), "make room, then --resume continues"):
        try:
            partial.mkdir(parents=True)
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
                sync_to_disk(path)
            if final.exists():  # later than what the run was resumed from
                _remove(final)
            os.rename(partial, final)
            sync_to_disk(run_dir)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    others = [path for path in list_checkpoints(run_dir) if path != final]
    earlier = [path for path in others if path.name < final.name]
    for old in [path for path in others if path not in earlier[: keep - 1]]:
        _remove(old)
    return final


def _remove(checkpoint: Path) -> None:
    """Take a checkpoint away in one step, so that a kill leaves no half of it; lock_run removes the rest then."""
    partial = partial_path(checkpoint)
    os.rename(checkpoint, partial)
    shutil.rmtree(partial, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """(tensors, state) as they were given to save_checkpoint. Raises CheckpointError if any file is not what it was."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest["format"] > CHECKPOINT_FORMAT:
            found = f"format {manifest['format']}, this program reads up to {CHECKPOINT_FORMAT}"
            raise CheckpointError(f"{folder} has {found}: update it")
        if manifest["format"] < 1 or folder.name != f"checkpoint-{manifest['step']:08d}":
            raise CheckpointError(f"{folder / MANIFEST} is damaged, or its folder was renamed")
        files = manifest["sha256"]
        for name, digest in files.items():
            if Path(name).name != name or not (folder / name).is_file():  # a device, say, of which there is no end
                raise CheckpointError(f"{folder} has no file {name}")
            if sha256(folder / name) != digest:
                raise CheckpointError(f"{folder / name} is damaged (its SHA-256 differs from the manifest)")
        tensors = {Path(name).stem: load_file(folder / name) for name in files if name.endswith(".safetensors")}
        for group, named in tensors.items():
            require_numbers({f"{group}: {name}": tensor for name, tensor in named.items()})
        return tensors, json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged file provokes in a library, it means one thing
        if out_of_memory(error):
            raise
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
            if first_process():
                print(f"warning: passing over {printable(error)}", file=sys.stderr, flush=True)
            reasons.append(str(error))
            continue
        return folder, tensors, state
    if reasons:
        raise UserError(f"--resume: no checkpoint of {run_dir} can be used: {'; '.join(reasons)}")
    return None


def _set_aside(damaged: list[Path]) -> None:
    """Rename damaged checkpoints, so that they do not count among those to be kept."""
    for folder in damaged:
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
        print(f"{folder.name} is now {aside.name}", file=sys.stderr, flush=True)


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
    one = None  # a certain checkpoint that is asked for
    if resume in (None, "latest", "auto"):
        runs = [output_dir] if output_dir else sorted(root.glob(f"{name}_*"), reverse=True)
        runs = [run for run in runs if list_checkpoints(run)]
        if resume is None and output_dir and runs:
            raise UserError(
                f"--output_dir: {output_dir} holds a run; continue it with --resume latest, or choose another folder"
            )
        if resume is None or (resume == "auto" and not runs):
            run_dir = output_dir or root / f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
            lock_run(run_dir)
            return run_dir, None
        run_dir = runs[0] if runs else output_dir or root
    elif CHECKPOINT_NAME.fullmatch(Path(resume).name):
        one = Path(resume)
        run_dir = one.parent
    else:
        run_dir = Path(resume)
    if not list_checkpoints(run_dir):
        raise UserError(f"--resume: there is no checkpoint in {run_dir}; leave --resume out to start a run")
    lock_run(run_dir)
    if one is None:
        one, tensors, state = newest_checkpoint(run_dir)
        if first_process():
            _set_aside([path for path in list_checkpoints(run_dir) if path.name > one.name])
    else:
        others = [path.name for path in list_checkpoints(run_dir) if path.name != one.name]
        try:
            tensors, state = load_checkpoint(one)
        except CheckpointError as error:
            raise UserError(f"--resume: {error}; others in this run: {', '.join(others) or 'none'}") from None
        if first_process() and (later := [name for name in others if name > one.name]):
            print(f"the next checkpoint will replace the later {', '.join(later)}", flush=True)
    if first_process():
        print(f"resuming from {one}", flush=True)
    return run_dir, Resumed(tensors, state)


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


def check_room(run_dir: Path, keep: int, parameters: list[torch.nn.Parameter], ema, result: int | None = None) -> None:
    """Is there room for `keep` checkpoints, one more in the making, and what is left at the end?

    result: the size of that in bytes; None: the weights. Raises UserError that says how much is needed and free.
    """
    if not first_process():
        return
    weights = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    checkpoint = weights * (3 if ema is None else 4)  # with two moments of each weight, and its average
    stored = sum(path.stat().st_size for folder in list_checkpoints(run_dir) for path in folder.iterdir())
    needed, free = (keep + 1) * checkpoint + (weights if result is None else result) - stored, free_space(run_dir)
    if free < needed:
        raise UserError(
            f"--output_dir: {run_dir} needs {size(needed)}, {size(free)} are free: {keep} checkpoints of "
            f"{size(checkpoint)}, one more in the making, and the result; make room, or choose another disk"
        )


def restore_training_state(resumed: Resumed, optimizer, schedule, ema, scaler) -> None:
    """The inverse of training_state. Raises UserError if the optimizer that wrote it is not this one."""
    stored, groups = resumed.state["optimizer_groups"], optimizer.param_groups
    if [len(group["params"]) for group in stored] != [len(group["params"]) for group in groups]:
        raise UserError(
            "--resume: this checkpoint is of another version of the trainer, which shared the weights out among its "
            "optimizers in another way; go on with that version, or start a new run with another --output_dir"
        )
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


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

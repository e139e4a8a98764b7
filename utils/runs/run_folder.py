"""The folder of a training run: who works in it, how it was started, and on which clips.

No torch here: whatever can be refused is refused before it is imported.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import socket
import time
from pathlib import Path

from utils.arguments.presets import as_toml
from utils.cli import UserError, printable, without_secrets
from utils.files import PARTIAL, write_text

CHECKPOINT_NAME = re.compile(r"checkpoint-\d{8,}")
# Settings of one start, not of the run.
OF_ONE_START = {"output_dir", "resume", "allow_dataset_change", "debug"}


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoint folders of a run, newest first."""
    found = (path for path in run_dir.glob("checkpoint-*") if CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def newest_step(run_dir: Path) -> int:
    """The step of the newest checkpoint of a run; 0 if there is none."""
    return max((int(folder.name.removeprefix("checkpoint-")) for folder in list_checkpoints(run_dir)), default=0)


def how_to_continue(run_dir: Path) -> str:
    """The end of a message about a training that failed."""
    step = newest_step(run_dir)
    return f"--resume {run_dir} continues after step {step}" if step else "there is no checkpoint yet"


def first_process() -> bool:
    """Whether this is the first of the processes of torchrun or accelerate, which may not have met yet."""
    return os.environ.get("RANK", "0") == "0"


def lock_run(run_dir: Path) -> None:
    """Make run_dir, hold it until this process ends, and remove what a killed one left half-done in it.

    Raises UserError that names the process that holds it. Of several processes of one training the first one holds it.
    """
    if not first_process():
        return
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        file = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"--output_dir: {printable(run_dir)} cannot be written ({error.strerror})") from None
    try:
        # Not flock: the DataLoader's workers would inherit that, and they outlive a killed trainer by seconds. The file
        # is never closed, so the kernel lets go when this process ends, however it ends.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            print(f"warning: {printable(run_dir)} cannot be locked ({error.strerror}): start no second run in it")
            return
        holder = os.read(file, 200).decode(errors="replace").strip() or "another process"
        os.close(file)
        raise UserError(
            f"--output_dir: {printable(run_dir)} is in use by {holder}; wait for it, or choose another folder"
        ) from None
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.ftruncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()} since {since}\n".encode())
    for rest in (*run_dir.glob(f"{PARTIAL}*"), *run_dir.glob(f"samples/*/{PARTIAL}*")):
        shutil.rmtree(rest) if rest.is_dir() else rest.unlink()


def write_settings(run_dir: Path, settings: dict) -> None:
    """Keep the flags of a run in args.json, and in config.toml as `--config` takes them for another run."""
    write_text(run_dir / "args.json", json.dumps(_plain(settings), indent=2, ensure_ascii=False) + "\n", sync=True)
    kept = {name: value for name, value in settings.items() if name not in OF_ONE_START | {"preset", "config"}}
    write_text(run_dir / "config.toml", as_toml(without_secrets(kept)))


def check_settings(run_dir: Path, settings: dict, free: set[str]) -> None:
    """Compare the flags with the args.json of a resumed run: say which of `free` differ.

    Raises UserError that names each of the others that differs, as it was and as it is.
    """
    try:
        before = dict(json.loads((run_dir / "args.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"--resume: {run_dir / 'args.json'} cannot be read ({error}); start a new run") from None
    now = _plain(settings)
    changed = sorted(key for key in before.keys() & now.keys() - OF_ONE_START if before[key] != now[key])

    def listed(keys: list[str]) -> str:
        return ", ".join(f"--{key} {before[key]} -> {now[key]}" for key in keys)

    if refused := [key for key in changed if key not in free]:
        raise UserError(f"--resume: {run_dir} was started with other settings: {listed(refused)}; use the same ones")
    if changed and first_process():
        print(f"settings that may change have changed: {printable(listed(changed))}", flush=True)


def _plain(settings: dict) -> dict:
    return without_secrets({key: str(value) if isinstance(value, Path) else value for key, value in settings.items()})


def check_clips(flag: str, before: dict[str, str] | None, now: dict[str, str], allowed: bool) -> None:
    """Compare the clips of a resumed run with those of now, {name: digest} in order; say what has changed.

    before: None of checkpoints that did not keep it yet. Raises UserError that names `flag` unless a change is allowed.
    """
    if before is None or list(before.items()) == list(now.items()):
        return
    changes = {
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "changed": [name for name in now if name in before and now[name] != before[name]],
    }
    found = [
        f"{len(names)} {how} ({', '.join(map(printable, names[:5]))}{', ...' if len(names) > 5 else ''})"
        for how, names in changes.items()
        if names
    ]
    said = ", ".join(found) or "they come in another order"
    if not allowed:
        raise UserError(
            f"{flag}: not the clips that this run was trained on: {said}; --allow_dataset_change resumes all the same"
        )
    if first_process():
        print(f"the clips have changed: {said}; their order and which ones validate are drawn anew", flush=True)

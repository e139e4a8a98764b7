"""Hostile text: prompts that become names of files, and control characters on their way to the terminal."""

import contextlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from tests.badinput.place import TRAIN, TRAIN_SVD, Outcome, Place, run_script, working_in
from tests.faults.place import Place as ProcessPlace
from utils.cli import printable
from utils.drawing.jobs import Job, file_stem
from utils.runs.checkpoint import MANIFEST, list_checkpoints

PIECES = (
    *("../", "..\\", "/", "\\", "C:\\", "~/", "./", "..", ".", "CON", "nul.txt", ":", "%2e%2e%2f", "%s", "$(id)"),
    *("\0", "\n", "\r", "\t", "\x1b[2J", "\x9b31m", "\u202e", "\u2028", "\ud800", "\udcff", "\ufeff", "\u0301" * 40),
    *("'", '"', "|", "&", ";", "*", "?", "<", ">", " ", "-", "--", "-rf", "é", "ß", "狗", "𝕏", "🚀" * 30, "a" * 300),
)


def escaping_prompts(folder: Path, count: int) -> list[str]:
    """Those of `count` fuzzed prompts whose file is not made in the folder, under a plain name of its own."""
    rng, escaping, names = random.Random(0), [], set()
    folder.mkdir()
    for number in range(count):
        prompt = "".join(rng.choices(PIECES, k=rng.randint(1, 12)))
        name = f"{file_stem(Job(number, prompt, 'all', number), {})}_frames"
        plain = name.isprintable() and not set(name) & set('/\\:*?"<>| .') and name not in names
        try:
            (folder / name).touch(exist_ok=False)
            inside = (folder / name).resolve() == folder.resolve() / name
        except (OSError, ValueError):
            inside = False
        if not (plain and inside):
            escaping.append(prompt)
        names.add(name)
    return escaping


EVIL = "\x1b[31mEVIL\x07\x9b31m\u202e"  # makes text red, rings, and turns the direction of writing
CONTROL = ("\x1b[31m", "\x07", "\x9b", "\u202e")


class Terminal:
    """Watches what scripts write. leaks: what let control characters through, or ended in a traceback."""

    def __init__(self):
        self.inputs, self.leaks = 0, []

    def meet(self, what: str, run: Callable[..., Outcome], *args, **kwargs) -> None:
        """Run a script in this process; also what native libraries write counts."""
        self.inputs += 1
        with tempfile.TemporaryFile() as file, contextlib.ExitStack() as stack:
            for stream in (1, 2):
                stack.callback(os.dup2, os.dup(stream), stream)
                os.dup2(file.fileno(), stream)
            outcome = run(*args, **kwargs)
            file.seek(0)
            said = outcome.out + outcome.err + file.read().decode(errors="replace")
        if lines := [line for line in said.split("\n") if any(c in line for c in CONTROL)]:
            self.leaks.append(f"{what}: {printable(lines[0])[:200]}")
        if outcome.status not in (0, 2) or "Traceback" in said:
            self.leaks.append(f"{what}: status {outcome.status}, {printable(said[-1500:])}")


def watch_terminal(place: Place) -> Terminal:
    """EVIL in every text that somebody else may have written: names, captions, prompts, models, settings, scores."""
    shared, folder, terminal = place.shared, place.folder, Terminal()
    names_and_captions(place, terminal)

    terminal.meet("prompts", place.generate, "--prompts", f"a {EVIL} red circle", f"{EVIL} " * 50)
    (folder / "prompts.txt").write_text(f"a {EVIL} circle\n{EVIL}" * 3)
    terminal.meet("prompts of a file", place.generate, "--prompts_file", folder / "prompts.txt")
    terminal.meet("prompts typed in", place.generate, stdin=f"a {EVIL} circle\n{EVIL}\n")
    terminal.meet("a prompt that is no text", place.generate, "--prompts", "a circle \udcff\ud800")

    (folder / "choice" / "checkpoints" / f"x{EVIL}").mkdir(parents=True)
    (folder / "choice" / "checkpoints" / f"x{EVIL}" / "best_model.pth").write_bytes(b"no model")
    with working_in(folder / "choice"):
        terminal.meet("models to choose from", run_script, "generate_text2video", (), f"1\n{EVIL}\n")
    for what, changes in {
        "a name in a model file": {"text_encoder": {"name": f"./{EVIL}", "revision": EVIL, "max_length": 77}},
        "settings in a model file": {"unet_config": {**shared.model["unet_config"], EVIL: 1, "conv_type": EVIL}},
        "weights in a model file": {"unet": {EVIL: torch.ones(1)}},
    }.items():
        torch.save({**shared.model, **changes}, folder / "model.pth")
        terminal.meet(what, place.generate, "--checkpoint", folder / "model.pth", "--prompts", "a")

    pictures = [folder / f"{name}{EVIL}.png" for name in ("a", "b")]
    for picture in pictures:
        Image.new("RGBA", (100, 300), "red").save(picture)
    small = ("--width", 64, "--height", 64, "--num_frames", 2, "--num_inference_steps", 1)
    argv = ("--model_dir", shared.svd, "--input_image", *pictures, "--output_dir", folder / "pictures", *small)
    terminal.meet("names of pictures", place.run, "infer_svd", *argv)
    terminal.meet("the name of a broken picture", place.animate, place.file(f"p{EVIL}.png", b"no picture"))
    svd = shutil.copytree(shared.svd, folder / "svd_of_others")
    (svd / "svd.json").write_text(json.dumps({"base_model": EVIL, "num_frames": EVIL, "width": EVIL, "fps": EVIL}))
    terminal.meet("svd.json", place.animate, shared.picture, model=svd)

    videos = folder / "videos_of_others"
    videos.mkdir()
    for path in (shared.data / "videos").iterdir():
        shutil.copy(path, videos / f"{path.stem}{EVIL}.mp4")
        (videos / f"{path.stem}{EVIL}.txt").write_text(f"a red circle {EVIL}")
    evaluate = ("--videos", videos, "--data_dir", place.data, "--output_dir", folder / "evaluation")
    terminal.meet("videos to evaluate", place.run, "evaluate_text2video", *evaluate)
    scores = folder / "evaluation.json"
    scores.write_text(json.dumps({EVIL: EVIL, "groups": {EVIL: {"count": 3, "all": 0.5}}, "videos": EVIL}))
    terminal.meet("scores to compare", place.run, "evaluate_text2video", "--compare", scores, scores)

    run_dir = shutil.copytree(shared.run_dir, folder / "run")
    settings = json.loads((run_dir / "args.json").read_text())
    (run_dir / "args.json").write_text(json.dumps({**settings, "wandb_project": EVIL}))
    resume = ("--data_dir", shared.data, *TRAIN, "--max_train_steps", 2, "--resume", run_dir)
    terminal.meet("args.json of a run", place.run, "train_text2video", *resume)
    newest = list_checkpoints(run_dir)[0]
    manifest = json.loads((newest / MANIFEST).read_text())
    (newest / MANIFEST).write_text(json.dumps({**manifest, "sha256": {EVIL: EVIL, **manifest["sha256"]}}))
    (newest / EVIL).touch()
    terminal.meet("the manifest of a checkpoint", place.run, "train_text2video", *resume)

    # In a process of its own, for a stream that refuses what is no text.
    out, processes = folder / "no text \udcff", ProcessPlace(folder / "processes", shared)
    ended = processes.train("--max_train_steps", 1, "--output_dir", out)
    terminal.meet("a folder whose name is no text", Outcome, ended.status, ended.said, "")
    return terminal


def names_and_captions(place: Place, terminal: Terminal) -> None:
    """EVIL in the data."""
    shared, folder = place.shared, place.folder
    for number in range(4):
        clip = place.clip(f"{number}{EVIL}.mp4")
        place.caption(clip.stem, f"{EVIL} a dog, {EVIL} runs and runs and runs{EVIL}".encode())
    place.file(f"broken{EVIL}.mp4", b"no video")
    place.caption(f"orphan{EVIL}")
    terminal.meet("names and captions that are checked", lambda: place.check()[1])
    train = ("--data_dir", place.data, *TRAIN, "--max_text_tokens", 6, "--output_dir", folder / "trained")
    terminal.meet("names and captions that train", place.run, "train_text2video", *train)
    prepare = ("--video_dir", place.data / "videos", "--output_dir", folder / "prepared", "--num_workers", 0)
    terminal.meet("names of videos that are prepared", place.run, "prepare_dataset", *prepare)

    frames = shutil.copytree(shared.frames, folder / "frames")
    first, second, *_ = sorted(path for path in frames.iterdir() if path.is_dir())
    evil = shutil.copytree(first, frames / f"x{EVIL}")
    (frames / f"short{EVIL}").mkdir()
    small = ("--num_inference_steps", 1, "--save_trainable_only")
    train = ("--pretrained_model_name", shared.svd, "--dataset_dir", frames, *TRAIN_SVD, *small)
    terminal.meet("folders of frames", place.run, "train_svd", *train, "--output_dir", folder / "svd")
    os.rename(evil, frames / f"y{EVIL}")
    shutil.rmtree(second)
    terminal.meet("clips that are gone", place.run, "train_svd", *train, "--resume", folder / "svd")
    next((frames / f"y{EVIL}").iterdir()).write_bytes(b"no picture")
    argv = ("--output_dir", folder / "svd2", "--no_cache")
    terminal.meet("a damaged frame", place.run, "train_svd", *train, *argv)

"""Work that is cut short, and people at the prompt, F33 and F34."""

import json
import os
import shutil
import signal
import sys
import time
import unicodedata
from pathlib import Path

from tests.faults.failures.memory import in_forward
from tests.faults.forked import Script
from tests.faults.place import Ended, Place, row
from tests.faults.scripts import flags, out, run, start
from utils.decoding.probe import probe_video

WAITS = "waits for its end"


def wait(*_) -> None:
    print(f"\n{WAITS}", flush=True)
    while True:
        time.sleep(0.1)  # a signal that comes just before a sleep begins does not cut that one short


def while_the_second_video_is_drawn() -> None:
    in_forward(2, wait)


def while_the_second_video_is_written() -> None:
    """After everything is in a file, and before that has its name."""
    replace, count = os.replace, 0

    def waiting(source, target):
        nonlocal count
        count += str(target).endswith(".mp4")
        if count == 2 and str(target).endswith(".mp4"):
            wait()
        replace(source, target)

    os.replace = waiting


def before_the_second_sidecar_is_written() -> None:
    replace, count = os.replace, 0

    def waiting(source, target):
        nonlocal count
        count += str(target).endswith(".json")
        if count == 2 and str(target).endswith(".json"):
            wait()
        replace(source, target)

    os.replace = waiting


def visible(folder: Path) -> dict[str, bytes]:
    """{name: content} of all that is not hidden."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {str(path.relative_to(folder)): path for path in files}
    return {
        name: path.read_bytes() for name, path in names.items() if not any(p.startswith(".") for p in Path(name).parts)
    }


@row(
    "F33", "generation and preparation that are stopped or killed leave whole files and go on the next time", slow=True
)
def f33(place: Place) -> str:
    pictures = [shutil.copy(place.shared.picture, place.folder / f"picture{i}.png") for i in (1, 2, 3)]
    jobs = {
        "generate_text2video": ("--prompts", "a red circle", "a blue square", "a green triangle", "--save_gif"),
        "infer_svd": ("--input_image", *pictures, "--save_gif"),
    }
    drawn, written, sidecar = (
        while_the_second_video_is_drawn,
        while_the_second_video_is_written,
        before_the_second_sidecar_is_written,
    )
    for script, what in jobs.items():
        run(place, script, *what).done("3 videos")
        expected = visible(out(place, script))
        for number, patch in ((signal.SIGINT, drawn), (signal.SIGKILL, drawn), (signal.SIGKILL, written)):
            shutil.rmtree(out(place, script))
            found = stopped(place, script, what, patch, number)
            assert sum(name.endswith(".mp4") for name in found) == 1, list(found)
            assert all(content == expected[name] for name, content in found.items()), list(found)
            first = next(out(place, script) / name for name in found if name.endswith(".mp4"))
            assert probe_video(first).frames in (2, 4)
            before = first.stat().st_mtime_ns
            run(place, script, *what, fresh=False).done("1 of 3 videos are there already", "3 videos")
            assert visible(out(place, script)) == expected and first.stat().st_mtime_ns == before
        run(place, script, *what, "--overwrite", fresh=False).done("3 videos")
        assert visible(out(place, script)) == expected and first.stat().st_mtime_ns > before

        # While a video is drawn again, the older sidecar does not vouch for it.
        found = stopped(place, script, (*what, "--overwrite"), sidecar, signal.SIGKILL)
        assert sum(name.endswith(".json") for name in found) == 2, list(found)
        run(place, script, *what, fresh=False).done("2 of 3 videos are there already", "3 videos")
        assert visible(out(place, script)) == expected

    # Preparation: whole videos, with and without other processes, however often.
    script = "prepare_dataset"
    run(place, script).done("8 clips")
    expected = visible(out(place, script))
    for workers, number in ((0, signal.SIGINT), (0, signal.SIGKILL), (2, signal.SIGINT), (2, signal.SIGKILL)):
        shutil.rmtree(out(place, script))
        (place.folder / f"{script}.said").unlink(missing_ok=True)
        records = out(place, script) / ".prepare"
        job = start(place, script, "--num_workers", workers, patch=None if workers else slow_images)
        job.until(lambda records=records: len(list(records.glob("video_*/record.json"))) >= 2)
        job.signal(number, group=number == signal.SIGINT).end().ended({signal.SIGINT: 130}.get(number, -number))
        time.sleep(0.5)  # processes of one that was killed go by themselves
        left = visible(out(place, script))
        assert all(content == expected[name] for name, content in left.items()), "a file that is not whole"
        run(place, script, fresh=False).done("8 clips")
        assert visible(out(place, script)) == expected
    return "status 130; nothing lost, nothing half"


def slow_images() -> None:
    import utils.frame_folders.clip_writer

    write_image = utils.frame_folders.clip_writer.write_image

    def slow(*args):
        time.sleep(0.02)
        write_image(*args)

    utils.frame_folders.clip_writer.write_image = slow


def stopped(place: Place, script: str, what: tuple, patch, number: int) -> dict[str, bytes]:
    """What is there after a signal that came when the script waited for it."""
    (place.folder / f"{script}.said").unlink(missing_ok=True)
    job = start(place, script, *what, patch=patch)
    job.until(lambda: WAITS in job.said).signal(number).end().ended({signal.SIGINT: 130}.get(number, -number))
    return visible(out(place, script))


def typed(file: str) -> None:
    """Somebody types what is in the file."""
    descriptor = os.open(file, os.O_RDWR if Path(file).is_fifo() else os.O_RDONLY)
    os.dup2(descriptor, 0)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115


def at_the_terminal() -> None:
    """Somebody sits at the terminal to which the script writes."""
    os.dup2(1, 0)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115


def at_the_terminal_while_it_draws() -> None:
    at_the_terminal()
    in_forward(1, wait)


@row("F34", "at the prompt: end of input, Ctrl-C, nothing, 100 KB, control characters, no text, no terminal")
def f34(place: Place) -> str:
    script = "generate_text2video"

    def types(text: bytes, asked: int, videos: int = 0) -> Ended:
        (place.folder / "typed").write_bytes(text)
        ended = run(place, script, patch=typed, argument=place.folder / "typed").done("a prompt makes a video")
        found = list(out(place, script).glob("*.mp4"))
        assert ended.said.count("prompt> ") == asked and len(found) == videos, f"{found}: {ended.said[-600:]}"
        visible = ended.said.replace("\n", "").replace("\r", "")
        assert not [c for c in visible if unicodedata.category(c) == "Cc"], repr(ended.said)
        for path in found:
            assert len(path.name.encode()) < 255 and path.name.isprintable() and path.parent == out(place, script)
        return ended

    def prompt() -> str:
        (sidecar,) = out(place, script).glob("*.json")
        return json.loads(sidecar.read_text())["prompt"]

    types(b"", asked=1)
    types(b"quit\n", asked=1)
    types(b"\n  \n\t\na red circle\n", asked=5, videos=1)
    types(b"a red circle", asked=2, videos=1)
    types(b"\x1b[2J\x1b]0;title\x07red\0 circle\x7f\n", asked=2, videos=1)
    assert prompt() == "[2J]0;titlered circle", prompt()
    types("a \N{BELL} café 红 \u202e\u200b".encode() + b" \xff\xfe circle\n", asked=2, videos=1)
    assert "\ufffd" in prompt() and "\u202e" not in prompt(), prompt()
    ended = types(b"red circle " * 10_000 + b"\n", asked=2, videos=1)
    assert "longer than 77 tokens; used: red circle red" in ended.said and len(ended.said) < 6000, len(ended.said)
    assert prompt() == ("red circle " * 10_000).strip()

    # No model chosen yet, nobody there.
    (place.folder / "typed").write_bytes(b"")
    nothing = Script(place.folder / "nothing", script, patch=name_of(typed, place.folder / "typed")).end()
    assert nothing.status == 0 and "Traceback" not in nothing.said, nothing.said

    # Ctrl-C and Ctrl-D at a terminal, at the prompt and while a video is drawn; and SIGINT without one.
    for key, patch, waits_for, status in (
        (b"\x03", at_the_terminal, "prompt> ", 130),
        (b"\x04", at_the_terminal, "prompt> ", 0),
        (b"\x03", at_the_terminal_while_it_draws, WAITS, 130),
    ):
        terminal, end = os.openpty()
        os.set_blocking(terminal, False)
        said = b""
        job = Script(Path(os.ttyname(end)), script, *flags(place, script), patch=name_of(patch))

        def reads(words: str, terminal=terminal) -> bool:
            nonlocal said
            said += read_all(terminal)
            return words.encode() in said

        job.until(lambda: reads("prompt> "))
        if waits_for != "prompt> ":
            os.write(terminal, b"a red circle\n")
            job.until(lambda words=waits_for: reads(words))
        os.write(terminal, key)
        if not ends(job, 10):  # a signal between the prompt and the wait for an answer is seen after the next key
            os.write(terminal, key)
        ended = job.end()
        said += read_all(terminal)
        assert ended.status == status and b"Traceback" not in said, f"status {ended.status}: {said[-600:]}"
        os.close(terminal), os.close(end)
    return "0 at the end of the input, 130 at Ctrl-C"


def ends(job: Script, timeout: float) -> bool:
    job.process.join(timeout)
    return not job.process.is_alive()


def read_all(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return b""


def name_of(patch, argument: object = None) -> str:
    return f"{patch.__module__}:{patch.__name__}" + (f":{argument}" if argument else "")

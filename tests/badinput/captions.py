"""Captions, C1 to C11."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.badinput.place import Place, row
from tests.clips import moving_clip
from video_dataset import TextVideoDataset

ROOT = Path(__file__).parents[2]


def reads(place: Place, content: bytes, expected: str, *flags) -> str:
    """A caption file with this content is the expected text, for the dataset and for the check."""
    place.clip("a.mp4")
    place.caption("a", content)
    place.check(*flags)[1].done("1 of 1 videos are usable")
    encoding = flags[1] if flags else "utf-8-sig"
    found = TextVideoDataset(place.data, num_frames=4, caption_encoding=encoding).captions()
    assert found == [expected], f"read as {found}"
    return f"read as {expected!r}"


def by_policy(place: Place, reason: str) -> str:
    """Six of seven captions are missing or empty: an error that counts them and names five; or as the flag says."""
    for policy, clips in (("skip", 1), ("empty", 7)):
        dataset = TextVideoDataset(place.data, num_frames=4, missing_caption=policy)
        assert len(dataset) == clips, f"--missing_caption {policy}: {len(dataset)} clips"
    return place.train(data=place.data).refused(f"6 x {reason}", "b1.mp4", "b5.mp4 and 1 more", "--missing_caption")


@row("C1", "missing captions are counted, five are named; --missing_caption skip or empty goes on")
def c1(place: Place) -> str:
    place.clip("a.mp4")
    for n in range(1, 7):
        place.clip(f"b{n}.mp4", moving_clip(8 + n))
        (place.data / "captions" / f"b{n}.txt").unlink()
    return by_policy(place, "no caption")


@row("C2", "empty captions are the same, with a count of their own")
def c2(place: Place) -> str:
    place.clip("a.mp4")
    for n in range(1, 7):
        place.clip(f"b{n}.mp4", moving_clip(8 + n))
        place.caption(f"b{n}", b" \n" if n % 2 else b"")
    return by_policy(place, "empty caption")


@row("C3", "a byte order mark is no part of a caption")
def c3(place: Place) -> str:
    return reads(place, "\ufeffa dog".encode(), "a dog")


@row("C4", "a caption in GB18030 is named with its byte and the flag that reads it")
def c4(place: Place) -> str:
    place.clip("a.mp4")
    place.caption("a", "一只狗".encode("gb18030"))
    said = place.train(data=place.data).refused("a.txt", "byte", "--caption_encoding gb18030")
    reads(place, "一只狗".encode("gb18030"), "一只狗", "--caption_encoding", "gb18030")
    return said


@row("C5", "UTF-16 is read by its byte order mark")
def c5(place: Place) -> str:
    return reads(place, "a dog".encode("utf-16"), "a dog")


@row("C6", "captions are UTF-8 whatever the locale says", slow=True)
def c6(place: Place) -> str:
    place.clip("a.mp4")
    place.caption("a", "一只狗 ü".encode())
    command = [sys.executable, ROOT / "video_dataset.py", "--check", place.data, "--num_frames", "4"]
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    found = subprocess.run(command, env=environment, capture_output=True, cwd=place.folder / "cwd")
    assert found.returncode == 0 and b"1 of 1 videos are usable" in found.stdout, found.stderr[-300:]
    return "read under LC_ALL=C"


@row("C7", "a caption file of 10 MB is skipped with its reason and costs no time")
def c7(place: Place) -> str:
    place.clip("a.mp4")
    place.clip("big.mp4", moving_clip(9))
    place.caption("big", b"word " * 2_000_000)
    started = time.perf_counter()
    dataset = TextVideoDataset(place.data, num_frames=4)
    seconds = time.perf_counter() - started
    assert dataset.report["skipped"] == {"caption file over 64 KB": ["big.mp4"]} and seconds < 1, seconds
    return f"skipped: caption file over 64 KB, {seconds:.2f} s"


@row("C8", "captions of more than 77 tokens are cut and counted in one warning")
def c8(place: Place) -> str:
    for n in range(3):
        place.clip(f"{n}.mp4", moving_clip(8 + n))
        place.caption(str(n), b"a red circle " * (60 if n < 2 else 1))
    outcome = place.train("--val_fraction", 0, data=place.data).done("captions are cut after 77 tokens")
    assert (outcome.out + outcome.err).count("cut after") == 1
    return next(line for line in outcome.out.splitlines() if "cut after" in line)


@row("C9", "line ends of any system are stripped")
def c9(place: Place) -> str:
    return reads(place, b"a dog\r\n\r", "a dog")


@row("C10", "several lines are joined by a space")
def c10(place: Place) -> str:
    return reads(place, b"a dog\r\nin the rain\nat night\n", "a dog in the rain at night")


@row("C11", "Chinese and emoji are kept, NUL is removed, and a text model that reads English only is named")
def c11(place: Place) -> str:
    from models.text_encoder import builtin_text_encoder, train_tokenizer

    said = reads(place, "一只\0狗🎥\n".encode(), "一只狗🎥")
    encoder = builtin_text_encoder(train_tokenizer(["一只狗"]), dim=16, num_layers=1, num_heads=2)
    assert encoder.remarks(["一只狗"]) == []
    encoder.masks_padding = False  # as CLIP's
    assert len(encoder.remarks(["一只狗", "a"])) == 1 and encoder.remarks(["a red dog", "狗"]) == []
    return said + "; " + encoder.remarks(["一只狗"])[0]

"""Videos, V1 to V33: what the data check and prepare_dataset.py make of them, which read as training does."""

import os

import numpy as np

from tests.badinput.place import Place, row
from tests.clips import audio_only, cut, damage, encode, has_encoder, moving_clip
from tests.table import NotRun
from utils.decoding.probe import probe_video
from utils.video.encode import write_gif, write_video
from utils.video.frame_windows import window_starts
from video_dataset import TextVideoDataset

FASTSTART = {"movflags": "+faststart"}


@row("V1", "an empty file is skipped as such")
def v1(place: Place) -> str:
    return place.skipped(place.file("a.mp4", b""), "empty file")


@row("V2", "text named .mp4 is skipped as no video")
def v2(place: Place) -> str:
    return place.skipped(place.file("a.mp4", b"just some text, long enough to be looked at"), "not a video")


@row("V3", "an MP4 cut off before its index is skipped as truncated")
def v3(place: Place) -> str:
    return place.skipped(cut(place.clip("a.mp4", moving_clip(32)), 0.7), "truncated: no index")


@row("V4", "an MP4 with an index and no pictures is skipped; the header's count is told")
def v4(place: Place) -> str:
    path = cut(place.clip("a.mp4", moving_clip(32), container=FASTSTART), 0)
    return place.skipped(path, "the header says 32 frames, 0 can be decoded")


@row("V5", "behind a bad packet reading goes on, it is told, and no window crosses the gap")
def v5(place: Place) -> str:
    options = {"bf": "0", "g": "10", "x264-params": "scenecut=0"}
    info = probe_video(damage(place.clip("a.mp4", moving_clip(40), options=options), 21))
    starts = window_starts(info, 4, None)
    assert (info.frames, info.gaps) == (31, (21,)) and not set(range(18, 21)) & set(starts.tolist())
    report, outcome = place.check()
    outcome.done("1 undecodable packet", "8 damaged frames left out", "header says 40 frames, 31 decode")
    return f"31 of 40 frames, up to the next key frame none, gap before frame {info.gaps[0]}, noted"


@row("V6", "a header that counts too many frames is not believed")
def v6(place: Place) -> str:
    path = cut(place.clip("a.mp4", moving_clip(32), container=FASTSTART), 0.6)
    frames = probe_video(path).frames
    place.check()[1].done("1 of 1 videos are usable", f"header says 32 frames, {frames} decode")
    taken = place.prepare()[path.name]["frames"]
    assert 4 <= taken <= frames
    return f"header says 32, {frames} decode, {taken} are taken"


@row("V7", "sound without pictures is skipped")
def v7(place: Place) -> str:
    path = audio_only(place.data / "videos" / "a.mp4")
    place.caption("a")
    return place.skipped(path, "no video stream")


@row("V8", "a video of one frame is skipped as too short")
def v8(place: Place) -> str:
    return place.skipped(place.clip("a.mp4", moving_clip(1)), "fewer than 4 frames")


@row("V9", "a video shorter than --num_frames is skipped, padded or looped as --short_clips says")
def v9(place: Place) -> str:
    path = place.clip("a.mp4", moving_clip(3))
    sizes = [
        len(TextVideoDataset(place.data, num_frames=4, frame_size=32, short_clips=how)[0]["video"][0])
        for how in ("pad", "loop")
    ]
    assert sizes == [4, 4]
    return place.skipped(path, "fewer than 4 frames") + "; pad and loop give 4 frames"


@row("V10", "a video of exactly --num_frames frames is taken")
def v10(place: Place) -> str:
    return place.kept(place.clip("a.mp4", moving_clip(4)), moving_clip(4))


@row("V11", "odd sizes are read as they are, and written one pixel larger where the codec needs it")
def v11(place: Place) -> str:
    clip = moving_clip(8, 37, 63)
    write_video(place.folder / "b.mp4", clip, 8)
    info = probe_video(place.folder / "b.mp4")
    assert (info.height, info.width) == (38, 64)
    return place.kept(place.clip("a.mkv", clip, pix_fmt="yuv444p"), clip) + "; written as 64x38"


@row("V12", "a rotated video is upright, for 90, 180 and 270 degrees")
def v12(place: Place) -> str:
    for rotation in (90, 180, 270):
        clip = moving_clip(8, 48, 64)
        path = place.clip("a.mp4", clip, rotation=rotation)
        said = place.kept(path, np.rot90(clip, rotation // 90, (1, 2)))
    return said


@row("V13", "with a variable frame rate --target_fps takes frames by time")
def v13(place: Place) -> str:
    ticks = [0, 33, 66, 100, 133, 166, 500, 833, 1166, 1500]
    path = place.clip("a.mp4", moving_clip(10), ticks=ticks)
    manifest = place.prepare("--target_fps", 3)[path.name]
    assert 4 <= manifest["frames"] <= 6 and abs(manifest["fps"] - 3) < 0.01, manifest
    return f"{manifest['frames']} frames in 1.5 s at 3 frames/s"


@row("V14", "frames come in the order in which they are shown, not stored")
def v14(place: Place) -> str:
    clip = moving_clip(12)
    return place.kept(place.clip("a.mp4", clip, options={"bf": "3", "g": "12"}), clip)


@row("V15", "10-bit video is read in 8 bits")
def v15(place: Place) -> str:
    return place.kept(place.clip("a.mp4", pix_fmt="yuv420p10le"), moving_clip(8))


@row("V16", "HEVC is read")
def v16(place: Place) -> str:
    if not has_encoder("libx265"):
        raise NotRun("this PyAV cannot encode HEVC")
    options = {"x265-params": "log-level=none"}
    return place.kept(place.clip("a.mp4", codec="libx265", options=options), moving_clip(8))


@row("V17", "AV1 is read")
def v17(place: Place) -> str:
    if not has_encoder("libsvtav1"):
        raise NotRun("this PyAV cannot encode AV1")
    return place.kept(place.clip("a.mp4", codec="libsvtav1"), moving_clip(8))


@row("V18", "a GIF is read; one of a single frame is too short")
def v18(place: Place) -> str:
    path = place.file("a.gif", b"")
    write_gif(path, moving_clip(8), 10)
    said = place.kept(path, moving_clip(8), 30)
    path.unlink()
    (place.folder / "frames").rename(place.folder / "earlier")
    write_gif(place.file("one.gif", b""), moving_clip(1), 10)
    return said + "; one frame " + place.skipped(place.data / "videos" / "one.gif", "fewer than 4 frames")


@row("V19", "grey video has three equal channels")
def v19(place: Place) -> str:
    grey = np.rint(moving_clip(8) @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return place.kept(place.clip("a.mp4", pix_fmt="gray"), np.repeat(grey[..., None], 3, -1))


@row("V20", "alpha is dropped")
def v20(place: Place) -> str:
    return place.kept(place.clip("a.mov", codec="qtrle", pix_fmt="argb"), moving_clip(8))


@row("V21", "full-range and unsubsampled colours are the colours that were encoded")
def v21(place: Place) -> str:
    place.kept(place.clip("a.mp4", pix_fmt="yuvj420p"), moving_clip(8), 7)
    return place.kept(place.clip("a.mp4", pix_fmt="yuv444p"), moving_clip(8), 7)


@row("V22", "a frame of more pixels than 8192x4320 is refused from the header", slow=True)
def v22(place: Place) -> str:
    path = place.clip("a.avi", np.zeros((4, 4352, 8256, 3), np.uint8), codec="mjpeg", pix_fmt="yuvj420p")
    return place.skipped(path, "8256x4352 is more than the limit")


@row("V23", "a size that changes in mid-stream becomes the first one, with a note")
def v23(place: Place) -> str:
    parts = [
        encode(place.folder / f"{width}.ts", moving_clip(8, 64, width), codec="mpeg2video", fps=25).read_bytes()
        for width in (64, 128)
    ]
    path = place.file("a.ts", b"".join(parts))
    place.check()[1].done("1 of 1 videos are usable", "size changes inside the stream")
    manifest = place.prepare()[path.name]
    assert (manifest["width"], manifest["height"]) == (64, 64) and manifest["frames"] > 12
    return f"{manifest['frames']} frames of 64x64, noted"


@row("V24", "names with spaces, line breaks, dashes, patterns and any script are only names, escaped where printed")
def v24(place: Place) -> str:
    names = ["猫 ü.mp4", "a\nb\x1b[2J.mp4", "-dash.mp4", "%02d.mp4", "<b>&.mp4"]
    for n, name in enumerate(names):
        encode(place.folder / "plain.mp4", moving_clip(8 + n)).rename(place.data / "videos" / name)
        place.caption(name.removesuffix(".mp4"))
    outcome = place.check()[1].done("5 of 5 videos are usable")
    assert "\x1b" not in outcome.out + outcome.err
    assert all("folder" in manifest for manifest in place.prepare().values())
    return "5 of 5 taken"


@row("V25", "a name with a colon is no address")
def v25(place: Place) -> str:
    for n, name in enumerate(("a:b.mp4", "file:x.mp4")):
        encode(place.folder / "plain.mp4", moving_clip(8 + n)).rename(place.data / "videos" / name)
        place.caption(name.removesuffix(".mp4"))
    place.check()[1].done("2 of 2 videos are usable")
    assert all("folder" in manifest for manifest in place.prepare().values())
    return "2 of 2 taken"


@row("V26", "broken links and links to themselves are skipped, and a link to a folder above does not loop")
def v26(place: Place) -> str:
    videos = place.data / "videos"
    place.clip("good.mp4")
    (videos / "loop.mp4").symlink_to(videos / "loop.mp4")
    (videos / "above").symlink_to(place.data)
    place.caption("loop")
    assert place.prepare("--recursive")["loop.mp4"]["rejected"] == "broken link"
    (videos / "loop.mp4").unlink()
    (videos / "gone.mp4").symlink_to(place.folder / "nowhere")
    place.caption("gone")
    (place.folder / "frames").rename(place.folder / "earlier")
    return place.skipped(videos / "gone.mp4", "broken link")


@row("V27", "a link out of the data folder is followed, and a change of its target is a change of the data")
def v27(place: Place) -> str:
    target = encode(place.folder / "outside.mp4", moving_clip(8))
    path = place.data / "videos" / "a.mp4"
    path.symlink_to(target)
    place.caption("a")
    said = place.kept(path, moving_clip(8))
    before = TextVideoDataset(place.data, num_frames=4).fingerprint()
    encode(target, moving_clip(9))
    assert TextVideoDataset(place.data, num_frames=4).fingerprint() != before
    return said + ", fingerprint follows the target"


@row("V28", "a folder named like a video is ignored")
def v28(place: Place) -> str:
    (place.data / "videos" / "x.mp4").mkdir()
    return place.kept(place.clip("a.mp4"), moving_clip(8))


@row("V29", "a FIFO is skipped and never opened")
def v29(place: Place) -> str:
    path = place.data / "videos" / "a.mp4"
    os.mkfifo(path)
    place.caption("a")
    return place.skipped(path, "not a regular file")


@row("V30", "hidden files and Thumbs.db are ignored, and counted in the report")
def v30(place: Place) -> str:
    for name in ("._x.mp4", ".DS_Store", "Thumbs.db"):
        (place.data / "videos" / name).write_bytes(b"hidden")
    said = place.kept(place.clip("a.mp4"), moving_clip(8))
    report, outcome = place.check()
    assert report["ignored"] == 3 and "Thumbs" not in outcome.out + outcome.err
    return said + ", 3 ignored"


@row("V31", "two videos that would share a caption are named; prepare_dataset.py numbers them and takes both")
def v31(place: Place) -> str:
    place.clip("a.mp4")
    place.clip("a.mov", moving_clip(9))
    rows = place.prepare()
    assert len({rows[name]["folder"] for name in ("a.mp4", "a.mov")}) == 2
    return place.train(data=place.data).refused("a.mp4", "a.mov", "rename or remove")


@row("V32", "endings in capitals and MKV, WebM, AVI and M4V are read")
def v32(place: Place) -> str:
    codecs = {"a.MP4": {}, "b.mkv": {}, "c.m4v": {}, "d.avi": {"codec": "mpeg4"}, "e.webm": {"codec": "libvpx-vp9"}}
    for n, (name, how) in enumerate(codecs.items()):
        place.clip(name, moving_clip(8 + n), **how)
    place.check()[1].done("5 of 5 videos are usable")
    assert all("folder" in manifest for manifest in place.prepare().values())
    return "5 of 5 taken"


@row("V33", "a playlist named .mp4 is skipped, and opens no other file and no address")
def v33(place: Place) -> str:
    place.skipped(place.file("b.mp4", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n"), "not a video")
    (place.data / "videos" / "b.mp4").unlink()
    path = place.file("a.mp4", b"ffconcat version 1.0\nfile good.mp4\n")
    (place.folder / "frames").rename(place.folder / "earlier")
    return place.skipped(path, "not a video")

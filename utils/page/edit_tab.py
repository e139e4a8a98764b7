"""The tab that changes a video: where something is painted, or all of it."""

from pathlib import Path
from tempfile import NamedTemporaryFile

import gradio as gr
import numpy as np

from utils.cli import UserError, printable
from utils.decoding.probe import probe_video
from utils.decoding.read import read_frames
from utils.decoding.video_info import VideoError
from utils.page.bench import Questions, Shown, refused, run_questions, shown_while_drawn, wire
from utils.page.studio import Studio
from utils.page.words import say, words
from utils.video.encode import write_image

WAYS = ("mask", "pick", "pair", "style")
PAINTED_ON = 384  # px that the shorter side of the picture has at least


def edit_tab(studio: Studio) -> list[gr.Dropdown]:
    with gr.Row():
        with gr.Column():
            run = run_questions(studio)
            video = gr.Video(label=words("source"), sources=["upload"], height=200)
            way = gr.Radio([(words(f"way_{each}"), each) for each in WAYS], value="mask", label=words("way"))
            paint = gr.ImageEditor(
                label=words("mask"),
                type="numpy",
                sources=[],
                transforms=[],
                layers=False,
                brush=gr.Brush(colors=["#ffffff"], color_mode="fixed", default_size=40),
                buttons=[],
            )
            feather = gr.Number(2, label=words("feather"), precision=0, minimum=0)
            source_prompt = gr.Textbox(label=words("source_prompt"), visible=False)
            strength = gr.Slider(0.05, 1, 0.5, step=0.05, label=words("strength"), visible=False)
            questions = Questions(samplers=False)
            with gr.Accordion(words("given"), open=False):
                depth = gr.File(label=words("depth"), type="filepath")
            buttons = gr.Group()
        with gr.Column():
            shown = Shown()
    names = ["depth", *questions.named]

    def draw(request: gr.Request, run, prompt, video, way, paint, source_prompt, strength, feather, *values):
        flags = dict(zip(names, values, strict=True)) | {"video": video}
        with refused():
            if not video:
                raise UserError(say(request, "no_video"))
            if way in ("mask", "pick"):
                flags |= {"feather": feather} | place(painted(paint), way, Path(video), say(request, "paint"))
                if way == "pick":
                    flags["grow"] = int(feather or 0) + 1  # or the seam would leave a rim of the old colour
            else:
                flags |= {"strength": float(strength), "source_prompt": source_prompt if way == "pair" else None}
                if way == "pair" and not (source_prompt or "").strip():
                    raise UserError(say(request, "no_source"))
        yield from shown_while_drawn(studio, run, prompt, flags, request)

    inputs = [run, questions.prompt, video, way, paint, source_prompt, strength, feather, depth]
    with buttons:
        wire(draw, [*inputs, *questions.named.values()], shown.parts)
    video.change(first_picture, video, paint, queue=False)
    way.change(asked_for, way, [paint, source_prompt, strength, feather], queue=False)
    return [run]


def asked_for(way: str) -> list:
    """Which of the questions belong to a way of editing."""
    local = way in ("mask", "pick")
    return [gr.update(visible=each) for each in (local, way == "pair", not local, local)]


def first_picture(video: str | None) -> np.ndarray | None:
    """The first frame of a video, large enough to paint on."""
    if video is None:
        return None
    with refused():
        try:
            frame = read_frames(probe_video(video), [0])[0]
        except (VideoError, OSError) as error:
            raise UserError(f"--video: {printable(Path(video).name)} {error}") from None
    times = -(-PAINTED_ON // min(frame.shape[:2]))
    return frame.repeat(times, axis=0).repeat(times, axis=1)


def painted(value: dict | None) -> np.ndarray:
    """bool (H, W) of what an ImageEditor gives: True where one of its layers has something."""
    layers = [layer for layer in (value or {}).get("layers") or [] if layer is not None]
    if not layers:
        return np.zeros((1, 1), bool)
    return np.any([layer[..., 3] > 0 if layer.shape[-1] == 4 else layer.any(axis=-1) for layer in layers], axis=0)


def place(mask: np.ndarray, way: str, video: Path, nothing: str) -> dict:
    """Flags of edit_text2video.py for a mask that was painted. Raises UserError with `nothing` for an empty one."""
    if not mask.any():
        raise UserError(nothing)
    if way == "mask":
        with NamedTemporaryFile(suffix=".png", dir=video.parent, delete=False) as file:
            write_image(file.name, np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255)
        return {"mask": file.name}
    info, (rows, columns) = probe_video(video), np.nonzero(mask)
    x, y = columns.mean() / mask.shape[1] * info.width, rows.mean() / mask.shape[0] * info.height
    return {"pick": (int(x), int(y))}

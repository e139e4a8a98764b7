"""The tab in which a video without end is watched while it is made."""

from collections.abc import Iterator

import gradio as gr

from utils.page.bench import Questions, progress, refused, run_questions, wire
from utils.page.studio import Studio
from utils.page.words import say


def stream_tab(studio: Studio) -> list[gr.Dropdown]:
    """A prompt, and frames at the speed of the model's clips until they are stopped."""
    with gr.Row():
        with gr.Column():
            run, questions = run_questions(studio), Questions()
            buttons = gr.Group()
        with gr.Column():
            text = gr.HTML(elem_classes="progress")
            frame = gr.Image(elem_classes="live", interactive=False, show_label=False, format="png", height=256)
    names = list(questions.named)

    def watch(request: gr.Request, run: str, prompt: str, *values) -> Iterator[tuple]:
        yield progress(say(request, "loading")), None
        with refused():
            for live in studio.stream(run, prompt, dict(zip(names, values, strict=True))):
                said = say(request, "live", frames=live.frames, real_time=live.real_time, colour=live.colour)
                yield progress(said), live.frame

    with buttons:
        wire(watch, [run, questions.prompt, *questions.named.values()], [text, frame])
    return [run]

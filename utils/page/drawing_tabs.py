"""The tabs that draw new videos: from a prompt, from a picture, and of two runs side by side."""

from collections.abc import Callable, Iterator

import gradio as gr

from utils.page.bench import Questions, Shown, run_questions, shown_while_drawn, wire
from utils.page.studio import Studio
from utils.page.words import words


def generate_tab(studio: Studio) -> list[gr.Dropdown]:
    """A prompt, and what is known of the video by depth, vectors or sound."""

    def ask() -> dict[str, gr.components.Component]:
        with gr.Accordion(words("given"), open=False):
            return {name: gr.File(label=words(name), type="filepath") for name in ("depth", "vectors", "audio")}

    return _tab(studio, ask)


def picture_tab(studio: Studio) -> list[gr.Dropdown]:
    """A picture to begin with, another to end with, or a video to go on from."""

    def ask() -> dict[str, gr.components.Component]:
        how = {"type": "filepath", "sources": ["upload"], "format": "png"}
        with gr.Row():
            asked = {name: gr.Image(label=words(name), **how) for name in ("first_frame", "last_frame")}
        return asked | {"continue_from": gr.File(label=words("continue_from"), type="filepath", file_types=["video"])}

    return _tab(studio, ask)


def _tab(studio: Studio, ask: Callable[[], dict[str, gr.components.Component]]) -> list[gr.Dropdown]:
    """ask makes the components of flags that this tab asks for besides."""
    with gr.Row():
        with gr.Column():
            run = run_questions(studio)
            asked, questions = ask(), Questions()
            buttons = gr.Group()
        with gr.Column():
            shown = Shown()
    asked |= questions.named

    def draw(request: gr.Request, run: str, prompt: str, *values) -> Iterator[tuple]:
        yield from shown_while_drawn(studio, run, prompt, dict(zip(asked, values, strict=True)), request)

    with buttons:
        wire(draw, [run, questions.prompt, *asked.values()], shown.parts)
    return [run]


def compare_tab(studio: Studio) -> list[gr.Dropdown]:
    """One prompt and one seed, by two runs, one after the other."""
    with gr.Row():
        run, other = run_questions(studio), run_questions(studio, "other_run")
    questions = Questions()
    buttons = gr.Group()
    with gr.Row():
        both = []
        for name in ("one", "other"):
            with gr.Column():
                gr.Markdown(words(name))
                both.append(Shown())
    names = list(questions.named)

    def draw(request: gr.Request, run: str, other: str, prompt: str, *values) -> Iterator[tuple]:
        flags, rest = dict(zip(names, values, strict=True)), [gr.skip()] * len(both[0].parts)
        for parts in shown_while_drawn(studio, run, prompt, flags, request):
            yield *parts, *rest
        for parts in shown_while_drawn(studio, other, prompt, flags, request):
            yield *rest, *parts

    with buttons:
        wire(draw, [run, other, questions.prompt, *questions.named.values()], both[0].parts + both[1].parts)
    return [run, other]

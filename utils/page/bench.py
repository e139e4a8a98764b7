"""What the tabs that draw have in common: the questions on the left, the video on the right, and how one becomes the
other."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from html import escape

import gradio as gr

from utils.cli import UserError
from utils.page.runs import find_models
from utils.page.studio import Drawn, Studio
from utils.page.words import say, words

SAMPLERS = ["dpmpp_sde", "dpmpp", "unipc", "ddim", "euler", "ddpm"]
QUEUE = "drawing"  # one video at a time, whichever tab and visitor it is for


@contextmanager
def refused() -> Iterator[None]:
    """What the visitor can correct is shown as that."""
    try:
        yield
    except UserError as error:
        raise gr.Error(escape(str(error)), duration=None, print_exception=False) from None


class Questions:
    """Prompt and settings of a tab, made where the constructor is called. `names` are flags of the components."""

    def __init__(self, samplers: bool = True):
        self.prompt = gr.Textbox(label=words("prompt"), lines=2)
        with gr.Accordion(words("settings"), open=False):
            self.named = {  # what may stay empty is text: an empty number becomes 0 as soon as it is shown
                "negative_prompt": gr.Textbox(label=words("negative_prompt")),
                "seed": gr.Number(0, label=words("seed"), precision=0, minimum=0),
                "num_inference_steps": gr.Textbox(label=words("steps")),
                "guidance_scale": gr.Textbox(label=words("guidance")),
                "num_frames": gr.Textbox(label=words("frames")),
            }
            if samplers:
                self.named["sampler"] = gr.Dropdown(SAMPLERS, value=None, label=words("sampler"))


class Shown:
    """Where a video appears, made where the constructor is called: `parts` are the progress, a look at it while it is
    drawn, the video, its contact sheet, and how it was made."""

    def __init__(self):
        look = {"interactive": False, "show_label": False, "buttons": ["fullscreen"], "format": "png"}
        self.parts = [
            gr.HTML(elem_classes="progress"),
            gr.Image(elem_classes="look", **look),
            gr.Video(interactive=False, show_label=False, autoplay=True, loop=True, height=256),
            gr.Image(elem_classes="sheet", **look),
        ]
        with gr.Accordion(words("details"), open=False):
            self.parts.append(gr.JSON(show_label=False))


def run_questions(studio: Studio, label: str = "run") -> gr.Dropdown:
    """The runs to choose from, with a line of what the chosen one knows."""
    with gr.Column(min_width=160):
        run = gr.Dropdown(find_models(studio.runs), value=None, label=words(label), elem_classes="runs")
        line = gr.Markdown()

    def chosen(run: str, request: gr.Request) -> str:
        with refused():
            said, names = studio.open(run).said, studio.knows(run)
        names = ", ".join(names) or say(request, "none")
        return say(request, "knows", names=names, **said)

    run.input(chosen, run, line, queue=False)
    return run


def shown_while_drawn(studio: Studio, run: str, prompt: str, flags: dict, request: gr.Request) -> Iterator[tuple]:
    """What the parts of a Shown show, one after the other. Errors of the user are shown as such."""
    yield progress(say(request, "loading")), None, None, None, None
    with refused():
        for found in studio.draw(run, prompt, flags):
            if isinstance(found, Drawn):
                yield _finished(found, request)
            else:
                frames = gr.skip() if found.frames is None else found.frames
                text = say(request, "step", step=found.step, steps=found.steps)
                yield progress(text, found.step / found.steps), frames, *[gr.skip()] * 3


def progress(text: str, share: float | None = None) -> str:
    """A line of text, with a bar where a share of the work is done, as HTML."""
    bar = "" if share is None else f'<progress value="{share:.3f}"></progress> '
    return bar + escape(text).replace("\n", "<br>")


def _finished(found: Drawn, request: gr.Request) -> tuple:
    for warning in found.warnings:
        gr.Warning(escape(warning))
    text = say(request, "done", video=found.video)
    if found.round_trip is not None:
        text += "\n" + say(request, "round_trip", round_trip=found.round_trip)
    details = json.loads(found.sidecar.read_text(encoding="utf-8"))
    return progress(text), gr.skip(), str(found.video), str(found.sheet), details


class Tickets:
    """The clicks of all visitors on one button, numbered, and up to which of them a visitor wants nothing any more.

    Gradio's own `cancels` answers beside the stream of what is shown, so that the last of it may come after the word
    that it was stopped. Here a drawing ends itself, and that word is its last.
    """

    def __init__(self):
        self.given, self.refused = 0, {}

    def take(self) -> int:
        self.given += 1
        return self.given

    def refuse(self, request: gr.Request) -> None:
        """All that this visitor has clicked so far, also what still waits."""
        self.refused[request.session_hash] = self.given

    def wanted(self, ticket: int, request: gr.Request) -> bool:
        return ticket > self.refused.get(request.session_hash, 0)


def wire(draw: Callable, inputs: list, outputs: list) -> None:
    """A button that draws, and one that stops what was asked for so far. outputs begin with the progress."""
    with gr.Row():
        start, stop = gr.Button(words("draw"), variant="primary"), gr.Button(words("stop"), variant="secondary")
    tickets, ticket = Tickets(), gr.Number(0, visible=False)  # a State would be read when its turn comes

    def draw_while_wanted(request: gr.Request, ticket: int, *values) -> Iterator[tuple]:
        with closing(draw(request, *values)) as drawing:
            while tickets.wanted(ticket, request):
                if (shown := next(drawing, None)) is None:
                    return
                if tickets.wanted(ticket, request):
                    yield shown
        yield progress(say(request, "stopped")), *[gr.skip()] * (len(outputs) - 1)

    def halt(request: gr.Request) -> str:
        tickets.refuse(request)
        return progress(say(request, "stopped"))

    one = {"concurrency_id": QUEUE, "concurrency_limit": 1, "show_progress": "minimal", "trigger_mode": "multiple"}
    click = start.click(tickets.take, None, ticket, queue=False, trigger_mode="multiple", show_progress="hidden")
    click.then(draw_while_wanted, [ticket, *inputs], outputs, **one)
    stop.click(halt, None, outputs[0], queue=False)

"""The page in the browser: its tabs, and the server that shows it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from utils.cli import UserError
from utils.page.browse_tab import browse_tab
from utils.page.drawing_tabs import compare_tab, generate_tab, picture_tab
from utils.page.edit_tab import edit_tab
from utils.page.runs import find_models, find_runs
from utils.page.stream_tab import stream_tab
from utils.page.studio import Studio
from utils.page.words import words

DRAWING = {"generate": generate_tab, "picture": picture_tab, "edit": edit_tab, "compare": compare_tab}
DRAWING |= {"stream": stream_tab}
CSS = "#title p { font-size: 1.4em; font-weight: 600 } .progress { min-height: 1.5em }"


def build_page(studio: Studio) -> gr.Blocks:
    """All tabs; those that draw share one queue, see bench.py."""
    with gr.Blocks(title="Text to video", analytics_enabled=False) as page:
        gr.Markdown(words("title"), elem_id="title")
        if not find_runs(studio.runs):
            gr.Markdown(words("no_runs"))
        models = []
        for name, tab in DRAWING.items():
            with gr.Tab(words(name), elem_id=name):
                models += tab(studio)
        with gr.Tab(words("browse"), elem_id="browse"):
            runs = browse_tab(studio.runs)

        def found() -> list:
            update = gr.update(choices=find_models(studio.runs))
            return [update] * len(models) + [gr.update(choices=find_runs(studio.runs))]

        page.load(found, None, [*models, runs], queue=False)
    return page


@contextmanager
def served(studio: Studio, host: str, port: int) -> Iterator[str]:
    """The address of the page, until this ends. What visitors upload lies in a folder of its own and goes with it; of
    other files none is readable but those of the runs and of the videos. Raises UserError for a port in use."""
    # gradio asks its own server whether it is there; a proxy of the environment would be asked instead.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "localhost", "127.0.0.1", host]))
    with tempfile.TemporaryDirectory(prefix="page-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            page = build_page(studio).queue(max_size=32)
            address = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                share=False,
                quiet=True,
                inbrowser=False,
                ssr_mode=False,
                allowed_paths=[str(studio.runs.resolve()), str(studio.output_dir.resolve())],
                i18n=words,
                css=CSS,
                footer_links=[],
                enable_monitoring=False,
            )[1]
        except OSError as error:
            raise UserError(f"--port: {port} is in use on {host}; choose another ({error})") from None
        try:
            yield address
        finally:
            page.close(verbose=False)

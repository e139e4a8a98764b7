"""The tab that shows runs: figures, curves, samples on the way, and what evaluation drew."""

from pathlib import Path

import gradio as gr

from utils.page.runs import facts, find_runs, pictures, sample_folders
from utils.page.words import words


def browse_tab(folder: Path) -> gr.Dropdown:
    """folder: of runs."""
    run = gr.Dropdown(find_runs(folder), value=None, label=words("run"), elem_classes="runs")
    with gr.Row():
        curves = gr.Image(label=words("curves"), interactive=False, buttons=["fullscreen"])
        table = gr.Dataframe(headers=["name", "value"], label=words("facts"), interactive=False, wrap=True)
    step = gr.Dropdown([], label=words("samples_of"))
    sheet = gr.Image(label=words("samples"), interactive=False, buttons=["fullscreen"])
    videos = gr.Gallery(label=words("samples"), columns=4, object_fit="contain", interactive=False, height=220)
    judged = gr.Gallery(label=words("evaluation"), columns=4, object_fit="contain", interactive=False, visible=False)

    def known(name: str | None) -> Path | None:
        return folder / name if name in find_runs(folder) else None

    def chosen(name: str | None) -> tuple:
        path = known(name)
        if path is None:
            return None, [], gr.update(choices=[], value=None), gr.update(value=[], visible=False)
        steps = sample_folders(path)
        loss = path / "loss.png"
        newest = gr.update(choices=steps, value=steps[0] if steps else None)
        drawn = pictures(path)
        shown = gr.update(value=drawn, visible=bool(drawn))
        return str(loss) if loss.is_file() else None, facts(path), newest, shown

    def samples(name: str | None, step: str | None) -> tuple:
        path = known(name)
        if path is None or step not in sample_folders(path):
            return None, []
        found = path / "samples" / step
        return str(found / "contact_sheet.png"), [str(each) for each in sorted(found.glob("*.mp4"))]

    run.change(chosen, run, [curves, table, step, judged], queue=False)
    gr.on([run.change, step.change], samples, [run, step], [sheet, videos], queue=False)
    return run

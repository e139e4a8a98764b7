"""Pictures of numbers: the curves of a run, loss.png."""

from pathlib import Path

import numpy as np

from utils.files import whole_file


def plot_metrics(rows: list[dict], path: Path) -> None:
    """Training and validation loss, learning rate and, where it was judged, accuracy against the step, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    def curve(name: str) -> tuple[list, list]:
        points = [(row["step"], row[name]) for row in rows if name in row]
        return [step for step, _ in points], [value for _, value in points]

    judged = {name.removeprefix("accuracy/") for row in rows for name in row if name.endswith(("_all", "_strict"))}
    heights = [3, 1, 2] if judged else [3, 1]
    figure, (losses, rate, *more) = pyplot.subplots(
        len(heights), 1, figsize=(8, 7 + 3 * bool(judged)), sharex=True, height_ratios=heights, dpi=110
    )
    steps, values = curve("train/loss")
    losses.plot(steps, values, color="lightsteelblue", linewidth=0.8, label="training loss")
    if len(values) >= 20:
        window = len(values) // 20
        smooth = np.convolve(values, np.ones(window) / window, mode="valid")
        losses.plot(steps[window - 1 :], smooth, color="tab:blue", label=f"its mean over {window} rows")
    steps, values = curve("val/loss")
    losses.plot(steps, values, "o-", color="tab:orange", markersize=3, label="validation loss (EMA, fixed noise)")
    positive = [row[name] for row in rows for name in ("train/loss", "val/loss") if row.get(name, 0) > 0]
    losses.set(ylabel="loss", yscale="log" if positive else "linear")
    losses.grid(alpha=0.3), losses.legend()
    rate.plot(*curve("train/learning_rate"), color="tab:green")
    rate.set(ylabel="learning rate"), rate.grid(alpha=0.3)
    for axes in more:
        for name in sorted(judged):
            axes.plot(*curve(f"accuracy/{name}"), "o-", markersize=3, label=name.replace("_", " "))
        axes.set(ylabel="videos that obey", ylim=(0, 1)), axes.grid(alpha=0.3), axes.legend()
    figure.axes[-1].set_xlabel("step")
    save_figure(figure, path)


def save_figure(figure, path: Path) -> None:
    """A figure of matplotlib's pyplot as a PNG, whole or not at all; it is closed."""
    from matplotlib import pyplot

    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial, format="png")
    pyplot.close(figure)

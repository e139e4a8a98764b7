"""The rows of metrics.jsonl."""

import json

from utils.logs.metrics import Metrics


def test_metrics_after_the_checkpoint_are_dropped_on_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0, lambda *args, **kwargs: None, main_process=True)
    for step in (1, 2, 3):
        metrics.write(step, loss=0.1 * step)
    path.write_text(path.read_text() + '{"step": 4, "lo')  # a kill in the middle of a row
    again = Metrics(path, 2, lambda *args, **kwargs: None, main_process=True)
    again.write(3, loss=0.5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 0.1), (2, 0.2), (3, 0.5)]

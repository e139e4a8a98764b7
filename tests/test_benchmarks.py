"""The benchmarks' arithmetic: what they compare, and the tables and plots they make of results."""

import json

import pytest

import train_text2video
from benchmarks import ablation, measure, time_to_prompt


def run(factor, variant, seed, right, samplings=("",)) -> dict:
    groups = {
        group: {name: (right, 10) for name in ("colour", "shape", "direction", "all")} for group in ("seen", "held out")
    }
    return {
        "factor": factor,
        "variant": variant,
        "seed": seed,
        "steps": 100,
        "scores": dict.fromkeys(samplings, groups),
    }


def test_every_variant_of_the_ablation_is_accepted_by_the_trainer_and_changes_something(tmp_path):
    (tmp_path / "data").mkdir()
    common = ["--preset", "demo", "--data_dir", str(tmp_path / "data")]
    base = vars(train_text2video.parse_args(common))
    for factor, variants in ablation.FACTORS.items():
        for flags in variants.values():
            changed = {
                key for key, value in vars(train_text2video.parse_args([*common, *flags])).items() if value != base[key]
            }
            assert len(changed) == sum(flag.startswith("--") for flag in flags), factor


def test_the_table_compares_means_over_seeds_with_the_bases(capsys):
    rows = [
        run("base", "the demo preset", 0, 6, ("", "guidance 2")),
        run("base", "the demo preset", 1, 8),
    ]
    rows += [run("prediction type", "v", seed, 5) for seed in (0, 1)]
    lines = {(line["factor"], line["variant"]): line for line in ablation.table_rows(rows)}
    assert lines["base", "the demo preset"]["mean"] == 70 and lines["base", "the demo preset"]["difference"] == 0
    assert lines["sampling", "guidance 2"]["seeds"] == [60]
    assert lines["prediction type", "v"]["difference"] == -20 and lines["prediction type", "v"]["all_seen"] == 50


def test_results_carry_hardware_and_versions_and_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    rows = [run("base", "the demo preset", seed, 6) for seed in (0, 1)]
    ablation.save(ablation.parse_args([]), rows)
    ablation.main(ablation.parse_args(["--report"]))
    stored = json.loads((tmp_path / "ablation.json").read_text())
    assert stored["runs"] == json.loads(json.dumps(rows))
    assert stored["hardware"]["cores"] >= 1 and "torch" in stored["hardware"]["versions"]
    assert "| base | the demo preset | 100 | 60.0, 60.0 | 60.0 | +0.0 |" in (tmp_path / "ablation.md").read_text()
    assert (tmp_path / "ablation.png").stat().st_size > 5000

    score = {"share": 0.5, "interval": [0.4, 0.6], "chance": 0.02}
    points = [{"minutes": 3, "seconds": 180, "groups": {group: {"all": score} for group in ("seen", "held out")}}]
    time_to_prompt.plot({"ours": {"points": points}}, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000


def test_the_cost_of_a_step_is_its_processor_time_against_the_references():
    def spin(count):
        return lambda: sum(i * i for i in range(count))

    assert measure.cost_ratio(spin(300_000), spin(100_000)) == pytest.approx(3, rel=0.3)


def test_a_timed_step_does_what_training_does(tmp_path):
    (tmp_path / "data").mkdir()
    flags = ["--preset", "tiny", "--data_dir", str(tmp_path / "data"), "--optimizer", "muon", "--ema_decay", "0.5"]
    step = measure.TrainingStep(train_text2video.parse_args(flags), ["a red circle", "a blue square"])
    before = [parameter.detach().clone() for parameter in step.parameters]
    step()
    assert any(not old.equal(new) for old, new in zip(before, step.parameters, strict=True))
    assert all(parameter.grad is None for parameter in step.parameters)

"""The benchmark of robots: what is recorded, again the same, and resumable; with a toy in place of the simulator."""

import json
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.robots import labelled, obeyed, record
from benchmarks.robots.simulator import TASKS, MetaWorld, Step
from tests.text2video.running import train
from utils.cli import UserError
from utils.lerobot.folder import LeRobotFolder

pytestmark = pytest.mark.benchmarks


class Toy:
    """A point that its expert moves to the place of its seed; a picture of where it is."""

    def __init__(self, task: str, size: int, action_repeat: int):
        self.size, self.speed = size, 0.05 * action_repeat

    def reset(self, seed: int) -> Step:
        self.place, self.goal = np.zeros(3), np.random.default_rng(seed).uniform(-0.5, 0.5, 3)
        return self._now()

    def step(self, action: np.ndarray) -> Step:
        self.place = self.place + self.speed * action[:3]
        return self._now()

    def expert(self, off=0.0) -> np.ndarray:
        return np.append((self.goal + off - self.place) / self.speed, 0).clip(-1, 1).astype(np.float32)

    def picture(self) -> np.ndarray:
        frame = np.zeros((self.size, self.size, 3), np.uint8)
        x, y = ((self.place[:2] + 1) / 2 * self.size).astype(int).clip(0, self.size - 1)
        frame[y, x] = 255
        return frame

    def close(self) -> None:
        pass

    def _now(self) -> Step:
        near = bool(np.abs(self.place - self.goal).max() < 0.02)
        return Step(np.append(self.place, 1).astype(np.float32), near)


def recorded(folder, *flags) -> LeRobotFolder:
    argv = ["--output_dir", folder, "--tasks", "reach", "push", "--episodes", 4, "--size", 16, *flags]
    record.main(record.parse_args([str(word) for word in argv]), make=Toy)
    return LeRobotFolder(folder)


def columns(dataset: LeRobotFolder, name: str) -> list:
    return [dataset.rows(each)[name].to_pylist() for each in dataset.episodes.values()]


def test_episodes_are_experts_and_explored_ones_and_end_behind_success(tmp_path, capsys):
    found = recorded(tmp_path / "a")
    assert [each.tasks for each in found.episodes.values()] == [(TASKS["reach"],)] * 4 + [(TASKS["push"],)] * 4
    assert found.fps == 40 and [seeds[0] for seeds in columns(found, "start_seed")] == [0, 1, 2, 3] * 2
    noise = [values[0] for values in columns(found, "noise")]
    assert noise == pytest.approx([0, 0, 0.6, 0.6] * 2)
    longer = recorded(tmp_path / "longer", "--behind", 9)
    for dataset, behind in ((found, 4), (longer, 9)):
        for success in columns(dataset, "success")[:2]:
            assert success == [False] * (len(success) - behind - 1) + [True] * (behind + 1)
    capsys.readouterr()
    recorded(tmp_path / "b")
    assert "succeed: 2 of 2 plain, " in (said := capsys.readouterr().out) and "none missed" in said
    missed = recorded(tmp_path / "missed", "--missed", 0.5, "--explored", 0.25)
    off = [values[0] for values in columns(missed, "off")]
    assert [each > 0 for each in off] == [False, False, True, True] * 2
    assert all(record.OFF[0] <= each <= record.OFF[1] for each in off if each)
    assert [values[0] > 0 for values in columns(missed, "noise")] == [False, True, False, False] * 2
    reached = [any(values) for values in columns(missed, "success")]
    assert not any(done for done, each in zip(reached, off, strict=True) if each > 0.04)
    for states, actions in zip(columns(found, "observation.state"), columns(found, "action"), strict=True):
        moved = np.diff(np.array(states)[:, :3], axis=0)
        assert np.abs(moved - 0.1 * np.array(actions)[:-1, :3]).max() < 1e-5  # action t leads to frame t + 1


def test_policies_take_turns_in_acted_episodes(tmp_path, monkeypatch, capsys):
    asked = []

    class Drifts:
        def __init__(self, folder):
            self.way = 0.5 if folder.name == "up" else -0.5

        def check(self, names, fps, tasks):
            assert (names, fps, tasks) == (record.ACTION, 40, [TASKS["reach"], TASKS["push"]])

        def act(self, tasks, frames):
            asked.append((tasks, frames.shape))
            return np.array([[[0, self.way, 0, n] for n in (0, 1, 2)]])

    monkeypatch.setattr("utils.robots.policies.TrainedPolicy", Drifts)
    found = recorded(tmp_path / "a", "--acted", 0.5, "--explored", 0.25, "--policies", "up", "down", "--execute", 2)
    assert [values[0] for values in columns(found, "acted")] == [False, False, True, True] * 2
    assert [values[0] > 0 for values in columns(found, "noise")] == [False, True, False, False] * 2
    for k, (actions, way) in enumerate(zip(columns(found, "action")[2:4], (0.5, -0.5), strict=True)):
        assert {action[1] for action in actions} == {way}, k
        assert [action[3] for action in actions[:4]] == [0, 1, 0, 1]  # of three that it plans two are taken
    assert asked[0] == ([TASKS["reach"]], (1, 16, 16, 3)) and asked[-1][0] == [TASKS["push"]]
    assert "0 of 2 acted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--acted", "0.5"], "--acted, --policies: each needs the other"),
        (["--policies", "run"], "--acted, --policies: each needs the other"),
        (["--missed", "0.6"], "--explored, --missed, --acted: are more than all episodes"),
    ],
)
def test_kinds_of_episodes_that_do_not_go_together_are_refused(tmp_path, capsys, flags, said):
    with pytest.raises(SystemExit) as stop:
        record.parse_args(["--output_dir", str(tmp_path), *flags])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_the_same_seeds_give_the_same_numbers_also_after_a_stop(tmp_path):
    found = recorded(tmp_path / "a", "--seed", "7")
    argv = ["--output_dir", tmp_path / "b", "--tasks", "reach", "push", "--episodes", 4, "--size", 16, "--seed", 7]
    made = []

    def breaks(*args) -> Toy:
        made.append(args)
        if len(made) > 1:
            raise KeyboardInterrupt
        return Toy(*args)

    with pytest.raises(KeyboardInterrupt):
        record.main(record.parse_args([str(word) for word in argv]), make=breaks)
    with pytest.raises(UserError, match=r"--output_dir: .* unfinished episodes of other settings \(behind, seed\)"):
        recorded(tmp_path / "b", "--seed", "8", "--behind", 9)
    again = recorded(tmp_path / "b", "--seed", "7")
    for name in ("action", "observation.state", "start_seed", "noise", "success", "index"):
        assert columns(found, name) == columns(again, name)
    with pytest.raises(UserError, match="--output_dir: .* holds a finished dataset"):
        recorded(tmp_path / "b")


def test_a_model_that_replays_the_simulator_obeys_and_one_that_does_not_listen_does_not(tmp_path, monkeypatch, capsys):
    """Drawn by the toy itself in place of a model."""
    recorded(tmp_path / "data", "--size", "32", "--episodes", "12")
    recorded(tmp_path / "held_out", "--seed", "500", "--size", "32", "--max_frames", "12")
    monkeypatch.setattr(measure, "RESULTS", tmp_path)

    def replayed(model, real, way, num_frames, args):
        shifted = real[len(real) // 2 :] + real[: len(real) // 2]
        return [
            replay(each, other.actions if way == obeyed.WAYS[1] else each.actions)
            for each, other in zip(real, shifted, strict=True)
        ]

    def replay(window, actions) -> np.ndarray:
        toy = Toy("reach", 32, 2)
        toy.reset(0)
        toy.place, frames = window.states[0, :3].astype(float), []
        for action in actions:
            frames.append(toy.picture())
            toy.step(action)
        return np.stack(frames)

    model = SimpleNamespace(step=1, num_frames=6, target_fps=None, checked_length=lambda frames: frames)
    monkeypatch.setattr("utils.robots.svd_world.open_world", lambda *_, **__: model)
    monkeypatch.setattr(obeyed, "draw", replayed)
    flags = {"checkpoint": tmp_path, "data_dir": tmp_path / "data", "held_out": tmp_path / "held_out"}
    flags |= {"work_dir": tmp_path / "work", "horizon": 9, "num_windows": 6, "tracker_steps": 300}
    argv = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    obeyed.main(obeyed.parse_args(argv))
    found = json.loads((tmp_path / "obeyed.json").read_text())
    own, other, none = (found["ways"][way] for way in obeyed.WAYS)
    assert found["ratio"] > obeyed.WANTED and other["gripper_cm"] > own["gripper_cm"] and own["psnr"] > other["psnr"]
    assert none == own  # it does not know of "no actions"
    assert own["gripper_cm"] == pytest.approx(found["tracker_cm"]["mean"], rel=0.3)
    assert [len(curve) for curve in found["horizon"].values()] == [9] * 3
    assert (tmp_path / "work" / "obeyed.png").is_file() and (tmp_path / "work" / "obeyed_horizon.png").is_file()
    model.target_fps = 20.0
    with pytest.raises(UserError, match="--held_out: it has 40 frames a second, the model draws 20"):
        obeyed.main(obeyed.parse_args(argv))
    model.target_fps = 40.0
    monkeypatch.setattr(obeyed, "draw", lambda *given: replayed(given[0], given[1], obeyed.WAYS[0], *given[3:]))
    capsys.readouterr()
    obeyed.main(obeyed.parse_args(argv))
    assert json.loads((tmp_path / "obeyed.json").read_text())["ratio"] == 1 and "NOT obeyed" in capsys.readouterr().out


def test_a_trained_model_is_drawn_from_the_first_frame_with_actions_of_either_kind(tmp_path, monkeypatch):
    recorded(tmp_path / "data", "--size", "16", "--max_frames", "12", "--episodes", "6")
    flags = ["--num_frames", 6, "--frame_size", 16, "--vectors", "action", "--tasks", "first_frame=1"]
    train(tmp_path / "data", tmp_path / "run", *map(str, flags), "--max_train_steps", "2")
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    flags = {"checkpoint": tmp_path / "run", "data_dir": tmp_path / "data", "held_out": tmp_path / "data"}
    flags |= {"work_dir": tmp_path, "horizon": 10, "num_windows": 4, "tracker_steps": 2, "num_inference_steps": 2}
    obeyed.main(obeyed.parse_args([str(word) for name, value in flags.items() for word in (f"--{name}", value)]))
    found = json.loads((tmp_path / "obeyed.json").read_text())
    assert found["step"] == 2 and found["frames"] == 6
    values = [number for way in found["ways"].values() for number in way.values()]
    assert np.isfinite(values).all() and len(found["horizon"]["own actions"]) == 10


def test_what_is_read_is_compared_with_what_was_asked(tmp_path, monkeypatch, capsys):
    """A reader that adds to each action what it believes to be its error."""
    recorded(tmp_path / "data", "--size", "16", "--max_frames", "12", "--episodes", "4")
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    wrong = iter([0.1 * n for n in range(1, 9)] * 3)
    given = []

    class Reader:
        def __init__(self, *_):
            pass

        def read(self, video):
            error = next(wrong)
            return given.pop(0) + error, np.full(6, error, np.float32)

    def drawn(model, real, way, num_frames, args):
        order = [*range(4, 8), *range(4)] if way == obeyed.WAYS[1] else range(8)
        given.extend(real[n].actions for n in ([*range(8)] if not given else []))
        given.extend(real[n].actions for n in order)
        return [each.frames for each in real]

    model = SimpleNamespace(step=1, num_frames=6, names=("dx", "dy", "dz", "close"), target_fps=None)
    monkeypatch.setattr("utils.robots.svd_world.open_world", lambda *_, **__: model)
    monkeypatch.setattr("utils.robots.labels.Labels", Reader)
    monkeypatch.setattr(obeyed, "draw", drawn)
    flags = {"checkpoint": tmp_path, "inverse_dynamics": tmp_path, "held_out": tmp_path / "data"}
    flags |= {"work_dir": tmp_path / "work", "num_windows": 8}
    labelled.main(labelled.parse_args([str(word) for name, value in flags.items() for word in (f"--{name}", value)]))
    found = json.loads((tmp_path / "labelled.json").read_text())["read"]
    for each in found.values():
        assert each["of_each"]["dx"] == pytest.approx(0.45, abs=1e-5) and each["rank_correlation"] == pytest.approx(1)
        assert each["by_quarters"] == sorted(each["by_quarters"])
    assert "| real |" in capsys.readouterr().out and (tmp_path / "work" / "labelled.png").is_file()


@pytest.mark.skipif(find_spec("metaworld") is None, reason="the simulator is not installed")
def test_the_simulator_moves_as_it_is_told_and_is_drawn_the_right_way_up():
    simulator = MetaWorld("reach", 64)
    start, first = simulator.reset(3), simulator.picture()
    for _ in range(10):
        now = simulator.step(np.array([0, 0, 1, 0], np.float32))
    assert now.state[2] > start.state[2] + 0.05 and np.abs(now.state[:2] - start.state[:2]).max() < 0.02
    red = [np.argwhere((f[..., 0] > 100) & (f[..., 1] < 50) & (f[..., 2] < 60)) for f in (first, simulator.picture())]
    assert red[1][:, 0].mean() < red[0][:, 0].mean()  # the arm is red, and higher in the picture
    places = []
    for seed in (3, *range(30), 3):  # whatever came before
        simulator.reset(seed)
        places.append((tuple(simulator.observation), simulator.picture()))
    assert places[0][0] == places[-1][0] == places[4][0] and np.array_equal(places[0][1], first)
    assert len({observation for observation, _ in places}) == 30
    simulator.close()


def test_without_the_simulator_a_line_says_how_to_get_it(monkeypatch):
    import builtins

    real = builtins.__import__

    def absent(name, *args):
        if name == "gymnasium":
            raise ImportError("No module named 'gymnasium'")
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match="pip install -r benchmarks/robots/requirements.txt"):
        MetaWorld("reach", 64)

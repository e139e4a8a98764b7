"""The benchmarks of policies, with a toy in place of the simulator and policies that know it."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import measure
from benchmarks.robots import in_the_loop, policies
from benchmarks.robots.acting import acted, in_words, replays, successes
from tests.benchmarks.test_robots import Toy
from utils.cli import UserError
from utils.lerobot.folder import LeRobotFolder
from utils.lerobot.writer import LeRobotWriter

pytestmark = pytest.mark.benchmarks
STEPS = 40


class Knows:
    """A policy that cheats: it asks the expert of the toy that was made last, at places whose seed has a remainder of
    its own; elsewhere it does nothing."""

    toy = None

    def __init__(self, folder: Path):
        self.every = {"generated": 1, "real_8": 1, "real_2": 4, "acted": 2, "good": 1, "half": 2, "bad": 10**6}
        self.every = next(n for name, n in self.every.items() if folder.name.startswith(name))

    def check(self, names, fps, tasks):
        assert fps == 40

    def act(self, tasks, frames):
        assert len(tasks) == len(frames) == 1 and frames.dtype == np.uint8
        knows = (Knows.toy.seed % self.every) == 0
        return np.repeat(Knows.toy.expert()[None, None] * knows, 8, axis=1)


class Remembered(Toy):
    def __init__(self, *args):
        super().__init__(*args)
        Knows.toy = self

    def reset(self, seed):
        self.seed = seed
        return super().reset(seed)


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path / "results")
    monkeypatch.setattr("utils.robots.policies.TrainedPolicy", Knows)
    return tmp_path / "results"


def test_success_is_that_of_the_simulator_with_and_without_its_frames():
    places = range(30)
    for folder, wanted in (("good", 30), ("half", 15), ("bad", 1)):
        policy = Knows(Path(folder))
        how = {"size": 16, "action_repeat": 2, "num_frames": STEPS, "execute": 1}
        found = successes(policy, Remembered, "reach", places, **how)
        both = [acted(policy, Knows.toy, "reach", seed, STEPS, 1) for seed in places]
        assert [done for _, done in both] == found and sum(found) == wanted
        assert {frames.shape for frames, _ in both} == {(STEPS, 16, 16, 3)}
    short = [acted(Knows(Path("good")), Knows.toy, "reach", seed, 3, 1)[1] for seed in places]
    assert short == successes(Knows(Path("good")), Remembered, "reach", places, **{**how, "num_frames": 3})
    assert sum(short) < 30


def run(work, *flags):
    argv = ["--work_dir", work, "--tasks", "reach", "push", "--counts", 2, "--seeds", 0, 1, "--episodes", 8]
    argv += [
        "--execute",
        1,
        "--size",
        16,
        "--checkpoint",
        work.parent,
        "--inverse_dynamics",
        "idm",
        "--success",
        "s",
        *flags,
    ]
    policies.main(policies.parse_args([str(word) for word in (*argv, *flags)]), make=Remembered)


def test_policies_learn_from_what_the_table_says_and_are_judged_once(tmp_path, results, monkeypatch, capsys):
    trained, drawn, rolled = [], [], []

    def train(args, data, more, seed, run_dir):
        trained.append((LeRobotFolder(data), more, seed))

    def generate(args):
        drawn.append(args)
        (args.output_dir / "meta").mkdir(parents=True)
        (args.output_dir / "meta/info.json").write_text(json.dumps({"total_episodes": 7}))

    def roll(args):
        rolled.append(args)
        (args.output_dir / "meta").mkdir(parents=True)
        (args.output_dir / "meta/info.json").write_text("{}")

    monkeypatch.setattr("benchmarks.robots.acting.replays", lambda *_: {"reach": {"real": 1.0, "generated": None}})
    monkeypatch.setattr("rollout_world_model.main", roll)
    monkeypatch.setattr(policies, "train", train)
    monkeypatch.setattr("generate_episodes.main", generate)
    sizes = ("--num_starts", 3, "--num_rollouts", 2)
    run(tmp_path / "work", *sizes, "--ways", "real")
    assert len(trained) == 2 and not drawn
    with pytest.raises(UserError, match="--work_dir: .* has figures of other num_starts; choose another folder"):
        run(tmp_path / "work", *sizes, "--num_starts", 4, "--ways", "real")
    run(tmp_path / "work", *sizes, "--ways", "real", "generated", "more")
    assert len(trained) == 6 and len(drawn) == 1 and not rolled  # those of the first time are not trained again
    for (data, more, seed), (count, kind, own) in zip(
        trained, [(2, False, 0), (2, False, 1), (2, True, 0), (2, True, 1), (8, False, 0), (8, False, 1)], strict=True
    ):
        assert len(data.episodes) == 2 * count and seed == own  # of two tasks
        assert (more is not None) == kind
    args = drawn[0]
    assert (args.actions, args.label, args.starts, args.num_episodes) == ("none", "read", "first", 6)
    assert args.success == Path("s") and args.num_frames == 64
    starts = LeRobotFolder(args.dataset)
    seeds = {starts.rows(each)["start_seed"][0].as_py() for each in starts.episodes.values()}
    assert seeds == {policies.STARTS + n for n in range(3)}
    found = json.loads((results / "policies.json").read_text())
    shares = {way: each["all"]["share"] for way, each in found["success"]["2"].items()}
    assert shares == {"real": 0.25, "generated": 1.0, "more": 1.0} and found["generated"] == 7
    assert found["replayed"] == {"reach": {"real": 1.0, "generated": None}}
    low, high = found["success"]["2"]["real"]["reach"]["interval"]
    run(tmp_path / "work", *sizes, "--ways", "acted", "--name", "other")
    assert len(trained) == 8 and [args.policy.name for args in rolled] == ["real_2_seed0", "real_2_seed1"]
    assert all(args.dataset == drawn[0].dataset and args.num_episodes == 4 for args in rolled)
    assert all(args.only_done and args.execute == 1 for args in rolled)  # it looks as often as where it is judged
    assert [each[1].name for each in trained[6:]] == ["acted_2_seed0", "acted_2_seed1"]
    assert low < 0.25 < high and found["success"]["2"]["real"]["reach"]["by_seed"] == [0.25, 0.25]
    assert "| 2 | N real | 25% (" in capsys.readouterr().out and (tmp_path / "work" / "policies.png").is_file()


def test_read_actions_are_replayed_from_the_place_of_their_episode(tmp_path, monkeypatch):
    """The reader is right of real episodes; of the generated ones half have the actions of another place."""
    tasks, found = ("reach", "push"), {}
    argv = ["--work_dir", tmp_path, "--tasks", *tasks, "--size", 16, "--inverse_dynamics", tmp_path, "--ways", "real"]
    args = policies.parse_args([str(word) for word in argv])
    for name, flags in (("starts", ("--max_frames", 2)), ("expert", ())):
        found[name] = policies.recorded(args, name, Toy, "--episodes", 4, "--explored", 0, "--seed", 50, *flags)
    real = policies.recorded(args, "real", Toy, "--episodes", 3, "--explored", 0)
    whole, names = LeRobotFolder(found["expert"]), ["dx", "dy", "dz", "close"]
    number = {"dtype": "int64", "shape": [1], "names": None}
    features = {"action": {"dtype": "float32", "shape": [4], "names": names}, "generated.source_episode": number}
    writer = LeRobotWriter(tmp_path / "generated", 40, features)
    for n, each in enumerate(whole.episodes.values()):
        actions = whole.numbers(each if n % 2 else whole.episodes[(n + 1) % 8], "action")[0]
        writer.add(n, each.tasks[0], {"action": actions, "generated.source_episode": np.full(len(actions), n)}, {})
    writer.finish()
    true = [LeRobotFolder(real).numbers(each, "action")[0] for each in LeRobotFolder(real).episodes.values()]
    monkeypatch.setattr("utils.robots.labels.Labels", lambda *_: SimpleNamespace(read=lambda _: (true.pop(0), None)))
    shares = replays(args, real, Toy)
    assert shares == {task: {"generated": 0.5, "real": 1.0} for task in tasks}
    assert "| from generated videos | 50% | 50% |" in in_words(shares)


def test_a_policy_is_really_trained_on_both(tmp_path):
    args = ["--work_dir", tmp_path, "--tasks", "reach", "--steps", 2, "--size", 16, "--ways", "real"]
    args = policies.parse_args([str(word) for word in args])
    sets = [policies.recorded(args, name, Remembered, "--episodes", 3, "--seed", s) for name, s in (("a", 0), ("b", 9))]
    policies.train(args, *sets, 0, tmp_path / "run")
    assert (tmp_path / "run" / "model" / "diffusion_pytorch_model.safetensors").is_file()


def test_a_model_is_compared_with_the_simulator_over_starts_and_policies(tmp_path, results, monkeypatch, capsys):
    """The video model believes of every second start what is wrong."""
    world = SimpleNamespace(height=16, target_fps=None, names=("dx",))
    wrong = []

    class Judge:
        def __init__(self, *_):
            pass

        def says_done(self, video):
            return bool(video[-1, 0, 0, 0])

    def marked(policy, simulator, task, seed, num_frames, execute):
        frames, done = acted(policy, simulator, task, seed, num_frames, execute)
        frames[-1, 0, 0] = 255 * done  # so that it can be read
        wrong.append(done)
        return frames, done

    def roll_out(world, policy, tasks, frames, seeds, num_frames, execute):
        videos = np.zeros((len(tasks), num_frames, 16, 16, 3), np.uint8)
        videos[:, -1, 0, 0] = [[255 * (done ^ (n % 2))] * 3 for n, done in enumerate(wrong[-len(tasks) :])]
        return videos, None

    monkeypatch.setattr("utils.robots.svd_world.open_world", lambda *_, **__: world)
    monkeypatch.setattr("utils.robots.labels.SuccessReader", Judge)
    monkeypatch.setattr("benchmarks.robots.acting.acted", marked)
    monkeypatch.setattr("utils.robots.rollouts.roll_out", roll_out)
    argv = ["--checkpoint", "w", "--success", "s", "--work_dir", tmp_path, "--tasks", "reach", "--starts", "8"]
    argv += [
        "--num_frames",
        STEPS,
        "--execute",
        "1",
        "--policies",
        *(tmp_path / name for name in ("good", "half", "bad")),
    ]
    args = in_the_loop.parse_args([str(word) for word in argv])
    in_the_loop.main(args, make=Remembered)
    found = json.loads((results / "in_the_loop.json").read_text())
    assert [each["simulator"] for each in found["policies"].values()] == [1, 0.5, 0]
    assert found["simulator, read"]["agreement"] == 1 and found["simulator, read"]["rank_correlation"] == 1
    assert found["video model"]["agreement"] == 0.5 and found["video model"]["by_chance"] == pytest.approx(0.5)
    assert "agrees with the simulator in 50% of starts (50% by chance)" in capsys.readouterr().out
    assert all((tmp_path / f"{name}.png").is_file() for name in ("good", "half", "bad", "in_the_loop"))
    wrong.clear()
    in_the_loop.main(args, make=Remembered)
    assert not wrong  # nothing was tried again
    with pytest.raises(UserError, match="--work_dir: .* has figures of other execute"):
        in_the_loop.main(in_the_loop.parse_args([*map(str, argv), "--execute", "2"]), make=Remembered)
    with pytest.raises(UserError, match="--policies: two have the same name"):
        in_the_loop.main(in_the_loop.parse_args([*map(str, argv), str(tmp_path / "other" / "good")]), make=Remembered)


def test_the_rank_correlation_is_spearmans_with_ties():
    rank = in_the_loop.rank_correlation
    assert rank([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1) and rank([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    one, other = [0.1, 0.4, 0.4, 0.9, 0.2], [1, 3, 2, 2, 5]
    ranks = np.array([[1, 3.5, 3.5, 5, 2], [1, 4, 2.5, 2.5, 5]])
    assert rank(one, other) == pytest.approx(np.corrcoef(ranks)[0, 1])
    assert rank([1, 1, 1], [1, 2, 3]) is None

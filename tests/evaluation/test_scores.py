"""Scores of clips against their prompts: exact where that is possible, and honest about how sure they are."""

import json
from dataclasses import replace
from itertools import permutations
from math import comb

import numpy as np
import pytest

from utils.demo_data import shapes
from utils.evaluation.judge import Verdict, wanted
from utils.evaluation.scores import (
    CORE,
    NOTHING,
    SCORED,
    chance,
    confusion,
    confusion_table,
    right,
    score,
    score_groups,
    score_table,
    wilson,
)

RED = {"colour": "red", "shape": "circle", "direction": "left", "speed": "slow", "size": "small"}
BLUE = {"colour": "blue", "shape": "square", "direction": "up", "speed": "fast", "size": "large"}
NONE = dict.fromkeys(RED)
BLIND = Verdict(**NONE, coherent=False, flaws=("absent",))


def seen(attributes: dict) -> Verdict:
    return Verdict(**attributes, coherent=True)


def test_all_is_the_core_and_strict_is_coherent_too():
    assert right(seen(RED), RED) == dict.fromkeys(SCORED, True)
    assert right(BLIND, RED) == dict.fromkeys(SCORED, False)
    for name in RED:
        hits = right(seen(RED | {name: BLUE[name]}), RED)
        assert [key for key in SCORED if not hits[key]] == [
            key for key in SCORED if key == name or (name in CORE and key in ("all", "strict"))
        ]
    broken = right(replace(seen(RED), coherent=False, flaws=("jump",)), RED)
    assert [key for key in SCORED if not broken[key]] == ["strict", "coherent"]


def test_what_a_prompt_does_not_name_is_not_scored():
    assert right(seen(RED), NONE) == {"coherent": True}
    asked = NONE | {"colour": "red", "size": "large"}
    assert right(seen(RED), asked) == {"colour": True, "all": True, "strict": True, "size": False, "coherent": True}
    assert right(BLIND, NONE) == {"coherent": False}
    assert {name: each["of"] for name, each in score([(asked, BLIND), (RED, BLIND)]).items()} == {
        "colour": 2, "shape": 1, "direction": 1, "all": 2, "strict": 2, "speed": 1, "size": 2, "coherent": 2,
    }  # fmt: skip


def test_wilson_interval_is_the_published_one():
    for hits, count, interval in (  # Newcombe 1998, table I; Agresti and Coull 1998
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ):
        assert wilson(hits, count, z=1.959964) == pytest.approx(interval, abs=1e-4)


def test_wilson_interval_solves_its_equation_and_keeps_its_promise():
    for count in (1, 7, 48, 192):
        for hits in range(count + 1):
            low, high = wilson(hits, count)
            assert 0 <= low <= hits / count <= high <= 1
            for end in {low, high} - {0.0, 1.0}:  # |share - p| is z standard errors of p
                assert abs(hits / count - end) == pytest.approx(1.96 * (end * (1 - end) / count) ** 0.5)
            assert wilson(count - hits, count) == pytest.approx((1 - high, 1 - low))
    coverage = []
    for truth in np.linspace(0.05, 0.95, 19):
        held = [n for n in range(49) if wilson(n, 48)[0] <= truth <= wilson(n, 48)[1]]
        coverage.append(sum(comb(48, n) * truth**n * (1 - truth) ** (48 - n) for n in held))
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
    assert wilson(0, 0) == (0, 1)
    assert all(wilson(0, count)[0] == 0 and wilson(count, count)[1] == 1 for count in range(1, 300))
    with pytest.raises(ValueError, match="3 hits of 2"):
        wilson(3, 2)


def test_chance_is_the_mean_over_all_shuffles():
    asked = [RED, BLUE, RED | {"shape": "square"}, BLUE | {"colour": "red"}, RED | {"size": "large"}]
    hits = [right(seen(shown), ask) for order in permutations(asked) for ask, shown in zip(asked, order, strict=True)]
    for name, share in chance(asked).items():
        assert share == pytest.approx(np.mean([hit[name] for hit in hits]))
    assert set(chance(asked)) == set(SCORED) - {"coherent"}


def test_chance_on_the_benchmark_is_one_in_the_number_of_values():
    for held_out, triples in ((False, 36), (True, 12)):
        found = chance([wanted(prompt) for prompt in shapes.benchmark_prompts(144, held_out=held_out)])
        expected = {"colour": 1 / 4, "shape": 1 / 3, "direction": 1 / 4, "speed": 1 / 2, "size": 1 / 2}
        assert found == pytest.approx(expected | {"all": 1 / triples, "strict": 1 / triples})


def test_chance_is_told_only_of_what_is_asked():
    assert chance([]) == chance([NONE, NONE]) == {}
    assert chance([NONE | {"colour": "red"}, NONE]) == {"colour": 1, "all": 1, "strict": 1}
    # Whatever else its clip shows, a prompt that names less is easier to please.
    assert chance([RED, NONE | {"colour": "red"}]) | {"all": 3 / 4, "strict": 3 / 4} == chance(
        [RED, NONE | {"colour": "red"}]
    )


def test_scores_count_and_are_plain_data():
    rows = [(RED, seen(RED)), (RED, seen(RED | {"colour": "blue"})), (BLUE, seen(BLUE)), (BLUE, BLIND)]
    scores = score(iter(rows))
    assert list(scores) == list(SCORED)
    assert scores["colour"] == {"right": 2, "of": 4, "share": 0.5, "interval": [*wilson(2, 4)], "chance": 0.5}
    assert [scores[name]["right"] for name in SCORED] == [2, 3, 3, 2, 2, 3, 3, 3]
    assert scores["coherent"]["chance"] is None
    groups = score_groups({"seen": rows[:2], "held out": rows[2:], "none": []})
    assert groups == {"seen": score(rows[:2]), "held out": score(rows[2:]), "none": {}}
    assert json.loads(json.dumps(groups)) == groups


def test_confusion_counts_every_clip_whose_prompt_names_the_attribute_once():
    rows = [
        (RED, seen(RED)),
        (RED, seen(RED | {"colour": "orange"})),
        (BLUE, seen(RED)),
        (BLUE, BLIND),
        (NONE, seen(RED | {"colour": "green"})),
    ]
    matrix = confusion(rows, "colour")
    assert matrix == {
        "red": {"red": 1, "blue": 0, "orange": 1, NOTHING: 0},
        "blue": {"red": 1, "blue": 0, "orange": 0, NOTHING: 1},
    }
    assert list(matrix["red"]) == ["red", "blue", "orange", NOTHING]
    assert confusion([], "shape") == {} and json.loads(json.dumps(matrix)) == matrix


def test_tables_show_the_numbers_in_columns():
    groups = score_groups({"seen": [(RED, seen(RED))] * 3 + [(RED, BLIND)], "one": [(NONE, BLIND)]})
    blocks = score_table(groups).split("\n\n")
    assert blocks[0].splitlines()[0] == "seen (4 clips)" and blocks[1].splitlines()[0] == "one (1 clip)"
    assert blocks[0].splitlines()[2].split(maxsplit=3) == ["colour", "3", "4", "75.0%    30.1 - 95.4  100.0%"]
    assert blocks[1].splitlines()[2].split(maxsplit=3) == ["coherent", "0", "1", "0.0%     0.0 - 79.3"]
    table = confusion_table(confusion([(RED, seen(BLUE)), (BLUE, BLIND)], "direction")).splitlines()
    assert [line.split() for line in table[1:]] == [["left", ".", "1", "."], ["up", ".", ".", "1"]]
    for lines in (table, blocks[0].splitlines()[1:3]):
        assert len({len(line) for line in lines}) == 1
    assert score_table({}) == "" and score_table({"none": {}}).startswith("none (0 clips)")
    assert confusion_table({})

"""Every bad input that is fast to try is met as its row in tests/badinput/ says; `make badinput` tries all of them."""

import pytest

from tests.badinput import ROWS, Place, Shared
from tests.table import try_row


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return Shared(tmp_path_factory.mktemp("badinput") / "shared")


@pytest.mark.parametrize("id", [row.id for row in ROWS.values() if not row.slow])
def test_bad_input_is_met_as_its_row_says(id, tmp_path, shared):
    result = try_row(ROWS[id], Place(tmp_path / "row", shared))
    if result.held is None:
        pytest.skip(result.happened)
    assert result.held, f"{result.what}: {result.happened}"


def test_every_row_of_the_table_is_there_once():
    expected = {"V": 33, "C": 11, "I": 14, "K": 9, "A": 16, "P": 10}
    assert set(ROWS) == {f"{letter}{n}" for letter, count in expected.items() for n in range(1, count + 1)}

"""Every fault that is fast to try is survived as its row in tests/faults/ says; `make faults` tries all of them."""

import pytest

from tests.faults import ROWS, Place, Shared
from tests.table import try_row

LONG = ("F8", "F19", "F30")  # many runs each


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    return Shared(tmp_path_factory.mktemp("faults") / "shared")


@pytest.mark.parametrize(
    "id",
    [pytest.param(id, marks=[pytest.mark.slow] * (id in LONG)) for id, row in ROWS.items() if not row.slow],
)
def test_fault_is_survived_as_its_row_says(id, tmp_path, shared):
    result = try_row(ROWS[id], Place(tmp_path / "row", shared))
    if result.held is None:
        pytest.skip(result.happened)
    assert result.held, f"{result.what}: {result.happened}"

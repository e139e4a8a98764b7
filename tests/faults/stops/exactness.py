"""Rows F13 and F14: a stopped and resumed run is the run that was never stopped, and what is lost of it shows."""

from tests.faults.place import Place, row
from tests.reliability.resume_exact import STOPS, exactness, mutations


@row(
    "F13",
    "stopped after 1, 3, 5, 8 and 16 of 17 steps, with workers, with accumulation: equal in each bit",
    slow=True,
)
def f13(place: Place) -> str:
    runs = list(exactness(place.shared, place.folder))
    for *run, difference in runs:
        assert not difference.exists, f"{run}: {difference}"
    return f"{len(STOPS) * len(runs)} stops in {len(runs)} runs, largest difference 0.0, samples and state equal"


@row(
    "F14",
    "items of the saved state lost in turn, random numbers of each kind drawn otherwise: each shows",
    slow=True,
)
def f14(place: Place) -> str:
    rows = list(mutations(place.shared, place.folder))
    for trainer, item, found, seen in rows:
        assert seen == (item != "nothing"), f"{trainer}, lost: {item}: {found}"
    return f"{sum(seen for *_, seen in rows)} of {len(rows) - 2} items seen"

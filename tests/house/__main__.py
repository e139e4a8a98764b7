"""Prints which package imports from which, and fails if a rule of the house is broken.

python -m tests.house
"""

import sys

from tests.house.rules import House

if __name__ == "__main__":
    house = House()
    problems = house.problems()
    print(house.drawing())
    print("\n".join(problems) or "no arrow up, no circle, no package and no file too large")
    sys.exit(bool(problems))

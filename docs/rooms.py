"""Count the rooms of a checkout and the imports between them: ``python docs/rooms.py [CHECKOUT]``.

A room is a module or package directly in ``aimcost``. An arrow goes from one to another that it imports anywhere, under
TYPE_CHECKING too. Rooms that reach each other are a circle; floors are the longest way down.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import grimp


def main(checkout: str | Path = Path(__file__).parents[1]) -> None:
    """Print the counts."""
    sys.path.insert(0, str(checkout))
    graph = grimp.build_graph("aimcost", exclude_type_checking_imports=False)
    modules, rooms = len(graph.modules), graph.find_children("aimcost")
    files = {room for room in rooms if not graph.find_children(room)}
    for room in rooms - files:
        graph.squash_module(room)
    below = {room: (graph.find_modules_directly_imported_by(room) & rooms) - {room} for room in rooms}

    @cache
    def reached(room: str) -> set[str]:
        found, new = set[str](), below[room]
        while new:
            found |= new
            new = {lower for one in new for lower in below[one]} - found
        return found

    @cache
    def circle(room: str) -> frozenset[str]:
        return frozenset({room} | {other for other in reached(room) if room in reached(other)})

    @cache
    def floor(room: str) -> int:
        down = {lower for one in circle(room) for lower in below[one]} - circle(room)
        return 1 + max(map(floor, down), default=0)

    circles = {circle(room) for room in rooms if len(circle(room)) > 1}
    print(
        f"{len(rooms)} rooms ({len(files)} of one file) on {max(map(floor, rooms))} floors, "
        f"{sum(map(len, below.values()))} arrows, {len(circles)} circles; {modules} modules"
    )
    for names in sorted(map(sorted, circles)):
        print("circle: " + ", ".join(name.removeprefix("aimcost.") for name in names))


if __name__ == "__main__":
    main(*sys.argv[1:])

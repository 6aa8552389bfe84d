"""What choosing costs: choose + observe from Python, with 16 points, while the load changes; and the memory it takes.

    python benchmarks/selector.py                 # the times, 200,000 decisions
    python benchmarks/selector.py --rounds 10000000 --memory

Each round is timed by itself; the clock's own cost is measured and told, and not taken off. Between the rounds a loop of
fixed arithmetic of about the same length is timed too: what *it* loses at its 99th percentile is the machine's doing (other
tenants of a virtual one, its frequency), not the selector's.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import time
from pathlib import Path

from precut._files import atomic_write
from precut.deadline import Frontier, Point, Selector
from precut.measure import environment

POINTS = 16
SHARES = (0.5, 0.9, 0.99, 0.999)


def ladder() -> list[Point]:
    """Points of 1 to 16 ms, with noise."""
    draw = random.Random(0)
    return [
        Point(f"p{k}", 0.5 + 0.02 * k, [1e-3 * (k + 1) * draw.lognormvariate(0, 0.1) for _ in range(400)])
        for k in range(POINTS)
    ]


def clock_ns() -> float:
    """Median of two clock readings on end."""
    times = []
    for _ in range(20_000):
        start = time.perf_counter_ns()
        times.append(time.perf_counter_ns() - start)
    return sorted(times)[len(times) // 2]


def fixed_work() -> int:
    """Arithmetic that always takes the same instructions: the measure of the machine's own unsteadiness."""
    total = 0
    for number in range(150):
        total += number * number
    return total


def shares(spent: list[int], name: str) -> dict[str, float]:
    spent.sort()
    return {f"{name}p{100 * share:g}_us": spent[int(share * len(spent))] / 1e3 for share in SHARES}


def drive(rounds: int, memory: bool) -> dict[str, object]:
    """Random deadlines, a machine that is 2.5 times slower every other thousand rounds."""
    points = ladder()
    middle = {point.name: point.time("p50") for point in points}
    selector = Selector(Frontier(points))
    draw = random.Random(1)
    noise = [draw.lognormvariate(0, 0.1) for _ in range(4096)]
    spent: list[int] = []
    control: list[int] = []
    sizes: list[int] = []
    for number in range(rounds):
        left = draw.uniform(0.5e-3, 25e-3)
        slow = 2.5 if number // 1000 % 2 else 1.0
        start = time.perf_counter_ns()
        decision = selector.choose(left)
        between = time.perf_counter_ns()
        assert decision.point is not None
        seconds = middle[decision.point.name] * noise[number % 4096] * slow
        again = time.perf_counter_ns()
        selector.observe(decision, seconds)
        end = time.perf_counter_ns()
        if not memory:
            spent.append(between - start + end - again)
            start = time.perf_counter_ns()
            fixed_work()
            control.append(time.perf_counter_ns() - start)
        elif number % (rounds // 10) == rounds // 100:
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    stats = selector.stats
    result: dict[str, object] = {
        "rounds": rounds,
        "points": POINTS,
        "broken": stats.broken,
        "promised": stats.promised,
        "bound": stats.bound,
    }
    if memory:
        return result | {"peak_kb": sizes}
    return result | shares(spent, "") | shares(control, "fixed_") | {"clock_us": clock_ns() / 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200_000)
    parser.add_argument("--memory", action="store_true", help="watch the process's peak memory instead of the clock")
    parser.add_argument("--out", type=Path, help="add the result to this JSON-lines file")
    arguments = parser.parse_args()
    where = environment()
    result = drive(arguments.rounds, arguments.memory) | {
        key: where[key] for key in ("cpu", "cores", "python", "virtual")
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        before = arguments.out.read_text() if arguments.out.is_file() else ""
        atomic_write(arguments.out, before + json.dumps(result) + "\n")


if __name__ == "__main__":
    main()

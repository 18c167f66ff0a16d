"""Lines of JSON as a table in Markdown, load by load, fastest first."""

import json
import sys


def number(value):
    for least, unit in ((1e6, " M"), (1e4, " k")):
        if value >= least:
            value, unit = value / {" M": 1e6, " k": 1e3}[unit], unit
            return f"{value:.3g}{unit}"
    return f"{value:.0f}"


def micros(value):
    if value is None:
        return "—"
    return f"{value / 1000:.3g} ms" if value >= 1000 else f"{value:.3g} µs"


lines = [json.loads(line) for line in sys.stdin if line.strip()]
print("\n| load | peer | steps/s | p50 | p99 | steps | durability | what it is there |")
print("|---|---|--:|--:|--:|--:|---|---|")
for load in ("jobs", "chain", "fan-out"):
    for line in sorted((line for line in lines if line["load"] == load), key=lambda line: -line["stepsPerSecond"]):
        cells = [
            load,
            line["peer"],
            number(line["stepsPerSecond"]),
            micros(line.get("p50Micros")),
            micros(line.get("p99Micros")),
            str(line["steps"]),
            line["durability"],
            line.get("note", ""),
        ]
        print("| " + " | ".join(cells) + " |")

"""Turns what `orch-bench --json` prints into the line that peers print."""

import json
import sys

load, store = sys.argv[1:]
figures = {figure["id"]: figure for figure in json.load(sys.stdin)["figures"]}
line = {"peer": f"orch, {store}", "load": load}
if load == "chain":
    figure = figures[f"{store}.chain"]
    # The length stands in what the figure is of.
    steps = int(figure["what"].rsplit(" ", 1)[1])
    line |= {"steps": steps, "seconds": steps / figure["value"], "stepsPerSecond": figure["value"]}
    line |= {name: figure[name] for name in ("p50Micros", "p99Micros")}
else:
    rate, seconds = figures["workflow.rate"]["value"], figures["workflow.makespan"]["value"]
    line |= {"steps": round(rate * seconds), "seconds": seconds, "stepsPerSecond": rate}
line["durability"] = {
    "memory": "none",
    "sqlite": "SQLite, WAL, synchronous=FULL: flushed before a step starts and before its end counts",
}[store]
line["note"] = {
    "jobs": "runs of one step each; every run is recorded and waited for",
    "chain": "one run",
    "fan-out": "one run of a `forEach`, which ends when all have",
}[load]
print(json.dumps(line))

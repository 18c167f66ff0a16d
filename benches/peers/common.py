"""What all scripts in Python share: the loads' sizes and the line that is printed for each."""

import json
import math
import os

JOBS = int(os.environ.get("PEERS_JOBS", "10000"))
CHAIN = int(os.environ.get("PEERS_CHAIN", "1000"))
FAN = int(os.environ.get("PEERS_FAN", "10000"))


def report(peer, load, steps, seconds, durability, stamps=(), note=None):
    """One line of JSON: `steps` of `load` took `seconds`; `stamps` are when each step of a chain ran, in seconds."""
    between = sorted((after - before) * 1e6 for before, after in zip(stamps, stamps[1:]))
    line = {
        "peer": peer,
        "load": load,
        "steps": steps,
        "seconds": seconds,
        "stepsPerSecond": steps / seconds,
        "durability": durability,
    }
    for name, percent in (("p50Micros", 50), ("p99Micros", 99)):
        if between:
            line[name] = between[max(0, math.ceil(percent / 100 * len(between)) - 1)]
    if note:
        line["note"] = note
    print(json.dumps(line), flush=True)


def fewer(steps, most):
    """At most `most` of them, and why."""
    if steps <= most:
        return steps, None
    return most, f"{most} and not {steps}, which would take minutes"


def also(*notes):
    return "; ".join(note for note in notes if note)

"""Prefect: flows and tasks in this process, its server beside it."""

import os
import time

from prefect import flow, task

from common import CHAIN, FAN, JOBS, also, fewer, report

PEER = "Prefect 3.9.1"
DURABILITY = os.environ["PREFECT_DURABILITY"]
stamps = []


@task
def noop(_=None):
    stamps.append(time.perf_counter())


@flow
def chain(length):
    for _ in range(length):
        noop()


@flow
def fan(width):
    noop.map(range(width)).wait()


# The first flow of a process takes longer.
chain(1)

jobs, why = fewer(JOBS, 500)
begun = time.perf_counter()
fan(jobs)
seconds = time.perf_counter() - begun
report(PEER, "jobs", jobs, seconds, DURABILITY, note=also("tasks of one flow: a flow of its own for each takes a second", why))

length, why = fewer(CHAIN, 500)
stamps.clear()
begun = time.perf_counter()
chain(length)
seconds = time.perf_counter() - begun
report(PEER, "chain", length, seconds, DURABILITY, stamps, also("tasks called one after the other; start and end of the flow included", why))

width, why = fewer(FAN, 500)
begun = time.perf_counter()
fan(width)
seconds = time.perf_counter() - begun
report(PEER, "fan-out", width, seconds, DURABILITY, note=also("one mapped task", why))

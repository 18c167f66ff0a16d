"""DBOS: durable workflows in this process, recorded in SQLite or PostgreSQL."""

import asyncio
import os
import time

from dbos import DBOS

from common import CHAIN, FAN, JOBS, also, fewer, report

PEER = "DBOS 3.4.0"
DURABILITY = os.environ["DBOS_DURABILITY"]
stamps = []

DBOS(config={"name": "bench", "system_database_url": os.environ["DBOS_URL"], "run_admin_server": False, "log_level": "ERROR"})


@DBOS.step()
def step():
    stamps.append(time.perf_counter())


@DBOS.workflow()
def one():
    step()


@DBOS.workflow()
def chain(length):
    for _ in range(length):
        step()


@DBOS.step()
async def asynchronous():
    pass


@DBOS.workflow()
async def fan(width):
    await asyncio.gather(*[asynchronous() for _ in range(width)])


DBOS.launch()
queue = DBOS.register_queue("bench", polling_interval_sec=0.01)
chain(10)

jobs, why = fewer(JOBS, 1_000)
begun = time.perf_counter()
for handle in [queue.enqueue(one) for _ in range(jobs)]:
    handle.get_result()
seconds = time.perf_counter() - begun
report(PEER, "jobs", jobs, seconds, DURABILITY, note=also("queued workflows of one step", why))

stamps.clear()
begun = time.perf_counter()
chain(CHAIN)
seconds = time.perf_counter() - begun
report(PEER, "chain", CHAIN, seconds, DURABILITY, stamps, "one workflow")

width, why = fewer(FAN, 2_000)
begun = time.perf_counter()
asyncio.run(fan(width))
seconds = time.perf_counter() - begun
report(PEER, "fan-out", width, seconds, DURABILITY, note=also("steps gathered in one workflow", why))
DBOS.destroy()

"""Temporal: workflows and activities in this process, the development server beside it."""

import asyncio
import os
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from common import CHAIN, FAN, JOBS, also, fewer, report

PEER = "Temporal dev server 1.32.0"
DURABILITY = os.environ["TEMPORAL_DURABILITY"]
TIMEOUT = timedelta(minutes=5)
# A workflow may have 2000 activities under way.
AT_ONCE = 1_000
stamps = []


@activity.defn
async def noop() -> None:
    stamps.append(time.perf_counter())


@workflow.defn
class Chain:
    @workflow.run
    async def run(self, length: int) -> None:
        for _ in range(length):
            await workflow.execute_activity(noop, start_to_close_timeout=TIMEOUT)


@workflow.defn
class Fan:
    @workflow.run
    async def run(self, width: int) -> None:
        while width > 0:
            some = [workflow.execute_activity(noop, start_to_close_timeout=TIMEOUT) for _ in range(min(width, AT_ONCE))]
            await asyncio.gather(*some)
            width -= len(some)


async def main():
    client = await Client.connect(os.environ["TEMPORAL_ADDRESS"])

    async def execute(run, argument):
        await client.execute_workflow(run, argument, id=str(uuid.uuid4()), task_queue="bench")

    worker = Worker(
        client,
        task_queue="bench",
        workflows=[Chain, Fan],
        activities=[noop],
        workflow_runner=UnsandboxedWorkflowRunner(),
        max_concurrent_activities=100,
        max_concurrent_workflow_tasks=100,
    )
    async with worker:
        await execute(Chain.run, 5)

        jobs, why = fewer(JOBS, 500)
        gate = asyncio.Semaphore(50)

        async def one():
            async with gate:
                await execute(Chain.run, 1)

        begun = time.perf_counter()
        await asyncio.gather(*[one() for _ in range(jobs)])
        seconds = time.perf_counter() - begun
        report(PEER, "jobs", jobs, seconds, DURABILITY, note=also("workflows of one activity, 50 at once", why))

        stamps.clear()
        begun = time.perf_counter()
        await execute(Chain.run, CHAIN)
        seconds = time.perf_counter() - begun
        report(PEER, "chain", CHAIN, seconds, DURABILITY, stamps, "activities of one workflow, one after the other")

        width, why = fewer(FAN, 1_000)
        begun = time.perf_counter()
        await execute(Fan.run, width)
        seconds = time.perf_counter() - begun
        report(PEER, "fan-out", width, seconds, DURABILITY, note=also(f"activities of one workflow, {AT_ONCE} at once", why))


asyncio.run(main())
# Its native part may crash while the interpreter ends; everything is printed.
os._exit(0)

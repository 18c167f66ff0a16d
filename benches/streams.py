"""Opens many streams on a service and measures what they cost: memory, messages a second, and whether any is missing.

    cargo build --release -p orch-http && python3 benches/streams.py target/release/orch-server [IDLE] [BUSY]

Starts the service in a directory of its own, opens IDLE (2 000) streams on a run that waits, and BUSY (200) streams on
runs of 500 steps each that are started at once. Python's standard library only.
"""

import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

BASE = "/api/v1/orchestrator"
STEPS = 500
WAITS = {"apiVersion": "orch/v1", "kind": "Dag", "id": "waits", "steps": [{"id": "a", "uses": "wait/signal", "with": {"name": "go"}}]}
BUSY = {
    "apiVersion": "orch/v1", "kind": "Dag", "id": "busy",
    "steps": [{"id": "a", "uses": "fn/noop", "forEach": {"items": list(range(STEPS))}}],
}


class Service:
    def __init__(self, program):
        self.place = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [os.path.abspath(program), "--listen", "127.0.0.1:0", "--log", "error"],
            cwd=self.place.name, stdout=subprocess.PIPE, text=True,
        )
        self.port = int(self.process.stdout.readline().strip().rsplit(":", 1)[1])
        with open(self.place.name + "/.orch/token") as file:
            self.token = file.read().strip()

    def head(self, method, path, more=""):
        return (
            f"{method} {BASE}{path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {self.token}\r\n"
            f"X-Stella-Tenant: default\r\n{more}\r\n"
        ).encode()

    async def ask(self, method, path, body=None):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        text = b"" if body is None else json.dumps(body).encode()
        more = f"Connection: close\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n"
        writer.write(self.head(method, path, more) + text)
        answer = await reader.read()
        writer.close()
        return json.loads(answer.split(b"\r\n\r\n", 1)[1] or b"null")

    def memory(self):
        """Resident memory in MiB: now, and at most."""
        with open(f"/proc/{self.process.pid}/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return [int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]


async def follow(service, run, opened, seen=None):
    """Follows a run to its end; answers the numbers of the entries it was told of."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1 << 16)
    writer.write(service.head("GET", f"/runs/stream?runId={run}", "Accept: text/event-stream\r\n"))
    await reader.readuntil(b"\r\n\r\n")
    opened.append(writer)
    numbers = []
    while line := await reader.readline():
        if line.startswith(b"data: {\"type\""):
            numbers.append(json.loads(line[6:])["seq"])
            if seen is not None:
                seen[0] += 1
        elif line.startswith(b"event: end"):
            break
    writer.close()
    return numbers


async def main(program, idle, busy):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    service = Service(program)
    try:
        for dag in (WAITS, BUSY):
            await service.ask("POST", "/dags", dag)
        empty = service.memory()[0]
        waiting = (await service.ask("POST", "/runs", {"dagId": "waits"}))["runId"]
        opened = []
        idlers = []
        for number in range(idle):
            idlers.append(asyncio.create_task(follow(service, waiting, opened)))
            if number % 100 == 99:
                await asyncio.sleep(0.05)
        while len(opened) < idle:
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        print(f"empty: {empty:.0f} MiB; with {idle} idle streams: {service.memory()[0]:.0f} MiB")
        runs = [(await service.ask("POST", "/runs", {"dagId": "busy"}))["runId"] for _ in range(busy)]
        seen, begun = [0], time.monotonic()
        told = await asyncio.gather(*(follow(service, run, opened, seen) for run in runs))
        took = time.monotonic() - begun
        gaps = sum(numbers != sorted(set(numbers)) or numbers[-1] - numbers[0] + 1 != len(numbers) for numbers in told)
        now, most = service.memory()
        print(f"{busy} busy streams: {seen[0]} messages in {took:.1f} s, {seen[0] / took:.0f}/s; {gaps} with a gap or a repetition")
        print(f"memory at the end: {now:.0f} MiB; at most: {most:.0f} MiB; {sum(not task.done() for task in idlers)} idle streams still open")
        for task in idlers:
            task.cancel()
        return 1 if gaps else 0
    finally:
        service.process.kill()
        service.process.wait()


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[2:4]]
    idle, busy = (numbers + [2000, 200][len(numbers):])[:2]
    sys.exit(asyncio.run(main(sys.argv[1], idle, busy)))

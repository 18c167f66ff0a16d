"""Does jobs of the type `checksum`: hashes the texts it is given.

    ORCH_URL=http://127.0.0.1:8470 ORCH_TOKEN=$(cat .orch/token) python3 examples/workers/checksum.py

Submit one with

    curl -H "Authorization: Bearer $ORCH_TOKEN" -H 'X-Stella-Tenant: default' -H 'Content-Type: application/json' \\
         -d '{"jobType":"checksum","payload":{"texts":["a","b"]}}' $ORCH_URL/api/v1/orchestrator/jobs
"""

import hashlib
import os
import sys
import time

from orch_worker import Failure, Service, work


def checksum(job):
    texts = job.input.get("texts") if isinstance(job.input, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Failure("invalid_input", "the payload is {\"texts\": [TEXT, …]}", retryable=False)
    sums = []
    for number, text in enumerate(texts, 1):
        job.check()
        sums.append(hashlib.sha256(text.encode()).hexdigest())
        job.log(f"{number}: {sums[-1]}")
        job.progress(f"{number} of {len(texts)} texts")
        time.sleep(job.input.get("pause", 0))
    report = job.upload("\n".join(sums).encode(), "sums.txt", "text/plain")
    return {"sums": sums, "report": report}


if __name__ == "__main__":
    service = Service(os.environ["ORCH_URL"], os.environ["ORCH_TOKEN"].strip(), os.environ.get("ORCH_TENANT", "default"))
    at_most = int(sys.argv[1]) if len(sys.argv) > 1 else None
    lease_seconds = int(os.environ.get("LEASE_SECONDS", "30"))
    work(service, f"checksum-{os.getpid()}", {"checksum": checksum}, lease_seconds, at_most)

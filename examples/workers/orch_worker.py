"""A worker for orch, with nothing but Python's standard library.

It leases jobs, keeps their leases while a function of yours works on them, hears when to stop, and reports how each
ended. What it relies on is described in docs/http.md under "Workers in any language".
"""

import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

BASE = "/api/v1/orchestrator"


class LeaseLost(Exception):
    """The attempt is not ours any more: drop the work, nothing we say counts."""


class Cancelled(Exception):
    """The run is to end: raise this, or return what was achieved."""


class Failure(Exception):
    """The job failed. Another attempt follows if it is retryable and the step allows it."""

    def __init__(self, code, message, retryable=True):
        super().__init__(message)
        self.code, self.retryable = code, retryable


class Service:
    """Speaks to one orch service for one tenant."""

    def __init__(self, url, token, tenant, timeout=90):
        self.url, self.token, self.tenant, self.timeout = url.rstrip("/"), token, tenant, timeout

    def post(self, path, body, media="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + BASE + path, data=data, method="POST")
        request.add_header("Authorization", "Bearer " + self.token)
        request.add_header("X-Stella-Tenant", self.tenant)
        request.add_header("Content-Type", media)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            envelope = json.loads(error.read() or b"{}").get("error", {})
            if envelope.get("code") == "LEASE_LOST":
                raise LeaseLost(envelope["message"]) from None
            error.reason = envelope or error.reason
            raise


class Job:
    """One attempt. `input` is what to work on; `idempotency_key` is for what must not happen twice."""

    def __init__(self, service, lease):
        self.service, self.lease = service, lease
        self.input, self.idempotency_key = lease["input"], lease["idempotencyKey"]
        self.cancelled, self.lost = threading.Event(), threading.Event()
        self._lines, self._progress = [], None

    def log(self, line):
        """Adds a line to the attempt's log."""
        self._lines.append(str(line))

    def progress(self, text):
        """Says how far it is; told with the next heartbeat."""
        self._progress = str(text)

    def check(self):
        """Raises if there is no point in going on. Call it between pieces of work."""
        if self.lost.is_set():
            raise LeaseLost("the lease is over")
        if self.cancelled.is_set():
            raise Cancelled

    def upload(self, data, name, media_type="application/octet-stream"):
        """Keeps bytes; put what comes back into the output."""
        query = urllib.parse.urlencode({"name": name, "mediaType": media_type})
        return self._say("/artifacts?" + query, data, "application/octet-stream")

    def _say(self, rest, body, media="application/json"):
        return self.service.post("/workers/leases/" + self.lease["leaseId"] + rest, body, media)

    def _keep_alive(self, seconds, done):
        """Renews the lease every third of it, through passing failures too."""
        while not done.wait(seconds / 3):
            body = {"leaseSeconds": seconds}
            if self._progress:
                body["progress"] = self._progress[:1000]
            try:
                if self._say(":heartbeat", body)["cancel"]:
                    self.cancelled.set()
            except LeaseLost:
                self.lost.set()
                return
            except OSError:
                continue

    def _run(self, work, seconds):
        done = threading.Event()
        heartbeat = threading.Thread(target=self._keep_alive, args=(seconds, done), daemon=True)
        heartbeat.start()
        try:
            end = (":complete", {"output": work(self)})
        except LeaseLost:
            return
        except Cancelled:
            end = (":fail", {"status": "canceled"})
        except Failure as failure:
            end = (":fail", {"code": failure.code, "message": str(failure), "retryable": failure.retryable})
        except Exception as error:
            end = (":fail", {"code": "exception", "message": f"{type(error).__name__}: {error}"})
        finally:
            done.set()
            heartbeat.join()
        self._end(*end, seconds)

    def _end(self, action, body, seconds):
        """Reports the end, again and again for as long as the lease may last."""
        until = time.monotonic() + seconds
        while True:
            try:
                if self._lines:
                    text = "\n".join(self._lines).encode()
                    body["logs"] = self._say("/logs", text, "text/plain")
                return self._say(action, body)
            except LeaseLost:
                return None
            except OSError as error:
                refused = isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code != 429
                if refused or time.monotonic() > until:
                    raise
                time.sleep(0.5)


def work(service, name, jobs, lease_seconds=30, at_most=None):
    """Works for ever, or on so many jobs: `jobs` maps job types to functions that take a Job and return its output."""
    while at_most is None or at_most > 0:
        ask = {"worker": name, "jobTypes": sorted(jobs), "leaseSeconds": lease_seconds, "waitSeconds": 30}
        try:
            leases = service.post("/workers/leases", ask)["items"]
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise
            time.sleep(1)
            continue
        except OSError:
            time.sleep(1)
            continue
        for lease in leases:
            Job(service, lease)._run(jobs[lease["jobType"]], lease_seconds)
            at_most = at_most - 1 if at_most is not None else None

// graphile-worker: jobs in PostgreSQL, one worker with 24 jobs at once in this process, claiming 500 jobs at a time.

import { makeWorkerUtils, run } from "graphile-worker";
import { chain, fan, jobs, latch, report, timed } from "./common.mjs";

const connectionString = process.env.DATABASE_URL;
const durability = process.env.POSTGRES_DURABILITY;
const peer = "graphile-worker 0.17.3";

const utils = await makeWorkerUtils({ connectionString });
await utils.migrate();
let onStep = () => {};
const runner = await run({
  preset: { worker: { connectionString, concurrentJobs: 24, maxPoolSize: 30, localQueue: { size: 500 } } },
  taskList: { noop: async (payload) => onStep(payload) },
  noHandleSignals: true,
});

async function addAll(count) {
  for (let at = 0; at < count; at += 1000) {
    const length = Math.min(1000, count - at);
    await utils.addJobs(Array.from({ length }, (_, i) => ({ identifier: "noop", payload: { at: at + i } })));
  }
}

async function many(load, count, note) {
  const done = latch();
  let seen = 0;
  onStep = () => ++seen === count && done.open();
  const seconds = await timed(async () => {
    await addAll(count);
    await done.opened;
  });
  report(peer, load, count, seconds, durability, { note });
}

await many("jobs", jobs, "ends when the last job has run; finished jobs are deleted");

const stamps = [];
const done = latch();
onStep = async ({ at }) => {
  stamps.push(performance.now());
  if (at + 1 === chain) done.open();
  else await utils.addJob("noop", { at: at + 1 });
};
const seconds = await timed(async () => {
  await utils.addJob("noop", { at: 0 });
  await done.opened;
});
report(peer, "chain", chain, seconds, durability, { stamps, note: "each job adds the next one; no dependency is declared" });

await many("fan-out", fan, "nothing waits for all of them: it has no joins");
await runner.stop();
await utils.release();

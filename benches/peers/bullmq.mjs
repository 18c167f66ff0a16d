// BullMQ: jobs in Redis, one worker with 100 jobs at once in this process.

import { FlowProducer, Queue, Worker } from "bullmq";
import { chain, fan, jobs, latch, report, timed } from "./common.mjs";

const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT), maxRetriesPerRequest: null };
const durability = process.env.REDIS_DURABILITY;
const peer = "BullMQ 6.7.0";
const concurrency = 100;

// Finished jobs are kept, as runs are.
async function many() {
  const queue = new Queue("jobs", { connection });
  const done = latch();
  let count = 0;
  const worker = new Worker("jobs", async () => ++count === jobs && done.open(), { connection, concurrency });
  await worker.waitUntilReady();
  const seconds = await timed(async () => {
    for (let at = 0; at < jobs; at += 1000) {
      await queue.addBulk(Array.from({ length: Math.min(1000, jobs - at) }, (_, i) => ({ name: "noop", data: at + i })));
    }
    await done.opened;
  });
  await worker.close();
  await queue.close();
  report(peer, "jobs", jobs, seconds, durability, { note: "ends when the last job has run, not when its end is recorded" });
}

async function chained() {
  const queue = new Queue("chain", { connection });
  const stamps = [];
  const done = latch();
  const step = async (job) => {
    stamps.push(performance.now());
    if (job.data + 1 === chain) done.open();
    else await queue.add("step", job.data + 1);
  };
  const worker = new Worker("chain", step, { connection, concurrency });
  await worker.waitUntilReady();
  const seconds = await timed(async () => {
    await queue.add("step", 0);
    await done.opened;
  });
  await worker.close();
  await queue.close();
  report(peer, "chain", chain, seconds, durability, { stamps, note: "each job adds the next one; no dependency is declared" });
}

async function fanned() {
  const flows = new FlowProducer({ connection });
  const done = latch();
  const run = async (job) => job.name === "parent" && done.open();
  const worker = new Worker("fan", run, { connection, concurrency });
  await worker.waitUntilReady();
  const children = Array.from({ length: fan }, (_, i) => ({ name: "child", queueName: "fan", data: i }));
  const seconds = await timed(async () => {
    await flows.add({ name: "parent", queueName: "fan", children });
    await done.opened;
  });
  await worker.close();
  await flows.close();
  report(peer, "fan-out", fan, seconds, durability, { note: "a flow: the parent runs when all children have" });
}

await many();
await chained();
await fanned();

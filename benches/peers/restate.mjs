// Restate: durable handlers, one service in this process. Its server is under the Business Source Licence; it is run
// here and nothing of it is taken.

import * as http2 from "node:http2";

// The SDK wants a function that came after Node 20.
Promise.withResolvers ??= () => {
  const all = {};
  all.promise = new Promise((resolve, reject) => Object.assign(all, { resolve, reject }));
  return all;
};

const { createEndpointHandler, service } = await import("@restatedev/restate-sdk");
const { chain, fan, jobs, report, timed } = await import("./common.mjs");

const ingress = process.env.RESTATE_INGRESS_URL;
const admin = process.env.RESTATE_ADMIN_URL;
const durability = process.env.RESTATE_DURABILITY;
const peer = "Restate 1.7.12";
let stamps = [];

const bench = service({
  name: "bench",
  handlers: {
    noop: async () => {},
    step: async (context) => context.run("step", () => {}),
    chain: async (context, length) => {
      for (let i = 0; i < length; i++) await context.run("step", () => void stamps.push(performance.now()));
    },
    fan: async (context, width) => {
      const calls = Array.from({ length: width }, () => context.serviceClient(bench).noop());
      for (const call of calls) await call;
    },
  },
});

const server = http2.createServer(createEndpointHandler({ services: [bench] }));
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const uri = `http://127.0.0.1:${server.address().port}`;

async function post(url, body) {
  const answer = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.text();
}

await post(`${admin}/deployments`, { uri });
const call = (handler, body) => post(`${ingress}/bench/${handler}`, body);
await call("chain", 10);

let left = jobs;
const one = async () => {
  while (left-- > 0) await call("step", null);
};
const seconds = await timed(() => Promise.all(Array.from({ length: 64 }, one)));
report(peer, "jobs", jobs, seconds, durability, { note: "invocations of one durable step, 64 at once, each awaited by its caller" });

stamps = [];
const inChain = await timed(() => call("chain", chain));
report(peer, "chain", chain, inChain, durability, { stamps, note: "one invocation; its durable steps run in the service's process" });

const inFan = await timed(() => call("fan", fan));
report(peer, "fan-out", fan, inFan, durability, { note: "one invocation calls, and awaits, as many others" });
server.close();
process.exit(0);

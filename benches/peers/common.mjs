// What all scripts in JavaScript share: the loads' sizes and the line that is printed for each.

export const jobs = Number(process.env.PEERS_JOBS ?? 10_000);
export const chain = Number(process.env.PEERS_CHAIN ?? 1_000);
export const fan = Number(process.env.PEERS_FAN ?? 10_000);

/** One line of JSON: `steps` of `load` took `seconds`; `stamps` are when each step of a chain ran, in milliseconds. */
export function report(peer, load, steps, seconds, durability, { stamps = [], note } = {}) {
  const between = stamps.slice(1).map((at, i) => (at - stamps[i]) * 1000).sort((a, b) => a - b);
  const rank = (percent) => between[Math.max(0, Math.ceil((percent / 100) * between.length) - 1)];
  const line = { peer, load, steps, seconds, stepsPerSecond: steps / seconds, durability };
  if (between.length > 0) Object.assign(line, { p50Micros: rank(50), p99Micros: rank(99) });
  if (note) line.note = note;
  console.log(JSON.stringify(line));
}

/** Seconds that `work` takes. */
export async function timed(work) {
  const begun = performance.now();
  await work();
  return (performance.now() - begun) / 1000;
}

/** A promise and what resolves it. */
export function latch() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { open, opened };
}

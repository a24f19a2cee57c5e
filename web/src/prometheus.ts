// The server's own numbers, from the text that Prometheus reads.

export interface RouteTimes {
  route: string;
  requests: number;
  mean: number;
  median: number;
  p99: number;
}

interface Histogram {
  sum: number;
  count: number;
  buckets: [number, number][];
}

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;

function* samples(text: string): Generator<{ name: string; labels: Record<string, string>; value: number }> {
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found || line.startsWith("#")) continue;
    const labels = Object.fromEntries([...(found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map((pair) => [pair[1], pair[2]]));
    yield { name: found[1] ?? "", labels, value: Number(found[3]) };
  }
}

/** Milliseconds per route, over all requests since the server started. */
export function routeTimes(text: string): RouteTimes[] {
  const found = new Map<string, Histogram>();
  for (const { name, labels, value } of samples(text)) {
    if (!name.startsWith("sememe_request_seconds_")) continue;
    const route = labels["route"] ?? "";
    const mine = found.get(route) ?? { sum: 0, count: 0, buckets: [] };
    if (name.endsWith("_sum")) mine.sum = value;
    else if (name.endsWith("_count")) mine.count = value;
    else if (name.endsWith("_bucket")) mine.buckets.push([Number((labels["le"] ?? "").replace("+Inf", "Infinity")), value]);
    found.set(route, mine);
  }
  return [...found]
    .filter(([, one]) => one.count > 0)
    .map(([route, one]) => ({
      route,
      requests: one.count,
      mean: (1000 * one.sum) / one.count,
      median: 1000 * quantile(one, 0.5),
      p99: 1000 * quantile(one, 0.99),
    }))
    .sort((one, other) => other.requests - one.requests);
}

/** As Prometheus does it: evenly within the bucket where the share is reached. */
function quantile({ buckets, count }: Histogram, part: number): number {
  const wanted = part * count;
  let [low, before] = [0, 0];
  for (const [high, upTo] of [...buckets].sort((one, other) => one[0] - other[0])) {
    if (upTo >= wanted) return Number.isFinite(high) ? low + ((high - low) * (wanted - before)) / Math.max(1, upTo - before) : low;
    [low, before] = [high, upTo];
  }
  return low;
}

export function total(text: string, wanted: string): number {
  let sum = 0;
  for (const { name, value } of samples(text)) if (name === wanted) sum += value;
  return sum;
}

// The HTTP API as this page uses it.  The key is kept for as long as the tab is open, and nowhere else.

export interface Item {
  item_id: string;
  title: string;
  events: number;
  codes?: number[];
}

export interface Listed {
  item_id: string;
  score: number;
  title?: string;
}

export interface Why {
  item_id: string;
  codes?: number[];
  code_log_probs?: number[];
  nearest?: { item_id: string; similarity: number }[];
}

export interface Explanation {
  items: Why[];
  rules: { rule: string; items: number }[];
  seen: number;
  excluded: number;
}

export interface Recommended {
  items: Listed[];
  source: string;
  model: string;
  k: number;
  eligible?: number;
  history: { run: number; store: number; request: number };
  unknown: number;
  degraded: string[];
  explanation?: Explanation;
}

export interface Ask {
  user_id?: string;
  history: string[];
  k: number;
  rules: (string | { none_of: string[] })[];
  diversity: number;
  repeat_seen: boolean;
}

export interface Branch {
  code: number;
  items: number;
  titles: string[];
  parts?: { code: number; items: number }[];
}

export interface Codes {
  prefix: number[];
  levels: number;
  semantic_levels: number;
  items: number;
  branches: Branch[];
  listed: Item[];
}

export interface StoredEvent {
  event_id: string;
  item_id: string;
  timestamp: number;
  event_type?: string;
  value?: number;
}

export interface UserData {
  user_id: string;
  events: StoredEvent[];
  trained_on: string[];
}

export interface Model {
  model: string;
  recipe: string;
  row: string;
  path: string;
  items: number;
  users: number;
  rules: string[];
  has_vectors: boolean;
  metrics: Record<string, number>;
}

export interface ModelEntry {
  name: string;
  active: boolean;
  answering: boolean;
  recipe: string;
  metrics: Record<string, number>;
}

export interface Models {
  active: string;
  previous?: string;
  models: ModelEntry[];
  refused?: string;
}

export interface Activated {
  active: string;
  previous?: string;
  model: string;
  seconds: number;
  canary?: { requests: number; overlap: number; old_ms: number; new_ms: number; failures: number };
}

export type Row = Record<string, string | number | boolean>;

export interface Curve {
  model: string;
  seed: number;
  monitor: string;
  best_step: number;
  train: [number, number][];
  validation: [number, number][];
}

export interface ExampleItem {
  item_id: string;
  title: string;
  wanted: boolean;
}

export interface Bin {
  pairs: number;
  least: number;
  most: number;
  predicted: number;
  observed: number;
  low: number;
  high: number;
}

export interface Calibration {
  model: string;
  seed: number;
  users: number;
  pairs: number;
  predicted: number;
  observed: number;
  error: number;
  error_by_chance: number;
  bins: Bin[];
}

export interface Report {
  about: {
    recipe: string;
    asked: string;
    row: string;
    data: string;
    created: string;
    recipe_hash: string;
    seeds: number[];
    users: number;
    items: number;
    events: number;
  };
  protocol: { counts: Record<string, number>; notes?: string[] };
  protocol_line: string;
  rows: Row[];
  means: Row[];
  slices: Row[];
  calibration: Calibration[];
  comparisons: Row[];
  codes?: {
    items: number;
    distinct_tuples: number;
    unique_share: number;
    colliding_items: number;
    largest_group: number;
    levels: { size: number; used: number; perplexity: number; entropy: number; distinct_prefixes: number }[];
    neighbours?: { depth: number; share: number; by_chance: number; ceiling: number }[] | { rows?: never };
    warnings: string[];
  };
  curves: Curve[];
  stages: { name: string; created: string; seconds: number }[];
  settings: string[];
  examples: { user_id: string; known: number; history: ExampleItem[]; wanted: ExampleItem[]; listed: ExampleItem[] }[];
}

/** What the server said instead of an answer. */
export class Problem extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly fix: string,
  ) {
    super(message);
  }

  /** Whether the server knows no such route. */
  get missing(): boolean {
    return this.status === 404 || this.status === 405;
  }
}

export interface Timing {
  at: number;
  milliseconds: number;
  path: string;
}

const KEY = "sememe-key";
const MOST_TIMINGS = 120;

export const timings: Timing[] = [];

export const key = {
  get: (): string => sessionStorage.getItem(KEY) ?? "",
  set: (text: string): void => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

async function send(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  const used = key.get();
  if (used) headers["authorization"] = `Bearer ${used}`;
  const started = performance.now();
  let response: Response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? null : JSON.stringify(body), signal: signal ?? null });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, "the server does not answer", "start it, or look whether it still runs");
  }
  if (response.ok) {
    timings.push({ at: Date.now(), milliseconds: performance.now() - started, path: path.replace(/\?.*/, "") });
    if (timings.length > MOST_TIMINGS) timings.shift();
    return response;
  }
  const told = (await response.json().catch(() => ({}))) as { detail?: string; fix?: string };
  // A refusal that comes after another key was given says nothing of that one.
  if (response.status === 401 && used === key.get()) dispatchEvent(new Event("key-needed"));
  throw new Problem(response.status, told.detail ?? `the server answered ${response.status}`, told.fix ?? "");
}

async function json<T>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  return (await send(method, path, body, signal)).json() as Promise<T>;
}

export const api = {
  model: () => json<Model>("GET", "/v1/model"),
  models: () => json<Models>("GET", "/v1/models"),
  activate: (name: string) => json<Activated>("POST", `/v1/models/${encodeURIComponent(name)}:activate`),
  rollBack: () => json<Activated>("POST", "/v1/models:rollback"),
  ready: () => json<{ status: string; store: string }>("GET", "/v1/ready"),
  report: () => json<Report>("GET", "/v1/report"),
  find: (query: string, limit: number, signal?: AbortSignal) =>
    json<{ items: Item[]; total: number }>("GET", `/v1/items?query=${encodeURIComponent(query)}&limit=${limit}`, undefined, signal),
  items: async (ids: readonly string[]): Promise<Item[]> => {
    const found: Item[] = [];
    for (let start = 0; start < ids.length; start += 100) {
      const some = ids.slice(start, start + 100).map((id) => `id=${encodeURIComponent(id)}`);
      found.push(...(await json<{ items: Item[] }>("GET", `/v1/items?${some.join("&")}`)).items);
    }
    return found;
  },
  codes: (prefix: readonly number[]) => json<Codes>("GET", `/v1/codes?prefix=${prefix.join(",")}&limit=60`),
  user: (id: string) => json<UserData>("GET", `/v1/users/${encodeURIComponent(id)}`),
  recommend: (ask: Ask, signal?: AbortSignal) =>
    json<Recommended>("POST", "/v1/recommend", { ...ask, titles: true, explain: true }, signal),
  metrics: async () => (await send("GET", "/metrics")).text(),
};

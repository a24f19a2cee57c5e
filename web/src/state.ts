// What the views share: the history that was clicked together, how lists are asked for, and the latest list.
import { useEffect, useState } from "preact/hooks";
import { api, type Ask, type Item, Problem, type Recommended } from "./api";

export class Store<T> {
  private readonly told = new Set<() => void>();

  constructor(private value: T) {}

  get(): T {
    return this.value;
  }

  set(value: T): void {
    this.value = value;
    for (const tell of [...this.told]) tell();
  }

  listen(tell: () => void): () => void {
    this.told.add(tell);
    return () => this.told.delete(tell);
  }
}

export function useStore<T>(store: Store<T>): T {
  const [, again] = useState(0);
  useEffect(() => store.listen(() => again((count) => count + 1)), [store]);
  return store.get();
}

/** What `load` gives, loaded again whenever one of `inputs` changes. */
export interface Loaded<T> {
  value?: T;
  problem?: Problem;
  reload: () => void;
}

export function useLoaded<T>(load: () => Promise<T>, inputs: readonly unknown[]): Loaded<T> {
  const [state, set] = useState<{ value?: T; problem?: Problem }>({});
  const [turn, again] = useState(0);
  useEffect(() => {
    let current = true;
    load().then(
      (value) => current && set({ value }),
      (error: unknown) => current && set({ problem: asProblem(error) }),
    );
    return () => {
      current = false;
    };
  }, [...inputs, turn]);
  return { ...state, reload: () => again((count) => count + 1) };
}

export function asProblem(error: unknown): Problem {
  return error instanceof Problem ? error : new Problem(0, String(error), "");
}

export interface Asked {
  history: Item[];
  user: string;
  k: number;
  diversity: number;
  repeatSeen: boolean;
  rules: Record<string, "must" | "not">;
}

export interface Answered {
  answer?: Recommended;
  problem?: Problem;
  /** Item id -> place in the list before this one. */
  before: Map<string, number>;
  waiting: boolean;
}

export const asked = new Store<Asked>({ history: [], user: "", k: 10, diversity: 0, repeatSeen: false, rules: {} });
export const answered = new Store<Answered>({ before: new Map(), waiting: false });

/** Items by id, as far as the page has met them. */
export const known = new Map<string, Item>();

export function remember(items: readonly Item[]): void {
  for (const item of items) known.set(item.item_id, item);
}

export function change(part: Partial<Asked>): void {
  asked.set({ ...asked.get(), ...part });
}

export function addItem(item: Item): void {
  remember([item]);
  change({ history: [...asked.get().history, item] });
}

function body(now: Asked): Ask {
  const names = Object.keys(now.rules);
  const banned = names.filter((name) => now.rules[name] === "not");
  return {
    ...(now.user ? { user_id: now.user } : {}),
    history: now.history.map((item) => item.item_id),
    k: now.k,
    rules: [...names.filter((name) => now.rules[name] === "must"), ...(banned.length ? [{ none_of: banned }] : [])],
    diversity: now.diversity,
    repeat_seen: now.repeatSeen,
  };
}

let underWay: AbortController | undefined;

/** Ask for a list; an answer that comes after a later question is let go. */
export async function ask(): Promise<void> {
  underWay?.abort();
  const mine = (underWay = new AbortController());
  const last = answered.get();
  answered.set({ ...last, waiting: true });
  const before = new Map((last.answer?.items ?? []).map((item, place) => [item.item_id, place]));
  try {
    const answer = await api.recommend(body(asked.get()), mine.signal);
    await learn(answer);
    if (underWay === mine) answered.set({ answer, before, waiting: false });
  } catch (error) {
    if (underWay === mine) answered.set({ problem: asProblem(error), before, waiting: false });
  }
}

/** Look up titles and codes of all items that an answer speaks of. */
async function learn(answer: Recommended): Promise<void> {
  const near = (answer.explanation?.items ?? []).flatMap((why) => (why.nearest ?? []).map((one) => one.item_id));
  const ids = new Set([...answer.items.map((item) => item.item_id), ...near]);
  const unknown = [...ids].filter((id) => !known.has(id));
  if (unknown.length) remember(await api.items(unknown).catch(() => []));
}

asked.listen(() => void ask());

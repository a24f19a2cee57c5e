// Click a history together, and see what is recommended, and why.
import { useEffect, useState } from "preact/hooks";
import { api, type Listed, type UserData, type Why } from "./api";
import { Search } from "./search";
import { addItem, answered, asked, ask, change, known, remember, useLoaded, useStore } from "./state";
import { Bar, chance, count, decimal, moment, several, Trouble } from "./words";

const SHOWN_EVENTS = 30;

export function TryView() {
  useEffect(() => {
    if (!answered.get().answer) void ask();
  }, []);
  return (
    <div class="try">
      <section class="card" aria-labelledby="history-title">
        <h2 id="history-title">History</h2>
        <History />
        <Search />
        <User />
        <Settings />
      </section>
      <section class="card" aria-labelledby="list-title">
        <h2 id="list-title">Recommended</h2>
        <Answer />
      </section>
    </div>
  );
}

function History() {
  const { history } = useStore(asked);
  const without = (place: number) => change({ history: history.filter((_, row) => row !== place) });
  const swap = (place: number) => {
    const moved = [...history];
    moved.splice(place - 1, 0, ...moved.splice(place, 1));
    change({ history: moved });
  };
  if (history.length === 0) {
    return <p class="quiet">Nothing yet: without a history or a user, what is popular is recommended. Add items below.</p>;
  }
  return (
    <>
      <ol class="history" aria-label="Items of the history, oldest first">
        {history.map((item, place) => (
          <li key={`${place}-${item.item_id}`}>
            <span>{item.title}</span>
            <span class="buttons">
              <button type="button" class="icon" disabled={place === 0} aria-label={`Move ${item.title} earlier`} onClick={() => swap(place)}>
                ↑
              </button>
              <button type="button" class="icon" aria-label={`Remove ${item.title}`} onClick={() => without(place)}>
                ×
              </button>
            </span>
          </li>
        ))}
      </ol>
      <button type="button" class="plain" onClick={() => change({ history: [] })}>
        Clear the history
      </button>
    </>
  );
}

function User() {
  const { user } = useStore(asked);
  const [text, type] = useState(user);
  return (
    <details class="more" open={Boolean(user)}>
      <summary>{user ? `User ${user}` : "A user's history"}</summary>
      <form
        class="row"
        onSubmit={(event) => {
          event.preventDefault();
          change({ user: text.trim() });
        }}
      >
        <label>
          User id
          <input value={text} autocomplete="off" spellcheck={false} onInput={(event) => type(event.currentTarget.value)} />
        </label>
        <button type="submit">Use</button>
        {user && (
          <button type="button" class="plain" onClick={() => (type(""), change({ user: "" }))}>
            Leave out
          </button>
        )}
      </form>
      {user && <UserEvents key={user} user={user} />}
    </details>
  );
}

async function readUser(user: string): Promise<UserData> {
  const data = await api.user(user);
  const ids = new Set([...data.trained_on.slice(-SHOWN_EVENTS), ...data.events.slice(-SHOWN_EVENTS).map((event) => event.item_id)]);
  remember(await api.items([...ids].filter((id) => !known.has(id))));
  return data;
}

function UserEvents({ user }: { user: string }) {
  const { value, problem } = useLoaded(() => readUser(user), [user]);
  if (problem?.status === 403) {
    return <p class="quiet">The list below reads this user's history; to show it here, a key with the scope admin is needed.</p>;
  }
  if (problem) return <Trouble problem={problem} what="The user's history" />;
  if (!value) return <p class="quiet">The user's history is being fetched …</p>;
  const trained = value.trained_on.slice(-SHOWN_EVENTS).reverse();
  const events = value.events.slice(-SHOWN_EVENTS).reverse();
  const name = (id: string) => known.get(id)?.title ?? `${id} (unknown to the model)`;
  return (
    <div class="user-events" tabIndex={0} role="region" aria-label={`Events of user ${user}`}>
      <h3>Events sent to this server: {count(value.events.length)}</h3>
      <ul>
        {events.map((event) => (
          <li key={event.event_id}>
            {name(event.item_id)} <small>{moment(event.timestamp)}{event.event_type ? `, ${event.event_type}` : ""}</small>
          </li>
        ))}
      </ul>
      <h3>Events in the data of the run: {count(value.trained_on.length)}</h3>
      <ul>
        {trained.map((id, row) => (
          <li key={row}>{name(id)}</li>
        ))}
      </ul>
      {(trained.length < value.trained_on.length || events.length < value.events.length) && (
        <p class="quiet">The latest {SHOWN_EVENTS} of each are shown, newest first.</p>
      )}
    </div>
  );
}

function Settings() {
  const now = useStore(asked);
  const model = useLoaded(api.model, []);
  const rule = (name: string, value: string) => {
    const { [name]: _, ...others } = now.rules;
    change({ rules: value === "must" || value === "not" ? { ...others, [name]: value } : others });
  };
  return (
    <details class="more">
      <summary>How it is asked</summary>
      <div class="settings">
        <label>
          Items
          <input
            type="number"
            min={1}
            max={100}
            value={now.k}
            onChange={(event) => change({ k: Math.max(1, Math.min(100, Math.round(Number(event.currentTarget.value)) || 10)) })}
          />
        </label>
        {model.value?.has_vectors && (
          <label>
            Diversity {now.diversity.toFixed(2)}
            <input
              type="range"
              min={0}
              max={0.9}
              step={0.05}
              value={now.diversity}
              onChange={(event) => change({ diversity: Number(event.currentTarget.value) })}
            />
          </label>
        )}
        <label class="check">
          <input type="checkbox" checked={now.repeatSeen} onChange={(event) => change({ repeatSeen: event.currentTarget.checked })} />
          Items of the history may come back
        </label>
        {(model.value?.rules ?? []).map((name) => (
          <label key={name}>
            Rule {name}
            <select value={now.rules[name] ?? ""} onChange={(event) => rule(name, event.currentTarget.value)}>
              <option value="">does not matter</option>
              <option value="must">must hold</option>
              <option value="not">must not hold</option>
            </select>
          </label>
        ))}
      </div>
    </details>
  );
}

function Answer() {
  const { answer, problem, before, waiting } = useStore(answered);
  const [open, toggle] = useState<string>();
  if (problem) return <Trouble problem={problem} what="No list" />;
  if (!answer) return <p class="quiet">A list is being fetched …</p>;
  const whys = new Map((answer.explanation?.items ?? []).map((why) => [why.item_id, why]));
  const scores = answer.items.map((item) => item.score);
  const span = { low: Math.min(...scores), high: Math.max(...scores) };
  const fallback = answer.source.startsWith("fallback");
  return (
    <div class={waiting ? "waiting" : ""}>
      <p class="quiet" role="status" aria-live="polite">
        {several(answer.items.length, "item")} from {sources(answer.history)}; scores: <code>{answer.source}</code>
      </p>
      {fallback && answer.degraded.length > 0 && (
        <p class="trouble">The model did not answer in time or failed; this is what is popular.</p>
      )}
      {answer.degraded.includes("store_down") && <p class="trouble">The store of events is down: this user's events there were not read.</p>}
      <ol class="list" data-source={answer.source}>
        {answer.items.map((item, place) => (
          <Entry
            key={item.item_id}
            item={item}
            place={place}
            why={whys.get(item.item_id)}
            span={span}
            was={before.size ? (before.get(item.item_id) ?? -1) : undefined}
            open={open === item.item_id}
            toggle={() => toggle(open === item.item_id ? undefined : item.item_id)}
          />
        ))}
      </ol>
      {answer.items.length < answer.k && <p class="quiet">There is no more to give than these {answer.items.length}.</p>}
      <LeftOut />
    </div>
  );
}

function sources(history: { run: number; store: number; request: number }): string {
  const parts = [
    history.run ? `${several(history.run, "event")} of the run` : "",
    history.store ? `${several(history.store, "event")} of the store` : "",
    history.request ? `${several(history.request, "item")} of the history` : "",
  ].filter(Boolean);
  return parts.length ? parts.join(", ") : "no history";
}

interface EntryProps {
  item: Listed;
  place: number;
  why: Why | undefined;
  span: { low: number; high: number };
  was: number | undefined;
  open: boolean;
  toggle: () => void;
}

function Entry({ item, place, why, span, was, open, toggle }: EntryProps) {
  const title = item.title ?? item.item_id;
  const part = span.high > span.low ? (item.score - span.low) / (span.high - span.low) : 1;
  return (
    <li class={open ? "open" : ""}>
      <div class="entry">
        <button type="button" class="entry-title" aria-expanded={open} onClick={toggle}>
          {title}
        </button>
        <Moved place={place} was={was} />
        <button
          type="button"
          class="icon"
          aria-label={`Add ${title} to the history`}
          onClick={() => addItem(known.get(item.item_id) ?? { item_id: item.item_id, title, events: 0 })}
        >
          +
        </button>
      </div>
      <Bar value={0.04 + 0.96 * part} label={decimal(item.score, 3)} />
      {open && <Reasons why={why} item={item} />}
    </li>
  );
}

function Moved({ place, was }: { place: number; was: number | undefined }) {
  if (was === undefined || was === place) return null;
  if (was < 0) return <span class="moved new">new</span>;
  const up = was - place;
  return <span class={up > 0 ? "moved up" : "moved down"}>{up > 0 ? `↑ ${up}` : `↓ ${-up}`}</span>;
}

function Reasons({ why, item }: { why: Why | undefined; item: Listed }) {
  const codes = why?.codes ?? [];
  const logs = why?.code_log_probs;
  const whole = logs?.reduce((sum, value) => sum + value, 0);
  return (
    <div class="reasons">
      <p class="quiet">
        Item <code>{item.item_id}</code>
        {known.get(item.item_id) && `, ${count(known.get(item.item_id)?.events ?? 0)} events in the data`}
      </p>
      {codes.length > 0 && (
        <>
          <h3>{logs ? "Probability of each code after those before it" : "Its codes"}</h3>
          <ul class="levels">
            {codes.map((code, level) => {
              const part = logs ? Math.exp(logs[level] ?? -Infinity) : undefined;
              return (
                <li key={level}>
                  <a href={`#/tree/${codes.slice(0, level + 1).join(",")}`} aria-label={`Level ${level + 1}, code ${code}, in the tree`}>
                    {code}
                  </a>
                  {part !== undefined && <Bar value={part} label={chance(part)} />}
                </li>
              );
            })}
          </ul>
          {whole !== undefined && <p class="quiet">All together: {chance(Math.exp(whole))}</p>}
        </>
      )}
      {(why?.nearest ?? []).length > 0 && (
        <>
          <h3>Most like it in the history</h3>
          <ul class="levels near">
            {why?.nearest?.map((one) => (
              <li key={one.item_id}>
                <span>{known.get(one.item_id)?.title ?? one.item_id}</span>
                <Bar value={one.similarity} label={decimal(one.similarity, 2)} second />
              </li>
            ))}
          </ul>
        </>
      )}
      {!codes.length && !why?.nearest?.length && <p class="quiet">This list comes from counts, so there is no more to say.</p>}
    </div>
  );
}

function LeftOut() {
  const { answer } = useStore(answered);
  const why = answer?.explanation;
  if (!why) return null;
  return (
    <section class="left-out" aria-label="What was left out">
      <h3>What was left out</h3>
      <ul>
        <li>{several(why.seen, "item")} of the history</li>
        {why.excluded > 0 && <li>{several(why.excluded, "item")} that the request excludes</li>}
        {why.rules.map((rule) => (
          <li key={rule.rule}>
            {several(rule.items, "item")} by the rule <b>{rule.rule}</b>
          </li>
        ))}
      </ul>
      {answer?.eligible !== undefined && <p class="quiet">{several(answer.eligible, "item")} left to choose from.</p>}
    </section>
  );
}

// The tree of semantic IDs: a picture to walk through, and the same as lists.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, type Branch, type Codes, type Problem } from "./api";
import { addItem, answered, ask, asked, known, remember, useLoaded, useStore } from "./state";
import { draw, type Look, type Mark, sliceAt, slices } from "./sunburst";
import { count, Trouble, Waiting } from "./words";

const SHOWN = 24;

function prefixHere(): number[] {
  const text = location.hash.split("/")[2] ?? "";
  return text ? text.split(",").map(Number).filter(Number.isFinite) : [];
}

const address = (prefix: readonly number[]): string => `#/tree${prefix.length ? `/${prefix.join(",")}` : ""}`;

async function read(prefix: readonly number[]): Promise<Codes> {
  const told = await api.codes(prefix);
  remember(told.listed);
  return told;
}

export function TreeView() {
  const [prefix, go] = useState(prefixHere());
  useEffect(() => {
    const moved = () => go(prefixHere());
    addEventListener("hashchange", moved);
    if (!answered.get().answer) void ask();
    return () => removeEventListener("hashchange", moved);
  }, []);
  const { value, problem } = useLoaded(() => read(prefix), [prefix.join(",")]);
  if (problem) return <Nothing problem={problem} />;
  if (!value) return <Waiting what="The tree" />;
  return <Look codes={value} />;
}

function Nothing({ problem }: { problem: Problem }) {
  return (
    <>
      <Trouble problem={problem} what="No tree" />
      <a href={address([])}>To the root</a>
    </>
  );
}

function marks(): Mark[] {
  const { history } = asked.get();
  const listed = answered.get().answer?.items ?? [];
  const found: Mark[] = [];
  for (const [kind, ids] of [
    ["recommended", listed.map((item) => item.item_id)],
    ["history", history.map((item) => item.item_id)],
  ] as const) {
    for (const id of ids) {
      const codes = known.get(id)?.codes;
      if (codes) found.push({ kind, codes });
    }
  }
  return found;
}

function Look({ codes }: { codes: Codes }) {
  const [chosen, choose] = useState<Branch>();
  const [all, showAll] = useState(false);
  useStore(asked);
  useStore(answered);
  useEffect(() => {
    choose(undefined);
    showAll(false);
  }, [codes]);
  const largest = [...codes.branches].sort((one, other) => other.items - one.items);
  const open = (branch: Branch) => (location.hash = address([...codes.prefix, branch.code]));
  const told = chosen ?? largest[0];
  return (
    <div class="tree">
      <section class="card" aria-label="Picture of the tree">
        <Path codes={codes} />
        {codes.branches.length > 0 ? (
          <>
            <Picture codes={codes} chosen={chosen} choose={choose} open={open} />
            <p class="picture-text" role="status" aria-live="polite">
              {told && (
                <>
                  <b>
                    {chosen ? "" : "Largest: "}code {told.code}
                  </b>
                  , {count(told.items)} {told.items === 1 ? "item" : "items"}: {told.titles.join("; ")}
                </>
              )}
            </p>
            <p class="legend quiet">
              <span class="dot history" /> in the history <span class="dot recommended" /> recommended. A click or Enter opens a branch,
              the middle or Backspace goes up, arrow keys go round.
            </p>
          </>
        ) : (
          <p>This is a whole semantic ID.</p>
        )}
      </section>
      <section class="card" aria-label="Branches and items">
        {codes.branches.length > 0 && (
          <>
            <h2>
              {count(codes.branches.length)} branches at level {codes.prefix.length + 1} of {codes.levels}
              {codes.prefix.length >= codes.semantic_levels && <small> (tells items with equal codes apart)</small>}
            </h2>
            <ul class="branches">
              {(all ? largest : largest.slice(0, SHOWN)).map((branch) => (
                <li key={branch.code}>
                  <a href={address([...codes.prefix, branch.code])} onMouseEnter={() => choose(branch)} onFocus={() => choose(branch)}>
                    <b>{branch.code}</b> <small>{count(branch.items)}</small> {branch.titles.join("; ")}
                  </a>
                </li>
              ))}
            </ul>
            {largest.length > SHOWN && !all && (
              <button type="button" class="plain" onClick={() => showAll(true)}>
                Show all {count(largest.length)}
              </button>
            )}
          </>
        )}
        <h2>{codes.items <= codes.listed.length ? "Its items" : `Its items, the ${codes.listed.length} with most events`}</h2>
        <ul class="items">
          {codes.listed.map((item) => (
            <li key={item.item_id}>
              <span>
                {item.title} <small>{item.codes?.join(" · ")}</small>
              </span>
              <button type="button" class="icon" aria-label={`Add ${item.title} to the history`} onClick={() => addItem(item)}>
                +
              </button>
            </li>
          ))}
        </ul>
      </section>
    </div>
  );
}

function Path({ codes }: { codes: Codes }) {
  return (
    <nav class="path" aria-label="Where in the tree">
      <a href={address([])} aria-current={codes.prefix.length ? undefined : "page"}>
        All items
      </a>
      {codes.prefix.map((code, level) => (
        <a key={level} href={address(codes.prefix.slice(0, level + 1))} aria-current={level + 1 === codes.prefix.length ? "page" : undefined}>
          {code}
        </a>
      ))}
    </nav>
  );
}

function lookOf(element: Element): Look {
  const style = getComputedStyle(element);
  const value = (name: string) => style.getPropertyValue(name).trim();
  return {
    paper: value("--card"),
    ink: value("--ink"),
    history: value("--second"),
    recommended: value("--accent"),
    dark: matchMedia("(prefers-color-scheme: dark)").matches,
  };
}

interface PictureProps {
  codes: Codes;
  chosen: Branch | undefined;
  choose: (branch: Branch | undefined) => void;
  open: (branch: Branch) => void;
}

function Picture({ codes, chosen, choose, open }: PictureProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const paint = () => draw(element, codes, chosen, marks(), lookOf(element));
    paint();
    const resized = new ResizeObserver(paint);
    resized.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", paint);
    return () => (resized.disconnect(), scheme.removeEventListener("change", paint));
  });
  const up = () => codes.prefix.length && (location.hash = address(codes.prefix.slice(0, -1)));
  const at = (event: MouseEvent) => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const half = box.width / 2;
    return sliceAt(slices(codes), (event.clientX - box.left) / half - 1, (event.clientY - box.top) / half - 1);
  };
  const pressed = (event: KeyboardEvent) => {
    const places = codes.branches;
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step !== undefined) {
      const place = chosen ? places.indexOf(chosen) + step : step > 0 ? 0 : -1;
      choose(places[(place + places.length) % places.length]);
    } else if (event.key === "Enter" && chosen) open(chosen);
    else if (event.key === "Backspace") up();
    else return;
    event.preventDefault();
  };
  return (
    <canvas
      ref={canvas}
      class="sunburst"
      tabIndex={0}
      role="application"
      aria-roledescription="picture of a tree"
      aria-label={`${count(codes.branches.length)} branches of ${count(codes.items)} items; arrow keys choose, Enter opens, Backspace goes up`}
      onMouseMove={(event) => {
        const found = at(event);
        choose(found && found !== "up" ? found.branch : undefined);
      }}
      onMouseLeave={() => choose(undefined)}
      onClick={(event) => {
        const found = at(event);
        if (found === "up") up();
        else if (found) open(found.branch);
      }}
      onKeyDown={pressed}
    />
  );
}

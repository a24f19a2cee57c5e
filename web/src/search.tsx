// Search by title: a text field, and a list below it that arrow keys walk through.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, type Item, type Problem } from "./api";
import { addItem, asProblem, remember } from "./state";
import { count, Trouble } from "./words";

const SHOWN = 8;
const PATIENCE = 120;

export function Search() {
  const [query, type] = useState("");
  const [found, take] = useState<{ items: Item[]; total: number; query?: string; problem?: Problem }>({ items: [], total: 0 });
  const [place, move] = useState(-1);
  const early = useRef(false);
  useEffect(() => {
    const asking = new AbortController();
    const later = setTimeout(
      () =>
        api.find(query, SHOWN, asking.signal).then(
          (told) => arrived({ ...told, query }),
          (error: unknown) => asking.signal.aborted || take({ items: [], total: 0, problem: asProblem(error) }),
        ),
      query ? PATIENCE : 0,
    );
    return () => (clearTimeout(later), asking.abort());
  }, [query]);
  const arrived = (told: { items: Item[]; total: number; query: string }) => {
    remember(told.items);
    take(told);
    move(-1);
    if (early.current) choose(told.items[0]);
    early.current = false;
  };
  const enter = () => {
    if (place >= 0) choose(found.items[place]);
    else if (found.query === query) query && choose(found.items[0]);
    // Whoever is faster than the search means what it will find.
    else early.current = Boolean(query);
  };
  const pressed = (event: KeyboardEvent) => {
    const last = found.items.length - 1;
    const to = { ArrowDown: Math.min(place + 1, last), ArrowUp: Math.max(place - 1, -1) }[event.key];
    if (to !== undefined) move(to);
    else if (event.key === "Enter") enter();
    else if (event.key === "Escape") type("");
    else return;
    event.preventDefault();
  };
  const choose = (item: Item | undefined) => {
    if (item) addItem(item);
  };
  return (
    <div class="search">
      <label for="search">Search items by title or id</label>
      <input
        id="search"
        type="text"
        inputMode="search"
        role="combobox"
        aria-expanded={found.items.length > 0}
        aria-controls="found"
        aria-activedescendant={place >= 0 ? `found-${place}` : undefined}
        aria-describedby="search-help"
        autocomplete="off"
        spellcheck={false}
        value={query}
        onInput={(event) => (type(event.currentTarget.value), move(-1))}
        onKeyDown={pressed}
      />
      <p id="search-help" class="quiet">
        {query ? `${count(found.total)} found` : "Most used items"}; Enter or a click adds one to the history.
      </p>
      {found.problem && <Trouble problem={found.problem} what="Search" />}
      <ul id="found" class="found" role="listbox" aria-label="Items found">
        {found.items.map((item, row) => (
          <li
            key={item.item_id}
            id={`found-${row}`}
            role="option"
            aria-selected={row === place}
            onMouseDown={(event) => event.preventDefault()}
            onClick={() => choose(item)}
          >
            <span>{item.title}</span>
            <small>{count(item.events)} events</small>
          </li>
        ))}
      </ul>
    </div>
  );
}

// The frame of the page: where one is, which model answers, the key.
import { useEffect, useRef, useState } from "preact/hooks";
import { api, key } from "./api";
import { ReportView } from "./report";
import { ServerView } from "./server";
import { useLoaded } from "./state";
import { TreeView } from "./tree";
import { TryView } from "./try";
import { count } from "./words";

const VIEWS = {
  try: { title: "Try it", view: TryView },
  tree: { title: "Tree of codes", view: TreeView },
  report: { title: "Report", view: ReportView },
  server: { title: "Server", view: ServerView },
} as const;
type Name = keyof typeof VIEWS;

function here(): Name {
  const name = location.hash.replace(/^#\/?/, "").split("/")[0] ?? "";
  return name in VIEWS ? (name as Name) : "try";
}

export function App() {
  const [name, go] = useState<Name>(here());
  const [turn, again] = useState(0);
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    const moved = () => {
      go(here());
      // Whoever reads by ear hears where they came to.
      requestAnimationFrame(() => heading.current?.focus());
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  const model = useLoaded(api.model, [turn]);
  const { title, view: View } = VIEWS[name];
  useEffect(() => {
    document.title = `${title} - Sememe`;
  }, [title]);
  return (
    <>
      <a class="skip" href="#content" onClick={(event) => (event.preventDefault(), heading.current?.focus())}>
        To the content
      </a>
      <header class="top">
        <a class="brand" href="#/try" aria-label="Sememe, start">
          <img src="/icon.svg" alt="" width="26" height="26" />
          Sememe
        </a>
        <nav aria-label="Views">
          {Object.entries(VIEWS).map(([to, { title }]) => (
            <a key={to} href={`#/${to}`} aria-current={to === name ? "page" : undefined}>
              {title}
            </a>
          ))}
        </nav>
        <span class="answers">
          {model.value && (
            <>
              <b>{model.value.row}</b> {count(model.value.items)} items
            </>
          )}
        </span>
        <KeyEntry onChange={() => again((count) => count + 1)} />
      </header>
      <main id="content">
        <h1 ref={heading} tabIndex={-1}>
          {title}
        </h1>
        <View key={turn} />
      </main>
    </>
  );
}

function KeyEntry({ onChange }: { onChange: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const input = useRef<HTMLInputElement>(null);
  const [kept, keep] = useState(Boolean(key.get()));
  useEffect(() => {
    const needed = () => dialog.current?.open || dialog.current?.showModal();
    addEventListener("key-needed", needed);
    return () => removeEventListener("key-needed", needed);
  }, []);
  const use = (text: string) => {
    key.set(text.trim());
    keep(Boolean(text.trim()));
    if (input.current) input.current.value = "";
    dialog.current?.close();
    onChange();
  };
  return (
    <>
      <button type="button" class="plain" onClick={() => dialog.current?.showModal()}>
        {kept ? "Key in use" : "API key"}
      </button>
      <dialog ref={dialog} aria-labelledby="key-title">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            use(input.current?.value ?? "");
          }}
        >
          <h2 id="key-title">API key</h2>
          <p>
            Needed where the server was started with <code>--keys</code>. It is kept until this tab is closed, and sent to
            this server only.
          </p>
          <label>
            Key
            <input ref={input} type="password" autocomplete="off" spellcheck={false} />
          </label>
          <p class="buttons">
            <button type="submit">Use it</button>
            {kept && (
              <button type="button" class="plain" onClick={() => use("")}>
                Forget it
              </button>
            )}
            <button type="button" class="plain" onClick={() => dialog.current?.close()}>
              Close
            </button>
          </p>
        </form>
      </dialog>
    </>
  );
}

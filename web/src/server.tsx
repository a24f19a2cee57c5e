// What answers: the model and the others there are, how fast, how busy.
import { useEffect, useState } from "preact/hooks";
import { type Activated, api, type Models, type Problem, timings } from "./api";
import { Chart } from "./chart";
import { routeTimes, total } from "./prometheus";
import { ask, asProblem, useLoaded } from "./state";
import { count, decimal, milliseconds, Scroll, share, Trouble, Waiting } from "./words";

const EVERY = 5000;

export function ServerView() {
  const [turn, again] = useState(0);
  useEffect(() => {
    const ticking = setInterval(() => document.hidden || again((now) => now + 1), EVERY);
    return () => clearInterval(ticking);
  }, []);
  return (
    <div class="server">
      <Answering turn={turn} />
      <Versions />
      <Latency turn={turn} />
    </div>
  );
}

function Answering({ turn }: { turn: number }) {
  const model = useLoaded(api.model, [turn]);
  const ready = useLoaded(api.ready, [turn]);
  if (model.problem) return <Trouble problem={model.problem} what="No answer" />;
  if (!model.value) return <Waiting what="What answers" />;
  const { value } = model;
  return (
    <section class="card" aria-labelledby="answering-title">
      <h2 id="answering-title">What answers</h2>
      <dl class="facts">
        <dt>Model</dt>
        <dd>
          {value.row} <code>{value.model}</code>
        </dd>
        <dt>Search</dt>
        <dd>{value.path}</dd>
        <dt>Catalogue</dt>
        <dd>
          {count(value.items)} items, {count(value.users)} users in the data
        </dd>
        {Object.entries(value.metrics).map(([name, number]) => [<dt key={name}>{name}</dt>, <dd key={`${name}-value`}>{decimal(number)} on the test part</dd>])}
        <dt>State</dt>
        <dd>
          {ready.problem ? <span class="worse">{ready.problem.message}</span> : ready.value ? `${ready.value.status}, store ${ready.value.store}` : "…"}
        </dd>
      </dl>
    </section>
  );
}

function Versions() {
  const { value, problem, reload } = useLoaded(api.models, []);
  const [told, tell] = useState<{ done?: Activated; problem?: Problem; busy?: string }>({});
  const act = async (name: string, call: () => Promise<Activated>) => {
    tell({ busy: name });
    try {
      tell({ done: await call() });
      void ask();
    } catch (error) {
      tell({ problem: asProblem(error) });
    }
    reload();
  };
  return (
    <section class="card" aria-labelledby="models-title">
      <h2 id="models-title">Models</h2>
      {problem?.missing && <p class="quiet">This server keeps no list of models: it answers with the run that it was started with.</p>}
      {problem && !problem.missing && <Trouble problem={problem} what="No list of models" />}
      {value && <ModelTable models={value} busy={told.busy} act={act} />}
      {told.busy && <p role="status">{told.busy} is being loaded and compared; the present model goes on answering …</p>}
      {told.done && <Done done={told.done} />}
      {told.problem && <Trouble problem={told.problem} what="The present model goes on" />}
    </section>
  );
}

function Done({ done }: { done: Activated }) {
  return (
    <p role="status" class="good">
      {done.active} answers, after {done.seconds.toFixed(1)} s
      {done.canary &&
        `; on ${count(done.canary.requests)} histories its lists share ${share(done.canary.overlap)} of the old ones' items, ` +
          `${milliseconds(done.canary.old_ms)} a list before and ${milliseconds(done.canary.new_ms)} now`}
      .
    </p>
  );
}

interface TableProps {
  models: Models;
  busy: string | undefined;
  act: (name: string, call: () => Promise<Activated>) => void;
}

function ModelTable({ models, busy, act }: TableProps) {
  const [sure, ask] = useState("");
  const confirmed = (name: string, label: string, call: () => Promise<Activated>) =>
    sure === name ? (
      <span class="buttons">
        <button type="button" disabled={Boolean(busy)} onClick={() => (ask(""), act(name, call))}>
          Yes, {label}
        </button>
        <button type="button" class="plain" onClick={() => ask("")}>
          No
        </button>
      </span>
    ) : (
      <button type="button" class="plain" disabled={Boolean(busy)} onClick={() => ask(name)}>
        {label}
      </button>
    );
  return (
    <>
      {models.refused && <p class="trouble">{models.active} was tried and refused: {models.refused}</p>}
      <Scroll label="Models">
        <table>
          <tbody>
            {models.models.map((one) => (
              <tr key={one.name} class={one.answering ? "own" : ""}>
                <th scope="row">{one.name}</th>
                <td>{one.recipe}</td>
                <td>
                  {Object.entries(one.metrics).map(([name, number]) => (
                    <span key={name} class="pair">
                      {name} {decimal(number)}
                    </span>
                  ))}
                </td>
                <td>{one.answering ? "answers" : one.active ? "about to answer" : confirmed(one.name, "activate", () => api.activate(one.name))}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {models.previous && <p>{confirmed("rollback", `roll back to ${models.previous}`, api.rollBack)}</p>}
    </>
  );
}

function Latency({ turn }: { turn: number }) {
  const { value, problem } = useLoaded(api.metrics, [turn]);
  const mine = timings.filter((one) => one.path === "/v1/recommend");
  const lines = [{ label: "milliseconds", color: "--accent" as const, dots: true, points: mine.map((one, place) => [place + 1, one.milliseconds] as const) }];
  return (
    <section class="card" aria-labelledby="latency-title">
      <h2 id="latency-title">Latency</h2>
      <p class="quiet">The last lists of this page, there and back, explanation included.</p>
      {mine.length > 1 ? <Chart label={`Latency of the last ${mine.length} lists`} lines={lines} x="request" zero height={180} /> : <p>No lists yet.</p>}
      {problem && <Trouble problem={problem} what="The server's own numbers" />}
      {value && (
        <>
          <Scroll label="Time of requests by route">
            <table>
              <caption>All requests since the server started, measured in the server; from the buckets of a histogram</caption>
              <thead>
                <tr>
                  <th scope="col">route</th>
                  <th scope="col">requests</th>
                  <th scope="col">mean</th>
                  <th scope="col">median</th>
                  <th scope="col">99 %</th>
                </tr>
              </thead>
              <tbody>
                {routeTimes(value).map((one) => (
                  <tr key={one.route}>
                    <th scope="row">{one.route}</th>
                    <td>{count(one.requests)}</td>
                    <td>{milliseconds(one.mean)}</td>
                    <td>{milliseconds(one.median)}</td>
                    <td>{milliseconds(one.p99)}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
          <p class="quiet">
            {count(total(value, "sememe_queue_length"))} waiting; {count(total(value, "sememe_fallbacks_total"))} answers by the fallback
          </p>
        </>
      )}
    </section>
  );
}

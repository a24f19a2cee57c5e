// What the run measured: the same numbers as in `sememe report RUN`.
import { useState } from "preact/hooks";
import { api, type Calibration, type Curve, type ExampleItem, type Report, type Row } from "./api";
import { Chart } from "./chart";
import { useLoaded } from "./state";
import { Bar, count, decimal, Scroll, share, signed, Trouble, Waiting } from "./words";

const COUNTED: Record<string, string> = { popularity: "training events of the target", history: "known events of the user" };

export function ReportView() {
  const { value, problem } = useLoaded(api.report, []);
  if (problem) return <Trouble problem={problem} what="No report" />;
  if (!value) return <Waiting what="The report" />;
  return <Whole report={value} />;
}

function Whole({ report }: { report: Report }) {
  const { about } = report;
  return (
    <div class="report">
      <p class="quiet">
        {about.recipe} on {about.data}: {count(about.users)} users, {count(about.items)} items, {count(about.events)} events; finished{" "}
        {about.created.slice(0, 16).replace("T", " ")} UTC; hash {about.recipe_hash.slice(0, 12)}
      </p>
      <Metrics report={report} />
      <Comparisons report={report} />
      <Slices report={report} />
      <Calibrations lines={report.calibration} />
      <CodesHealth report={report} />
      <section class="card" aria-labelledby="curves-title">
        <h2 id="curves-title">Learning curves</h2>
        {report.curves.length === 0 && <p>Nothing was trained by steps: the models count.</p>}
        <div class="charts">
          {report.curves.map((curve) => (
            <CurveChart key={`${curve.model}-${curve.seed}`} curve={curve} />
          ))}
        </div>
      </section>
      <Examples report={report} />
      <section class="card" aria-labelledby="protocol-title">
        <h2 id="protocol-title">Protocol and settings</h2>
        <p>{report.protocol_line}</p>
        <details class="more">
          <summary>Every setting of the recipe</summary>
          <pre tabIndex={0} aria-label="Settings">
            {report.settings.join("\n")}
          </pre>
        </details>
        <details class="more">
          <summary>Stages</summary>
          <Scroll label="Stages of the run">
            <table>
              <tbody>
                {report.stages.map((stage) => (
                  <tr key={stage.name}>
                    <th scope="row">{stage.name}</th>
                    <td>{stage.seconds.toFixed(1)} s</td>
                  </tr>
                ))}
              </tbody>
            </table>
          </Scroll>
        </details>
      </section>
    </div>
  );
}

const number = (row: Row, name: string): number => Number(row[name]);

function depthsOf(row: Row | undefined, metric: string): number[] {
  const names = Object.keys(row ?? {}).filter((name) => new RegExp(`^${metric}@\\d+$`).test(name));
  return names.map((name) => Number(name.split("@")[1])).sort((one, other) => one - other);
}

/** Rows of the test part, one per model: over seeds where the run has several. */
function tested(report: Report, seen: boolean): Row[] {
  const rows = report.means.length ? report.means : report.rows;
  return rows.filter((row) => row["split"] === "test" && row["mask_seen"] === seen);
}

function Metrics({ report }: { report: Report }) {
  const [seen, treat] = useState(true);
  const rows = tested(report, seen);
  const deepest = Math.max(...depthsOf(rows[0], "ndcg"));
  const names = ["recall", "ndcg"].flatMap((metric) => depthsOf(rows[0], metric).map((k) => `${metric}@${k}`));
  const most = Math.max(...rows.map((row) => number(row, `ndcg@${deepest}_high`)), 1e-9);
  return (
    <section class="card" aria-labelledby="metrics-title">
      <h2 id="metrics-title">Metrics of the test part</h2>
      <label class="check">
        <input type="checkbox" checked={seen} onChange={(event) => treat(event.currentTarget.checked)} />
        Items that the user has seen are left out
      </label>
      <Scroll label="Metrics with 95 % intervals">
        <table>
          <thead>
            <tr>
              <th scope="col">model</th>
              <th scope="col">ndcg@{deepest}, 95 % interval</th>
              {names.map((name) => (
                <th key={name} scope="col">
                  {name}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={String(row["model"])} class={row["model"] === report.about.recipe ? "own" : ""}>
                <th scope="row">{String(row["model"])}</th>
                <td>
                  <Interval row={row} name={`ndcg@${deepest}`} most={most} />
                </td>
                {names.map((name) => (
                  <td key={name}>
                    {decimal(number(row, name))}
                    <small>
                      {" "}
                      [{decimal(number(row, `${name}_low`))}, {decimal(number(row, `${name}_high`))}]
                    </small>
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </section>
  );
}

function Interval({ row, name, most }: { row: Row; name: string; most: number }) {
  const [low, value, high] = [`${name}_low`, name, `${name}_high`].map((one) => (100 * number(row, one)) / most) as [number, number, number];
  return (
    <svg class="interval" viewBox="-2 0 104 12" aria-hidden="true">
      <line x1="0" x2="100" y1="6" y2="6" class="interval-all" />
      <line x1={low} x2={high} y1="6" y2="6" class="interval-part" />
      <circle cx={value} cy="6" r="3.4" />
    </svg>
  );
}

function Comparisons({ report }: { report: Report }) {
  const deepest = Math.max(...depthsOf(report.rows[0], "ndcg"));
  const rows = report.comparisons.filter((row) => row["metric"] === `ndcg@${deepest}` && row["mask_seen"] === true);
  if (!rows.length) return null;
  return (
    <section class="card" aria-labelledby="pairs-title">
      <h2 id="pairs-title">Compared in pairs</h2>
      <p class="quiet">Difference in ndcg@{deepest} user by user, seen items left out.</p>
      <Scroll label="Paired comparisons">
        <table>
          <tbody>
            {rows.map((row, place) => {
              const [low, high] = [number(row, "low"), number(row, "high")];
              const verdict = low <= 0 && high >= 0 ? "no clear difference" : number(row, "difference") > 0 ? "better" : "worse";
              return (
                <tr key={place}>
                  <th scope="row">
                    {String(row["model"])} against {String(row["against"])}
                  </th>
                  <td>
                    {signed(number(row, "difference"))}{" "}
                    <small>
                      [{signed(low)}, {signed(high)}]
                    </small>
                  </td>
                  <td class={verdict.split(" ")[0]}>{verdict}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </section>
  );
}

function Slices({ report }: { report: Report }) {
  const rows = report.slices.filter((row) => row["split"] === "test" && row["mask_seen"] === true);
  if (!rows.length) return null;
  const deepest = Math.max(...depthsOf(rows[0], "recall"));
  const name = `recall@${deepest}`;
  const models = [...new Set(rows.map((row) => String(row["model"])))];
  return (
    <section class="card" aria-labelledby="slices-title">
      <h2 id="slices-title">Whom it serves</h2>
      {[...new Set(rows.map((row) => String(row["by"])))].map((by) => {
        const mine = rows.filter((row) => row["by"] === by);
        return (
          <Scroll key={by} label={`Slices by ${COUNTED[by] ?? by}`}>
            <table>
              <caption>
                {name} by {COUNTED[by] ?? by}
              </caption>
              <thead>
                <tr>
                  <th scope="col">events</th>
                  <th scope="col">users</th>
                  {models.map((model) => (
                    <th key={model} scope="col">
                      {model}
                    </th>
                  ))}
                </tr>
              </thead>
              <tbody>
                {[...new Set(mine.map((row) => String(row["slice"])))].map((slice) => {
                  const some = mine.filter((row) => row["slice"] === slice);
                  return (
                    <tr key={slice}>
                      <th scope="row">{slice}</th>
                      <td>{count(number(some[0] ?? {}, "users"))}</td>
                      {models.map((model) => (
                        <td key={model}>{mean(some.filter((row) => row["model"] === model).map((row) => number(row, name)))}</td>
                      ))}
                    </tr>
                  );
                })}
              </tbody>
            </table>
          </Scroll>
        );
      })}
    </section>
  );
}

function mean(values: number[]): string {
  return values.length ? decimal(values.reduce((sum, value) => sum + value, 0) / values.length) : "-";
}

const percent = (value: number): string => `${Number((100 * value).toPrecision(3))} %`;

function Calibrations({ lines }: { lines: Calibration[] }) {
  if (!lines.length) return null;
  return (
    <section class="card" aria-labelledby="calibration-title">
      <h2 id="calibration-title">Do its probabilities come true?</h2>
      <p class="quiet">
        How often an item of a list came next, beside the probability that the generator gave it; test part, seen items left in, bins with
        equally many listed items.
      </p>
      {lines.map((line) => (
        <Bins key={`${line.model}-${line.seed}`} line={line} />
      ))}
    </section>
  );
}

function Bins({ line }: { line: Calibration }) {
  const name = `${line.model}, seed ${line.seed}`;
  const most = Math.max(...line.bins.map((bin) => Math.max(bin.high, bin.predicted)), 1e-9);
  return (
    <>
      <p>
        {name}: {percent(line.predicted)} said, {percent(line.observed)} came true, of {count(line.pairs)} listed items; calibration error{" "}
        {percent(line.error)}, by chance alone at most {percent(line.error_by_chance)}.
      </p>
      <Scroll label={`Calibration of ${name}`}>
        <table>
          <thead>
            <tr>
              <th scope="col">probability</th>
              <th scope="col">said, and what came true</th>
              <th scope="col">said</th>
              <th scope="col">came true, 95 % interval</th>
              <th scope="col">listed items</th>
            </tr>
          </thead>
          <tbody>
            {line.bins.map((bin, place) => {
              const [said, low, seen, high] = [bin.predicted, bin.low, bin.observed, bin.high].map((one) => (100 * one) / most) as [number, number, number, number];
              return (
                <tr key={place}>
                  <th scope="row">
                    {percent(bin.least)} to {percent(bin.most)}
                  </th>
                  <td>
                    <svg class="interval" viewBox="-2 0 104 12" aria-hidden="true">
                      <line x1="0" x2="100" y1="6" y2="6" class="interval-all" />
                      <line x1={low} x2={high} y1="6" y2="6" class="interval-part" />
                      <circle cx={seen} cy="6" r="3.4" />
                      <line x1={said} x2={said} y1="0" y2="12" class="interval-said" />
                    </svg>
                  </td>
                  <td>{percent(bin.predicted)}</td>
                  <td>
                    {percent(bin.observed)}
                    <small>
                      {" "}
                      [{percent(bin.low)}, {percent(bin.high)}]
                    </small>
                  </td>
                  <td>{count(bin.pairs)}</td>
                </tr>
              );
            })}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

function CodesHealth({ report }: { report: Report }) {
  const { codes } = report;
  if (!codes) return null;
  return (
    <section class="card" aria-labelledby="codes-title">
      <h2 id="codes-title">Health of the semantic IDs</h2>
      <p>
        {count(codes.distinct_tuples)} different tuples for {count(codes.items)} items ({share(codes.unique_share)});{" "}
        {count(codes.colliding_items)} items share theirs, at most {count(codes.largest_group)} the same one.
      </p>
      <Scroll label="Use of the codes">
        <table>
          <thead>
            <tr>
              <th scope="col">level</th>
              <th scope="col">codes in use</th>
              <th scope="col">perplexity</th>
              <th scope="col">entropy</th>
              <th scope="col">prefixes</th>
            </tr>
          </thead>
          <tbody>
            {codes.levels.map((level, place) => (
              <tr key={place}>
                <th scope="row">{place + 1}</th>
                <td>
                  <Bar value={level.used / level.size} label={`${count(level.used)} of ${count(level.size)}`} />
                </td>
                <td>{level.perplexity.toFixed(1)}</td>
                <td>{level.entropy.toFixed(2)} bits</td>
                <td>{count(level.distinct_prefixes)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
      {codes.warnings.map((text) => (
        <p key={text} class="trouble">
          {text}
        </p>
      ))}
    </section>
  );
}

function CurveChart({ curve }: { curve: Curve }) {
  const lines = [
    { label: "training loss", color: "--accent" as const, points: curve.train },
    ...(curve.validation.length
      ? [{ label: `validation ${curve.monitor}`, color: "--second" as const, points: curve.validation, right: true, dots: true }]
      : []),
  ];
  const [kept] = useState(lines);
  const last = curve.train.at(-1);
  return (
    <figure>
      <figcaption>
        {curve.model}, seed {curve.seed}: best step {count(curve.best_step)}
      </figcaption>
      <Chart
        label={`Learning curve of ${curve.model}: ${last ? `loss ${last[1].toFixed(3)} at step ${last[0]}` : "no points"}, best step ${curve.best_step}`}
        lines={kept}
        x="step"
        mark={curve.best_step}
      />
    </figure>
  );
}

function Examples({ report }: { report: Report }) {
  if (!report.examples.length) return null;
  return (
    <section class="card" aria-labelledby="examples-title">
      <h2 id="examples-title">Example lists</h2>
      <p class="quiet">Users of the test part, drawn by a fixed seed; what came next is marked where it was listed.</p>
      <div class="examples">
        {report.examples.map((one) => (
          <article key={one.user_id}>
            <h3>User {one.user_id}</h3>
            <Titles heading={`The latest of ${count(one.known)} events`} items={one.history} />
            <Titles heading="Came next" items={one.wanted} />
            <Titles heading="Recommended" items={one.listed} marked />
          </article>
        ))}
      </div>
    </section>
  );
}

function Titles({ heading, items, marked }: { heading: string; items: ExampleItem[]; marked?: boolean }) {
  return (
    <>
      <h4>{heading}</h4>
      <ol>
        {items.map((item, place) => (
          <li key={place}>{marked && item.wanted ? <mark>{item.title}</mark> : item.title}</li>
        ))}
      </ol>
    </>
  );
}

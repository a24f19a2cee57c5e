// The picture of the tree: two rings of branches around the one that is looked at, drawn on a canvas.
import type { Branch, Codes } from "./api";

export interface Mark {
  codes: readonly number[];
  kind: "history" | "recommended";
}

export interface Slice {
  branch: Branch;
  from: number;
  to: number;
}

export interface Look {
  paper: string;
  ink: string;
  history: string;
  recommended: string;
  dark: boolean;
}

const FULL = 2 * Math.PI;
const HOLE = 0.2;
const INNER = 0.6;
const OUTER = 0.93;

/** Where the branches lie, as shares of the circle from the top on. */
export function slices(codes: Codes): Slice[] {
  let from = 0;
  return codes.branches.map((branch) => {
    const to = from + branch.items / codes.items;
    const slice = { branch, from, to };
    from = to;
    return slice;
  });
}

/** The branch at a point, in shares of the radius from the middle; "up" for the middle itself. */
export function sliceAt(found: readonly Slice[], x: number, y: number): Slice | "up" | undefined {
  const distance = Math.hypot(x, y);
  if (distance < HOLE) return "up";
  if (distance > OUTER + 0.05) return undefined;
  const angle = (Math.atan2(x, -y) / FULL + 1) % 1;
  return found.find((slice) => angle >= slice.from && angle < slice.to);
}

function color(place: number, light: number, look: Look): string {
  const hue = (205 + 330 * place) % 360;
  return `hsl(${hue.toFixed(0)} ${look.dark ? 42 : 52}% ${(look.dark ? 30 + light : 76 - light).toFixed(0)}%)`;
}

export function draw(canvas: HTMLCanvasElement, codes: Codes, chosen: Branch | undefined, marks: readonly Mark[], look: Look): void {
  const size = canvas.clientWidth;
  const scale = devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(size * scale);
  const context = canvas.getContext("2d");
  if (!context || !size) return;
  context.scale(scale, scale);
  context.translate(size / 2, size / 2);
  const radius = size / 2;
  const found = slices(codes);
  for (const slice of found) drawSlice(context, radius, slice, slice.branch === chosen, look);
  for (const mark of marks) drawMark(context, radius, found, codes, mark, look);
  drawMiddle(context, radius, codes, look);
}

function ring(context: CanvasRenderingContext2D, from: number, to: number, inner: number, outer: number): void {
  context.beginPath();
  context.arc(0, 0, outer, FULL * (from - 0.25), FULL * (to - 0.25));
  context.arc(0, 0, inner, FULL * (to - 0.25), FULL * (from - 0.25), true);
  context.closePath();
}

function drawSlice(context: CanvasRenderingContext2D, radius: number, slice: Slice, chosen: boolean, look: Look): void {
  const { branch, from, to } = slice;
  const middle = (from + to) / 2;
  const edge = Math.min(1, FULL * (to - from) * radius * 0.12);
  ring(context, from, to, HOLE * radius, INNER * radius);
  context.fillStyle = color(middle, chosen ? 18 : 6, look);
  context.fill();
  context.lineWidth = edge;
  context.strokeStyle = look.paper;
  context.stroke();
  let begin = from;
  for (const [row, part] of (branch.parts ?? []).entries()) {
    const end = begin + ((to - from) * part.items) / branch.items;
    ring(context, begin, end, INNER * radius, OUTER * radius);
    context.fillStyle = color(middle, (row % 2 ? -5 : 1) + (chosen ? 10 : 0), look);
    context.fill();
    const width = FULL * (end - begin) * OUTER * radius;
    // Between branches that are thinner than a few pixels, lines would be all that is seen.
    if (width > 3) {
      context.lineWidth = Math.min(0.8, width / 8);
      context.stroke();
    }
    begin = end;
  }
  label(context, radius, slice, look);
  if (chosen) {
    ring(context, from, to, HOLE * radius, (branch.parts ? OUTER : INNER) * radius);
    context.lineWidth = 2;
    context.strokeStyle = look.ink;
    context.stroke();
  }
}

/** The first title along the radius, where there is room for a line of text. */
function label(context: CanvasRenderingContext2D, radius: number, slice: Slice, look: Look): void {
  const room = FULL * (slice.to - slice.from) * HOLE * 1.5 * radius;
  if (room < 9) return;
  const middle = (slice.from + slice.to) / 2;
  // Over a ring of one piece, text may go on.
  const outer = (slice.branch.parts?.length ?? 1) > 1 ? INNER : OUTER;
  const length = (outer - HOLE) * radius - 10;
  context.save();
  context.rotate(FULL * (middle - 0.25));
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = look.ink;
  context.textBaseline = "middle";
  const flipped = middle > 0.5;
  if (flipped) context.rotate(Math.PI);
  context.textAlign = flipped ? "end" : "start";
  context.fillText(shortened(context, slice.branch.titles[0] ?? `${slice.branch.code}`, length), (flipped ? -1 : 1) * (HOLE * radius + 5), 0);
  context.restore();
}

function shortened(context: CanvasRenderingContext2D, text: string, room: number): string {
  if (context.measureText(text).width <= room) return text;
  let end = text.length;
  while (end > 1 && context.measureText(`${text.slice(0, end)}…`).width > room) end -= 1;
  return end > 2 ? `${text.slice(0, end).trimEnd()}…` : "";
}

/** A dot on the edge, where an item of the history or of the list lies. */
function drawMark(context: CanvasRenderingContext2D, radius: number, found: readonly Slice[], codes: Codes, mark: Mark, look: Look): void {
  const depth = codes.prefix.length;
  if (!codes.prefix.every((code, level) => mark.codes[level] === code)) return;
  const slice = found.find((one) => one.branch.code === mark.codes[depth]);
  if (!slice) return;
  let middle = (slice.from + slice.to) / 2;
  let begin = slice.from;
  for (const part of slice.branch.parts ?? []) {
    const end = begin + ((slice.to - slice.from) * part.items) / slice.branch.items;
    if (part.code === mark.codes[depth + 1]) middle = (begin + end) / 2;
    begin = end;
  }
  const angle = FULL * (middle - 0.25);
  const away = (mark.kind === "history" ? OUTER + 0.045 : OUTER - 0.04) * radius;
  context.beginPath();
  context.arc(away * Math.cos(angle), away * Math.sin(angle), Math.max(3, radius * 0.014), 0, FULL);
  context.fillStyle = mark.kind === "history" ? look.history : look.recommended;
  context.fill();
  context.lineWidth = 1.2;
  context.strokeStyle = look.paper;
  context.stroke();
}

function drawMiddle(context: CanvasRenderingContext2D, radius: number, codes: Codes, look: Look): void {
  context.fillStyle = look.ink;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.font = `600 ${Math.max(12, radius * 0.055)}px system-ui, sans-serif`;
  context.fillText(codes.prefix.length ? codes.prefix.join(" · ") : "all items", 0, -radius * 0.03);
  context.font = `${Math.max(11, radius * 0.042)}px system-ui, sans-serif`;
  context.fillText(codes.items.toLocaleString("en"), 0, radius * 0.045);
}

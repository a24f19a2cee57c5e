// Line charts, in the colours of the page.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";

export interface Line {
  label: string;
  color: "--accent" | "--second";
  points: readonly (readonly [number, number])[];
  /** Whether it has an axis of its own, at the right. */
  right?: boolean;
  dots?: boolean;
}

/** Steps and numbers of requests are whole. */
const WHOLE = [1, 2, 5].flatMap((digit) => [0, 1, 2, 3, 4, 5, 6].map((power) => digit * 10 ** power)).sort((one, other) => one - other);

interface ChartProps {
  label: string;
  lines: readonly Line[];
  x: string;
  mark?: number;
  /** Whether the left axis begins at 0. */
  zero?: boolean;
  height?: number;
}

/** All lines over one axis: where a line has no point, there is a gap to be bridged. */
function joined(lines: readonly Line[]): uPlot.AlignedData {
  const places = [...new Set(lines.flatMap((line) => line.points.map(([x]) => x)))].sort((one, other) => one - other);
  const values = lines.map((line) => {
    const found = new Map(line.points);
    return places.map((x) => found.get(x) ?? null);
  });
  return [places, ...values] as uPlot.AlignedData;
}

function options(element: HTMLElement, { lines, x, mark, zero, height }: ChartProps): uPlot.Options {
  const style = getComputedStyle(element);
  const color = (name: string) => style.getPropertyValue(name).trim();
  const axis = { stroke: color("--muted"), font: "12px system-ui", grid: { stroke: color("--line"), width: 1 }, ticks: { stroke: color("--line"), width: 1 } };
  const left = lines.find((line) => !line.right);
  const right = lines.find((line) => line.right);
  return {
    width: Math.max(200, element.clientWidth),
    height: height ?? 220,
    legend: { show: false },
    cursor: { show: false },
    scales: { x: { time: false }, right: {}, ...(zero ? { y: { range: (_, __, most) => [0, 1.1 * most] as [number, number] } } : {}) },
    axes: [
      { ...axis, incrs: WHOLE, label: x, labelSize: 18, labelFont: "12px system-ui", size: 34 },
      { ...axis, size: 56, label: left?.label ?? "", labelSize: 16, labelFont: "12px system-ui", ...(left ? { stroke: color(left.color) } : {}) },
      ...(right
        ? [{ ...axis, scale: "right", side: 1 as const, size: 56, grid: { show: false }, label: right.label, labelSize: 16, labelFont: "12px system-ui", stroke: color(right.color) }]
        : []),
    ],
    series: [
      {},
      ...lines.map((line) => ({
        label: line.label,
        stroke: color(line.color),
        width: 1.6,
        spanGaps: true,
        scale: line.right ? "right" : "y",
        points: { show: Boolean(line.dots), size: 5, fill: color(line.color) },
      })),
    ],
    hooks: {
      draw: [
        (plot: uPlot) => {
          if (mark === undefined) return;
          const place = plot.valToPos(mark, "x", true);
          plot.ctx.save();
          plot.ctx.strokeStyle = color("--muted");
          plot.ctx.setLineDash([5, 4]);
          plot.ctx.beginPath();
          plot.ctx.moveTo(place, plot.bbox.top);
          plot.ctx.lineTo(place, plot.bbox.top + plot.bbox.height);
          plot.ctx.stroke();
          plot.ctx.restore();
        },
      ],
    },
  };
}

export function Chart(props: ChartProps) {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = place.current;
    if (!element) return;
    let plot: uPlot | undefined;
    const paint = () => {
      plot?.destroy();
      plot = new uPlot(options(element, props), joined(props.lines), element);
    };
    paint();
    let width = element.clientWidth;
    const resized = new ResizeObserver(() => {
      if (element.clientWidth !== width) {
        width = element.clientWidth;
        plot?.setSize({ width: Math.max(200, width), height: props.height ?? 220 });
      }
    });
    resized.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", paint);
    return () => {
      resized.disconnect();
      scheme.removeEventListener("change", paint);
      plot?.destroy();
    };
  }, [props.lines, props.mark]);
  return <div class="chart" role="img" aria-label={props.label} ref={place} />;
}

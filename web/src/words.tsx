// How numbers, times and problems are written.
import type { ComponentChildren } from "preact";
import type { Problem } from "./api";

export const count = (value: number): string => value.toLocaleString("en");
export const several = (value: number, one: string): string => `${count(value)} ${one}${value === 1 ? "" : "s"}`;
export const share = (value: number): string => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)} %`;

/** A probability that may be very small. */
export const chance = (value: number): string => (value < 0.001 ? value.toExponential(1) : share(value));
export const decimal = (value: number, digits = 4): string => value.toFixed(digits);
export const signed = (value: number): string => `${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(4)}`;

export function milliseconds(value: number): string {
  return value < 10 ? `${value.toFixed(1)} ms` : value < 10_000 ? `${value.toFixed(0)} ms` : `${(value / 1000).toFixed(0)} s`;
}

export function moment(timestamp: number): string {
  return new Date(timestamp).toISOString().slice(0, 16).replace("T", " ");
}

export function Trouble({ problem, what }: { problem: Problem; what: string }) {
  return (
    <p class="trouble" role="alert">
      <strong>{what}: </strong>
      {problem.message}
      {problem.fix && <span class="fix">What to do: {problem.fix}</span>}
    </p>
  );
}

export function Waiting({ what }: { what: string }) {
  return <p class="quiet">{what} is being fetched …</p>;
}

export function Bar({ value, label, second }: { value: number; label: string; second?: boolean }) {
  const width = Math.max(0, Math.min(1, value));
  return (
    <span class="bar">
      <svg viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
        <rect class="bar-all" width="100" height="6" />
        <rect class={second ? "bar-second" : "bar-part"} width={100 * width} height="6" />
      </svg>
      <span class="bar-label">{label}</span>
    </span>
  );
}

export function Scroll({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      {children}
    </div>
  );
}

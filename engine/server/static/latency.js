// One request's time as a stacked bar, by the server's timing headers and the browser's clock.

import { element, milliseconds } from "./dom.js";

const PARTS = [
  ["tokenize", "x-tokenization-time-us", "Tokenize"],
  ["queue", "x-queue-time-us", "Queue"],
  ["compute", "x-inference-time-us", "Compute"],
];
const REST = ["rest", null, "Network + rest"];

/** `{tokenize, queue, compute, rest, total}` in milliseconds, and `tokens`; null where the server said nothing. */
export function split(headers, total) {
  if (!headers.has("x-total-time-us")) return null;
  const times = {};
  let known = 0;
  for (const [name, header] of PARTS) {
    times[name] = Number(headers.get(header)) / 1000;
    known += times[name];
  }
  times.rest = Math.max(0, total - known);
  times.total = Math.max(total, known);
  for (const name in times) times[name] = Math.round(1000 * times[name]) / 1000;
  return { ...times, tokens: Number(headers.get("x-compute-tokens")) };
}

/** The bar and its legend; empty ones before the first request. */
export function drawn(times) {
  const bar = element("div", { class: "stack", "aria-hidden": "true" });
  const legend = element("dl", { class: "parts" });
  for (const [name, , title] of [...PARTS, REST]) {
    const piece = element("span", { class: name });
    piece.style.flexGrow = String(times ? times[name] : 0);
    bar.append(piece);
    legend.append(element("div", { class: name },
      element("dt", {}, element("span", { class: "swatch" }), title),
      element("dd", {}, times ? milliseconds(times[name]) : "–")));
  }
  const total = times
    ? [element("strong", {}, milliseconds(times.total)), ` for ${times.tokens} ${times.tokens === 1 ? "token" : "tokens"}`]
    : ["No answer yet."];
  return [element("p", { class: "total" }, ...total), bar, legend];
}

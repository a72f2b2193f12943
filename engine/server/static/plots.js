// Live plots of what /stats counts: its samples, the rates between them, and lines of them.

import { amount, element, milliseconds } from "./dom.js";

const MINUTE = 60;
const RECENT = 10; // seconds that a point of the latency's lines looks back
const SVG = "http://www.w3.org/2000/svg";
const REFUSED = ["shed", "expired", "failed", "invalid"];

/** Each: a title, how to write a number, and series: a name, and values of a sample and those before it. */
const PLOTS = [
  { title: "Queue", unit: "tokens", write: amount, series: [["queue", (now) => now.queue.tokens]] },
  {
    title: "Requests", unit: "a second", write: amount,
    series: [
      ["answered", (now, before) => rate(now, before, (sample) => sample.requests.answered ?? 0)],
      ["refused", (now, before) => rate(now, before, (sample) => sum(REFUSED.map((name) => sample.requests[name] ?? 0)))],
    ],
  },
  {
    title: "Computed", unit: "tokens a second", write: amount,
    series: [["tokens", (now, before) => rate(now, before, (sample) => sample.computed_tokens)]],
  },
  {
    title: "Latency", unit: "in the server", write: (seconds) => milliseconds(1000 * seconds), minute: true,
    series: [
      ["p50", (now, before, recent) => quantile(now, recent, 0.5)],
      ["p99", (now, before, recent) => quantile(now, recent, 0.99)],
    ],
  },
];

/** A minute of samples of every model. */
export class History {
  #samples = [];

  /** Add what /stats said; a server that has started again starts anew. */
  add(stats) {
    const models = Object.fromEntries(stats.models.map((model) => [model.name, { ...model, seconds: stats.seconds }]));
    const last = this.#samples.at(-1);
    const again = last && Object.keys({ ...last, ...models }).some((name) =>
      !(models[name]?.computed_tokens >= last[name]?.computed_tokens) || models[name].seconds < last[name].seconds);
    if (again) this.#samples = [];
    this.#samples.push(models);
    while (Object.values(this.#samples[0])[0].seconds < stats.seconds - MINUTE - RECENT) this.#samples.shift();
  }

  /** The samples of a model, oldest first. */
  of(name) {
    return this.#samples.map((models) => models[name]);
  }
}

/** The plots, empty, and a function that draws a model's samples into them. */
export function plots() {
  const made = PLOTS.map((plot) => new Plot(plot));
  return [made.map((plot) => plot.node), (samples) => made.forEach((plot) => plot.draw(samples))];
}

class Plot {
  constructor(plot) {
    this.plot = plot;
    this.picture = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 100 100", preserveAspectRatio: "none", role: "img" })) {
      this.picture.setAttribute(name, value);
    }
    this.values = plot.series.map(([name]) => element("span", { class: "value" }, "–"));
    this.most = element("span", {}, "");
    const several = plot.series.length > 1;
    const heads = plot.series.map(([name], i) => element("p", { class: `series s${i}` }, this.values[i],
      element("span", { class: "muted" }, several ? ` ${name}` : ` ${plot.unit}`)));
    this.node = element("figure", {},
      element("figcaption", {}, plot.title, element("span", { class: "muted" }, several ? ` ${plot.unit}` : "")),
      element("div", { class: "heads" }, ...heads),
      element("div", { class: "picture" }, this.picture),
      element("p", { class: "axis muted", "aria-hidden": "true" }, element("span", {}, "−60 s"), this.most, element("span", {}, "now")));
  }

  draw(samples) {
    const { plot } = this;
    const last = samples.at(-1);
    const lines = plot.series.map(([, value]) => samples.flatMap((now, i) => {
      if (now.seconds < last.seconds - MINUTE) return [];
      const found = value(now, samples[i - 1], lookedBack(samples, now.seconds - RECENT));
      return found === null ? [] : [[100 * (1 - (last.seconds - now.seconds) / MINUTE), found]];
    }));
    const top = ceiling(Math.max(0, ...lines.flat().map(([, value]) => value)));
    this.picture.replaceChildren(...lines.flatMap((line, i) => [...(i ? [] : [path(line, top, true, i)]), path(line, top, false, i)]));
    const heads = plot.series.map(([, value], i) => plot.minute
      ? value(last, undefined, lookedBack(samples, last.seconds - MINUTE)) : lines[i].at(-1)?.[1] ?? null);
    heads.forEach((value, i) => { this.values[i].textContent = value === null ? "–" : plot.write(value); });
    this.most.textContent = top ? `up to ${plot.write(top).replace(/\.0+(?!\d)/, "")}` : "";
    const words = plot.series.map(([name], i) => `${name} ${this.values[i].textContent}`).join(", ");
    this.picture.setAttribute("aria-label", `${plot.title} ${plot.unit} in the last minute: ${words}, ${this.most.textContent || "nothing"}`);
  }
}

function path(line, top, filled, series) {
  const made = document.createElementNS(SVG, "path");
  const points = line.map(([x, value]) => `${x.toFixed(2)} ${(98 - (top ? (94 * value) / top : 0)).toFixed(2)}`);
  if (points.length === 1) points.push(points[0]); // a dot
  const closed = filled && line.length ? `L${line.at(-1)[0].toFixed(2)} 100 L${line[0][0].toFixed(2)} 100 Z` : "";
  made.setAttribute("d", points.length ? `M${points.join(" L")} ${closed}` : "");
  made.setAttribute("class", `${filled ? "area" : "line"} s${series}`);
  made.setAttribute("vector-effect", "non-scaling-stroke");
  return made;
}

/** The oldest sample that is not older than a moment. */
function lookedBack(samples, seconds) {
  return samples.find((sample) => sample.seconds >= seconds);
}

function rate(now, before, count) {
  if (!before || now.seconds <= before.seconds) return null;
  return (count(now) - count(before)) / (now.seconds - before.seconds);
}

/** Seconds that this part of the requests answered between two samples took at most; null if there were none. */
function quantile(now, before, part) {
  const { bounds, counts } = now.request_seconds;
  const fresh = counts.map((many, i) => many - before.request_seconds.counts[i]);
  let left = part * sum(fresh);
  if (!left) return null;
  for (let i = 0; i < fresh.length; i++) {
    if (left <= fresh[i]) {
      const low = i ? bounds[i - 1] : 0;
      return low + ((bounds[i] ?? low) - low) * (left / fresh[i]);
    }
    left -= fresh[i];
  }
  return bounds.at(-1);
}

/** The next of 1, 2, 5, 10, 20, … */
function ceiling(value) {
  if (!value) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((step) => step * power >= value * 0.999999);
}

function sum(values) {
  return values.reduce((total, value) => total + value, 0);
}

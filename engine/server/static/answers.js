// Answers as people read them: a function for each form, from the server's JSON and what was sent to nodes.

import { element, number } from "./dom.js";

/** Classification and multiple-choice: `[{label or choice, score}]`, that of one text possibly in a list. */
export function scores(answer) {
  return bars(answer.flat().map((row) => ({ name: row.label ?? row.choice, value: row.score })));
}

/** fill-mask: candidates of each mask; the chosen ones stand in the sentence. */
export function masks(answer, values, model) {
  const groups = Array.isArray(answer[0]) ? answer : [answer];
  const pieces = values.text.split(model.mask_token);
  const filled = groups.map((candidates) => element("mark", {}, candidates[0]?.token_str ?? ""));
  const sentence = element("p", { class: "passage" });
  pieces.forEach((piece, i) => sentence.append(...(i ? [filled[i - 1] ?? model.mask_token] : []), piece)); // a cut text has fewer
  const lists = groups.map((candidates, i) => {
    const rows = candidates.map((each) => ({ name: each.token_str, value: each.score }));
    const list = bars(rows, (row) => { filled[i].textContent = rows[row].name; });
    return groups.length > 1 ? element("div", {}, element("h3", {}, `Mask ${i + 1}`), list) : list;
  });
  return element("div", {}, sentence, ...lists);
}

/** question-answering: the chosen answer marked in its context. */
export function spans(answer, values) {
  const found = Array.isArray(answer) ? answer : [answer];
  const passage = element("p", { class: "passage" });
  const mark = (row) => passage.replaceChildren(...marked(values.context, [found[row]], (_, text) => element("mark", {}, text)));
  mark(0);
  const rows = found.map((each) => ({ name: each.answer || "no answer", value: each.score }));
  return element("div", {}, passage, bars(rows, mark));
}

/** token-classification: coloured spans with their labels, and a legend. */
export function entities(answer, values) {
  const kinds = [...new Set(answer.map(kind))];
  const colour = (name) => `c${kinds.indexOf(name) % 8}`;
  const passage = element("p", { class: "passage" }, ...marked(values.text, answer, (entity, text) =>
    element("mark", { class: `entity ${colour(kind(entity))}` }, text,
      element("small", {}, ` ${entity.entity_group ?? entity.entity} ${entity.score.toFixed(2)}`))));
  const counts = kinds.map((name) => {
    const many = answer.filter((entity) => kind(entity) === name).length;
    return element("li", { class: colour(name) }, element("span", { class: "swatch" }), `${name} (${many})`);
  });
  const legend = element("ul", { class: "legend", "aria-label": "Labels" }, ...counts);
  return element("div", {}, passage, answer.length ? legend : element("p", { class: "muted" }, "No entities found."));
}

/** sentence-similarity: sentences by falling cosine. */
export function cosines(answer, values) {
  const sentences = values.sentences.split("\n").filter((each) => each.trim());
  const rows = answer.map((value, i) => ({ name: sentences[i], value }));
  return bars(rows.sort((a, b) => b.value - a.value));
}

/** feature-extraction: the shape, and every number as a coloured cell. */
export function vectors(answer) {
  const shape = [];
  for (let part = answer; Array.isArray(part); part = part[0]) shape.push(part.length);
  const rows = shape.length === 1 ? [answer] : shape.length === 2 ? answer : answer.flat();
  const largest = quantile(rows.flat().map(Math.abs), 0.995) || 1;
  const lengths = rows.map((row) => Math.hypot(...row));
  const length = rows.length === 1 ? `length ${number(lengths[0])}`
    : `lengths ${number(Math.min(...lengths))} to ${number(Math.max(...lengths))}`;
  return element("div", {},
    element("p", { class: "shape" }, element("strong", {}, shape.join(" × ")), ` ${length}`),
    heat(rows, largest),
    element("p", { class: "scale muted" }, number(-largest), element("span", { class: "ramp" }), number(largest)),
    element("p", { class: "muted values" }, `${rows[0].slice(0, 8).map((value) => value.toFixed(4)).join("  ")} …`));
}

/** A label without the prefix that says where an entity begins. */
function kind(entity) {
  return (entity.entity_group ?? entity.entity).replace(/^[BIES]-/, "");
}

/** Text with spans, each made a node by `make(span, text)`. Places count code points, as in Python. */
function marked(text, found, make) {
  const points = Array.from(text);
  const nodes = [];
  let end = 0;
  for (const span of found) {
    if (span.start < end || span.end <= span.start) continue;
    nodes.push(points.slice(end, span.start).join(""), make(span, points.slice(span.start, span.end).join("")));
    end = span.end;
  }
  return [...nodes, points.slice(end).join("")];
}

/** A list of named bars; with `pick(row)` each is a button, the first pressed. Bars end at 1 unless a value is larger. */
function bars(rows, pick) {
  const most = Math.max(1, ...rows.map((row) => Math.abs(row.value)));
  const list = element("ol", { class: "bars" });
  rows.forEach((row, i) => {
    const fill = element("span", { class: row.value < 0 ? "fill below" : "fill" });
    fill.style.width = `${(100 * Math.abs(row.value)) / most}%`;
    const parts = [
      element("span", { class: "name" }, row.name),
      element("span", { class: "number" }, number(row.value)),
      element("span", { class: "track", "aria-hidden": "true" }, fill),
    ];
    if (!pick || rows.length === 1) {
      list.append(element("li", {}, ...parts));
      return;
    }
    const button = element("button", { type: "button", "aria-pressed": String(i === 0) }, ...parts);
    button.addEventListener("click", () => {
      for (const other of list.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button));
      pick(i);
    });
    list.append(element("li", {}, button));
  });
  return list;
}

/** A canvas with a pixel for each number, a row for each vector: blue below 0, orange above. */
function heat(rows, largest) {
  const width = rows[0].length;
  const canvas = element("canvas", { class: "heat", width, height: rows.length, role: "img",
    "aria-label": `${rows.length} × ${width} numbers from ${number(-largest)} in blue to ${number(largest)} in orange` });
  canvas.style.height = `${Math.max(48, Math.min(rows.length * 10, 320))}px`;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, rows.length);
  rows.flat().forEach((value, i) => {
    const colour = value < 0 ? [37, 99, 235] : [234, 112, 12];
    pixels.data.set([...colour, 255 * Math.min(1, Math.abs(value) / largest)], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function quantile(values, part) {
  values.sort((a, b) => a - b);
  return values[Math.floor(part * (values.length - 1))];
}

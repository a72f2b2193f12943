// The page: what is chosen and filled in, the request, and the numbers that come in every second.

import { element, radios } from "./dom.js";
import { drawn, split } from "./latency.js";
import { History, plots } from "./plots.js";
import { bodyOf, fieldsOf, TASKS, tasksOf } from "./tasks.js";

const PERIOD = 1000; // milliseconds between two looks at /stats
const LONGEST = 20000; // characters of an answer that are shown; all are copied

const at = (id) => document.getElementById(id);
const history = new History();
const [figures, draw] = plots();
const kept = {}; // what was filled in, by task
const exchange = { curl: "", request: "", answer: "", timing: "" };
let models = {}; // by name
let known = ""; // what they are, to see a server that came back with others
let model = null;
let task = null;
let shown = "curl";
let sending = null;
let polling = null;

// --- what to ask -----------------------------------------------------------------------------------------------------

function choose(name) {
  model = models[name];
  const facts = [model.architecture, `${model.backend}, ${model.dtype}`, `${model.max_input_tokens} tokens at most`];
  at("model-name").textContent = model.name;
  at("facts").replaceChildren(...facts.map((fact) => element("li", {}, fact)));
  const served = tasksOf(model);
  at("tasks").replaceChildren(...radios("task", served.map((each) => [each, TASKS[each].title]), served[0], ask));
  ask(served[0]);
  draw(history.of(name));
}

function ask(name) {
  task = name;
  const { inputs, params } = fieldsOf(task, model);
  const values = (kept[`${model.name} ${task}`] ??= Object.fromEntries([...inputs, ...params].map((each) => [each.name, each.value])));
  at("hint").textContent = TASKS[task].hint;
  at("fields").replaceChildren(...inputs.map((each) => field(each, values)));
  at("params").replaceChildren(...params.map((each) => field(each, values)));
  sending?.abort();
  Object.assign(exchange, { answer: "", timing: "" });
  say(element("p", { class: "empty" }, "Send the example, or a text of your own."));
  at("latency").replaceChildren(...drawn(null));
  written();
}

function field({ name, label, kind, placeholder = "", options = [] }, values) {
  const id = `field-${name}`;
  const input = kind === "area" ? element("textarea", { id, rows: 4, placeholder })
    : kind === "choice" ? element("select", { id }, ...options.map(([text], i) => element("option", { value: i }, text)))
    : kind === "flag" ? element("input", { id, type: "checkbox" })
    : element("input", { id, type: kind === "count" ? "number" : "text", min: 0, placeholder, autocomplete: "off" });
  if (kind === "flag") input.checked = values[name];
  else input.value = values[name];
  const filled = () => {
    values[name] = kind === "flag" ? input.checked : kind === "choice" ? Number(input.value) : input.value;
    written();
  };
  for (const event of ["input", "change"]) input.addEventListener(event, filled); // a cleared field may only say the latter
  const parts = [element("label", { for: id }, label), input];
  return element("div", { class: `field ${kind}` }, ...(kind === "flag" ? parts.reverse() : parts));
}

function body() {
  return bodyOf(task, kept[`${model.name} ${task}`], fieldsOf(task, model).params);
}

function address() {
  return new URL(`models/${model.name.split("/").map(encodeURIComponent).join("/")}`, document.baseURI);
}

// --- request and answer ----------------------------------------------------------------------------------------------

async function send() {
  sending?.abort();
  const asked = (sending = new AbortController());
  const values = { ...kept[`${model.name} ${task}`] };
  const show = TASKS[task].show;
  const headers = { "content-type": "application/json" };
  if (at("key").value) headers.authorization = `Bearer ${at("key").value}`;
  at("answer").setAttribute("aria-busy", "true");
  try {
    const start = performance.now();
    const response = await fetch(address(), { method: "POST", headers, body: JSON.stringify(body()), signal: asked.signal });
    const text = await response.text();
    const took = performance.now() - start;
    if (asked !== sending || asked.signal.aborted) return;
    const times = response.ok ? split(response.headers, took) : null;
    Object.assign(exchange, { answer: text, timing: times ? JSON.stringify(times, null, 2) : "" });
    at("latency").replaceChildren(...drawn(times));
    print();
    if (response.ok) say(show(JSON.parse(text), values, model));
    else refused(response, text);
  } catch (error) {
    if (asked.signal.aborted) return;
    failed("The server did not answer", String(error.message ?? error));
  }
}

function refused(response, text) {
  let { error, error_type: kind } = { error: text, error_type: response.statusText };
  try {
    ({ error, error_type: kind } = JSON.parse(text));
  } catch { /* some proxy's own words */ }
  const wait = response.headers.get("retry-after");
  failed(`${response.status} ${kind}`, wait ? `${error} (again after ${wait} s)` : error);
}

function failed(title, message) {
  say(element("div", { class: "error", role: "alert" }, element("strong", {}, title), element("p", {}, message)));
}

function say(node) {
  at("answer").replaceChildren(node);
  at("answer").setAttribute("aria-busy", "false");
}

/** What is filled in, as a request that can be copied. */
function written() {
  const sent = JSON.stringify(body(), null, 2);
  const key = at("key-field").hidden ? "" : " \\\n  -H \"Authorization: Bearer $DISTILRT_API_KEY\"";
  const quoted = JSON.stringify(body()).replaceAll("'", "'\\''");
  Object.assign(exchange, {
    request: sent,
    curl: `curl -s '${address().href.replaceAll("'", "%27")}'${key} \\\n  -H 'Content-Type: application/json' \\\n  -d '${quoted}'`,
  });
  print();
}

function print() {
  const text = exchange[shown];
  at("exchange").textContent = text.length > LONGEST ? `${text.slice(0, LONGEST)} … ${text.length - LONGEST} more characters` : text || "Not sent yet.";
}

async function copy() {
  let done = true;
  try {
    await navigator.clipboard.writeText(exchange[shown]);
  } catch { // not over plain HTTP from elsewhere: leave it selected for the person
    done = false;
    getSelection().selectAllChildren(at("exchange"));
  }
  at("copy").textContent = done ? "Copied" : "Selected";
  setTimeout(() => { at("copy").textContent = "Copy"; }, 1500);
}

// --- numbers of the server -------------------------------------------------------------------------------------------

async function poll() {
  clearTimeout(polling);
  polling = null;
  try {
    const response = await fetch("stats", { cache: "no-store" });
    if (!response.ok) throw new Error(`/stats says ${response.status}`);
    came(await response.json());
  } catch (error) {
    state("lost", `not reachable: ${error.message}`);
  }
  if (!document.hidden && polling === null) polling = setTimeout(poll, PERIOD);
}

function came(stats) {
  state(stats.status === "ready" ? "ready" : "waiting", stats.status);
  at("key-field").hidden = !stats.needs_key;
  history.add(stats);
  const served = JSON.stringify(stats.models.map((each) => [each.name, each.architecture, each.dtype, each.labels]));
  if (served === known) {
    draw(history.of(model.name));
    return;
  }
  known = served;
  models = Object.fromEntries(stats.models.map((each) => [each.name, each]));
  const names = Object.keys(models);
  at("model").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  for (const id of ["model", "model-label"]) at(id).hidden = names.length < 2;
  at("model-name").hidden = names.length > 1;
  choose(names[0]);
  document.body.dataset.loaded = "";
}

function state(name, words) {
  if (at("status").textContent === words) return; // or it would be read out every second
  at("status").dataset.state = name;
  at("status").textContent = words;
}

// --- start -----------------------------------------------------------------------------------------------------------

const FORMS = [["curl", "cURL"], ["request", "Request"], ["answer", "Answer"], ["timing", "Timing"]];
at("forms").replaceChildren(...radios("form", FORMS, shown, (form) => {
  shown = form;
  print();
}));
at("plots").replaceChildren(...figures);
at("latency").replaceChildren(...drawn(null));
at("model").addEventListener("change", () => choose(at("model").value));
at("copy").addEventListener("click", copy);
at("try").addEventListener("submit", (event) => {
  event.preventDefault();
  if (model) send();
});
at("try").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("try").requestSubmit();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) poll();
  else clearTimeout(polling);
});
poll();

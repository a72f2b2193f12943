// Elements. Text becomes text nodes, never markup: whatever a user or a model says stays what it is.

/** An element with properties (`class`, `for`, `aria-…`, `data-…` and `role` as attributes) and children: nodes or strings. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (/^(class|for|role|(aria|data)-.*)$/.test(name)) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Radio buttons that look like tabs; `chosen(value)` is called when a person picks another. */
export function radios(name, options, value, chosen) {
  return options.flatMap(([option, text]) => {
    const id = `${name}-${option}`;
    const radio = element("input", { type: "radio", name, id, value: option, checked: option === value });
    radio.addEventListener("change", () => chosen(option));
    return [radio, element("label", { for: id }, text)];
  });
}

/** A number as people read it: 0.9998, 12.3, 4,500. */
export function number(value) {
  const size = Number(Math.abs(value).toPrecision(4)); // 0.99999 has the digits of 1
  if (size !== 0 && size < 0.0001) return value.toExponential(1);
  const digits = size < 1 ? 4 : size < 10 ? 3 : size < 100 ? 1 : 0;
  return value.toLocaleString("en-US", { minimumFractionDigits: size < 10 ? digits : 0, maximumFractionDigits: digits });
}

/** A rate or count: 0, 0.4, 7.8, 12, 4,500. */
export function amount(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: value < 10 ? 1 : 0 });
}

/** Milliseconds. */
export function milliseconds(value) {
  const digits = value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ms`;
}

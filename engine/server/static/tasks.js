// What a person fills in for each task, and the body of the request that it makes.

import { cosines, entities, masks, scores, spans, vectors } from "./answers.js";

// A field: its name, label, kind, first value, and what is sent of a value; undefined is not sent.
const text = (name, label, value) => ({ name, label, value, kind: "area", sent: (now) => now || undefined });
const line = (name, label, value, more) => ({ ...text(name, label, value), kind: "line", ...more });
const flag = (name, label) => ({ ...text(name, label, false), kind: "flag" });
const count = (name, label, usual) => line(name, label, "", {
  kind: "count", placeholder: usual, sent: (now) => (now === "" ? undefined : Number(now)),
});
/** Options are `[text, value]`; the first is the default. */
const choice = (name, label, ...options) => ({ name, label, value: 0, kind: "choice", options, sent: (now) => options[now][1] });

const parts = (value, separator) => value.split(separator).filter((each) => each.trim());
const lines = (value) => parts(value, "\n");
const words = (value) => parts(value, ",").map((each) => each.trim());
const truncation = flag("truncation", "Cut texts that are too long");

/**
 * By name: a title, a hint, `fields` of the inputs and of `params`, either a list or a function of the model;
 * `inputs(values)`, if they are not the text alone; and `show(answer, values, model)`, a node.
 */
export const TASKS = {
  "text-classification": {
    title: "Classification",
    hint: "The labels of a text or of a pair of texts, with their scores.",
    fields: [
      text("text", "Text", "The room was small, but the view over the harbour made up for everything."),
      line("text_pair", "Second text", "", { placeholder: "only for models that read pairs" }),
    ],
    params: [
      count("top_k", "Labels", "all"),
      choice("function_to_apply", "Scores", ["as the model says"], ["softmax", "softmax"], ["sigmoid", "sigmoid"],
        ["logits", "none"]),
      truncation,
    ],
    inputs: (values) => (values.text_pair ? { text: values.text, text_pair: values.text_pair } : values.text),
    show: scores,
  },
  "zero-shot-classification": {
    title: "Zero-shot",
    hint: "How well labels of your own fit a text.",
    fields: [text("text", "Text", "The central bank raised its key rate by a quarter of a point on Thursday.")],
    params: [
      line("candidate_labels", "Labels, with commas between", "economy, sport, cooking", { sent: words }),
      line("hypothesis_template", "Hypothesis", "", { placeholder: "This example is {}." }),
      flag("multi_label", "Each label by itself"),
    ],
    // Only models of natural language inference can do it.
    serves: (model) => model.labels.some((label) => label.toLowerCase().startsWith("entail")),
    show: scores,
  },
  "fill-mask": {
    title: "Fill mask",
    hint: "Which tokens fit where the mask stands.",
    fields: (model) => [text("text", `Text with ${model.mask_token}`, `The ship sailed into the ${model.mask_token} at dawn.`)],
    params: [
      count("top_k", "Candidates", "5"),
      line("targets", "Only these tokens", "", { placeholder: "harbour, storm", sent: (now) => (now ? words(now) : undefined) }),
      truncation,
    ],
    show: masks,
  },
  "question-answering": {
    title: "Question answering",
    hint: "The part of a context that answers a question.",
    fields: [
      line("question", "Question", "Who wrote the first program?"),
      text("context", "Context", "In 1843 Ada Lovelace published notes on Charles Babbage's Analytical Engine. They hold "
        + "what is often called the first computer program, a way to compute Bernoulli numbers."),
    ],
    params: [
      count("top_k", "Answers", "1"),
      count("max_answer_len", "Tokens of an answer", "15"),
      flag("handle_impossible_answer", "There may be no answer"),
    ],
    inputs: (values) => ({ question: values.question, context: values.context }),
    show: spans,
  },
  "token-classification": {
    title: "Entities",
    hint: "Which words are what: names, places, parts of speech.",
    fields: [text("text", "Text", "Ada Lovelace met Charles Babbage in London, long before IBM was founded in New York.")],
    params: [
      choice("aggregation_strategy", "Join tokens", ["of one label", "simple"], ["not at all", "none"],
        ["to words, by the first piece", "first"], ["to words, by the average", "average"], ["to words, by the surest", "max"]),
    ],
    show: entities,
  },
  "sentence-similarity": {
    title: "Similarity",
    hint: "Sentences by how close they are to another.",
    fields: [
      line("source_sentence", "Sentence", "The cat sat on the mat."),
      text("sentences", "Compared with, one a line", "A feline rested on a rug.\nDogs are loyal animals.\nStock prices fell sharply today."),
    ],
    params: [choice("pooling", "Pooling", ["as the model says"], ["mean of all tokens", "mean"], ["first token", "cls"]), truncation],
    inputs: (values) => ({ source_sentence: values.source_sentence, sentences: lines(values.sentences) }),
    show: cosines,
  },
  "multiple-choice": {
    title: "Multiple choice",
    hint: "Which text goes best with another: the end of a story, the answer to a question.",
    fields: [
      text("prompt", "Prompt", "She put the kettle on, took two cups from the shelf and"),
      text("choices", "Choices, one a line", "made tea for both of them.\ndrove the car into the garage.\nsang in her sleep."),
    ],
    params: [truncation],
    inputs: (values) => ({ prompt: values.prompt, choices: lines(values.choices) }),
    show: scores,
  },
  "feature-extraction": {
    title: "Features",
    hint: "The numbers that the model makes of a text.",
    fields: [text("text", "Text", "A sentence becomes a vector.")],
    params: (model) => [
      choice("pooling", "Vectors", ...(model.pooling ? [["of the text, as the model says"]] : []), ["of each token", null],
        ["of the text, mean of its tokens", "mean"], ["of the text, its first token", "cls"]),
      ...(model.pooling ? [] : [flag("normalize", "Scale to length 1")]),
      truncation,
    ],
    show: vectors,
  },
};

/** The tasks that a model serves, the first its usual one. */
export function tasksOf(model) {
  return model.tasks.filter((name) => name in TASKS && (TASKS[name].serves ?? (() => true))(model));
}

/** The fields of a task for a model: of the inputs, and of the parameters. */
export function fieldsOf(task, model) {
  const of = (fields) => (typeof fields === "function" ? fields(model) : fields);
  return { inputs: of(TASKS[task].fields), params: of(TASKS[task].params) };
}

/** The body of a request. What is left as it was is not sent. */
export function bodyOf(task, values, params) {
  const sent = params.map((field) => [field.name, field.sent(values[field.name])]).filter(([, value]) => value !== undefined);
  const inputs = TASKS[task].inputs?.(values) ?? values.text;
  return sent.length ? { inputs, parameters: Object.fromEntries(sent) } : { inputs };
}

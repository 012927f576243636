// What is set: read from and written to the URL's hash, and as the run file or command that means the same.

export function initialState(run) {
  const { settings } = run;
  return {
    context: 0,
    load: settings.load,
    batch: settings.batch,
    text: settings.text,
    newTokens: settings.new_tokens,
    dials: settings.dials.map((dial) => dial.start),
    preset: null,
    budgetMs: run.budget_ms ?? null,
    layer: null,
    scope: "layers",
  };
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

export function toHash(run, state) {
  const { settings } = run, start = initialState(run), context = run.contexts[state.context];
  const found = new URLSearchParams();
  if (state.context !== start.context) {
    found.set("hardware", context.hardware);
    if (context.stack) found.set("stack", context.stack);
    if (context.estimator !== run.contexts[0].estimator) found.set("estimator", context.estimator);
  }
  if (state.load !== start.load) found.set(settings.loads_key, settings.loads[state.load]);
  if (state.batch !== start.batch) found.set("batch", settings.batches[state.batch]);
  if (state.text !== start.text) found.set("text", settings.texts[state.text]);
  if (state.newTokens !== start.newTokens) found.set("new", state.newTokens);
  settings.dials.forEach((dial, i) => {
    if (state.dials[i] !== dial.start) found.set(dial.key, JSON.stringify(dial.values[state.dials[i]]));
  });
  if (state.preset) found.set("preset", state.preset);
  if (state.budgetMs !== null) found.set("budget", state.budgetMs);
  if (state.layer !== null) found.set("layer", state.layer);
  return found.toString();
}

export function fromHash(run, hash) {
  const { settings } = run, state = initialState(run), given = new URLSearchParams(hash.replace(/^#/, ""));
  const pick = (values, value, fallback) => {
    const at = values.findIndex((each) => same(each, value) || String(each) === String(value));
    return at < 0 ? fallback : at;
  };
  const start = run.contexts[0];
  const wanted = {
    hardware: given.get("hardware") ?? start.hardware,
    stack: given.get("stack"),
    estimator: given.get("estimator") ?? start.estimator,
  };
  const context = run.contexts.findIndex((each) =>
    each.hardware === wanted.hardware && each.estimator === wanted.estimator &&
    (wanted.stack === null ? each.stack === start.stack || !each.stack : each.stack === wanted.stack));
  if (context >= 0) state.context = context;
  if (settings.loads_key && given.has(settings.loads_key)) {
    state.load = pick(settings.loads, given.get(settings.loads_key), state.load);
  }
  if (given.has("batch")) state.batch = pick(settings.batches, given.get("batch"), state.batch);
  if (given.has("text")) state.text = pick(settings.texts, given.get("text"), state.text);
  const wholeIn = (text, most) => (/^\d{1,7}$/.test(text ?? "") && Number(text) <= most ? Number(text) : null);
  state.newTokens = wholeIn(given.get("new"), settings.most_new_tokens) ?? state.newTokens;
  settings.dials.forEach((dial, i) => {
    if (!given.has(dial.key)) return;
    let value;
    try {
      value = JSON.parse(given.get(dial.key));
    } catch {
      return;
    }
    state.dials[i] = pick(dial.values, value, state.dials[i]);
  });
  const budget = Number(given.get("budget"));
  if (given.has("budget") && Number.isFinite(budget) && budget > 0) state.budgetMs = budget;
  state.layer = wholeIn(given.get("layer"), run.layers - 1);
  const preset = presetOf(run, { ...state, preset: given.get("preset") });
  if (preset) Object.assign(state, presetState(run, state, preset));
  return state;
}

// The paper's row that is set, if its arithmetic is chosen.
export function presetOf(run, state) {
  if (!state.preset) return null;
  return Object.values(run.schedules).flatMap((each) => each.presets).find((each) => each.id === state.preset) ?? null;
}

// A row of a paper's tables: its arithmetic, frames, text and method.
export function presetState(run, state, preset) {
  return {
    ...state,
    preset: preset.id,
    context: run.contexts.findIndex((each) => each.convention === "paper" && each.estimator === "llm_viewer"),
    load: preset.load,
    text: run.settings.texts.indexOf(preset.text),
    batch: run.settings.batches.indexOf(1),
    newTokens: 0,
    dials: preset.position ?? state.dials,
  };
}

// The run as the keys of a run file, those that were set beside those that were given.
export function documentOf(run, state) {
  const { settings } = run, context = run.contexts[state.context], start = initialState(run);
  const made = structuredClone(run.document);
  made.hardware = context.document.hardware ?? context.hardware;
  for (const key of ["stack", "execution", "estimator", "attention", "estimator_options"]) {
    delete made[key];
    if (context.document[key] !== undefined) made[key] = context.document[key];
  }
  made.workload = { ...made.workload };
  if (state.load !== start.load) made.workload[settings.loads_key] = settings.loads[state.load];
  if (state.batch !== start.batch || made.workload.batch !== undefined) made.workload.batch = settings.batches[state.batch];
  if (state.text !== start.text) {
    const text = settings.texts[state.text], system = settings.text_before;
    made.workload.text_tokens = system ? { system, question: text - system } : text;
  }
  if (state.newTokens !== start.newTokens) made.workload.new_tokens = state.newTokens;
  made.method = methodOf(run, state);
  return made;
}

export function methodOf(run, state) {
  const context = run.contexts[state.context], preset = presetOf(run, state);
  if (preset) return preset.method;
  // null leaves the method's own default
  const chosen = Object.fromEntries(
    run.settings.dials.map((dial, i) => [dial.key, dial.values[state.dials[i]]]).filter(([, value]) => value !== null),
  );
  const stated = context.convention === "executed" ? {} : { convention: context.convention };
  return { ...run.settings.fixed, ...chosen, ...stated };
}

// YAML: block style at the top, flow style inside; text is quoted unless it is plainly a word.
const scalar = (value) =>
  typeof value === "string" && /^[A-Za-z][A-Za-z0-9_./-]*$/.test(value) && !/^(true|false|yes|no|on|off|null|y|n)$/i.test(value)
    ? value
    : JSON.stringify(value);

function flow(value) {
  if (Array.isArray(value)) return `[${value.map(flow).join(", ")}]`;
  if (value && typeof value === "object") {
    return `{${Object.entries(value).map(([key, each]) => `${scalar(key)}: ${flow(each)}`).join(", ")}}`;
  }
  return scalar(value);
}

export const toYaml = (document) =>
  `${Object.entries(document).map(([key, value]) => `${scalar(key)}: ${flow(value)}`).join("\n")}\n`;

const quoted = (text) => (/^[A-Za-z0-9_./=,:-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

// Keys of a run, and of its workload, that have a flag of their name.
const FLAGS = ["model", "hardware", "stack", "estimator", "attention", "implementation"];
const WORKLOAD_FLAGS = ["frames", "images", "visual_tokens", "text_tokens", "new_tokens", "batch"];

// `aimcost estimate` of what is set: its file, if it has one, and what differs from that.
export function commandOf(run, state) {
  const made = documentOf(run, state), { given } = run;
  const words = ["aimcost", "estimate", ...(run.argument ? [quoted(run.argument)] : [])];
  const set = (key, value) => words.push("--set", quoted(`${key}=${flow(value)}`));
  const flag = (key, value) => words.push(`--${key.replaceAll("_", "-")}`, quoted(String(value)));
  const changes = (after, before, { flags, prefix, except = [] }) => {
    for (const key of new Set([...Object.keys(after), ...Object.keys(before)])) {
      if (except.includes(key) || same(after[key], before[key])) continue;
      if (after[key] === undefined) set(`${prefix}${key}`, null);
      else if (flags.includes(key) && typeof after[key] !== "object") flag(key, after[key]);
      else set(`${prefix}${key}`, after[key]);
    }
  };
  changes(made, given, { flags: FLAGS, prefix: "", except: ["workload", "method"] });
  changes(made.workload, given.workload ?? {}, { flags: WORKLOAD_FLAGS, prefix: "workload." });
  if (made.method.name === given.method?.name) changes(made.method, given.method, { flags: [], prefix: "method." });
  else if (Object.keys(made.method).length === 1) flag("method", made.method.name);
  else set("method", made.method);
  return words.join(" ");
}

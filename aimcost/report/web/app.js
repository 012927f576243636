// The page: reads its data, keeps what is set, and draws again whenever that changes.

import { drawAccuracy, drawMachines, drawMeasured, drawRoofline, drawStages, ESTIMATOR_NAMES, STAGE_NAMES } from "./charts.js";
import { drawDetail, named } from "./detail.js";
import { show } from "./format.js";
import { drawLayers } from "./layers.js";
import { gain, Pricer } from "./price.js";
import { commandOf, documentOf, fromHash, initialState, presetOf, presetState, toHash, toYaml } from "./state.js";
import { empty, forgetWidths, html } from "./svg.js";
import { Columns, gunzip } from "./unpack.js";

const $ = (id) => document.getElementById(id);
const THEMES = ["auto", "light", "dark"];

class App {
  constructor(data, columns) {
    this.data = data;
    this.columns = columns;
    this.pricers = new Map();
    this.choose(0, location.hash);
    $("run-label").hidden = data.runs.length < 2;
    $("run").replaceChildren(...data.runs.map((run, i) => html("option", { value: i }, run.name)));
    $("run").addEventListener("change", (event) => this.choose(Number(event.target.value), ""));
    window.addEventListener("hashchange", () => {
      if (location.hash.slice(1) === toHash(this.run, this.state)) return;
      this.state = fromHash(this.run, location.hash);
      this.buildControls();
      this.draw();
    });
    new ResizeObserver(() => this.later()).observe($("main"));
    this.theme(0);
    $("theme").addEventListener("click", () => this.theme(1));
    $("copy-run").addEventListener("click", () => this.copy($("copy-run"), toYaml(documentOf(this.run, this.state))));
    $("copy-command").addEventListener("click", () => this.copy($("copy-command"), commandOf(this.run, this.state)));
    $("footer").textContent = `aimcost ${data.version}. Computed in this page from tables that aimcost wrote; nothing is loaded from or sent to a network.`;
  }

  choose(number, hash) {
    this.run = this.data.runs[number];
    if (!this.pricers.has(number)) this.pricers.set(number, new Pricer(this.run, this.columns));
    this.pricer = this.pricers.get(number);
    this.state = fromHash(this.run, hash);
    this.open = null;
    document.title = `${this.run.name}: aimcost explorer`;
    $("title").textContent = this.run.name === this.run.model ? this.run.name : `${this.run.name}: ${this.run.model}`;
    this.buildControls();
    this.draw();
  }

  theme(step) {
    let at = THEMES.indexOf(document.documentElement.dataset.theme ?? "auto");
    at = (at + step) % THEMES.length;
    document.documentElement.dataset.theme = THEMES[at];
    $("theme").textContent = `Theme: ${THEMES[at]}`;
  }

  async copy(button, content) {
    const before = button.textContent;
    let done = true;
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      const area = html("textarea", { class: "off-screen", "aria-hidden": "true" });
      area.value = content;
      document.body.append(area);
      area.select();
      done = document.execCommand("copy");
      area.remove();
      button.focus();
    }
    this.copied = content;
    button.textContent = done ? "Copied" : "Cannot copy here";
    setTimeout(() => (button.textContent = before), 1500);
  }

  // ── settings ──────────────────────────────────────────────────────────────────────────────────
  buildControls() {
    const { run, state } = this, { settings } = run;
    const form = $("controls");
    const rows = [];
    this.controls = [];
    const select = (id, label, values, chosen, onchange) => {
      const input = html("select", { id, onchange: () => onchange(input.value) }, ...values.map(([value, content]) => html("option", { value, selected: value === chosen }, content)));
      rows.push(html("div", { class: "control" }, html("label", { for: id }, label), input));
      return input;
    };
    const range = (id, label, values, get, set) => {
      if (values.length < 2) return;
      const output = html("output", { for: id });
      const input = html("input", { id, type: "range", min: 0, max: values.length - 1, step: 1, oninput: () => { set(Number(input.value)); this.changed(); } });
      const update = () => {
        input.value = get();
        output.textContent = String(values[get()]);
        input.setAttribute("aria-valuetext", String(values[get()]));
      };
      this.controls.push(update);
      rows.push(html("div", { class: "control" }, html("label", { for: id }, label), output, input));
    };
    const contexts = run.contexts;
    const hardware = [...new Set(contexts.map((each) => each.hardware))];
    const stackOf = (each) => each.stack ?? each.estimator;
    const own = contexts[state.context];
    const find = (machine, stack) => {
      const exact = contexts.findIndex((each) => each.hardware === machine && stackOf(each) === stack);
      return exact >= 0 ? exact : contexts.findIndex((each) => each.hardware === machine);
    };
    const presets = Object.values(run.schedules).flatMap((each) => each.presets);
    if (presets.length) {
      const named = presets.map((each) => [each.id, `${each.id.replaceAll("_", " ")}: ${each.printed.tflops} TFLOP, ${each.printed.ms} ms`]);
      this.presetInput = select("preset", "Preset: row of the paper's tables", [["", "this run"], ...named], state.preset ?? "", (value) => {
        const preset = presets.find((each) => each.id === value);
        this.state = preset ? presetState(run, this.state, preset) : { ...initialState(run), budgetMs: this.state.budgetMs };
        this.buildControls();
        this.draw();
      });
    }
    select("hardware", "Machine", hardware.map((each) => [each, each]), own.hardware, (value) => this.setContext(find(value, stackOf(own))));
    const stacks = [...new Set(contexts.filter((each) => each.hardware === own.hardware).map(stackOf))];
    select("stack", "Software stack", stacks.map((each) => [each, ESTIMATOR_NAMES[each] ? `none: ${ESTIMATOR_NAMES[each]}` : each]), stackOf(own), (value) => this.setContext(find(own.hardware, value)));
    settings.dials.forEach((dial, i) => range(`dial-${dial.key}`, dial.key.replaceAll("_", " "), dial.values.map(shown), () => this.state.dials[i], (at) => this.setDial(i, at)));
    if (!settings.dials.length) rows.push(html("p", { class: "hint" }, ...(settings.method === "none" ? ["No method: ", html("code", {}, "--method fastv"), " adds its sliders."] : [`${settings.method} has no parameters to vary.`])));
    if (settings.loads_key) range("load", settings.loads_key, settings.loads, () => this.state.load, (at) => this.set({ load: at }));
    range("text", "text tokens", settings.texts, () => this.state.text, (at) => this.set({ text: at }));
    range("batch", "batch", settings.batches, () => this.state.batch, (at) => this.set({ batch: at }));
    range("new-tokens", "new tokens", Array.from({ length: settings.most_new_tokens + 1 }, (_, i) => i), () => this.state.newTokens, (at) => this.set({ newTokens: at }));
    const budget = html("input", { id: "budget", type: "number", min: 1, step: "any", inputmode: "decimal", placeholder: "none", oninput: () => {
      const value = Number(budget.value);
      this.set({ budgetMs: budget.value && value > 0 && Number.isFinite(value) ? value : null });
      this.changed();
    } });
    budget.value = state.budgetMs ?? "";
    rows.push(html("div", { class: "control" }, html("label", { for: "budget" }, "TTFT budget, ms"), budget));
    rows.push(html("button", { type: "button", id: "reset", onclick: () => { this.state = initialState(run); this.buildControls(); this.draw(); } }, "Back to the run"));
    form.replaceChildren(...rows);
    for (const update of this.controls) update();
  }

  // Moving anything leaves a paper's row for the dials.
  set(values) {
    this.state = { ...this.state, preset: "budgetMs" in values ? this.state.preset : null, ...values };
    if (this.presetInput) this.presetInput.value = this.state.preset ?? "";
  }

  setDial(i, at) {
    const dials = [...this.state.dials];
    dials[i] = at;
    this.set({ dials });
    if (this.pricer.schedule(this.state)) return;
    // what has no schedule there (l2 not behind l1): move the others as little as it takes
    const { dials: all } = this.run.settings;
    const order = all.map((_, k) => k).filter((k) => k !== i).reverse();
    for (let distance = 1; distance < 64; distance++) {
      for (const k of order) {
        for (const move of [distance, -distance]) {
          const next = [...dials];
          next[k] += move;
          if (next[k] < 0 || next[k] >= all[k].values.length) continue;
          this.state = { ...this.state, dials: next };
          if (this.pricer.schedule(this.state)) return;
        }
      }
    }
    this.state = { ...this.state, dials };
  }

  setContext(context) {
    this.set({ context });
    this.buildControls();
    this.draw();
  }

  changed() {
    for (const update of this.controls) update();
    this.draw();
  }

  later() {
    if (this.width === $("main").clientWidth) return;
    forgetWidths();
    this.measured = null;
    this.width = $("main").clientWidth;
    cancelAnimationFrame(this.pending);
    this.pending = requestAnimationFrame(() => this.draw());
  }

  share() {
    const hash = toHash(this.run, this.state);
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  // ── drawing ───────────────────────────────────────────────────────────────────────────────────
  compute() {
    const reduced = this.pricer.price(this.state, this.scope().keep);
    const dense = this.pricer.price({ ...this.state, dense: true });
    return reduced ? { reduced, dense, gain: gain(dense, reduced, this.data.own) } : null;
  }

  draw() {
    this.width ??= $("main").clientWidth;
    const { run, state } = this, context = run.contexts[state.context];
    clearTimeout(this.naming);
    this.naming = setTimeout(() => this.share(), 150); // browsers limit how often an address may change
    const found = this.compute();
    $("answer").classList.toggle("bad", !found);
    if (!found) {
      $("answer").textContent = "No schedule has these parameters at this number of tokens. Move a slider.";
      $("tiles").replaceChildren();
      $("detail").replaceChildren();
      $("notes").hidden = true;
      for (const id of ["stages", "layers", "machines", "roofline"]) $(id).replaceChildren(empty("Nothing to show at this setting."));
      this.result = null;
      return;
    }
    const { reduced, dense } = found;
    this.result = found;
    const budget = state.budgetMs === null ? null : state.budgetMs / 1e3;
    // what rounding leaves of a difference is no part
    const ceiling = dense.outside_s > 1e-9 * dense.ttft.value ? dense.ttft.value / dense.outside_s : null;
    this.answer(found, context, budget);
    this.tiles(found, ceiling);
    this.notes(context);
    drawStages($("stages"), { reduced, dense, context, budget, scope: state.scope, ceiling: this.ceiling(dense, ceiling), onScope: (scope) => { this.state = { ...this.state, scope, layer: null }; this.draw(); } });
    drawLayers($("layers"), { reduced, dense, textTokens: this.pricer.textTokens(state), promptTokens: dense.tokens[0], selected: state.layer, onSelect: (layer) => { this.state = { ...this.state, layer, scope: "layers" }; this.draw(); } });
    this.operations(found);
    this.machines(budget);
    this.evidence(reduced);
  }

  answer({ reduced, dense, gain: gained }, context, budget) {
    const { ttft } = reduced;
    const words = [`${show.time(ttft.value)} to the first token${ttft.high === null ? "" : ` (80 % band ${show.band(ttft)})`}`];
    if (gained && Math.abs(gained.saved) > 1e-9) {
      words.push(gained.saved > 0 ? `, ${show.time(gained.saved)} less than without reduction (${show.factor(gained.speedup)})` : `, ${show.time(-gained.saved)} more than without reduction`);
    }
    words.push(`, on ${context.hardware}${context.stack ? ` under ${context.stack}` : `, ${ESTIMATOR_NAMES[context.estimator] ?? context.estimator}`}.`);
    if (budget) words.push(ttft.value <= budget ? ` Within the budget of ${show.time(budget)}.` : ` Over the budget of ${show.time(budget)} by ${show.time(ttft.value - budget)}.`);
    if (reduced.memory.fits === false) words.push(` It does not fit: the peak of memory is ${show.bytes(reduced.memory.peak_bytes)}, of which ${show.bytes(context.usable_bytes)} are usable.`);
    $("answer").textContent = words.join("");
  }

  notes({ notes }) {
    $("notes").hidden = !notes.length;
    $("notes").replaceChildren(html("summary", {}, `Assumptions and notes (${notes.length})`), html("ul", {}, ...notes.map((note) => html("li", {}, note))));
  }

  tiles({ reduced, dense, gain: gained }, ceiling) {
    const tile = (label, value, below) => html("div", { class: "tile" }, html("span", { class: "tile-label" }, label), html("strong", {}, value), html("span", { class: "tile-below" }, below));
    const band = (figure, text) => (figure.high === null ? "no band" : show.band(figure, text));
    const same = Math.abs((gained?.saved ?? 0)) < 1e-9;
    $("tiles").replaceChildren(
      tile("TTFT", show.time(reduced.ttft.value), band(reduced.ttft)),
      tile("saved", same ? "0 s" : show.time(gained.saved), `of ${show.time(dense.ttft.value)} unreduced`),
      tile("speed-up", same ? "1×" : show.factor(gained.speedup), `${!same && gained.high !== null ? `${show.factor(gained.low)} to ${show.factor(gained.high)}, ` : ""}ceiling ${ceiling ? show.factor(ceiling) : "none"}`),
      tile("time per token", reduced.tpot ? show.time(reduced.tpot.value) : "none", reduced.tpot ? band(reduced.tpot) : "needs 2 new tokens"),
      tile("FLOPs", show.flops(reduced.flops), `of ${show.flops(dense.flops)}`),
      tile("KV cache", show.bytes(reduced.memory.kv_bytes), `of ${show.bytes(dense.memory.kv_bytes)}; peak memory ${show.bytes(reduced.memory.peak_bytes)}`),
    );
  }

  ceiling(dense, ceiling) {
    if (!ceiling) return "Only the language model is priced: nothing bounds the speed-up from outside it.";
    return `${show.time(dense.outside_s)} of the unreduced ${show.time(dense.ttft.value)} lie outside the language model: dropping tokens inside it cannot beat ${show.factor(ceiling)}.`;
  }

  // The operations that are listed: those of a layer, of a stage, or of the whole prefill.
  scope() {
    const { state, run } = this, { layer, scope } = state;
    if (layer !== null) return { title: `Operations of layer ${layer}`, keep: (op, at, decode) => at === layer && !decode };
    const stage = scope === "layers" || scope === "overhead" ? "prefill" : scope;
    const title = stage === "prefill" ? "Operations of the prefill, all layers" : `Operations of the ${STAGE_NAMES[stage]}`;
    return { title, keep: (op) => run.ops[op].stage === stage };
  }

  operations({ reduced }) {
    const { state, run } = this, { layer, scope } = state, { title } = this.scope(), context = run.contexts[state.context];
    const rows = named(reduced.operations, run.ops).map((row) => (context.formula ? { ...row, formula: context.formula } : row));
    $("layers-hint").textContent = "Visual and text tokens that each decoder layer computes on; below, what the layer costs. Grey is the same request without reduction.";
    const head = layer === null && scope === "layers" ? null : () => { this.state = { ...this.state, layer: null, scope: "layers" }; this.draw(); };
    if (!rows.length) $("detail").replaceChildren(empty("No operation: this part is not priced here."));
    else drawDetail($("detail"), { title, rows, open: this.open, shapeOf: (row) => this.shape(row, layer !== null), onClose: head, onOpen: (key) => {
      this.open = key;
      this.operations(this.result);
      [...$("detail").querySelectorAll("button.op")].find((each) => each.dataset.key === (key ?? this.last))?.focus();
      this.last = key;
    } });
    $("roofline-hint").textContent = `${title.replace("Operations of", "Points are operations of")}; the area is the share of time. The line is what the datasheet allows: ${show.rate(context.peak_flops_per_s, "FLOP/s")} and ${show.rate(context.bytes_per_s, "B/s")}. Attained rates include waiting for launches.`;
    drawRoofline($("roofline"), { points: rows, context, contexts: run.contexts });
  }

  // Dimensions of a row: of the layer's tokens, or as they stand.
  shape(row, alone) {
    const { state, run } = this, context = run.contexts[state.context];
    if (row.layer < 0) {
      const at = row.source;
      return row.stage === "vision" || row.stage === "projector" || row.stage === "merge" || row.stage === "prefill" || row.stage === "decode" ? context.rows.shapes[context.rows.shape[at]] : "";
    }
    const tables = this.pricer.operations(state.context, state.batch);
    const kind = context.kinds[row.layer];
    const groups = row.decode ? Object.values(tables.decode[kind]) : [...Object.values(tables.layers[kind]), tables.cut];
    const found = groups.flat().find((each) => each.op === row.op);
    if (!found || !alone) return row.runs > 1 ? "differs by layer: choose one" : "";
    return Object.entries(found.shape).map(([name, [base, slope]]) => `${name} ${show.whole(base + slope * row.source)}`).join(", ");
  }

  machines(budget) {
    const { run, state } = this;
    const rows = run.contexts.map((context, number) => {
      const setting = { ...state, context: number, newTokens: 0 };
      const comparable = !state.preset || context.convention === run.contexts[state.context].convention;
      const reduced = comparable ? this.pricer.price(setting) : null;
      const dense = reduced && this.pricer.price({ ...setting, dense: true });
      return { context, number, reduced, dense, memory: reduced && this.pricer.memory({ ...state, context: number }) };
    });
    $("machines-hint").textContent = "The same setting on every machine and stack in this page. Choose one to see it above.";
    drawMachines($("machines"), { rows, budget, chosen: state.context, onChoose: (number) => this.setContext(number) });
  }

  evidence(reduced) {
    const { run } = this;
    if (run.scores.length) {
      $("accuracy-hint").textContent = `Published scores of ${run.model} where a method's parameters are stated, against the time predicted for them at the run's own setting (${run.scores_at}).`;
      drawAccuracy($("accuracy"), { points: run.scores, now: reduced.ttft.value, name: run.settings.method });
    } else {
      $("accuracy-hint").textContent = "";
      $("accuracy").replaceChildren(empty(`No published score of ${run.model} states the parameters of its method.`));
    }
    if (this.measured === run) return; // moves with no setting
    this.measured = run;
    const points = [...run.timings, ...this.data.records];
    const about = [run.timings.length ? run.timings_are : "", this.data.records.length ? "Records that were given, of the machine that they were measured on." : ""];
    $("measured-hint").textContent = about.filter(Boolean).join(" ");
    if (points.length) drawMeasured($("measured"), { points });
    else $("measured").replaceChildren(empty(`No timing of ${run.model} or of this card is known. aimcost report RUN RECORD adds measured ones.`));
  }
}

const shown = (value) => (value === null ? "default" : typeof value === "number" ? Number(value.toPrecision(6)) : typeof value === "string" ? value : JSON.stringify(value));

async function begin() {
  const data = JSON.parse(new TextDecoder().decode(await gunzip($("data").textContent)));
  const columns = new Columns(await gunzip($("columns").textContent), data.columns.lengths, data.columns.steps);
  if (matchMedia("(max-width: 999px)").matches) $("settings").open = false;
  const app = new App(data, columns);
  // for tests and for the console: price({...}) of any setting
  window.aimcost = { app, data, columns, price: (setting, detail) => app.pricer.price({ ...app.state, ...setting }, detail), gain: (a, b) => gain(a, b, data.own), presetOf, documentOf, commandOf, toYaml };
  document.documentElement.dataset.ready = "true";
}

begin().catch((error) => {
  $("answer").textContent = `The page cannot be shown: ${error.message}. It needs a browser of 2023 or later.`;
  throw error;
});

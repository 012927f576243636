// Prices a request from the embedded tables: rows in execution order, the host's queue, bands, sums.
// Each function has the name of the Python function that defines it; tests compare the two.

const BOUNDS = ["memory", "compute", "launch", "network"];
const LAUNCH = 2;
const STAGES = ["preprocess", "vision", "projector", "merge", "prefill", "decode", "overhead"];

// Rows of the prompt, or of all decode steps, as parallel arrays that grow and are used again.
class RowArrays {
  constructor() {
    this.capacity = 0;
    this.grow(4096);
    this.clear();
  }

  grow(capacity) {
    const old = this.capacity ? this : null;
    for (const name of ["device", "host", "after", "flops", "bytes", "spent"]) {
      const values = new Float64Array(capacity);
      if (old) values.set(old[name]);
      this[name] = values;
    }
    for (const name of ["op", "layer", "code", "waits", "waiting", "source"]) {
      const values = new Int32Array(capacity);
      if (old) values.set(old[name]);
      this[name] = values;
    }
    this.capacity = capacity;
  }

  clear() {
    this.length = 0;
    this.tables = [];
  }

  push(op, layer, device, host, after, flops, bytes, code, waits, source) {
    if (this.length === this.capacity) this.grow(2 * this.capacity);
    const i = this.length++;
    this.op[i] = op;
    this.layer[i] = layer;
    this.device[i] = device;
    this.host[i] = host;
    this.after[i] = after;
    this.flops[i] = flops;
    this.bytes[i] = bytes;
    this.code[i] = code;
    this.waits[i] = waits;
    this.source[i] = source;
  }
}

// aimcost.pricing.host_queue.with_host: a kernel starts when it is issued and the one before it has ended.
function withHost(rows) {
  let issued = 0, end = 0;
  for (let i = 0; i < rows.length; i++) {
    issued += rows.host[i];
    const done = Math.max(end + rows.device[i], issued + rows.after[i]);
    rows.spent[i] = done - end;
    rows.waiting[i] = rows.spent[i] > 1.05 * rows.device[i] ? 1 : 0;
    end = done;
    if (rows.waits[i]) issued = end = 0;
  }
}

function withoutHost(rows) {
  rows.spent.set(rows.device.subarray(0, rows.length));
  rows.waiting.fill(0, 0, rows.length);
}

export class Pricer {
  constructor(run, columns) {
    this.run = run;
    this.columns = columns;
    this.prompt = new RowArrays();
    this.steps = new RowArrays();
    this.prepared = new Map();
    this.stageOf = run.ops.map((op) => STAGES.indexOf(op.stage));
    // operations of one stage and name are one in the gain
    const names = new Map();
    this.nameOf = run.ops.map((op) => {
      const key = `${op.stage} ${op.name}`;
      if (!names.has(key)) names.set(key, names.size);
      return names.get(key);
    });
    this.names = names.size;
    this.bands = run.contexts.map((context) => (context.band ? bandOf(context.band, run.ops) : null));
  }

  // Visual tokens by layer of a setting, what reduces ahead of the layers, and whether the dials could be planned.
  schedule(setting) {
    const context = this.run.contexts[setting.context];
    const plan = this.run.schedules[context.convention];
    let entry, before;
    if (setting.dense) {
      entry = plan.dense[setting.load];
      before = 0;
    } else if (setting.preset && plan.presets.some((each) => each.id === setting.preset)) {
      const preset = plan.presets.find((each) => each.id === setting.preset);
      entry = preset.tokens;
      before = preset.before;
    } else {
      let at = setting.load;
      this.run.settings.dials.forEach((dial, i) => {
        at = at * dial.values.length + setting.dials[i];
      });
      entry = this.otherwise(context.convention, setting.text).get(at) ?? this.columns.get(plan.counts)[at];
      before = this.columns.get(plan.before)[at];
      if (entry < 0) return null;
    }
    const layers = this.run.layers;
    const rises = this.columns.get(plan.tokens);
    const tokens = new Array(layers);
    let count = this.textTokens(setting);
    for (let layer = 0; layer < layers; layer++) {
      count += rises[entry * layers + layer];
      tokens[layer] = count;
    }
    return { tokens, before };
  }

  // Text tokens of the prompt: those that are set, and what the processor writes around the images or frames.
  textTokens({ text, load }) {
    const { texts, templates } = this.run.settings;
    return texts[text] + templates[load];
  }

  // Entries that are others at a text length: a count is rounded together with its text.
  otherwise(convention, text) {
    const key = `${convention} ${text}`;
    if (!this.prepared.has(key)) {
      const found = this.run.schedules[convention].by_text[this.run.settings.texts[text]] ?? [[], []];
      this.prepared.set(key, new Map(found[0].map((at, i) => [at, found[1][i]])));
    }
    return this.prepared.get(key);
  }

  // Columns of a batch's operations, looked up once.
  operations(context, batch) {
    const key = `${context} ${batch}`;
    if (!this.prepared.has(key)) {
      const tables = this.run.contexts[context].tables[batch];
      const read = (rows) =>
        rows.map((row) => ({
          ...row,
          device: this.columns.get(row.device),
          flops: this.columns.get(row.flops),
          bytes: this.columns.get(row.bytes),
          code: this.columns.get(row.code),
          hosts: row.hosts === null ? null : this.columns.get(row.hosts),
          afters: row.afters === null ? null : this.columns.get(row.afters),
          needed: row.needed === null ? null : this.columns.get(row.needed),
        }));
      const mapped = (byKernel, made) => Object.fromEntries(Object.entries(byKernel).map(([k, rows]) => [k, made(rows)]));
      const column = (number) => this.columns.get(number);
      this.prepared.set(key, {
        layers: tables.layers.map((each) => mapped(each, read)),
        decode: tables.decode.map((each) => mapped(each, read)),
        cut: read(tables.cut),
        first: read(tables.first),
        last: read(tables.last),
        kv: tables.kv.map(column),
        peaks: tables.peaks.map((each) => mapped(each, column)),
        stepPeaks: tables.step_peaks.map((each) => mapped(each, column)),
      });
    }
    return this.prepared.get(key);
  }

  // What a setting computes: tokens by layer, where they are cut, and the attention kernels; null without a schedule.
  layout(setting) {
    const context = this.run.contexts[setting.context];
    const planned = this.schedule(setting);
    if (!planned) return null;
    const { tokens, before } = planned;
    const cuts = tokens.map((count, i) => i + 1 < tokens.length && tokens[i + 1] < count);
    const cutting = cuts.some(Boolean);
    const kernels = tokens.map((_, i) =>
      cutting && (context.exposes === "decoder" || (context.exposes === "layer" && cuts[i])) ? "eager" : context.attention,
    );
    const stepKernel = kernels.every((each) => each === "eager") ? "eager" : context.attention;
    const ops = this.operations(setting.context, setting.batch);
    return { context, tables: context.tables[setting.batch], ops, tokens, before, cuts, cutting, kernels, stepKernel };
  }

  // The request at a setting, or null where the dials have no schedule; `operations` sums the rows that `detail` wants.
  price(setting, detail = null) {
    const layout = this.layout(setting);
    if (!layout) return null;
    const { context, tables, ops, tokens, cuts, cutting, kernels, stepKernel } = layout;
    const { prompt, steps } = this;
    prompt.clear();
    steps.clear();

    const outside = (rows, groups, times = 1, stage = null) => {
      const pool = context.rows;
      for (const [repeats, numbers] of groups) {
        if (stage && (this.run.ops[pool.op[numbers[0]]].stage === "prefill") !== (stage === "prefill")) continue;
        for (let k = 0; k < repeats; k++) {
          for (const j of numbers) {
            rows.push(pool.op[j], -1, pool.device[j] * times, pool.host[j] * times, pool.after[j] * pool.device[j] * times,
              pool.flops[j] * times, pool.bytes[j] * times, pool.code[j], pool.waits[j], j);
          }
        }
      }
    };
    // one operation on n tokens, or of a cut at entry n
    const inside = (rows, row, layer, n, times = 1) => {
      const device = row.device[n];
      rows.push(row.op, layer, device * times, (row.hosts ? row.hosts[n] : row.host) * times,
        (row.afters ? row.afters[n] : row.after * device) * times, row.flops[n] * times, row.bytes[n] * times, row.code[n],
        row.waits, n);
    };
    // rows outside the layers that follow from the tokens of the nearest one
    const nearest = (found, layer) => {
      for (const row of found) inside(prompt, row, -1, row.counts === "text" ? this.lookedUp(setting) : this.queries(tokens[layer]));
    };
    const before = tables.before[setting.load][layout.before];
    outside(prompt, before, 1, "tower");
    if (ops.first.length) nearest(ops.first, 0);
    else outside(prompt, tables.embed[this.textTokens(setting)]);
    outside(prompt, before, 1, "prefill");

    const starts = new Set(context.stages.slice(1));
    const runs = (row, layer, needed) => (!row.sends || starts.has(layer)) && (!row.needed || needed(row));
    for (let layer = 0; layer < tokens.length; layer++) {
      const n = tokens[layer], kind = context.kinds[layer];
      // layers of one kind run as one: what one of them needs, all of them do
      const needed = (row) => tokens.some((each, i) => context.kinds[i] === kind && kernels[i] === kernels[layer] && row.needed[each]);
      for (const row of ops.layers[kind][kernels[layer]]) {
        if (runs(row, layer, needed)) inside(prompt, row, layer, n);
      }
      if (!cuts[layer]) continue;
      for (const row of ops.cut) inside(prompt, row, layer, row.key[0] * n + row.key[1] * tokens[layer + 1]);
    }
    if (ops.last.length) nearest(ops.last, tokens.length - 1);
    else outside(prompt, tables.head);

    const count = Math.max(0, setting.newTokens - context.decode_extra);
    if (count) {
      outside(steps, tables.step_before, count);
      for (let layer = 0; layer < tokens.length; layer++) {
        const n = tokens[layer], kind = context.kinds[layer];
        const needed = (row) => tokens.some((each, i) => context.kinds[i] === kind && row.needed.subarray(each, each + count).some(Boolean));
        for (const row of ops.decode[kind][stepKernel]) {
          if (!runs(row, layer, needed)) continue;
          if (row.each_step) for (let g = n; g < n + count; g++) inside(steps, row, layer, g);
          else inside(steps, row, layer, n, count);
        }
      }
      outside(steps, tables.step_after, count);
    }
    for (const rows of [prompt, steps]) (context.band ? withHost : withoutHost)(rows);
    const sums = this.summed(setting, context, tables, ops, tokens, cutting, count, detail);
    return { ...sums, memory: this.memory(setting, layout) };
  }

  // Tokens that are looked up in the embedding table, and those that a layer computes on: without what is cached.
  lookedUp(setting) {
    return this.textTokens(setting) - this.run.settings.cached.text;
  }

  queries(tokens) {
    const { cached } = this.run.settings;
    return cached.queries ?? tokens - cached.tokens;
  }

  // aimcost.pricing.memory.memory_of: the fullest moment of the fullest device.
  memory(setting, { context, tables, ops, tokens, before, cuts, kernels, stepKernel } = this.layout(setting)) {
    const held = Math.max(0, setting.newTokens - 1), { load } = setting;
    const kv = tokens.map((n, layer) => ops.kv[context.kinds[layer]][n + held]);
    const step = setting.newTokens > 1 ? Math.max(...ops.stepPeaks.map((each) => each[stepKernel][tokens[0] + setting.newTokens])) : null;
    const devices = context.stages.map((start, stage) => {
      const end = context.stages[stage + 1] ?? tokens.length;
      let cache = 0, peak = 0, all = 0;
      const reach = (bytes) => { peak = Math.max(peak, bytes); };
      for (let layer = start; layer < end; layer++) {
        cache += ops.kv[context.kinds[layer]][tokens[layer] - this.queries(tokens[layer])];
        all += kv[layer];
      }
      if (!start) reach(cache + tables.ahead_bytes[load][before]);
      for (let layer = start; layer < end; layer++) {
        const n = tokens[layer], kind = context.kinds[layer], column = ops.kv[kind];
        cache += column[n] - column[n - this.queries(n)];
        const kernel = kernels[layer] === "eager" && cuts[layer] && context.ranks_square ? "ranked" : kernels[layer];
        const embedded = layer && !start ? tables.embedded_bytes * this.queries(tokens[0]) : 0;
        const features = layer < context.feature_layers ? tables.features_bytes[load] : 0;
        reach(cache + ops.peaks[kind][kernel][n] + embedded + features);
      }
      if (end === tokens.length) reach(cache + tables.head_bytes);
      if (step !== null) reach(all + step);
      return { kv_bytes: all, peak_bytes: context.weights_bytes[stage] + peak };
    });
    const fullest = devices.reduce((a, b) => (b.peak_bytes > a.peak_bytes ? b : a));
    return { ...fullest, kv, fits: context.usable_bytes === null ? null : fullest.peak_bytes <= context.usable_bytes };
  }

  // What the stack adds: [stage, beside, name, value, low, high].
  added(context, tables, setting, cutting, count) {
    const maps = context.maps[cutting ? 1 : 0];
    return tables.added[setting.load]
      .filter(([stage, beside, name]) =>
        (name !== "attention_maps" || maps) && (beside !== "decode" || count) &&
        (stage !== "preprocess" || context.included.includes("preprocess")))
      .map(([stage, beside, name, ...figures]) => {
        const times = beside === "decode" ? count : 1;
        return { stage, beside, name, figures: figures.map((each) => each * times) };
      });
  }

  summed(setting, context, tables, ops, tokens, cutting, count, detail) {
    const { run, stageOf, nameOf } = this;
    const sums = STAGES.map(() => ({ flops: 0, bytes: 0, time_s: 0 }));
    const stages = Object.fromEntries(STAGES.map((name, i) => [name, sums[i]]));
    const counted = STAGES.map((name) => context.included.includes(name));
    const factors = this.bands[setting.context];
    const band = factors ? new BandSums(factors) : null;
    const spentBy = new Float64Array(this.names);
    const layers = tokens.map((each) => ({ tokens: each, time_s: 0, flops: 0, bytes: 0, by: [0, 0, 0, 0] }));
    const operations = new Map();
    for (const rows of [this.prompt, this.steps]) {
      const decode = rows === this.steps;
      const { op, layer, spent, device, flops, bytes, code, waiting, source } = rows;
      for (let i = 0; i < rows.length; i++) {
        const stage = stageOf[op[i]];
        const sum = sums[stage];
        sum.flops += flops[i];
        sum.bytes += bytes[i];
        sum.time_s += spent[i];
        if (band) band.edges(op[i], spent[i], device[i], code[i] & 1, waiting[i]);
        if (counted[stage]) {
          if (band) band.add(band.term, spent[i], band.below, band.above, decode);
          if (!decode) spentBy[nameOf[op[i]]] += spent[i];
        }
        if (!decode && layer[i] >= 0) {
          const sum = layers[layer[i]];
          sum.time_s += spent[i];
          sum.flops += flops[i];
          sum.bytes += bytes[i];
          sum.by[waiting[i] ? LAUNCH : code[i] >> 1] += spent[i];
        }
        if (detail && detail(op[i], layer[i], decode)) {
          let sum = operations.get(op[i]);
          if (!sum) {
            sum = { op: op[i], layer: layer[i], decode, time_s: 0, low: 0, high: band ? 0 : null, flops: 0, bytes: 0, by: [0, 0, 0, 0], extrapolated: false, runs: 0, source: source[i] };
            operations.set(op[i], sum);
          }
          sum.time_s += spent[i];
          sum.low += band ? Math.max(0, spent[i] - band.below) : spent[i];
          if (band) sum.high += spent[i] + band.above;
          sum.flops += flops[i];
          sum.bytes += bytes[i];
          sum.by[waiting[i] ? LAUNCH : code[i] >> 1] += spent[i];
          if (code[i] & 1) sum.extrapolated = true;
          sum.runs++;
        }
      }
    }
    const names = new Map();
    spentBy.forEach((seconds, name) => names.set(name, seconds));
    let beside = 0, besideDecode = 0;
    for (const { stage, beside: at, name, figures } of this.added(context, tables, setting, cutting, count)) {
      const [value, low, high] = figures;
      stages[stage].time_s += value;
      if (!context.included.includes(stage) || (at && !context.included.includes(at))) continue;
      if (at === "decode") besideDecode += value;
      else beside += value;
      if (band) band.addNamed(name, value, value - low, high - value, at === "decode");
      if (at !== "decode") names.set(`${at || stage} ${name}`, (names.get(`${at || stage} ${name}`) ?? 0) + value);
    }
    const inside = context.included.filter((name) => name !== "overhead" && name !== "preprocess");
    const prompt = inside.filter((name) => name !== "decode").reduce((sum, name) => sum + stages[name].time_s, 0);
    const decode = inside.includes("decode") ? stages.decode.time_s + besideDecode : 0;
    const ttft = prompt + beside;
    const plain = (value) => ({ value, low: value, high: null });
    for (const layer of layers) layer.bound = BOUNDS[layer.by.indexOf(Math.max(...layer.by))];
    return {
      tokens, stages, layers, operations: [...operations.values()], names, steps: count,
      ttft: band ? band.around("prompt") : plain(ttft),
      tpot: count ? (band ? band.around("decode", count) : plain(decode / count)) : null,
      total: band ? band.around("all") : plain(ttft + decode),
      flops: inside.reduce((sum, name) => sum + stages[name].flops, 0),
      bytes: inside.reduce((sum, name) => sum + stages[name].bytes, 0),
      moves: band ? band.moves("prompt") : null,
      outside_s: ttft - (inside.includes("prefill") ? stages.prefill.time_s : 0),
    };
  }
}

// Band factors by operation, and a number for each of the terms that rows share.
function bandOf(band, ops) {
  const names = [...new Set([...Object.keys(band.terms), "host"])];
  const none = [1, 1, 1, 1];
  return {
    ...band,
    names,
    hostTerm: names.indexOf("host"),
    termOf: ops.map((op) => names.indexOf(op.term)),
    factorsOf: ops.map((op) => band.terms[op.term] ?? none),
  };
}

// aimcost.pricing.row_bands and aimcost.pricing.priced.Band: errors are shared within a term, independent between terms.
class BandSums {
  constructor(band) {
    this.band = band;
    const zeros = () => new Float64Array(band.names.length);
    this.parts = {
      prompt: { below: zeros(), above: zeros(), named: new Map(), seconds: 0 },
      decode: { below: zeros(), above: zeros(), named: new Map(), seconds: 0 },
    };
    this.term = this.below = this.above = 0;
  }

  // The band of one row, left in `term`, `below` and `above`.
  edges(op, spent, device, extrapolated, waiting) {
    if (waiting) {
      const [value, low, high] = this.band.host;
      this.term = this.band.hostTerm;
      this.below = Math.max(0, spent - Math.max(device, spent * (low / value)));
      this.above = spent * (high / value - 1);
      return;
    }
    const factors = this.band.factorsOf[op];
    const at = extrapolated ? 2 : 0;
    this.term = this.band.termOf[op];
    this.below = spent * (1 - factors[at]);
    this.above = spent * (factors[at + 1] - 1);
  }

  add(term, spent, below, above, decode) {
    const part = decode ? this.parts.decode : this.parts.prompt;
    part.seconds += spent;
    part.below[term] += below;
    part.above[term] += above;
  }

  // What a stack adds: a term by its own name, which no kind of operation has.
  addNamed(name, spent, below, above, decode) {
    const part = decode ? this.parts.decode : this.parts.prompt;
    part.seconds += spent;
    const sum = part.named.get(name) ?? [0, 0];
    part.named.set(name, [sum[0] + below, sum[1] + above]);
  }

  // Seconds that each term takes off and adds to a sum of rows.
  moves(what, divisor = 1) {
    const moves = new Map();
    const width = this.band.width / divisor;
    const move = (term, below, above) => {
      const sum = moves.get(term) ?? [0, 0];
      moves.set(term, [sum[0] + below, sum[1] + above]);
    };
    for (const name of what === "all" ? ["prompt", "decode"] : [what]) {
      const part = this.parts[name];
      part.below.forEach((below, term) => move(this.band.names[term], below * width, part.above[term] * width));
      for (const [term, [below, above]] of part.named) move(term, below * width, above * width);
      const [low, high] = this.band[name];
      move(`${name} scale`, (part.seconds / divisor) * (1 - low), (part.seconds / divisor) * (high - 1));
    }
    return moves;
  }

  around(what, divisor = 1) {
    const names = what === "all" ? ["prompt", "decode"] : [what];
    const value = names.reduce((sum, name) => sum + this.parts[name].seconds, 0) / divisor;
    let below = 0, above = 0;
    for (const [low, high] of this.moves(what, divisor).values()) {
      below += low * low;
      above += high * high;
    }
    return { value, low: Math.max(0, value - Math.sqrt(below)), high: value + Math.sqrt(above) };
  }
}

// aimcost.pricing.gain.gain, of the time to the first token.
export function gain(dense, reduced, own) {
  const d = dense.ttft.value, r = reduced.ttft.value;
  if (!d || !r) return null;
  const ratio = d / r;
  if (!dense.moves) return { speedup: ratio, low: null, high: null, saved: d - r };
  let changed = 0;
  for (const key of new Set([...dense.names.keys(), ...reduced.names.keys()])) {
    changed += Math.abs((dense.names.get(key) ?? 0) - (reduced.names.get(key) ?? 0));
  }
  const half = own.share * Math.min(1, changed / (own.from * d));
  const sum = (moves) => {
    let down = half ** 2, up = half ** 2;
    for (const move of moves) {
      if (move < 0) down += move ** 2;
      else up += move ** 2;
    }
    return [Math.sqrt(down), Math.sqrt(up)];
  };
  const moves = [];
  for (const term of new Set([...dense.moves.keys(), ...reduced.moves.keys()])) {
    const a = dense.moves.get(term) ?? [0, 0], b = reduced.moves.get(term) ?? [0, 0];
    moves.push(-a[0] / d + b[0] / r, a[1] / d - b[1] / r);
  }
  const [down, up] = sum(moves);
  const low = Math.max(ratio * Math.exp(-down), (dense.ttft.low / reduced.ttft.high) * Math.exp(-half));
  const high = Math.min(ratio * Math.exp(up), (dense.ttft.high / reduced.ttft.low) * Math.exp(half));
  return { speedup: ratio, low, high, saved: d - r };
}

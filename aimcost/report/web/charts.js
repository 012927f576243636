// The charts beside the layers: stages, machines, roofline, accuracy against latency, predicted against measured.

import { show } from "./format.js";
import { bottomAxis, decades, empty, frame, html, legend, placeLabels, svg, text, valueAxis, widthOf } from "./svg.js";

export const STAGE_NAMES = {
  preprocess: "preprocessing", vision: "vision tower", projector: "projector", merge: "merging", prefill: "prefill",
  decode: "decode", overhead: "software stack",
};

export const ESTIMATOR_NAMES = { llm_viewer: "LLM-Viewer's arithmetic", roofline: "datasheet roofline" };

// Seconds to the first token by stage; what the stack adds beside decode is not among them.
function parts(result, context) {
  const found = context.included
    .filter((name) => name !== "decode" && name !== "overhead")
    .map((name) => [name, result.stages[name].time_s]);
  const rest = result.ttft.value - found.reduce((sum, [, value]) => sum + value, 0);
  return [...found, ["overhead", Math.max(0, rest)]].filter(([, value]) => value > 1e-9);
}

function whisker(picture, x, y, figure) {
  if (figure.high === null) return;
  const [low, high] = [x(figure.low), x(figure.high)];
  picture.append(svg("path", { class: "whisker", d: `M${low},${y}H${high}M${low},${y - 4}V${y + 4}M${high},${y - 4}V${y + 4}` }));
}

export function drawStages(container, { reduced, dense, context, budget, ceiling, scope, onScope }) {
  const rows = [["unreduced", dense], ["this run", reduced]];
  const height = 152;
  const label = `Time to first token: ${show.time(reduced.ttft.value)}, unreduced ${show.time(dense.ttft.value)}`;
  const { width, picture } = frame(container, height, label);
  const left = 78, right = width - 16;
  const most = Math.max(...rows.map(([, result]) => result.ttft.high ?? result.ttft.value), budget ?? 0);
  const x = d3.scaleLinear([0, most * 1.02], [left, right]);
  const [size, unit] = show.unitOf(most);
  bottomAxis(picture, x, { top: 8, bottom: 108, count: Math.max(3, Math.floor(width / 110)), format: (v) => show.short(v / size), label: `${unit}s to the first token${context.band ? ", with its 80 % band" : ""}` });
  rows.forEach(([name, result], row) => {
    const y = 16 + 46 * row;
    picture.append(text(left - 8, y + 18, name, { class: "row-label", "text-anchor": "end" }));
    let at = 0;
    for (const [stage, value] of parts(result, context)) {
      picture.append(svg("rect", { class: `stage ${stage}`, x: x(at), width: Math.max(0.5, x(at + value) - x(at)), y, height: 26 }, svg("title", {}, `${STAGE_NAMES[stage]}: ${show.time(value)}`)));
      at += value;
    }
    whisker(picture, x, y + 32, result.ttft);
  });
  if (budget) {
    picture.append(
      svg("line", { class: "budget", x1: x(budget), x2: x(budget), y1: 2, y2: 108 }),
      text(x(budget) + (x(budget) > right - 90 ? -5 : 5), 10, `budget ${show.time(budget)}`, { class: "label budget-label", "text-anchor": x(budget) > right - 90 ? "end" : "start" }),
    );
  }
  const chosen = parts(reduced, context);
  if (reduced.steps) chosen.push(["decode", reduced.stages.decode.time_s]);
  const buttons = html("div", { class: "scopes", role: "group", "aria-label": "Stages: show the operations of one" },
    ...chosen.map(([stage, value]) =>
      html("button", { type: "button", "aria-pressed": String(scope === stage), onclick: () => onScope(scope === stage ? "layers" : stage) },
        html("span", { class: `key stage ${stage}`, "aria-hidden": "true" }), `${STAGE_NAMES[stage]} `, html("b", {}, show.time(value)))));
  container.replaceChildren(picture, buttons, html("p", { class: "hint" }, ceiling));
}

export function drawMachines(container, { rows, budget, chosen, onChoose }) {
  const width = widthOf(container);
  const wide = width > 640;
  const labelWidth = wide ? 250 : 0;
  const most = Math.max(...rows.map(({ dense, reduced }) => Math.max(dense?.ttft.value ?? 0, reduced?.ttft.high ?? reduced?.ttft.value ?? 0)), budget ?? 0);
  const span = width - labelWidth - 18;
  const x = d3.scaleLinear([0, most * 1.02], [1, span - 8]);
  const list = html("ul", { class: "machines" });
  for (const { context, number, reduced, dense, memory } of rows) {
    const name = `${context.hardware}, ${context.stack ?? ESTIMATOR_NAMES[context.estimator] ?? context.estimator}`;
    const picture = svg("svg", { width: span, height: 34, viewBox: `0 0 ${span} 34`, "aria-hidden": "true" });
    if (reduced) {
      const value = x(reduced.ttft.value);
      picture.append(
        svg("rect", { class: "dense-bar", x: 1, y: 4, width: Math.max(0, x(dense.ttft.value) - 1), height: 16 }),
        svg("rect", { class: "machine-bar", x: 1, y: 4, width: Math.max(0, value - 1), height: 16 }),
      );
      whisker(picture, x, 26, reduced.ttft);
      if (budget) picture.append(svg("line", { class: "budget", x1: x(budget), x2: x(budget), y1: 0, y2: 34 }));
    }
    const figures = reduced
      ? `${show.time(reduced.ttft.value)}${reduced.ttft.high === null ? "" : ` (${show.band(reduced.ttft)})`}, unreduced ${show.time(dense.ttft.value)}${memory.fits === false ? "; does not fit" : ""}`
      : "this setting has no schedule here";
    list.append(html("li", {}, html("button", { type: "button", class: "machine", "aria-pressed": String(number === chosen), onclick: () => onChoose(number) },
      html("span", { class: "machine-label" }, html("b", {}, name), html("span", {}, figures)), ...(reduced ? [picture] : []))));
  }
  container.replaceChildren(list, legend(["machine-key", "this run"], ["dense", "unreduced"], ["whisker-key", "80 % band"], ...(budget ? [["budget-key", "budget"]] : [])));
}

// Machines that differ from this one in what their datasheets allow, priced by the same estimator.
function otherRoofs(context, contexts) {
  const key = (each) => `${each.peak_flops_per_s} ${each.bytes_per_s}`;
  const found = new Map(contexts.filter((each) => each.estimator === context.estimator).map((each) => [key(each), each]));
  found.delete(key(context));
  return [...found.values()];
}

export function drawRoofline(container, { points, context, contexts }) {
  const used = points.filter((point) => point.flops > 0 && point.bytes > 0 && point.time_s > 0);
  if (!used.length) {
    container.replaceChildren(empty("No operation of this part computes and moves data."));
    return;
  }
  const height = 340;
  const { width, picture } = frame(container, height, "Operations by arithmetic intensity and attained rate");
  const left = 66, right = width - 14, top = 18, bottom = height - 48;
  const roofs = [context, ...otherRoofs(context, contexts)];
  const ridges = roofs.map((each) => each.peak_flops_per_s / each.bytes_per_s);
  const intensity = (point) => point.flops / point.bytes, attained = (point) => point.flops / point.time_s;
  const span = (values, above) => [Math.min(...values) / 2, Math.max(...values) * above];
  const x = d3.scaleLog(span([...used.map(intensity), ...ridges], 4), [left, right]);
  const y = d3.scaleLog(span([...used.map(attained), ...roofs.map((each) => each.peak_flops_per_s)], 6), [bottom, top]);
  bottomAxis(picture, decades(x), { top, bottom, format: (v) => show.short(v), label: "FLOP per byte of DRAM traffic" });
  valueAxis(picture, decades(y), { left, right, format: (v) => show.rate(v, "") });
  picture.append(text(left, top - 6, "attained FLOP/s", { class: "strip-title" }));
  const [from, to] = x.domain(), low = y.domain()[0];
  const styleOf = (i) => (i ? `other-roof dash-${(i - 1) % 3}` : "");
  roofs.forEach((each, i) => {
    const first = Math.max(from, low / each.bytes_per_s), peak = each.peak_flops_per_s;
    picture.append(svg("path", { class: `roof ${styleOf(i)}`, d: `M${x(first)},${y(first * each.bytes_per_s)}L${x(peak / each.bytes_per_s)},${y(peak)}L${x(to)},${y(peak)}` }));
  });
  const total = used.reduce((sum, point) => sum + point.time_s, 0);
  const sorted = [...used].sort((a, b) => b.time_s - a.time_s);
  const labels = [];
  for (const point of sorted) {
    const radius = 4 + 12 * Math.sqrt(point.time_s / total);
    const shape = { compute: d3.symbolCircle, memory: d3.symbolDiamond }[point.bound] ?? square;
    const title = `${point.name}: ${show.time(point.time_s)}, ${show.short(intensity(point))} FLOP/B, ${show.rate(attained(point), "FLOP/s")}, ${point.bound}-bound`;
    picture.append(svg("path", { class: `point ${point.bound}`, d: d3.symbol(shape, radius * radius * Math.PI)(), transform: `translate(${x(intensity(point))},${y(attained(point))})` }, svg("title", {}, title)));
    labels.push({ x: x(intensity(point)), y: y(attained(point)), content: point.name, radius });
  }
  placeLabels(picture, labels.slice(0, width < 520 ? 5 : 10), { left, right, top, bottom, points: labels });
  container.replaceChildren(picture, legend(["point compute", "compute-bound (circle)"], ["point memory", "memory-bound (diamond)"], ["point launch", "launch-bound (square)"],
    ...(roofs.length > 1 ? roofs.map((each, i) => [`roof-key ${styleOf(i)}`, `roof of ${each.hardware}`]) : [])));
}

const square = { draw: (context, size) => { const side = Math.sqrt(size); context.rect(-side / 2, -side / 2, side, side); } };

export function drawAccuracy(container, { points, now, name }) {
  const height = 320;
  const { width, picture } = frame(container, height, "Published scores against the predicted time to first token");
  const left = 52, right = width - 14, top = 22, bottom = height - 48;
  const times = [...points.map((point) => point.ttft_s), now];
  const [size, unit] = show.unitOf(Math.max(...times));
  const x = d3.scaleLinear([0, Math.max(...times) * 1.06], [left, right]);
  const least = Math.min(0.98, ...points.map((point) => point.relative));
  const y = d3.scaleLinear([least - 0.03, Math.max(1.01, ...points.map((point) => point.relative)) + 0.005], [bottom, top]);
  bottomAxis(picture, x, { top, bottom, count: 5, format: (v) => show.short(v / size), label: `predicted ${unit}s to the first token` });
  valueAxis(picture, y, { left, right, count: 5, format: (v) => `${Math.round(100 * v)} %` });
  picture.append(text(left, top - 8, "score, share of the unreduced model's", { class: "strip-title" }));
  picture.append(svg("line", { class: "now", x1: x(now), x2: x(now), y1: top, y2: bottom }));
  const labels = [];
  for (const point of points) {
    const at = { x: x(point.ttft_s), y: y(point.relative) };
    const own = point.method === name;
    picture.append(svg("path", { class: `point ${own ? "own" : "other"}`, d: d3.symbol(own ? d3.symbolCircle : d3.symbolDiamond, own ? 90 : 60)(), transform: `translate(${at.x},${at.y})` },
      svg("title", {}, `${point.label}: ${(100 * point.relative).toFixed(1)} % over ${point.benchmarks} benchmarks, ${show.time(point.ttft_s)}; ${point.source}`)));
    labels.push({ ...at, content: point.label.length > 36 ? `${point.label.slice(0, 35)}…` : point.label });
  }
  if (width > 520) placeLabels(picture, labels, { left, right, top, bottom });
  container.replaceChildren(picture, legend(["point own", `${name}`], ["point other", "other methods"], ["now-key", "this setting"]), table(
    ["method", "score", "benchmarks", "time to first token", "source"],
    points.map((point) => [point.label, `${(100 * point.relative).toFixed(1)} %`, point.benchmarks, show.time(point.ttft_s), point.source])));
}

export function drawMeasured(container, { points }) {
  const height = 340;
  const { width, picture } = frame(container, height, "Predicted against measured times");
  const left = 62, right = width - 14, top = 22, bottom = height - 48;
  const values = points.flatMap((point) => [point.predicted_s, point.measured_s]);
  const domain = [Math.min(...values) / 1.6, Math.max(...values) * 1.6];
  const x = d3.scaleLog(domain, [left, right]), y = d3.scaleLog(domain, [bottom, top]);
  bottomAxis(picture, decades(x), { top, bottom, format: show.time, label: "measured" });
  valueAxis(picture, decades(y), { left, right, format: show.time });
  picture.append(text(left, top - 8, "predicted, with its 80 % band", { class: "strip-title" }));
  picture.append(svg("line", { class: "roof", x1: left, y1: bottom, x2: right, y2: top }));
  for (const point of points) {
    const at = x(point.measured_s);
    if (point.high_s) picture.append(svg("line", { class: "whisker", x1: at, x2: at, y1: y(Math.max(domain[0], point.low_s)), y2: y(Math.min(domain[1], point.high_s)) }));
    const shape = point.kind === "record" ? d3.symbolDiamond : d3.symbolCircle;
    picture.append(svg("path", { class: `point ${point.kind}`, d: d3.symbol(shape, 64)(), transform: `translate(${at},${y(point.predicted_s)})` },
      svg("title", {}, `${point.label}: predicted ${show.time(point.predicted_s)}, measured ${show.time(point.measured_s)}; ${point.source}`)));
  }
  const kinds = [...new Set(points.map((point) => point.kind))];
  const names = { published: "published timing", record: "measured record" };
  container.replaceChildren(picture, legend(...kinds.map((kind) => [`point ${kind}`, names[kind]]), ["equal-key", "predicted = measured"]), table(
    ["case", "predicted", "measured", "error", "source"],
    points.map((point) => [point.label, show.time(point.predicted_s), show.time(point.measured_s), `${point.predicted_s >= point.measured_s ? "+" : "−"}${Math.abs(100 * (point.predicted_s / point.measured_s - 1)).toFixed(0)} %`, point.source])));
}

function table(head, rows) {
  return html("details", { class: "as-table" }, html("summary", {}, `As a table (${rows.length} rows)`),
    html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table" }, html("table", {},
      html("thead", {}, html("tr", {}, ...head.map((cell) => html("th", { scope: "col" }, cell)))),
      html("tbody", {}, ...rows.map((row) => html("tr", {}, ...row.map((cell) => html("td", {}, String(cell)))))))));
}

// The operations of a layer or a stage: time with its band, FLOPs, bytes, bound, shape, and the formula in words.

import { STAGE_NAMES } from "./charts.js";
import { show } from "./format.js";
import { html } from "./svg.js";

const BOUND_NAMES = ["memory", "compute", "launch", "network"];

// Operations as rows, most of the time first; one of several entries under a name (by number format) stands once.
export function named(operations, ops) {
  const found = new Map();
  for (const row of operations) {
    const op = ops[row.op], key = `${op.stage} ${op.name}`, sum = found.get(key);
    if (!sum) {
      found.set(key, { ...row, by: [...row.by], name: op.name, stage: op.stage, kind: op.kind, formula: op.formula });
      continue;
    }
    for (const name of ["time_s", "low", "flops", "bytes", "runs"]) sum[name] += row[name];
    if (sum.high !== null) sum.high += row.high;
    sum.by = sum.by.map((seconds, i) => seconds + row.by[i]);
    sum.extrapolated ||= row.extrapolated;
  }
  for (const sum of found.values()) sum.bound = BOUND_NAMES[sum.by.indexOf(Math.max(...sum.by))];
  return [...found.values()].sort((a, b) => b.time_s - a.time_s);
}

export function drawDetail(container, { title, rows, open, onOpen, shapeOf, onClose }) {
  const total = rows.reduce((sum, row) => sum + row.time_s, 0);
  const most = Math.max(...rows.map((row) => row.time_s), 1e-30);
  const body = html("tbody");
  rows.forEach((row) => {
    const key = `${row.stage} ${row.name}`, expanded = open === key;
    const toggle = html("button", { type: "button", class: "op", "aria-expanded": String(expanded), "data-key": key, onclick: () => onOpen(expanded ? null : key) },
      row.name, row.runs > 1 ? html("span", { class: "runs" }, ` ×${show.whole(row.runs)}`) : null);
    const bar = html("span", { class: "share", "aria-hidden": "true" });
    const fill = html("i", { class: row.bound });
    fill.style.width = `${(100 * row.time_s) / most}%`;
    bar.append(fill);
    body.append(html("tr", {},
      html("th", { scope: "row" }, toggle),
      html("td", { class: "number" }, show.time(row.time_s)),
      html("td", { class: "wide" }, bar),
      html("td", { class: "number wide" }, show.flops(row.flops)),
      html("td", { class: "number wide" }, show.bytes(row.bytes)),
      html("td", {}, html("span", { class: `bound ${row.bound}` }, row.bound))));
    if (expanded) body.append(html("tr", { class: "opened" }, html("td", { colspan: "6" }, facts(row, shapeOf(row), total))));
  });
  container.replaceChildren(
    html("div", { class: "detail-head" }, html("h3", {}, title), onClose ? html("button", { type: "button", onclick: onClose }, "All layers") : null),
    html("table", { class: "ops" },
      html("thead", {}, html("tr", {},
        html("th", { scope: "col" }, "operation"), html("th", { scope: "col", class: "number" }, "time"), html("td", { class: "wide" }),
        html("th", { scope: "col", class: "number wide" }, "FLOPs"), html("th", { scope: "col", class: "number wide" }, "bytes"), html("th", { scope: "col" }, "bound"))),
      body),
  );
}

function facts(row, shape, total) {
  const list = html("dl", { class: "facts" });
  const add = (name, content) => content && list.append(html("div", {}, html("dt", {}, name), html("dd", {}, content)));
  add("stage", STAGE_NAMES[row.stage] ?? row.stage);
  add("shape", shape);
  add("seconds", `${show.time(row.time_s)}${row.high === null ? "" : `, 80 % band ${show.time(row.low)} to ${show.time(row.high)}`}; ${((100 * row.time_s) / (total || 1)).toFixed(1)} % of this part`);
  add("FLOPs", show.flops(row.flops));
  add("DRAM traffic", `${show.bytes(row.bytes)}${row.bytes ? `; ${show.short(row.flops / row.bytes)} FLOP per byte` : ""}`);
  add("bound", `${row.bound}${row.extrapolated ? "; outside the calibrated range" : ""}`);
  if (row.formula.text) {
    add("formula", row.formula.text);
    add("source", html("code", {}, row.formula.source));
  }
  return list;
}

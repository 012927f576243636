// The request as it flows: tokens by layer as a river, and time, FLOPs and KV cache by layer on the same axis.

import { show } from "./format.js";
import { frame, html, legend, svg, text, valueAxis } from "./svg.js";

const LEFT = 82, RIGHT = 14, RIVER = 190, STRIP = 62, GAP = 34, TOP = 26;

export function drawLayers(container, { reduced, dense, textTokens, promptTokens, selected, onSelect }) {
  const count = reduced.tokens.length;
  const height = TOP + RIVER + 3 * (STRIP + GAP) + 38;
  const { width, picture } = frame(container, height, "Tokens, time, FLOPs and KV cache by decoder layer");
  picture.removeAttribute("role");
  picture.setAttribute("aria-hidden", "true");
  const ahead = Math.min(90, Math.max(44, 0.1 * width)); // where tokens merge, before layer 0
  const x = d3.scaleLinear([0, count], [LEFT + ahead, width - RIGHT]);
  const step = x(1) - x(0);
  const bottom = height - 38;
  const highlight = svg("rect", { class: "highlight", y: TOP - 6, height: bottom - TOP + 6, width: step, visibility: "hidden" });
  picture.append(highlight);

  // the river: text below, visual tokens above it, the unreduced prompt behind
  const y = d3.scaleLinear([0, Math.max(promptTokens, 1)], [TOP + RIVER, TOP]).nice(4);
  picture.append(text(LEFT, TOP - 12, "tokens by layer", { class: "strip-title" }));
  valueAxis(picture, y, { left: LEFT, right: width - RIGHT, count: 4, format: show.short });
  const merged = reduced.tokens[0];
  const start = LEFT, narrow = LEFT + 0.55 * ahead;
  const steps = reduced.tokens.map((tokens, i) => `L${x(i)},${y(tokens)}L${x(i + 1)},${y(tokens)}`).join("");
  const bend = (from, to) => `C${(start + narrow) / 2},${y(from)} ${(start + narrow) / 2},${y(to)} ${narrow},${y(to)}`;
  const close = (level) => `L${width - RIGHT},${y(level)}L${start},${y(level)}Z`;
  picture.append(
    svg("path", { class: "visual", d: `M${start},${y(promptTokens)}${bend(promptTokens, merged)}${steps}${close(textTokens)}` }),
    svg("path", { class: "text-tokens", d: `M${start},${y(textTokens)}L${width - RIGHT},${y(textTokens)}${close(0)}` }),
    svg("path", { class: "dense-line", d: `M${start},${y(promptTokens)}L${width - RIGHT},${y(promptTokens)}` }),
  );
  if (merged < promptTokens) {
    picture.append(text(narrow + 8, y(promptTokens) + 18, `merged ${show.whole(promptTokens)} → ${show.whole(merged)}`, { class: "label" }));
  }
  const cuts = reduced.tokens.flatMap((tokens, i) => (i + 1 < count && reduced.tokens[i + 1] < tokens ? [i] : []));
  for (const layer of cuts) {
    const at = x(layer + 1), tip = y(reduced.tokens[layer]) - 3;
    picture.append(svg("path", { class: "cut", d: `M${at - 4},${tip - 7}L${at + 4},${tip - 7}L${at},${tip}Z` }));
  }
  if (cuts.length) {
    const first = cuts[0], last = cuts[cuts.length - 1];
    const lost = reduced.tokens[first] - reduced.tokens[last + 1];
    const where = cuts.length === 1 ? [` after layer ${first}`] : [` in ${cuts.length} cuts after layers ${first} to ${last}`, ` in ${cuts.length} cuts`];
    const labels = where.map((each) => `−${show.whole(lost)}${each}`);
    const fits = (each) => x(first + 1) + 6.4 * each.length <= width - RIGHT;
    const label = labels.find(fits) ?? labels[labels.length - 1], ends = !fits(label);
    // above the river where the label stands, and below the label of the merge
    const river = ends ? y(reduced.tokens[first]) - 14 : y(reduced.tokens[first + 1]) - 8;
    const level = merged < promptTokens ? Math.max(y(reduced.tokens[first]) - 16, y(promptTokens) + 36) : Math.min(y(promptTokens) + 18, river);
    picture.append(text(ends ? width - RIGHT : x(first + 1) + 4, level, label, { class: "label", "text-anchor": ends ? "end" : "start" }));
  }

  // strips: this run in front of the unreduced one
  const strips = [
    ["time", (result) => result.layers.map((layer) => layer.time_s), show.time, (layer) => `bar ${layer.bound}`],
    ["FLOPs", (result) => result.layers.map((layer) => layer.flops), show.flops, () => "bar plain"],
    ["KV cache", (result) => result.memory.kv, show.bytes, () => "bar cache"],
  ];
  strips.forEach(([name, values, format, style], number) => {
    const top = TOP + RIVER + GAP + number * (STRIP + GAP);
    const own = values(reduced), other = values(dense);
    const scale = d3.scaleLinear([0, Math.max(...own, ...other, 1e-30)], [top + STRIP, top]);
    picture.append(text(LEFT, top - 8, `${name} by layer`, { class: "strip-title" }));
    const ends = Object.assign(scale.copy(), { ticks: () => scale.domain() });
    valueAxis(picture, ends, { left: LEFT, right: width - RIGHT, format: (value) => (value ? format(value) : "0") });
    own.forEach((value, layer) => {
      picture.append(
        svg("rect", { class: "dense-bar", x: x(layer) + 0.5, width: Math.max(1, step - 1), y: scale(other[layer]), height: top + STRIP - scale(other[layer]) }),
        svg("rect", { class: style(reduced.layers[layer]), x: x(layer) + 0.5, width: Math.max(1, step - 1), y: scale(value), height: top + STRIP - scale(value) }),
      );
    });
  });

  // the one axis
  const every = Math.ceil(count / Math.max(2, Math.floor((width - LEFT - ahead) / 34)));
  for (let layer = 0; layer < count; layer += every) {
    picture.append(text(x(layer + 0.5), bottom + 16, layer, { class: "tick", "text-anchor": "middle" }));
  }
  picture.append(
    text((x(0) + x(count)) / 2, bottom + 34, "decoder layer", { class: "axis-label", "text-anchor": "middle" }),
    ...(merged < promptTokens ? [text(LEFT + 0.28 * ahead, bottom + 16, "merge", { class: "tick", "text-anchor": "middle" })] : []),
  );

  const readout = html("p", { class: "readout" });
  const describe = (layer) => {
    const row = reduced.layers[layer];
    return `Layer ${layer}: ${show.whole(row.tokens)} tokens, ${show.time(row.time_s)} (unreduced ${show.time(dense.layers[layer].time_s)}), ` +
      `${show.flops(row.flops)}, KV cache ${show.bytes(reduced.memory.kv[layer])}, ${row.bound}-bound`;
  };
  const mark = (layer) => {
    highlight.setAttribute("visibility", layer === null ? "hidden" : "visible");
    if (layer !== null) highlight.setAttribute("x", x(layer));
    readout.textContent = layer === null ? "Point at a layer, or choose one with the arrow keys, to see its operations." : describe(layer);
  };
  const at = (event) => {
    const box = picture.getBoundingClientRect();
    const layer = Math.floor(x.invert(((event.clientX - box.left) * width) / box.width));
    return layer >= 0 && layer < count ? layer : null;
  };
  const focus = html("div", {
    class: "layer-picker", role: "slider", tabindex: "0", "aria-label": "Decoder layer", "aria-valuemin": 0,
    "aria-valuemax": count - 1, "aria-valuenow": selected ?? 0, "aria-valuetext": selected === null ? "none chosen" : describe(selected),
    onkeydown: (event) => {
      const move = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 5, PageDown: -5 }[event.key];
      let next;
      if (move) next = selected === null ? (move > 0 ? 0 : count - 1) : Math.min(count - 1, Math.max(0, selected + move));
      else if (event.key === "Home") next = 0;
      else if (event.key === "End") next = count - 1;
      else if (event.key === "Escape") next = null;
      else return;
      event.preventDefault();
      onSelect(next);
    },
    onpointermove: (event) => mark(at(event) ?? selected),
    onpointerleave: () => mark(selected),
    onclick: (event) => onSelect(at(event)),
  }, picture);
  mark(selected);
  const focused = container.contains(document.activeElement) && document.activeElement.classList.contains("layer-picker");
  container.replaceChildren(
    legend(["visual", "visual tokens"], ["text-tokens", "text"], ["dense", "unreduced"], ["cut", "cut"],
      ["compute", "compute-bound"], ["memory", "memory-bound"], ["launch", "launch-bound"]),
    focus,
    readout,
  );
  if (focused) focus.focus({ preventScroll: true });
}

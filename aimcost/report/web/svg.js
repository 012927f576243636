// Elements, axes and marks that the charts share. Text is set as text, never as markup.

export function html(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "width" && element.style !== undefined && tag === "i") element.style.width = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const text = (x, y, content, attributes = {}) => svg("text", { x, y, ...attributes }, String(content));

// Widths are read once for each size of the window: reading one after a change makes the browser lay out the page.
const widths = new Map();
export const widthOf = (container) => {
  if (!widths.has(container)) widths.set(container, Math.max(280, container.clientWidth));
  return widths.get(container);
};
export const forgetWidths = () => widths.clear();

export function frame(container, height, label) {
  const width = widthOf(container);
  const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  return { width, picture };
}

// Horizontal grid lines with their values at the left.
export function valueAxis(picture, scale, { left, right, count, format }) {
  for (const tick of scale.ticks(count)) {
    const y = scale(tick);
    picture.append(
      svg("line", { x1: left, x2: right, y1: y, y2: y, class: tick ? "grid" : "baseline" }),
      text(left - 6, y + 4, format(tick), { class: "tick", "text-anchor": "end" }),
    );
  }
}

export function bottomAxis(picture, scale, { top, bottom, count, format, label }) {
  const [from, to] = scale.range();
  let taken = -Infinity; // a label without room is left out, its line stays
  for (const tick of scale.ticks(count)) {
    const x = scale(tick), content = format(tick), size = 7 * content.length;
    const left = Math.min(x - size / 2, to + 8 - size);
    picture.append(svg("line", { x1: x, x2: x, y1: top, y2: bottom, class: "grid" }));
    if (left < taken) continue;
    taken = left + size + 4;
    picture.append(text(left + size / 2, bottom + 16, content, { class: "tick", "text-anchor": "middle" }));
  }
  picture.append(
    svg("line", { x1: from, x2: to, y1: bottom, y2: bottom, class: "baseline" }),
    text((from + to) / 2, bottom + 34, label, { class: "axis-label", "text-anchor": "middle" }),
  );
}

// The ticks of a logarithmic axis: powers of ten, or where these are few twos and fives as well.
export function decades(scale) {
  const [low, high] = scale.domain();
  const found = [];
  const steps = Math.log10(high / low) < 3 ? [1, 2, 5] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    found.push(...steps.map((step) => Number(`${step}e${power}`)).filter((tick) => tick >= low && tick <= high));
  }
  return Object.assign(scale.copy(), { ticks: () => found });
}

// Labels beside points, from the most important on; one that would lie on another or on a point is left out.
export function placeLabels(picture, labels, { left, right, top, bottom, points = labels }) {
  const taken = [...points.map(({ x, y, radius = 5 }) => ({ left: x - radius, top: y - radius, width: 2 * radius, height: 2 * radius }))];
  for (const { x, y, content, radius = 5 } of labels) {
    const size = 7.6 * content.length;
    const places = [
      { left: x + radius + 3, top: y - 8, at: x + radius + 4, anchor: "start" },
      { left: x - radius - 3 - size, top: y - 8, at: x - radius - 4, anchor: "end" },
      { left: x - size / 2, top: y - radius - 17, at: x, anchor: "middle" },
      { left: x - size / 2, top: y + radius + 3, at: x, anchor: "middle" },
    ].map((place) => ({ ...place, width: size, height: 14 }));
    const free = places.find((box) => box.left > left && box.left + size < right && box.top > top && box.top + 14 < bottom && !taken.some((other) =>
      box.left < other.left + other.width && other.left < box.left + box.width && box.top < other.top + other.height && other.top < box.top + box.height));
    if (!free) continue;
    taken.push(free);
    picture.append(text(free.at, free.top + 12, content, { class: "label", "text-anchor": free.anchor }));
  }
}

export function legend(...entries) {
  return html("ul", { class: "legend" }, ...entries.map(([style, content]) =>
    html("li", {}, html("span", { class: `key ${style}`, "aria-hidden": "true" }), content)));
}

export const empty = (message) => html("p", { class: "empty" }, message);

// Figures as text: three significant digits, decimal prefixes.

const digits = (value) => {
  const size = Math.abs(value);
  if (size >= 999.5) return Math.round(value).toLocaleString("en");
  return Number(value.toPrecision(3)).toString();
};

const scaled = (value, unit, prefixes) => {
  if (!value) return `0 ${unit}`;
  const found = prefixes.find(([size]) => Math.abs(value) >= 0.9995 * size) ?? prefixes[prefixes.length - 1];
  return `${digits(value / found[0])} ${found[1]}${unit}`;
};

const LARGE = [[1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""]];
const SMALL = [[1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"]];

export const show = {
  time: (seconds) => scaled(seconds, "s", SMALL),
  flops: (value) => scaled(value, "FLOP", LARGE),
  bytes: (value) => scaled(value, "B", LARGE),
  rate: (value, unit) => scaled(value, unit, LARGE),
  whole: (value) => Math.round(value).toLocaleString("en"),
  factor: (value) => `${value >= 99.95 ? value.toFixed(0) : value.toPrecision(3)}×`,
  band: (figure, text = show.time) => (figure.high === null ? "" : `${text(figure.low)} to ${text(figure.high)}`),
  // the unit that the ticks of an axis share, which its label names
  unitOf: (largest) => SMALL.find(([size]) => largest >= size) ?? SMALL[SMALL.length - 1],
  short: (value) => digits(value),
};

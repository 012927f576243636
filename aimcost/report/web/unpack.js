// Data of the page: base64 → gzip → columns, each a run of varints of second differences (packing.py).

const decoded = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

export async function gunzip(text) {
  const stream = new Blob([decoded(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

export function unpackColumn(bytes, start, length, step) {
  let size = 0;
  for (let i = start; i < start + length; i++) if (bytes[i] < 128) size++;
  const values = new Float64Array(size);
  let at = 0, last = 0, rise = 0, number = 0, scale = 1;
  for (let i = start; i < start + length; i++) {
    const byte = bytes[i];
    // beyond 32 bits: no shifts
    number += (byte & 127) * scale;
    if (byte >= 128) {
      scale *= 128;
      continue;
    }
    rise += number % 2 ? -(number + 1) / 2 : number / 2;
    last += rise;
    values[at++] = last * step;
    number = 0;
    scale = 1;
  }
  return values;
}

// Columns by number; each is unpacked when it is first asked for.
export class Columns {
  constructor(bytes, lengths, steps) {
    this.bytes = bytes;
    this.steps = steps;
    this.lengths = lengths;
    this.starts = [];
    let at = 0;
    for (const length of lengths) {
      this.starts.push(at);
      at += length;
    }
    this.found = new Map();
  }

  get(number) {
    let values = this.found.get(number);
    if (!values) {
      values = unpackColumn(this.bytes, this.starts[number], this.lengths[number], this.steps[number]);
      this.found.set(number, values);
    }
    return values;
  }
}

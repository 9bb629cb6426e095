// Pillow's resampling of 8-bit pictures: two passes, with weights in fixed point (libImaging/Resample.c describes it).
// A canvas resizes otherwise in every browser. This is equal to Pillow's to the bit (tests/app/browser/test_static_page.py).
//
// The picture is read in bands of rows, so that a large one is never held whole.

const BITS = 32 - 8 - 2; // of a weight behind the point: a sum of weighted 8-bit values fits in 32 bits
const HALF = 1 << (BITS - 1);

// Filters by timm's names, each with its support: beyond it, the weight is 0.
export const FILTERS = {
  box: [0.5, x => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, x => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, hamming],
  bicubic: [2, bicubic],
  lanczos: [3, x => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function hamming(x) {
  const at = Math.abs(x);
  if (at === 0) return 1;
  return at >= 1 ? 0 : sinc(at) * (0.54 + 0.46 * Math.cos(at * Math.PI));
}

function bicubic(x) {
  const at = Math.abs(x), a = -0.5;
  if (at < 1) return ((a + 2) * at - (a + 3)) * at * at + 1;
  return at < 2 ? (((at - 5) * at + 8) * at - 4) * a : 0;
}

// Which values each new value is made of: {first, count, weights}, with `size` places for each new value's weights.
export function weigh(oldLength, newLength, name) {
  const [support, filter] = FILTERS[name];
  const scale = oldLength / newLength, stretch = Math.max(scale, 1), reach = support * stretch;
  const size = Math.ceil(reach) * 2 + 1;
  const first = new Int32Array(newLength), count = new Int32Array(newLength);
  const weights = new Int32Array(newLength * size);
  for (let place = 0; place < newLength; place++) {
    const center = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - reach + 0.5));
    const stop = Math.min(oldLength, Math.trunc(center + reach + 0.5));
    const exact = [];
    let sum = 0;
    for (let at = start; at < stop; at++) {
      exact.push(filter((at - center + 0.5) * (1 / stretch)));
      sum += exact.at(-1);
    }
    first[place] = start;
    count[place] = stop - start;
    exact.forEach((weight, at) => {
      const scaled = (sum === 0 ? weight : weight / sum) * (1 << BITS);
      weights[place * size + at] = Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
  }
  return {first, count, weights, size};
}

function clipped(sum) {
  const value = sum >> BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

// A picture resized, RGB: Uint8Array (height, width, 3).
//   readRows(top, rows): the picture's RGBA values in these rows, Uint8ClampedArray (rows, oldWidth, 4)
//   band: rows that are read at a time
export function resize(readRows, [oldWidth, oldHeight], [width, height], filter, band = 256) {
  const narrow = new Uint8Array(oldHeight * width * 3); // (oldHeight, width, 3)
  const across = oldWidth === width ? null : weigh(oldWidth, width, filter);
  for (let top = 0; top < oldHeight; top += band) {
    const rows = Math.min(band, oldHeight - top), rgba = readRows(top, rows);
    for (let row = 0; row < rows; row++) {
      const into = narrow.subarray((top + row) * width * 3, (top + row + 1) * width * 3);
      narrowRow(rgba.subarray(row * oldWidth * 4, (row + 1) * oldWidth * 4), into, across);
    }
  }
  return oldHeight === height ? narrow : shorten(narrow, width, height, weigh(oldHeight, height, filter));
}

// One row of RGBA values, resized into one of RGB values; copied if `across` is null.
function narrowRow(rgba, into, across) {
  for (let place = 0; place < into.length / 3; place++) {
    if (across === null) {
      for (let channel = 0; channel < 3; channel++) into[place * 3 + channel] = rgba[place * 4 + channel];
      continue;
    }
    const first = across.first[place], count = across.count[place];
    let red = HALF, green = HALF, blue = HALF;
    for (let at = 0; at < count; at++) {
      const weight = across.weights[place * across.size + at], from = (first + at) * 4;
      red += rgba[from] * weight;
      green += rgba[from + 1] * weight;
      blue += rgba[from + 2] * weight;
    }
    into[place * 3] = clipped(red);
    into[place * 3 + 1] = clipped(green);
    into[place * 3 + 2] = clipped(blue);
  }
}

// The second pass: fewer (or more) rows of RGB values.
function shorten(rgb, width, height, down) {
  const stride = width * 3, result = new Uint8Array(height * stride);
  for (let row = 0; row < height; row++) {
    const first = down.first[row], count = down.count[row];
    for (let column = 0; column < stride; column++) {
      let sum = HALF;
      for (let at = 0; at < count; at++) sum += rgb[(first + at) * stride + column] * down.weights[row * down.size + at];
      result[row * stride + column] = clipped(sum);
    }
  }
  return result;
}

// A photo -> what the encoder reads: as vlcap/data/images.py and `PixelConfig.cut` in vlcap/data/pixels.py.

import {resize} from './resize.js';

const MAX_PIXELS = 80_000_000; // a browser holds 4 bytes for each when decoded
const MAX_SIDE = 32_767; // pixels; browsers draw nothing of a wider picture, without an error
const MAX_ASPECT = 100; // long side over short side; resizing the short side of a thinner picture would fill the memory
const BAND = 1_000_000; // pixels read from the decoded photo at a time

// The reason to refuse a photo of this size, or null.
export function sizeProblem(width, height) {
  if (width * height > MAX_PIXELS) {
    return `too large, ${width} x ${height} pixels (the limit is ${MAX_PIXELS / 1e6} million): make it smaller`;
  }
  if (Math.min(width, height) < 1 || Math.max(width, height) > MAX_ASPECT * Math.min(width, height)) {
    return `not a usable shape, ${width} x ${height} pixels (the limit is ${MAX_ASPECT} to 1): crop it`;
  }
  if (Math.max(width, height) > MAX_SIDE) {
    return `too long, ${width} x ${height} pixels (the limit is ${MAX_SIDE} on a side): make it smaller`;
  }
  return null;
}

// A file's decoded photo, upright by its EXIF orientation, its colors as they are in the file, as Pillow decodes it.
export function decode(file) {
  return createImageBitmap(file, {
    imageOrientation: 'from-image',
    colorSpaceConversion: 'none',
    premultiplyAlpha: 'none',
  });
}

// The pixels that the encoder reads of a decoded photo: Uint8Array (3, S, S).
//   pixels: {size, interpolation, crop_pct, crop_mode}, as in site.json
export function cut(bitmap, pixels) {
  const old = [bitmap.width, bitmap.height];
  const {whole, left, top} = placeOf(old, pixels);
  const band = Math.max(1, Math.min(old[1], Math.floor(BAND / old[0])));
  const rgb = resize(reader(bitmap, band), old, whole, pixels.interpolation, band);
  const size = pixels.size, planes = new Uint8Array(3 * size * size);
  for (let channel = 0; channel < 3; channel++) {
    for (let row = 0; row < size; row++) {
      for (let column = 0; column < size; column++) {
        planes[(channel * size + row) * size + column] =
          rgb[((top + row) * whole[0] + left + column) * 3 + channel];
      }
    }
  }
  return planes;
}

// Size of the resized photo, and where the square is cut out of it.
export function placeOf([width, height], {size, crop_pct, crop_mode}) {
  const side = Math.trunc(size / crop_pct), short = Math.min(width, height);
  const fitted = length => (crop_mode === 'squash' || length === short ? side : Math.trunc((side * length) / short));
  const whole = [fitted(width), fitted(height)];
  return {whole, left: roundHalfToEven((whole[0] - size) / 2), top: roundHalfToEven((whole[1] - size) / 2)};
}

function roundHalfToEven(value) { // as Python's `round`
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}

// Reads rows of a decoded photo; transparent parts become white.
function reader(bitmap, band) {
  const canvas = new OffscreenCanvas(bitmap.width, band);
  const context = canvas.getContext('2d', {willReadFrequently: true});
  return (top, rows) => {
    context.fillStyle = 'white';
    context.fillRect(0, 0, bitmap.width, band);
    context.drawImage(bitmap, 0, -top);
    return context.getImageData(0, 0, bitmap.width, rows).data;
  };
}

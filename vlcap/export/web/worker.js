// Loads and runs the captioner, beside the page, which stays responsive. main.js starts it.
//
// It is told:  {kind: 'start', base}             load the captioner from the page's folder
//              {kind: 'photo', number, bitmap, budgets}   caption a photo at these budgets, in this order
// It tells:    {kind: 'loading', loaded, total}  bytes
//              {kind: 'ready', site, ms}
//              {kind: 'growing', number, budget, text}   a caption that is being written
//              {kind: 'caption', number, budget, text, words, score, ms}
//              {kind: 'failed', number, message}  with number null, nothing can be captioned

import {Captioner, prepare} from './captioner.js';
import {cut} from './photo.js';

const PROGRAM = 'onnxruntime-web.wasm';

let captioner = null;
let newest = 0; // number of the newest photo: older ones are given up

self.onmessage = async ({data}) => {
  try {
    if (data.kind === 'start') await start(data.base);
    else await caption(data);
  } catch (error) {
    const number = data.kind === 'photo' ? data.number : null;
    postMessage({kind: 'failed', number, message: error instanceof Error ? error.message : String(error)});
  }
};

async function start(base) {
  const begin = performance.now();
  const answer = await fetch(new URL('site.json', base), {cache: 'no-cache'});
  if (!answer.ok) throw new Error(`site.json: the host answered ${answer.status}`);
  const site = await answer.json();
  captioner = new Captioner(site, await load(site.files, base));
  await captioner.load(site.budget);
  postMessage({kind: 'ready', site, ms: performance.now() - begin});
}

// The content of the site's large files, by name. A file that some hosts would refuse for its size is stored in parts.
async function load(files, base) {
  const total = Object.values(files).reduce((sum, file) => sum + file.bytes, 0);
  let loaded = 0, told = 0;
  const count = bytes => {
    loaded += bytes;
    if (loaded - told < 250_000 && loaded < total) return;
    told = loaded;
    postMessage({kind: 'loading', loaded, total});
  };
  const contents = await Promise.all(Object.entries(files).map(async ([name, {bytes, parts, digest}]) => {
    const content = new Uint8Array(bytes);
    let offset = 0;
    const reads = parts.map(([part, length]) => {
      const into = content.subarray(offset, offset + length);
      offset += length;
      // The digest makes the address new when the content is: no old copy of the browser's is mixed with new files.
      return read(new URL(`${part}?${digest}`, base), into, count);
    });
    await Promise.all(reads);
    if (name === PROGRAM) prepare(content);
    return [name, content];
  }));
  return new Map(contents);
}

async function read(address, into, count) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address.pathname}: the host answered ${answer.status}`);
  let place = 0;
  const reader = answer.body.getReader();
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    if (place + value.length > into.length) throw new Error(`${address.pathname}: longer than it was written`);
    into.set(value, place);
    place += value.length;
    count(value.length);
  }
  if (place < into.length) throw new Error(`${address.pathname}: cut short`);
}

async function caption({number, bitmap, budgets}) {
  newest = number;
  const pixels = cut(bitmap, captioner.site.pixels);
  bitmap.close();
  for (const budget of budgets) {
    const found = await captioner.caption(pixels, budget, text => postMessage({kind: 'growing', number, budget, text}));
    postMessage({kind: 'caption', number, budget, ...found});
    await new Promise(resolve => setTimeout(resolve)); // lets the message of a newer photo in
    if (number !== newest) return;
  }
}

// Runs a captioner's graphs with ONNX Runtime, as vlcap/engines/onnx.py does. vlcap/export/graphs.py names their inputs
// and outputs.
//
// Letters: L layers, K heads, d width of a head, S slots of the cache, M compressed tokens, G beams, V pieces

import * as ort from './onnxruntime-web.js';
import {findCaption} from './search.js';
import {textOf, wordsOf} from './tokenizer.js';

const MOST_THREADS = 4;

// Starts ONNX Runtime, whose program takes a while to compile: the weights can be loaded meanwhile.
//   program: Uint8Array, the WebAssembly
export async function prepare(program) {
  ort.env.wasm.wasmBinary = program;
  // Threads share memory, which a browser allows only to a page that its host isolates from others.
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
  ort.env.logLevel = 'error';
  // It starts with the first session. An empty graph is refused after that; a real one will tell what is wrong.
  await ort.InferenceSession.create(new Uint8Array(1)).catch(() => {});
}

export class Captioner {
  // site: what site.json says;  files: Map from name to Uint8Array
  constructor(site, files) {
    this.site = site;
    this.files = files;
    this.sessions = new Map();
  }

  // The session of a graph, made when it is first needed.
  async session(name) {
    if (!this.sessions.has(name)) {
      const externalData = this.site.graphs[name].map(path => ({path, data: this.files.get(path)}));
      const options = {executionProviders: ['wasm'], externalData};
      this.sessions.set(name, await ort.InferenceSession.create(this.files.get(`${name}.onnx`), options));
    }
    return this.sessions.get(name);
  }

  // Loads what the caption of a budget needs.
  async load(budget) {
    await this.session('decoder');
    await this.session(`encoder-${budget}`);
  }

  // The caption of a photo: {text, words, score, ms}. Score: mean log-probability of its pieces and its end.
  //   pixels: Uint8Array (3, S, S);  watch: called after each step with the text so far
  async caption(pixels, budget, watch = () => {}) {
    await this.load(budget);
    const {search, pieces, vocab_size: vocabSize} = this.site, {marks} = pieces, size = this.site.pixels.size;
    const start = performance.now();
    const encoder = await this.session(`encoder-${budget}`);
    const {photo} = await encoder.run({pixels: new ort.Tensor('uint8', pixels, [1, 3, size, size])}, ['photo']);
    const decoding = new Decoding(await this.session('decoder'), photo, 1 + (search.max_new_tokens - 1) * search.num_beams);
    const written = await findCaption(decoding, search, marks, vocabSize, ids => watch(textOf(ids, pieces)));
    const ids = written.ids.filter(id => ![marks.pad, marks.start, marks.eos].includes(id));
    const sum = written.logprobs.reduce((total, each) => total + each, 0);
    return {
      text: textOf(ids, pieces),
      words: wordsOf(ids, written.logprobs, pieces),
      score: written.logprobs.length ? sum / written.logprobs.length : 0,
      ms: performance.now() - start,
    };
  }
}

// The state of decoding: keys and values of the compressed tokens and of all pieces written so far.
class Decoding {
  // photo: Tensor (L, 2, 1, K, M, d);  slots: S
  constructor(session, photo, slots) {
    const [layers, , , heads, tokens, width] = photo.dims;
    Object.assign(this, {session, layers, heads, width, slots, used: 0, steps: 0});
    this.photo = this.split(photo.data, [1, heads, tokens, width]).map(
      (data, part) => [this.names(part, 'photo_'), new ort.Tensor('float32', data, [1, heads, tokens, width])]);
    // Zeros: attention gives empty slots no weight, but no weight times NaN would be NaN.
    this.cache = Array.from({length: 2 * layers}, () => new Float32Array(heads * slots * width));
    this.mask = [new Float32Array(slots).fill(-Infinity)]; // for each beam, 0 for its past
  }

  // An array (L, 2, ...) in its 2 L parts of this shape.
  split(data, shape) {
    const size = shape.reduce((product, each) => product * each, 1);
    return Array.from({length: 2 * this.layers}, (_, part) => data.subarray(part * size, (part + 1) * size));
  }

  names(part, prefix = '') {
    return `${prefix}${part % 2 ? 'values' : 'keys'}_${Math.floor(part / 2)}`;
  }

  // Writes one piece for each beam. Returns the logits of the next pieces, Float32Array (G * V).
  async step(pieces) {
    const beams = pieces.length, {heads, slots, width} = this;
    const mask = new Float32Array(beams * slots);
    this.mask.forEach((row, beam) => mask.set(row, beam * slots));
    const feeds = {
      pieces: new ort.Tensor('int64', BigInt64Array.from(pieces, BigInt), [1, beams]),
      position: new ort.Tensor('int64', BigInt64Array.of(BigInt(this.steps)), [1]),
      mask: new ort.Tensor('float32', mask, [1, 1, beams, slots]),
      ...Object.fromEntries(this.photo),
    };
    this.cache.forEach((data, part) => {
      feeds[this.names(part)] = new ort.Tensor('float32', data, [1, heads, slots, width]);
    });
    const {logits, new: added} = await this.session.run(feeds, ['logits', 'new']);
    this.split(added.data, [heads, beams, width]).forEach((data, part) => {
      for (let head = 0; head < heads; head++) {
        const own = data.subarray(head * beams * width, (head + 1) * beams * width);
        this.cache[part].set(own, (head * slots + this.used) * width);
      }
    });
    this.used += beams;
    this.steps += 1;
    if (beams === 1) this.mask[0][this.used - 1] = 0; // the only beam's past; beams get theirs by `fork`
    return logits.data;
  }

  // To be called after a step: each beam goes on from the beam of this number.
  fork(parents) {
    const before = this.mask.length;
    if (before === parents.length) { // each beam of before has a slot of its own for its last piece
      this.mask.forEach((row, beam) => { row[this.used - before + beam] = 0; });
    }
    this.mask = parents.map(parent => this.mask[before === parents.length ? parent : 0].slice());
  }
}

// The search for a caption: greedy or beams, as vlcap/model/search.py. The rules are Hugging Face's.
//
//   const written = await findCaption(decoding, search, marks, vocabSize);
//   written.ids, written.logprobs
//
// `decoding` computes the scores (captioner.js): step(pieces) -> Float32Array, the logits (G * V) of the next piece of
// each beam, and fork(parents). Numbers are rounded to float32 where Python's are, so that both choose the same pieces.
//
// Letters: G beams, V pieces of the vocabulary

// The caption of one photo.
//   search: settings with Hugging Face's names, all of them
//   marks: {start, eos, pad}, ids of special pieces
//   watch: called after each step with the pieces of the leading caption
export async function findCaption(decoding, search, marks, vocabSize, watch = () => {}) {
  const photo = search.num_beams === 1 ? new Single(search, marks) : new Beams(search, marks);
  let beams = 1; // all beams are the same until the first piece is written
  while (!photo.done) {
    const running = photo.running.slice(0, beams);
    const logits = await decoding.step(running.map(ids => ids.at(-1)));
    photo.advance(candidates(logits, running, photo.scores, search, marks, vocabSize), vocabSize);
    watch(photo.leader);
    beams = search.num_beams;
    if (beams > 1 && !photo.done) decoding.fork(photo.parents);
  }
  return photo.best;
}

// The pieces that may come next, the best first: one without beams, otherwise 2 G.
// Each is {value, place, logprob}: the log-probability of the caption with the piece, under the search's penalties;
// beam * V + piece; the log-probability of the piece, as the decoder gave it.
export function candidates(logits, running, scores, search, marks, vocabSize) {
  const logprobs = running.map((_, beam) => logSoftmax(logits.subarray(beam * vocabSize, (beam + 1) * vocabSize)));
  if (search.num_beams === 1) {
    const adjusted = adjust(logits.slice(0, vocabSize), running[0], search, marks);
    const place = adjusted.indexOf(adjusted.reduce((most, value) => Math.max(most, value), -Infinity));
    return [{value: 0, place, logprob: logprobs[0][place]}];
  }
  const best = new Best(2 * search.num_beams);
  running.forEach((ids, beam) => {
    const adjusted = adjust(logprobs[beam].slice(), ids, search, marks);
    const before = Math.fround(scores[beam]);
    for (let piece = 0; piece < vocabSize; piece++) {
      const value = Math.fround(adjusted[piece] + before);
      if (value > best.bar) best.add({value, place: beam * vocabSize + piece, logprob: logprobs[beam][piece]});
    }
  });
  return best.found;
}

// The N candidates of the highest value; of equals, those that come first.
class Best {
  constructor(size) {
    this.size = size;
    this.found = [];
    this.bar = -Infinity; // what a candidate has to exceed
  }

  add(candidate) {
    let place = this.found.length;
    while (place > 0 && this.found[place - 1].value < candidate.value) place--;
    this.found.splice(place, 0, candidate);
    if (this.found.length > this.size) this.found.pop();
    if (this.found.length === this.size) this.bar = this.found.at(-1).value;
  }
}

// Log-probabilities of logits, float32.
export function logSoftmax(logits) {
  const most = logits.reduce((highest, value) => Math.max(highest, value), -Infinity);
  let sum = 0;
  for (const value of logits) sum += Math.exp(Math.fround(value - most));
  const log = Math.log(sum);
  return logits.map(value => Math.fround(value - most) - log);
}

// Lowers the scores of repeated pieces, as in CTRL (arXiv 1909.05858), and allows no end before the minimum.
function adjust(scores, ids, search, marks) {
  const penalty = Math.fround(search.repetition_penalty);
  if (penalty !== 1) {
    for (const piece of new Set(ids)) scores[piece] = scores[piece] < 0 ? scores[piece] * penalty : scores[piece] / penalty;
  }
  if (ids.length <= search.min_new_tokens) scores[marks.eos] = -Infinity; // the start does not count
  return scores;
}

// Greedy search: one piece comes next.
class Single {
  constructor(search, marks) {
    this.limit = 1 + search.max_new_tokens;
    this.marks = marks;
    this.running = [[marks.start]];
    this.scores = [0];
    this.logprobs = [];
    this.done = false;
  }

  get best() {
    return {ids: this.running[0], logprobs: this.logprobs};
  }

  get leader() {
    return this.running[0];
  }

  advance([{place, logprob}]) {
    this.running = [[...this.running[0], place]];
    this.logprobs.push(logprob);
    this.done = place === this.marks.eos || this.running[0].length === this.limit;
  }
}

// Beam search.
//   running: pieces of each beam, the likeliest beam first; before the first step, only the start in each
//   scores: log-probabilities of the beams, under the search's penalties
//   logprobs: log-probabilities of each beam's pieces, before penalties
//   parents: for each beam, the beam of the previous step that it continues
//   finished: captions that have ended, {score, ids, logprobs}, the best first; score by length
//   leader: pieces of the likeliest candidate of the last step, whether it has ended or not
//   done: whether the best caption is certain: no running beam can beat it
class Beams {
  constructor(search, marks) {
    const each = value => Array.from({length: search.num_beams}, () => value);
    this.search = search;
    this.marks = marks;
    this.running = each([marks.start]);
    this.scores = each(0);
    this.logprobs = each([]);
    this.parents = each(0);
    this.finished = [];
    this.leader = [marks.start];
    this.done = false;
  }

  get best() {
    return this.finished[0] ?? {ids: this.running[0], logprobs: this.logprobs[0]};
  }

  // Takes one step: the 2 G likeliest candidates come in, of which at most G end.
  advance(candidates, vocabSize) {
    const {search, marks} = this, width = search.num_beams;
    const length = this.running[0].length; // of the caption with the next piece; the start does not count
    const atLimit = length === search.max_new_tokens;
    const found = candidates.map(({value, place, logprob}) => {
      const beam = Math.floor(place / vocabSize), piece = place % vocabSize;
      return {
        value,
        beam,
        ids: [...this.running[beam], piece],
        logprobs: [...this.logprobs[beam], logprob],
        ended: atLimit || piece === marks.eos,
      };
    });
    this.leader = found[0].ids;
    // A caption that ends below the G likeliest is dropped: it cannot be chosen, and cannot go on.
    for (const {value, ids, logprobs, ended} of found.slice(0, width)) {
      if (ended) this.finished.push({score: value / length ** search.length_penalty, ids, logprobs});
    }
    this.finished.sort((one, other) => other.score - one.score);
    this.finished.length = Math.min(this.finished.length, width);
    if (atLimit) {
      this.done = true;
      return;
    }
    const going = found.filter(each => !each.ended).slice(0, width);
    this.scores = going.map(each => each.value);
    this.parents = going.map(each => each.beam);
    this.running = going.map(each => each.ids);
    this.logprobs = going.map(each => each.logprobs);
    if (this.finished.length === width) {
      const ahead = search.early_stopping === 'never' && search.length_penalty > 0 ? search.max_new_tokens : length;
      const hope = this.scores[0] / ahead ** search.length_penalty;
      this.done = search.early_stopping === true || !(hope > this.finished.at(-1).score);
    }
  }
}

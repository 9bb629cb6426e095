// Pieces of a caption -> its text and its words. Only this side of the tokenizer is needed.
//
// `pieces` is {texts, marks: {pad, eos, unk, start}, silent, bytes}, from site.json: the text of each piece by its id,
// and the pieces without a text. SentencePiece's mark stands where a word begins. In a byte-level vocabulary, `bytes` is
// the byte of each letter of such a text; otherwise it is null.

const WORD_MARK = '\u2581';

const SPACE_BEFORE = /^[^\S\ufeff]+/; // the spaces that Python knows
const LINE_END = /[\n\v\f\r\x1c-\x1e\x85\u2028\u2029]/;

// Ids of pieces -> the text of the caption on one line, as the `tokenizers` library decodes it.
export function textOf(ids, {texts, silent, bytes}) {
  const names = ids.filter(id => !silent.includes(id)).map(id => texts[id]);
  const text = bytes ? decoded(names, bytes).join('') : names.join('').replaceAll(WORD_MARK, ' ');
  return text.split(LINE_END).map(line => line.trim()).filter(line => line).join(' ');
}

// Names of byte-level pieces -> their texts. A letter that lies in several pieces belongs to the last of them.
function decoded(names, bytes) {
  const decoder = new TextDecoder('utf-8', {ignoreBOM: true});
  const texts = names.map(name => [...name].every(letter => letter in bytes)
    ? decoder.decode(Uint8Array.from(name, letter => bytes[letter]), {stream: true}) : name);
  return texts.length ? [...texts.slice(0, -1), texts.at(-1) + decoder.decode()] : texts;
}

// The words of a caption, each with its probability: the product of its pieces'. As vlcap/attention.py.
//   ids: without start and end;  logprobs: one for each piece
export function wordsOf(ids, logprobs, {texts, marks, bytes}) {
  const names = ids.map(id => id === marks.unk ? '' : texts[id]);
  const marked = text => text.replace(SPACE_BEFORE, WORD_MARK);
  const pieces = bytes ? decoded(names, bytes).map(marked) : names;
  const words = [];
  pieces.forEach((piece, place) => {
    const chance = Math.exp(logprobs[place] ?? 0);
    if (piece.startsWith(WORD_MARK) || !words.length) {
      words.push({text: piece.replace(WORD_MARK, ''), probability: chance});
    } else {
      words.at(-1).text += piece;
      words.at(-1).probability *= chance;
    }
  });
  return words.filter(word => word.text);
}

// For each of some captions, given as lists of words: whether each word is missing from another one at that place.
export function markDifferent(captions) {
  return captions.map(own => {
    const shared = captions.map(other => inCommon(own, other));
    return own.map((_, place) => !shared.every(places => places.has(place)));
  });
}

// Places of the words of `own` that belong to the longest sequence of words that `other` has as well, in that order.
function inCommon(own, other) {
  const length = Array.from({length: own.length + 1}, () => new Array(other.length + 1).fill(0));
  for (let i = own.length - 1; i >= 0; i--) {
    for (let j = other.length - 1; j >= 0; j--) {
      length[i][j] = own[i] === other[j] ? length[i + 1][j + 1] + 1 : Math.max(length[i + 1][j], length[i][j + 1]);
    }
  }
  const places = new Set();
  for (let i = 0, j = 0; i < own.length && j < other.length;) {
    if (own[i] === other[j]) {
      places.add(i);
      i++;
      j++;
    } else if (length[i + 1][j] >= length[i][j + 1]) {
      i++;
    } else {
      j++;
    }
  }
  return places;
}

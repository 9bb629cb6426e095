// Pieces of a caption -> its text and its words. Only this side of the tokenizer is needed.
//
// `pieces` is {texts, marks: {pad, eos, unk, start}, silent}, from site.json: the text of each piece by its id, and the
// pieces without a text. SentencePiece's mark stands where a word begins.

const WORD_MARK = '\u2581';

// Ids of pieces -> the text of the caption, as the `tokenizers` library decodes it.
export function textOf(ids, {texts, silent}) {
  return ids.filter(id => !silent.includes(id)).map(id => texts[id]).join('').replaceAll(WORD_MARK, ' ').trim();
}

// The words of a caption, each with its probability: the product of its pieces'. As vlcap/attention.py.
//   ids: without start and end;  logprobs: one for each piece
export function wordsOf(ids, logprobs, {texts, marks}) {
  const words = [];
  ids.forEach((id, place) => {
    const piece = id === marks.unk ? '' : texts[id];
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

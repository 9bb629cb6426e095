// The page: takes a photo, and shows its caption and those of all budgets. worker.js computes them.
//
// Everything that comes from outside is set as text, never as HTML: names of files, and captions too. Part of vlcap
// (Apache-2.0).

import {decode, sizeProblem} from './photo.js';
import {markDifferent} from './tokenizer.js';

const find = selector => document.querySelector(selector);
const UNSURE = 30; // % of the accent color behind a word of probability 0

let site = null; // what site.json says; null until the captioner is loaded
let chosen = null; // the budget of the caption on top
let number = 0; // of the newest photo
let waiting = null; // a photo that was given before the captioner was loaded: a function
let captions = new Map(); // of the newest photo, by budget

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function show(selector, visible) {
  find(selector).hidden = !visible;
}

// The worker. It starts from a blob, so that the page's rule against other hosts holds in it as well: a worker from a
// file of its own would have none.
function startWorker() {
  const program = `import ${JSON.stringify(new URL('worker.js', document.baseURI).href)}; postMessage({kind: 'begun'});`;
  const address = URL.createObjectURL(new Blob([program], {type: 'text/javascript'}));
  const worker = new Worker(address, {type: 'module'});
  worker.onmessage = ({data}) => {
    if (data.kind !== 'begun') hear[data.kind](data);
    else worker.postMessage({kind: 'start', base: document.baseURI});
  };
  worker.onerror = event => fail(event.message || 'its program could not be loaded');
  return worker;
}

const hear = {
  loading({loaded, total}) {
    const mb = bytes => (bytes / 1e6).toFixed(1);
    find('#status').textContent =
      loaded < total ? `Loading the captioner: ${mb(loaded)} of ${mb(total)} MB` : 'Starting the captioner ...';
    Object.assign(find('#progress'), {hidden: false, value: loaded / total});
  },
  ready({site: read, ms}) {
    site = read;
    document.documentElement.dataset.ready = Math.round(ms);
    show('#loading', false);
    layOut();
    waiting?.();
    waiting = null;
  },
  growing({number: of, budget, text}) {
    if (of === number && budget === chosen) say(text, false);
  },
  caption({number: of, budget, ...found}) {
    if (of !== number) return;
    captions.set(budget, found);
    showCaptions();
  },
  failed({number: of, message}) {
    if (of === null) fail(message);
    else if (of === number) refuse(`This photo could not be captioned: ${message}`);
  },
};

function fail(message) {
  find('#loading').classList.add('failed');
  show('#loading', true);
  show('#progress', false);
  find('#status').textContent = `The captioner could not be loaded: ${message}. Reload the page to try again.`;
  find('#status').setAttribute('role', 'alert');
}

// What site.json says: the examples, the slider, the captioner's description.
function layOut() {
  chosen = site.budget;
  const slider = find('#budget'), at = site.budgets.indexOf(chosen);
  Object.assign(slider, {max: site.budgets.length - 1, value: at, disabled: site.budgets.length < 2});
  find('.grid').style.setProperty('--side', site.grid);
  find('.patches').replaceChildren(element('b', {textContent: site.grid ** 2}), ' patches');
  find('.steps').replaceChildren(...site.budgets.map(side => element('span', {textContent: side ** 2})));
  slider.addEventListener('input', () => {
    chosen = site.budgets[slider.value];
    showSlider();
    showCaptions();
  });
  showSlider();
  show('#choice', true);
  const sources = find('#examples .sources');
  for (const {name, file} of site.examples) {
    const picture = element('img', {src: file, alt: ''});
    const button = element('button', {type: 'button'}, picture, name);
    button.addEventListener('click', () => take(name, fetched(file)));
    sources.before(button);
  }
  sources.textContent = site.examples.map(({name, source}) => `${name}: ${source}`).join('; ');
  show('#examples', site.examples.length > 0);
  find('#about').replaceChildren(`${site.description} `);
  site.links.forEach(({text, file}, place) => {
    find('#about').append(place ? ' · ' : '', element('a', {href: file, textContent: text}));
  });
}

function showSlider() {
  const count = chosen ** 2, slider = find('#budget');
  slider.setAttribute('aria-valuetext', `${count} tokens of ${site.grid ** 2} patches`);
  find('.grid.tokens').style.setProperty('--side', chosen);
  find('.tokens-count').replaceChildren(element('b', {textContent: count}), ' tokens');
}

// A photo that was chosen, dropped, pasted, or is an example.
//   name: for messages;  coming: its file, or a promise of it
async function take(name, coming) {
  const mine = begin();
  try {
    const file = await coming;
    if (file.size === 0) throw new Error('the file is empty');
    const address = await measured(file);
    const bitmap = await decode(file).catch(() => { throw new Error('damaged or cut short, it cannot be decoded'); });
    if (mine !== number) return;
    Object.assign(find('#photo'), {src: address, alt: 'Your photo', hidden: false});
    show('#invitation', false);
    say('...', false);
    waiting = () => worker.postMessage({kind: 'photo', number: mine, bitmap, budgets: ordered()}, [bitmap]);
    if (site) {
      waiting();
      waiting = null;
    }
    find('#card').scrollIntoView({block: 'nearest'}); // a phone needs it
  } catch (error) {
    if (mine === number) refuse(`${name}: ${error.message}`);
  }
}

// A new photo comes: nothing of the last one stays. Returns the number of the new one.
function begin() {
  captions = new Map();
  waiting = null;
  URL.revokeObjectURL(find('#photo').src);
  for (const each of ['#problem', '#budgets', '#doubt', '#photo']) show(each, false);
  show('#invitation', true);
  delete find('#budgets').dataset.done;
  find('#facts').textContent = find('#told').textContent = '';
  say('Choose a photo first.', true);
  return ++number;
}

// The address at which the page can show a photo's file, after its size is known to be bearable: it is not decoded yet.
async function measured(file) {
  const address = URL.createObjectURL(file), image = new Image();
  const known = new Promise((resolve, reject) => {
    image.onload = resolve;
    image.onerror = () => reject(new Error(
      'not a photo that this browser can show: JPEG, PNG, WebP, GIF, BMP and AVIF usually are. Save it as one of them'));
  });
  image.src = address;
  await known;
  const problem = sizeProblem(image.naturalWidth, image.naturalHeight);
  if (problem) {
    URL.revokeObjectURL(address);
    throw new Error(problem);
  }
  return address;
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`the host answered ${answer.status}`);
  return answer.blob();
}

// The budget of the caption on top first, then all others, the smallest first.
function ordered() {
  return [chosen, ...site.budgets.filter(side => side !== chosen)];
}

function refuse(message) {
  find('#problem').textContent = message;
  show('#problem', true);
  show('#photo', false);
  show('#invitation', true);
  find('#file').value = '';
  say('Choose a photo first.', true);
}

// Text where the caption stands.
function say(text, none) {
  find('#said').classList.toggle('none', none);
  find('#said').textContent = text;
}

const cost = side => `${side ** 2} tokens · ${site.gflops[site.budgets.indexOf(side)].toPrecision(3)} GFLOPs`;

function showCaptions() {
  if (!captions.size) return;
  const found = captions.get(chosen);
  show('#doubt', Boolean(found));
  if (found) {
    say('', false);
    found.words.forEach(({text, probability}, place) => {
      const word = element('span', {className: 'word', textContent: text, title: `${percent(probability)} sure`});
      word.style.setProperty('--doubt', `${Math.round(UNSURE * (1 - probability))}%`);
      find('#said').append(place ? ' ' : '', word);
    });
    find('#facts').textContent = `${cost(chosen)} · ${Math.round(found.ms)} ms`;
    find('#doubt').replaceChildren(element('b', {textContent: 'It may be wrong.'}),
      ` ${site.judged} It is ${percent(Math.exp(found.score))} sure of this one on average. Shaded words are less sure.`);
    find('#told').textContent = `${found.text}. ${chosen ** 2} tokens.`;
  } else {
    say('...', false);
    find('#facts').textContent = cost(chosen);
  }
  showTable();
}

const percent = share => `${Math.round(100 * share)}%`;

function showTable() {
  const most = Math.max(...site.gflops), known = site.budgets.filter(side => captions.has(side));
  const words = known.map(side => captions.get(side).text.split(/\s+/).filter(Boolean));
  const different = markDifferent(words);
  find('#budgets tbody').replaceChildren(...site.budgets.map((side, place) => {
    const grid = element('span', {className: 'grid tokens', ariaHidden: 'true'});
    grid.style.setProperty('--side', side);
    const at = known.indexOf(side), text = element('td', {className: 'text'});
    if (at < 0) text.textContent = '...';
    else words[at].forEach((word, i) => text.append(i ? ' ' : '', different[at][i] ? element('mark', {}, word) : word));
    const bar = element('div', {className: 'bar', ariaHidden: 'true'});
    bar.style.width = percent(site.gflops[place] / most);
    const row = element('tr', {},
      element('th', {scope: 'row', className: 'number'}, grid, `${side ** 2} tokens`),
      text,
      element('td', {className: 'number bars'}, `${site.gflops[place].toPrecision(3)} GFLOPs`, bar));
    if (side === chosen) row.setAttribute('aria-current', 'true');
    return row;
  }));
  const all = known.length === site.budgets.length, same = all && different.flat().every(each => !each);
  find('#budgets caption').textContent = site.budgets.length === 1 ? 'This captioner has one number of tokens.'
    : same ? 'The same photo from fewer and more tokens: the caption is the same.'
      : 'The same photo from fewer and more tokens. Words that differ are underlined.';
  find('#budgets').dataset.done = all;
  show('#budgets', true);
}

function listen() {
  const takeFile = file => take(file.name || 'The photo', file);
  const drop = find('#drop'), input = find('#file');
  input.addEventListener('change', () => {
    if (input.files[0]) takeFile(input.files[0]);
    input.value = ''; // the same file may be chosen again
  });
  // Over the whole page: a photo dropped beside its place must not replace the page.
  document.addEventListener('dragover', event => { event.preventDefault(); drop.classList.add('over'); });
  document.addEventListener('dragleave', () => drop.classList.remove('over'));
  document.addEventListener('drop', event => {
    event.preventDefault();
    drop.classList.remove('over');
    if (event.dataTransfer.files[0]) takeFile(event.dataTransfer.files[0]);
  });
  document.addEventListener('paste', event => {
    if (event.clipboardData.files[0]) takeFile(event.clipboardData.files[0]);
  });
}

find('#status').textContent = 'Loading the captioner ...';
listen();
const worker = startWorker();

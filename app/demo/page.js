() => {
  // What the page does in the browser: maps over the photo, sorting, fields put back, and what a reload needs.

  const find = selector => document.querySelector(selector);

  // A map over the photo: of the word or block that is pointed at or focused, else of the one that was clicked.
  let pinned = null;

  function shownPhoto() {  // where the photo is on the stage; its element may be larger
    const image = find('#photo img'), stage = find('#stage');
    if (!image || !image.naturalWidth) return null;
    const outer = stage.getBoundingClientRect(), inner = image.getBoundingClientRect();
    const scale = Math.min(inner.width / image.naturalWidth, inner.height / image.naturalHeight);
    const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
    return {
      left: inner.left - outer.left + (inner.width - width) / 2,
      top: inner.top - outer.top + (inner.height - height) / 2,
      width, height,
    };
  }

  function show(button) {
    const map = find('#word_map .map'), place = button && shownPhoto();
    if (!map) return;
    map.hidden = !place;
    if (!place) return;
    for (const [name, value] of Object.entries(place)) map.style[name] = `${value}px`;
    const [left, top, right, bottom] = button.closest('[data-box]').dataset.box.split(' ').map(Number);
    const image = map.querySelector('img');
    image.src = button.dataset.heat;
    image.alt = button.dataset.alt;
    Object.assign(image.style, {
      left: `${100 * left}%`, top: `${100 * top}%`,
      width: `${100 * (right - left)}%`, height: `${100 * (bottom - top)}%`,
    });
    map.querySelector('figcaption').textContent = button.dataset.name;
  }

  function pin(button) {
    pinned?.setAttribute('aria-pressed', 'false');
    pinned = button === pinned ? null : button;
    pinned?.setAttribute('aria-pressed', 'true');
    show(pinned);
  }

  const looked = event => event.target.closest?.('button.look');
  document.addEventListener('mouseover', event => { if (looked(event)) show(looked(event)); });
  document.addEventListener('mouseout', event => { if (looked(event)) show(pinned); });
  document.addEventListener('focusin', event => { if (looked(event)?.matches(':focus-visible')) show(looked(event)); });
  document.addEventListener('focusout', event => { if (looked(event)) show(pinned); });
  window.addEventListener('resize', () => show(pinned));
  document.addEventListener('click', event => {
    const button = looked(event);
    if (!button) return;
    pin(button);
    if (pinned) find('#stage').scrollIntoView({block: 'nearest'});  // a phone needs it
  });
  document.addEventListener('keydown', event => {
    const button = looked(event);
    if (!button) return;
    if (event.key === 'Escape') { pin(pinned); return; }
    const all = [...button.parentElement.querySelectorAll('button.look')], at = all.indexOf(button);
    const to = {ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: all.length - 1};
    const next = all[to[event.key]];
    if (next === undefined) return;
    event.preventDefault();
    for (const each of all) each.tabIndex = each === next ? 0 : -1;
    next.focus();
  });

  // The rows of a batch, in the order that was asked for, while more of them arrive.
  const order = {column: null, down: false};

  function sort() {
    const table = find('#report table');
    if (!table || order.column === null) return;
    const body = table.tBodies[0], key = row => row.cells[order.column].dataset.key;
    const compare = (a, b) => key(a).localeCompare(key(b), undefined, {numeric: true}) * (order.down ? -1 : 1);
    const rows = [...body.rows], sorted = [...rows].sort(compare);
    if (sorted.some((row, place) => row !== rows[place])) body.append(...sorted);
    [...table.tHead.rows[0].cells].forEach((cell, place) => {
      if (place === order.column) cell.setAttribute('aria-sort', order.down ? 'descending' : 'ascending');
      else cell.removeAttribute('aria-sort');
    });
  }

  document.addEventListener('click', event => {
    const cell = event.target.closest?.('table.batch th button')?.parentElement;
    if (!cell) return;
    order.down = order.column === cell.cellIndex && !order.down;
    order.column = cell.cellIndex;
    sort();
  });

  // Fields of numbers: an emptied one, or one out of range, is put back before Gradio reads it.
  const good = new WeakMap();
  const isNumber = element => element.matches?.('#advanced input[type=number]');
  document.addEventListener('focus', event => { if (isNumber(event.target)) good.set(event.target, event.target.value); }, true);
  document.addEventListener('blur', event => {
    const field = event.target;
    if (!isNumber(field)) return;
    const value = field.value === '' ? NaN : Number(field.value);
    const fixed = Number.isNaN(value) ? good.get(field) : Math.min(Math.max(value, field.min), field.max);
    const why = Number.isNaN(value) ? 'it was empty' : value > fixed ? `${fixed} is the most` : `${fixed} is the least`;
    find('#put_back').textContent = fixed == value ? '' : `Put back to ${fixed}: ${why}.`;
    if (fixed == value) return;
    field.value = fixed;
    field.dispatchEvent(new Event('input', {bubbles: true}));
  }, true);
  document.addEventListener('change', event => {  // arrow keys on a slider: Gradio waits for a pointer
    if (event.target.matches?.('#advanced input[type=range]')) event.target.dispatchEvent(new PointerEvent('pointerup'));
  });

  // Another caption has no use for the map of the last one's word.
  let words = null;
  new MutationObserver(() => {
    if (pinned && !pinned.isConnected) pinned = null;
    const now = find('#caption .said')?.textContent;
    if (now !== words) { pinned?.setAttribute('aria-pressed', 'false'); pinned = null; show(null); }
    words = now;
    sort();
  }).observe(document.body, {childList: true, subtree: true, characterData: true});

  // The photo and the settings of this tab: their names only, the photo itself stays where it is. See page.py.
  if (sessionStorage.getItem('vlcap')) {
    const wait = setInterval(() => {
      if (!find('#restore')) return;
      clearInterval(wait);
      find('#restore').click();
    }, 50);
  }
}

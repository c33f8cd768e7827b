// Keyboard control of the charts, the list of keys, and the description for screen readers. The page has one listener:
// a chart registers with attach(), and calls describe() after each drawing. Streamlit itself uses r and c, Plotly none.

const { clock, fixed, made } = await import(import.meta.url.replace("/keys.js", "/dom.js"));

const PAN = 0.2; // of the visible time range
const ZOOM = 1.25;
const FEWEST = 10; // visible candles
const AROUND_PRICES = 0.06;
const TYPING = "input, textarea, select, [contenteditable], [role=listbox], [role=menu], [role=slider], dialog";
const HELP = [
  ["\u2190 \u2192", "earlier, later"],
  ["\u2191 \u2193 or + \u2212", "zoom in, zoom out"],
  ["Home", "the oldest candles"],
  ["End", "back to live"],
  ["[ ]", "shorter, longer look-back"],
  [", .", "shorter, longer candles"],
  ["/", "another symbol"],
  ["?", "this list"],
];
const ON_CHART = {
  ArrowLeft: (chart) => pan(chart, -PAN),
  ArrowRight: (chart) => pan(chart, PAN),
  ArrowUp: (chart) => zoom(chart, 1 / ZOOM),
  ArrowDown: (chart) => zoom(chart, ZOOM),
  Home: (chart) => pan(chart, -Infinity),
  End: (chart) => { wanted.delete(chart); chart.followLive(); },
};
Object.assign(ON_CHART, {
  "+": ON_CHART.ArrowUp, "=": ON_CHART.ArrowUp, "-": ON_CHART.ArrowDown, "_": ON_CHART.ArrowDown,
});
const ON_PAGE = {
  "[": () => choose("Look-back", -1),
  "]": () => choose("Look-back", 1),
  ",": () => choose("Candle", -1),
  ".": () => choose("Candle", 1),
  "/": () => {
    const picker = document.querySelector(".st-key-symbol input");
    picker?.focus();
    picker?.select();
  },
  "?": () => showHelp(current()),
};

let attached = 0;
const charts = new Set();
const wanted = new Map(); // chart -> the time range to show in the next animation frame

export function attach(chart) {
  charts.add(chart);
  const { plot, frame } = chart;
  plot.tabIndex = 0;
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-roledescription", "price chart");
  // Plotly prevents a click from moving the focus, so keys would go to the control used before.
  plot.addEventListener("pointerdown", () => plot.focus({ preventScroll: true }), true);
  chart.summary = made(frame, "p", "cf-unseen");
  chart.summary.id = `cf-summary-${attached++}`;
  plot.setAttribute("aria-describedby", chart.summary.id);
  const help = made(frame, "button", "cf-help", "?");
  help.type = "button";
  help.title = help.ariaLabel = "Keys";
  help.onclick = () => showHelp(chart);
  return () => charts.delete(chart);
}

export function describe(chart) {
  const { title, places, figure: { data: [prices, volumes], facts } } = chart.sent;
  const highest = Math.max(...prices.high.filter((one) => one !== null));
  const lowest = Math.min(...prices.low.filter((one) => one !== null));
  const incomplete = facts.is_complete.filter((one) => !one).length;
  chart.plot.ariaLabel = `Price chart, ${title}`;
  chart.summary.textContent =
    `${volumes.x.length} candles, the first at ${clock(volumes.x[0])}, the last at ${clock(volumes.x.at(-1))}; ` +
    `highest ${fixed(highest, places)}, lowest ${fixed(lowest, places)}; ` +
    (incomplete ? `${incomplete} incomplete. ` : "all complete. ") + "Press question mark for the list of keys.";
}

// Returns the chart that keys act on: the one with the focus, else the one under the pointer, else the first.
function current() {
  const shown = [...charts].filter((one) => one.frame.isConnected && one.sent && one.plot.data);
  return shown.find((one) => one.frame.contains(document.activeElement))
    ?? shown.find((one) => one.frame.matches(":hover"))
    ?? shown[0];
}

function timesInSight(chart) {
  const { xaxis } = chart.plot._fullLayout;
  return wanted.get(chart) ?? xaxis.range.map((end) => xaxis.r2l(end));
}

// Shows a time range, at most once per animation frame however fast a held key repeats.
function show(chart, times) {
  if (!wanted.size) {
    requestAnimationFrame(() => {
      for (const [one, range] of wanted) one.moveTo(range, pricesAt(one, range));
      wanted.clear();
    });
  }
  wanted.set(chart, times);
}

function pan(chart, part) {
  const [from, to] = timesInSight(chart);
  const [begin, end] = chart.sent.figure.layout.xaxis.range;
  const width = to - from;
  const moved = Math.max(begin, Math.min(from + part * width, end - width));
  if (Math.abs(moved - from) >= 1) show(chart, [moved, moved + width]);
}

// Zooms with the right edge fixed; zooming in, with the newest candle at the right if the edge lies beyond it.
function zoom(chart, factor) {
  const [from, to] = timesInSight(chart);
  const { layout, data: [prices, volumes] } = chart.sent.figure;
  const [begin, end] = layout.xaxis.range;
  const newest = volumes.x.at(-1);
  const bucket = prices.x.at(-1) - newest;
  const width = Math.max(factor * (to - from), FEWEST * bucket);
  if (width >= end - begin) {
    ON_CHART.End(chart); // everything is visible again
    return;
  }
  const right = Math.max(begin + width, factor < 1 ? Math.min(to, newest + 1.5 * bucket) : Math.min(to, end));
  show(chart, [right - width, right]);
}

// Returns the price range, in Plotly's form, that fits the candles between two times; undefined if there are none.
function pricesAt(chart, [from, to]) {
  const { layout, data: [prices] } = chart.sent.figure;
  const isIn = (value, at) => value !== null && prices.x[at] >= from && prices.x[at] <= to;
  let low = Math.min(...prices.low.filter(isIn));
  let high = Math.max(...prices.high.filter(isIn));
  if (low > high) return undefined;
  if (layout.yaxis.type === "log") [low, high] = [Math.log10(low), Math.log10(high)];
  const around = AROUND_PRICES * (high - low || Math.abs(high) / 1_000);
  return [low - around, high + around];
}

function choose(label, step) {
  const options = [...document.querySelectorAll(`[role=radiogroup][aria-label="${label}"] [role=radio]`)];
  const chosen = options.findIndex((one) => one.ariaChecked === "true");
  if (chosen >= 0) options[chosen + step]?.click();
}

function showHelp(chart) {
  const dialog = made(chart?.frame ?? document.body, "dialog", "cf-keys");
  dialog.setAttribute("closedby", "any"); // a click outside closes it too
  dialog.ariaLabel = "Keys";
  const list = made(dialog, "dl", "");
  for (const [keys, does] of HELP) {
    const term = made(list, "dt", "");
    for (const key of keys.split(" ")) made(term, key === "or" ? "span" : "kbd", "", key);
    made(list, "dd", "", does);
  }
  const close = made(dialog, "button", "", "Close");
  close.type = "button";
  close.onclick = () => dialog.close();
  dialog.onclose = () => dialog.remove();
  dialog.showModal();
}

function isOurs(event) {
  if (event.defaultPrevented || event.isComposing) return false;
  const isCharacter = event.key.length === 1;
  // On many keyboards brackets are typed with AltGr, which some systems report as Ctrl and Alt.
  const isCommand = (event.ctrlKey || event.altKey || event.metaKey) && !event.getModifierState("AltGraph");
  if (isCommand || (event.shiftKey && !isCharacter)) return false;
  if (event.target.closest?.(TYPING)) return false;
  return isCharacter || !event.target.closest?.("[role=radiogroup]"); // arrows choose among radio buttons
}

document.addEventListener("keydown", (event) => {
  if (!isOurs(event)) return;
  const chart = current();
  if (chart && Object.hasOwn(ON_CHART, event.key)) ON_CHART[event.key](chart);
  else if (Object.hasOwn(ON_PAGE, event.key) && !event.repeat) ON_PAGE[event.key]();
  else return;
  event.preventDefault(); // or the "/" would be typed into the picker that it has just focused
});

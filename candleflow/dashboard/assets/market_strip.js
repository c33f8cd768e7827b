// The strip of symbols: one button each, created once and then updated in place.

const beside = (name) => import(import.meta.url.replace("/market_strip.js", `/${name}.js`));
const [{ SVG, decoded, made, write }, { received }] = await Promise.all(["dom", "patch"].map(beside));

const LETTERS = 36; // a sparkline's heights are digits of this base
const STEPS = { ArrowLeft: (at) => at - 1, ArrowRight: (at) => at + 1, Home: () => 0, End: (_, count) => count - 1 };
const strips = new WeakMap(); // parent element -> strip

// Formats hundredths of a percent, such as "▲ +1.23 %".
function spoken(change) {
  if (change === null) return "";
  const [arrow, sign] = change > 0 ? ["▲", "+"] : change < 0 ? ["▼", "−"] : ["", ""];
  return `${arrow} ${sign}${(Math.abs(change) / 100).toFixed(2)} %`.trim();
}

class Cell {
  constructor(strip, symbol, choose) {
    this.button = made(strip, "button", "cf-cell");
    this.button.type = "button";
    this.button.tabIndex = -1; // arrow keys move between buttons, so that Tab stops once, not at a hundred symbols
    this.button.onclick = () => choose(symbol);
    made(this.button, "span", "cf-cell-symbol", symbol);
    this.change = made(this.button, "span", "cf-cell-change");
    this.price = made(this.button, "span", "cf-cell-price");
    this.spark = document.createElementNS(SVG, "svg");
    this.spark.setAttribute("class", "cf-cell-spark");
    this.spark.setAttribute("viewBox", `0 -1 100 ${LETTERS + 1}`);
    this.spark.setAttribute("preserveAspectRatio", "none");
    this.spark.setAttribute("aria-hidden", "true");
    this.line = document.createElementNS(SVG, "polyline");
    this.spark.append(this.line);
    this.button.append(this.spark);
    this.age = made(this.button, "span", "cf-cell-age");
    this.symbol = symbol;
  }

  show({ price, change, over, age, heights }) {
    write(this.price, price || "no trade yet");
    write(this.change, spoken(change));
    write(this.age, age);
    this.button.classList.toggle("cf-quiet", age !== "" || price === "");
    this.button.dataset.direction = change > 0 ? "rising" : change < 0 ? "falling" : "flat";
    const details = [change === null ? "" : `${spoken(change)} in ${over}`, age && `last trade ${age}`];
    const title = `${this.symbol}: ${details.filter(Boolean).join(", ") || "no trade yet"}`;
    if (this.button.title !== title) this.button.title = title;
    if (this.heights !== heights) this.draw(heights);
  }

  draw(heights) {
    this.heights = heights;
    const step = 100 / Math.max(1, heights.length - 1);
    const points = [...heights].map((one, at) => `${(at * step).toFixed(1)},${LETTERS - 1 - parseInt(one, LETTERS)}`);
    this.line.setAttribute("points", points.join(" "));
  }
}

class Strip {
  constructor(parent) {
    this.frame = parent.querySelector(".cf-strip");
    this.cells = new Map(); // symbol -> cell, in order
    this.frame.addEventListener("keydown", (event) => this.step(event));
  }

  show(sent, lost, choose) {
    this.choose = choose;
    const quotes = received(this, sent, lost);
    if (quotes === undefined) return;
    this.settle(quotes.symbols);
    quotes.symbols.forEach((symbol, at) => this.cells.get(symbol).show({
      price: quotes.prices[at],
      change: quotes.changes[at],
      over: quotes.spans[at],
      age: quotes.ages[at],
      heights: quotes.heights[at],
    }));
    this.frame.classList.toggle("cf-away", sent.is_away);
    if (this.current !== sent.current) this.mark(sent.current);
  }

  settle(symbols) {
    if (symbols.join() === [...this.cells.keys()].join()) return;
    this.frame.replaceChildren();
    this.cells = new Map(symbols.map((one) => [one, new Cell(this.frame, one, (symbol) => this.choose(symbol))]));
    this.current = undefined;
  }

  mark(current) {
    this.current = current;
    for (const [symbol, { button }] of this.cells) {
      if (symbol === current) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      button.tabIndex = -1;
    }
    const marked = this.cells.get(current)?.button;
    (marked ?? this.frame.firstElementChild).tabIndex = 0;
    if (!marked) return;
    // Not scrollIntoView, which would scroll the page as well.
    const middle = marked.offsetLeft + marked.offsetWidth / 2 - this.frame.clientWidth / 2;
    const isSeen = marked.offsetLeft >= this.frame.scrollLeft
      && marked.offsetLeft + marked.offsetWidth <= this.frame.scrollLeft + this.frame.clientWidth;
    if (!isSeen) this.frame.scrollLeft = middle;
  }

  step(event) {
    const buttons = [...this.frame.children];
    const next = STEPS[event.key]?.(buttons.indexOf(document.activeElement), buttons.length);
    if (next === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation(); // or keys.js would pan the chart too
    buttons[Math.min(Math.max(next, 0), buttons.length - 1)].focus();
  }
}

export default function render({ data, parentElement, setTriggerValue }) {
  let strip = strips.get(parentElement);
  if (!strip) {
    strip = new Strip(parentElement);
    strips.set(parentElement, strip);
  }
  strip.show(decoded(data), (base) => setTriggerValue("lost", base), (symbol) => setTriggerValue("picked", symbol));
}

// Draws the figure that Python sends, whole or as a patch to one sent before. Plotly.react keeps the plot's node, and
// an unchanged uirevision keeps the viewer's zoom; st.plotly_chart keeps neither when its data change. No text of the
// figure ever becomes HTML here.

const beside = (name) => import(import.meta.url.replace("/chart.js", `/${name}.js`));
const [{ clock, decoded, fixed, made }, { attach, describe }, { received }] =
  await Promise.all(["dom", "keys", "patch"].map(beside));

const WHEEL_MS = 250; // Plotly applies a wheel's zoom 50 ms after the last turn
const CLOSE_MS = 2000;
const KEEP_MS = 15_000; // how long a chart that was removed from the page is kept
const TAP_PX = 8; // a touch that moves further is a drag
const ROW_GAP = 8; // between the rows of the grid, as in grid.css
const LABEL_PX = 19; // a label at the price axis: 18 as in chart.css, and a pixel between two
const TICK_PX = 17; // half a label, half the 14 of a tick's text, and a pixel between: closer texts would touch
const LIVE = "following", FREE = "free";
const CONFIG = {
  displayModeBar: false,
  displaylogo: false,
  doubleClick: false, // handled below: it goes back to the live edge, Plotly's own reset would not
  scrollZoom: true,
  showTips: false,
};
const PAGE_TITLE = document.title;
const charts = new Map(); // parent element -> chart
let plotlyLoading = null;

function loadPlotly(path) {
  if (window.Plotly) return Promise.resolve(window.Plotly);
  plotlyLoading ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL(path, document.baseURI).href;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => {
      plotlyLoading = null; // the next refresh tries again
      script.remove();
      reject(new Error("plotly.min.js can't be loaded"));
    };
    document.head.append(script);
  });
  return plotlyLoading;
}

// Shifts a time so that Plotly, which knows only UTC, shows it in the browser's time zone.
const asLocal = (time) => time - new Date(time).getTimezoneOffset() * 60_000;

// Formats a period; the date is written once if both ends have the same.
function spanned(begin, end) {
  const [from, to] = [clock(begin), clock(end)];
  return `${from} to ${from.slice(0, 10) === to.slice(0, 10) ? to.slice(11) : to}`;
}

// Formats a number with all its digits. As text it does not pass through a double, which would lose some.
const formats = new Map(); // fewest decimal places -> format
function exact(value, places = 0) {
  if (!formats.has(places)) {
    formats.set(places, new Intl.NumberFormat("en-US", { minimumFractionDigits: places, maximumFractionDigits: 20 }));
  }
  return formats.get(places).format(String(value));
}

const changedSince = (revision) => `changed ${revision === 1 ? "once" : `${revision} times`} since it closed`;

function cell([field, label, text], className = "") {
  const shown = document.createElement("span");
  shown.className = className;
  shown.dataset.field = field;
  made(shown, "b", "", label);
  shown.append(text);
  return shown;
}

function inLocalTime({ data, layout, facts }) {
  const placed = (one) => (one.xref === "paper" ? one : {
    ...one,
    ...Object.fromEntries(["x", "x0", "x1"].filter((key) => key in one).map((key) => [key, asLocal(one[key])])),
  });
  return {
    data: data.map((trace) => ({ ...trace, x: trace.x.map(asLocal) })),
    layout: {
      ...layout,
      xaxis: { ...layout.xaxis, range: layout.xaxis.range.map(asLocal) },
      shapes: layout.shapes.map(placed),
      annotations: layout.annotations.map(placed),
    },
    facts,
  };
}

// Returns the places of labels along an axis of this length: each as close to its wanted place as those before it allow.
function apart(wanted, length) {
  const taken = [];
  for (const at of wanted) {
    const free = [at, ...taken.flatMap((one) => [one - LABEL_PX, one + LABEL_PX])].filter((one) =>
      one >= 0 && one <= length && taken.every((other) => Math.abs(other - one) >= LABEL_PX));
    taken.push(free.sort((one, other) => Math.abs(one - at) - Math.abs(other - at))[0] ?? at);
  }
  return taken;
}

class Chart {
  constructor(parent) {
    this.frame = parent.querySelector(".cf-chart");
    this.readout = made(this.frame, "div", "cf-readout");
    this.plot = made(this.frame, "div", "cf-plot");
    this.upright = made(this.frame, "div", "cf-upright");
    this.level = made(this.frame, "div", "cf-level");
    const labels = made(this.frame, "div", "cf-tags");
    // In order of precedence: the crosshair's label is always at the pointer.
    this.labels = ["pointed", "last", "forecast"].map((name) => made(labels, "div", `cf-tag cf-tag-${name}`));
    this.button = made(this.frame, "button", "cf-live", "Back to live");
    this.button.type = "button";
    this.button.onclick = () => this.followLive();
    this.home = 0; // part of uirevision: raising it makes Plotly drop the viewer's zoom
    this.hoveredTime = null;
    this.drawings = 0; // that Plotly has not finished yet
    this.isClosed = false;
    this.isHeld = false;
    this.onDown = () => { this.isHeld = true; };
    this.onUp = () => {
      if (!this.isHeld) return;
      this.isHeld = false;
      setTimeout(() => this.draw(), 0); // after Plotly's own handler has set the new range
    };
    this.plot.addEventListener("pointerdown", this.onDown, true);
    this.plot.addEventListener("pointermove", (event) => {
      this.pointerY = event.clientY - this.plot.getBoundingClientRect().top;
      this.point();
    });
    this.plot.addEventListener("pointerdown", (event) => { this.touchedAt = [event.clientX, event.clientY]; }, true);
    this.plot.addEventListener("pointerup", (event) => this.onTouchEnd(event), true);
    this.plot.addEventListener("wheel", () => {
      this.onDown();
      clearTimeout(this.wheelEnd);
      this.wheelEnd = setTimeout(this.onUp, WHEEL_MS);
    }, { capture: true, passive: true });
    window.addEventListener("pointerup", this.onUp);
    window.addEventListener("pointercancel", this.onUp);
    this.onResize = () => this.fit();
    window.addEventListener("resize", this.onResize);
    this.resizes = new ResizeObserver(() => {
      const isShown = this.plot.getClientRects().length > 0; // the observer also fires when the plot is removed
      if (isShown && this.plot.data) this.follow(window.Plotly.Plots.resize(this.plot));
    });
    this.resizes.observe(this.plot);
    this.detach = attach(this);
  }

  show(sent, lost) {
    const figure = received(this, sent, lost);
    if (figure === undefined) return;
    const view = `${sent.view}/${sent.is_local}`;
    if (this.sent?.view !== view) this.setMode(LIVE); // another symbol, candle, look-back or time zone
    this.sent = { ...sent, view, figure: sent.is_local ? inLocalTime(figure) : figure };
    if (sent.slot === 1) document.title = sent.title;
    this.frame.classList.toggle("cf-titled", sent.slot === 1);
    this.frame.classList.toggle("cf-stale", sent.is_stale);
    this.fit();
    loadPlotly(sent.plotly).then(() => this.draw(), (error) => { this.readout.textContent = error.message; });
  }

  fit() {
    // Each row of the grid gets an equal share of the window's remaining height; chart.css sets the minimum.
    const cell = this.frame.closest('[class*="st-key-cell"]');
    if (!cell) return; // removed from the page
    const grid = cell.closest(".st-key-grid");
    const rows = getComputedStyle(grid).gridTemplateRows.split(" ").length; // 1 for "none", a single chart
    const scrolled = this.frame.closest('[data-testid="stMain"]')?.scrollTop ?? 0;
    const top = (element) => element.getBoundingClientRect().top;
    const room = window.innerHeight - top(grid) - scrolled - 6 - (rows - 1) * ROW_GAP;
    this.frame.style.height = `${Math.floor(room / rows - (top(this.frame) - top(cell)))}px`;
  }

  draw() {
    // A redraw would end a drag that is under way. The newest figure is drawn when the drag ends.
    if (this.isHeld || !this.sent || !this.plot.isConnected) return;
    const { data, layout } = this.sent.figure;
    const revision = `${this.sent.view}#${this.home}`;
    if (this.drawn?.revision === revision && this.hasViewersRange()) this.setMode(FREE);
    // Copies, as Plotly writes the viewer's zoom into the layout, and hidden lines into the traces. Given the same
    // trace object again, it would take "hidden" for our own setting, and forget it with the next object.
    const traces = data.map((trace) => ({ ...trace }));
    const whole = { ...structuredClone(layout), uirevision: revision };
    whole.dragmode = window.matchMedia("(pointer: coarse)").matches ? "pan" : "zoom";
    // Plotly keeps the viewer's range only while the range we send stays the same, so we repeat the last one.
    if (this.frame.dataset.mode === FREE) {
      // Fixed margins: otherwise Plotly adapts them to the widest label, and the chart moves by some pixels.
      const { l, r, t, b } = this.plot._fullLayout._size;
      whole.margin = { l, r, t, b };
      whole.xaxis.range = this.drawn.range;
      if (this.drawn.prices) whole.yaxis.range = this.drawn.prices;
    }
    this.drawn = { revision, range: [...whole.xaxis.range], prices: whole.yaxis.range?.slice() };
    const isFirst = !this.plot.data;
    this.follow(window.Plotly.react(this.plot, traces, whole, CONFIG));
    if (isFirst) this.listen();
    this.point();
    this.updates = (this.updates ?? 0) + 1;
    this.frame.dataset.updates = this.updates;
    this.read();
    describe(this);
  }

  moveTo(times, prices) {
    // Set as the figure's own ranges. Plotly accepts them, as they differ from those it was given last.
    if (this.isHeld || !this.drawn) return;
    Object.assign(this.drawn, { range: times, prices });
    this.setMode(FREE);
    this.draw();
  }

  hasViewersRange() {
    // Polled: Plotly's event comes only after it has finished drawing, up to half a second later.
    return this.plot.layout.xaxis.range.some((end, at) => end !== this.drawn.range[at]);
  }

  listen() {
    for (const event of ["plotly_afterplot", "plotly_relayouting"]) this.plot.on(event, () => this.point());
    this.plot.on("plotly_relayout", (change) => {
      if (Object.keys(change).some((key) => /^[xy]axis\.(range|autorange)/.test(key))) this.setMode(FREE);
    });
    this.plot.on("plotly_doubleclick", () => this.followLive());
    this.plot.on("plotly_hover", (event) => {
      const times = this.sent.figure.data[1].x;
      const point = event.points.find((one) => times.includes(one.data.x[one.pointNumber]));
      this.hoveredTime = point ? point.data.x[point.pointNumber] : null;
      this.point();
      this.read();
    });
    this.plot.on("plotly_unhover", () => {
      this.hoveredTime = null;
      this.point();
      this.read();
    });
  }

  onTouchEnd({ pointerType, target, clientX, clientY }) {
    // Touch has no hover: a tap puts the crosshair on a candle, a second tap on that candle removes it.
    const [x, y] = this.touchedAt ?? [clientX, clientY];
    if (pointerType !== "touch" || Math.hypot(clientX - x, clientY - y) > TAP_PX) return;
    if (!target.matches(".nsewdrag") || !this.drawn) return;
    const { xaxis } = this.plot._fullLayout;
    const { left, top } = this.plot.getBoundingClientRect();
    const time = xaxis.p2l(clientX - left - xaxis._offset);
    const nearest = this.sent.figure.data[1].x
      .reduce((best, one) => (Math.abs(one - time) < Math.abs(best - time) ? one : best));
    this.hoveredTime = nearest === this.hoveredTime ? null : nearest;
    this.pointerY = clientY - top;
    this.point();
    this.read();
  }

  point() {
    // We draw the crosshair: Plotly's own vanishes with each redraw until the pointer moves again.
    const full = this.plot._fullLayout;
    if (full === undefined) return;
    this.upright.hidden = this.level.hidden = this.hoveredTime === null;
    if (this.hoveredTime !== null) this.cross(full);
    this.label(full);
  }

  cross({ xaxis, yaxis, _size: size }) {
    const across = xaxis.l2p(this.hoveredTime);
    this.upright.hidden = across < 0 || across > xaxis._length; // panned out of sight by keyboard
    this.upright.style.left = `${xaxis._offset + across}px`;
    this.upright.style.top = `${size.t}px`;
    this.upright.style.height = `${size.h}px`;
    const withinPrices = this.pointerY - yaxis._offset;
    this.level.hidden = withinPrices < 0 || withinPrices > yaxis._length;
    this.level.style.top = `${this.pointerY}px`;
    this.level.style.left = `${size.l}px`;
    this.level.style.width = `${size.w}px`;
  }

  label({ xaxis, yaxis, _size: size }) {
    // We draw the labels at the price axis too: Plotly's would cover one another where their prices are close.
    const { places, figure: { data } } = this.sent;
    const [{ open, close }, { x: times }] = data;
    const last = times.length - 1;
    const forecast = data.find((one) => one.uid === "forecast");
    const pointed = this.level.hidden ? NaN : this.pointerY - yaxis._offset;
    const across = xaxis.d2p(forecast?.x[0]);
    const isForecastInSight = across >= 0 && across <= xaxis._length;
    const wanted = [pointed, yaxis.d2p(close[last]), isForecastInSight ? yaxis.d2p(forecast.y[0]) : NaN];
    const texts = [fixed(yaxis.p2d(pointed), places), fixed(Number(close[last]), places), "forecast"];
    const shown = [0, 1, 2].filter((at) => wanted[at] >= 0 && wanted[at] <= yaxis._length);
    const taken = apart(shown.map((at) => Math.round(wanted[at])), yaxis._length);
    this.labels.forEach((label, at) => {
      label.hidden = !shown.includes(at);
      label.textContent = texts[at];
      label.style.left = `${size.l + size.w}px`;
      label.style.top = `${yaxis._offset + taken[shown.indexOf(at)]}px`;
    });
    this.labels[1].dataset.direction = Number(close[last]) >= Number(open[last]) ? "rising" : "falling";
    for (const tick of this.plot.querySelectorAll(".ytick text")) {
      const place = yaxis.l2p(tick.__data__.x);
      tick.style.visibility = taken.some((one) => Math.abs(one - place) < TICK_PX) ? "hidden" : "";
    }
  }

  setMode(mode) {
    this.frame.dataset.mode = mode;
    this.button.hidden = mode === LIVE;
  }

  followLive() {
    this.home += 1;
    this.setMode(LIVE);
    this.draw();
  }

  read() {
    const { places, is_local: isLocal, figure: { data: [prices, volumes, hatching], facts } } = this.sent;
    const pointed = this.hoveredTime === null ? -1 : volumes.x.indexOf(this.hoveredTime);
    const at = pointed < 0 ? volumes.x.length - 1 : pointed;
    const end = facts.x[at] + hatching.width; // the hatching is as wide as a candle
    const share = Math.round((100 * facts.taker_buy_volume[at]) / volumes.y[at]) || 0;
    const first = [
      ["time", "", spanned(volumes.x[at], isLocal ? asLocal(end) : end)],
      ...["open", "high", "low", "close"].map((one) => [one, one[0].toUpperCase(), exact(prices[one][at], places)]),
      ["volume", "V", exact(volumes.y[at])],
    ];
    const more = [
      ["quote_volume", "quote", exact(facts.quote_volume[at], 2)],
      ["taker_buy_volume", "taker buys", exact(facts.taker_buy_volume[at])],
      ["taker_buy_quote_volume", "taker quote", exact(facts.taker_buy_quote_volume[at], 2)],
      ["taker_share", "taker share", `${share} %`],
      ["trade_count", "trades", exact(facts.trade_count[at])],
      ["trade_ids", "ids", `${facts.first_trade_id[at]}-${facts.last_trade_id[at]}`],
      ["source", "from", facts.source[at]],
      ["is_closed", "", facts.is_closed[at] ? "closed" : "forming"],
      ["is_complete", "", facts.is_complete[at] ? "complete" : "incomplete"],
      ...(facts.revision[at] ? [["revision", "", changedSince(facts.revision[at])]] : []),
    ];
    this.readout.replaceChildren(...first.map((one) => cell(one)), ...more.map((one) => cell(one, "cf-more")));
    this.readout.classList.toggle("cf-pointed", pointed >= 0);
    const { l, w } = this.plot._fullLayout._size;
    this.readout.style.right = `${this.plot.clientWidth - l - w}px`; // keep it off the price axis
    this.readout.dataset.direction = Number(prices.close[at]) >= Number(prices.open[at]) ? "rising" : "falling";
  }

  close() {
    if (this.isClosed) return;
    this.resizes.disconnect();
    this.detach();
    window.removeEventListener("resize", this.onResize);
    window.removeEventListener("pointerup", this.onUp);
    window.removeEventListener("pointercancel", this.onUp);
    this.isClosed = true;
    this.purge();
  }

  follow(drawing) {
    this.drawings += 1;
    // Not caught, so that errors in Plotly appear in the console.
    Promise.resolve(drawing).finally(() => {
      this.drawings -= 1;
      this.purge();
    });
  }

  purge() {
    // Plotly throws if a plot is purged before its drawing has finished.
    if (this.isClosed && this.drawings === 0 && this.plot.data) window.Plotly.purge(this.plot);
  }
}

// After a lost connection, or if a run of the whole page ends as a refresh begins, Streamlit replaces the component's
// element by an empty one. The chart of the same slot is moved into it, with its zoom, hidden lines and crosshair.
function adopted(parentElement, slot) {
  for (const [before, chart] of charts) {
    if (chart.frame.isConnected || chart.sent?.slot !== slot) continue;
    charts.delete(before);
    parentElement.querySelector(".cf-chart").replaceWith(chart.frame);
    return chart;
  }
  return new Chart(parentElement);
}

// Streamlit's dialog about a lost connection (hidden by chart.css) makes the whole page inert, so the chart would lose
// the pointer and the crosshair. This undoes it.
const CUT_OFF =
  '[data-testid="stApp"]:is([data-test-connection-state="PINGING_SERVER"], [data-test-connection-state="CONNECTING"])';
new MutationObserver((changes) => {
  if (!document.querySelector(CUT_OFF)) return;
  for (const { target } of changes) target.inert = false;
}).observe(document.body, { attributes: true, attributeFilter: ["inert"], subtree: true });

function closeIfGone(parentElement, chart) {
  if (chart.frame.isConnected) return;
  if (charts.get(parentElement) === chart) charts.delete(parentElement);
  chart.close();
}

export default function render({ data, parentElement, setTriggerValue }) {
  const sent = decoded(data);
  let chart = charts.get(parentElement);
  if (!chart || !parentElement.contains(chart.frame)) {
    chart = adopted(parentElement, sent.slot);
    charts.set(parentElement, chart);
  }
  chart.show(sent, (base) => setTriggerValue("lost", base));
  return () => {
    // Delayed, as Streamlit may remove a chart from the page and put it back.
    setTimeout(() => {
      if (!document.querySelector(".cf-titled")) document.title = PAGE_TITLE; // no chart that sets the title is left
    }, CLOSE_MS);
    setTimeout(() => closeIfGone(parentElement, chart), KEEP_MS);
  };
}

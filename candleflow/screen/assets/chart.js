// Draws the figure that Python sends. Plotly.react keeps the plot's node, and a constant uirevision the viewer's
// zoom; st.plotly_chart keeps neither when its data change. No text of the figure ever becomes HTML here.

const WHEEL_MS = 250; // Plotly makes a wheel's zoom its own 50 ms after the last turn
const CLOSE_MS = 2000;
const LIVE = "following", FREE = "free";
const CONFIG = {
  displayModeBar: false,
  displaylogo: false,
  doubleClick: false, // handled below: back to the live edge, which Plotly's own reset does not know
  scrollZoom: true,
  showTips: false,
};
const charts = new WeakMap(); // parent element -> chart
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

class Chart {
  constructor(parent) {
    this.frame = parent.querySelector(".cf-chart");
    this.plot = parent.querySelector(".cf-plot");
    this.readout = parent.querySelector(".cf-readout");
    this.button = parent.querySelector(".cf-live");
    this.button.onclick = () => this.followLive();
    this.home = 0; // raised to leave the viewer's zoom behind
    this.hoveredTime = null;
    this.drawings = 0; // those that Plotly has not finished yet
    this.isClosed = false;
    this.isHeld = false;
    this.onDown = () => { this.isHeld = true; };
    this.onUp = () => {
      if (!this.isHeld) return;
      this.isHeld = false;
      setTimeout(() => this.draw(), 0); // after Plotly's own handler has set the new range
    };
    this.plot.addEventListener("pointerdown", this.onDown, true);
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
      const isShown = this.plot.getClientRects().length > 0; // it also hears of being taken off the page
      if (isShown && this.plot.data) this.follow(window.Plotly.Plots.resize(this.plot));
    });
    this.resizes.observe(this.plot);
  }

  show(sent) {
    if (this.sent?.view !== sent.view) this.setMode(LIVE); // another symbol, candle or look-back
    this.sent = sent;
    this.frame.classList.toggle("cf-stale", sent.is_stale);
    this.fit();
    loadPlotly(sent.plotly).then(() => this.draw(), (error) => { this.readout.textContent = error.message; });
  }

  fit() {
    // Down to the foot of the window, wherever the lines above it end; the style sheet has the least height.
    const scrolled = this.frame.closest('[data-testid="stMain"]')?.scrollTop ?? 0;
    const top = this.frame.getBoundingClientRect().top + scrolled;
    this.frame.style.height = `${Math.floor(window.innerHeight - top - 6)}px`;
  }

  draw() {
    // A redraw under the pointer would cut a drag short; the newest figure is drawn when it ends.
    if (this.isHeld || !this.sent || !this.plot.isConnected) return;
    const { data, layout } = this.sent.figure;
    const revision = `${this.sent.view}#${this.home}`;
    if (this.drawn?.revision === revision && this.hasViewersRange()) this.setMode(FREE);
    // A copy, as Plotly writes the viewer's zoom into the layout it is given.
    const whole = { ...structuredClone(layout), uirevision: revision };
    whole.dragmode = window.matchMedia("(pointer: coarse)").matches ? "pan" : "zoom";
    // Plotly keeps the viewer's range only as long as the one we send stays the same, so the live edge waits.
    if (this.frame.dataset.mode === FREE) whole.xaxis.range = this.drawn.range;
    this.drawn = { revision, range: [...whole.xaxis.range] };
    const isFirst = !this.plot.data;
    this.follow(window.Plotly.react(this.plot, data, whole, CONFIG));
    if (isFirst) this.listen();
    this.updates = (this.updates ?? 0) + 1;
    this.frame.dataset.updates = this.updates;
    this.read();
  }

  hasViewersRange() {
    // Asked, not told: Plotly's own event comes only when it has finished drawing, up to half a second later.
    return this.plot.layout.xaxis.range.some((end, at) => end !== this.drawn.range[at]);
  }

  listen() {
    this.plot.on("plotly_relayout", (change) => {
      if (Object.keys(change).some((key) => /^[xy]axis\.(range|autorange)/.test(key))) this.setMode(FREE);
    });
    this.plot.on("plotly_doubleclick", () => this.followLive());
    this.plot.on("plotly_hover", (event) => {
      const point = event.points.find((one) => one.curveNumber < 2);
      this.hoveredTime = point ? this.sent.figure.data[0].x[point.pointNumber] : null;
      this.read();
    });
    this.plot.on("plotly_unhover", () => { this.hoveredTime = null; this.read(); });
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
    const { places, figure: { data: [prices, volumes] } } = this.sent;
    const hovered = this.hoveredTime === null ? -1 : volumes.x.indexOf(this.hoveredTime);
    const at = hovered < 0 ? volumes.x.length - 1 : hovered;
    const number = (value, digits) =>
      value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: Math.max(digits, 5) });
    const time = new Date(volumes.x[at]).toISOString().slice(0, 19).replace("T", " ");
    const cells = [
      ["", time], ["O", number(prices.open[at], places)], ["H", number(prices.high[at], places)],
      ["L", number(prices.low[at], places)], ["C", number(prices.close[at], places)], ["V", number(volumes.y[at], 0)],
    ];
    this.readout.replaceChildren(...cells.map(([label, value]) => {
      const cell = document.createElement("span");
      const name = document.createElement("b");
      name.textContent = label;
      cell.append(name, value);
      return cell;
    }));
    this.readout.dataset.direction = prices.close[at] >= prices.open[at] ? "rising" : "falling";
  }

  close() {
    this.resizes.disconnect();
    window.removeEventListener("resize", this.onResize);
    window.removeEventListener("pointerup", this.onUp);
    window.removeEventListener("pointercancel", this.onUp);
    this.isClosed = true;
    this.purge();
  }

  follow(drawing) {
    this.drawings += 1;
    // Not caught: what fails in Plotly is to be seen in the console.
    Promise.resolve(drawing).finally(() => {
      this.drawings -= 1;
      this.purge();
    });
  }

  purge() {
    // Plotly fails on a plot that is purged while a part of its drawing is still to come.
    if (this.isClosed && this.drawings === 0 && this.plot.data) window.Plotly.purge(this.plot);
  }
}

export default function render({ data, parentElement }) {
  let chart = charts.get(parentElement);
  if (!chart) {
    chart = new Chart(parentElement);
    charts.set(parentElement, chart);
  }
  chart.show(JSON.parse(new TextDecoder().decode(data)));
  return () => setTimeout(() => {
    // Later, and only if it has gone for good: Streamlit may take a chart off the page and put it back.
    if (chart.frame.isConnected) return;
    charts.delete(parentElement);
    chart.close();
  }, CLOSE_MS);
}

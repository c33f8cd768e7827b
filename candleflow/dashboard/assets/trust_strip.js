// The trust strip: a row of buttons, and a panel with the details of the open item. Its nodes are kept through all
// refreshes; only texts and icons change. No text of the data ever becomes HTML here.

const beside = (name) => import(import.meta.url.replace("/trust_strip.js", `/${name}.js`));
const [{ SVG, clock, decoded, made, write }, { received }] = await Promise.all(["dom", "patch"].map(beside));

const CLOSE_MS = 2000;
const CIRCLE = "M8 1a7 7 0 1 1 0 14a7 7 0 0 1 0-14z";
const SIGNS = { // an outline and a symbol for each state, so that colour is never the only sign
  good: [CIRCLE, "M4.7 8.3l2.3 2.3 4.4-5"],
  warn: ["M8 1L15.5 14.5H.5z", "M8 6v4.2M8 12.2v.5"],
  bad: ["M5 1h6l4 4v6l-4 4H5l-4-4V5z", "M5.3 5.3l5.4 5.4M10.7 5.3l-5.4 5.4"],
  unknown: [CIRCLE, "M6 6.3a2 2 0 1 1 2.7 1.9q-.7.3-.7 1.2M8 11.4v.5"],
};
const WORDS = { good: "good", warn: "warning", bad: "bad", unknown: "unknown" };
const strips = new WeakMap(); // parent element -> strip
const opened = new Map(); // slot -> name of the open item; kept even if Streamlit replaces the strip's node

function signIn(parent) {
  const sign = document.createElementNS(SVG, "svg");
  sign.setAttribute("viewBox", "0 0 16 16");
  sign.setAttribute("class", "cf-sign");
  sign.setAttribute("role", "img");
  sign.append(document.createElementNS(SVG, "path"), document.createElementNS(SVG, "path"));
  parent.append(sign);
  return sign;
}

class Strip {
  constructor(parent) {
    this.frame = parent.querySelector(".cf-trust");
    this.row = made(this.frame, "div", "cf-items");
    this.row.setAttribute("role", "group");
    this.row.setAttribute("aria-label", "Data quality and health");
    this.panel = made(this.frame, "div", "cf-panel");
    this.panel.setAttribute("role", "region");
    this.why = made(this.panel, "p", "cf-why");
    this.word = made(this.why, "b", "");
    this.reason = made(this.why, "span", "");
    this.meaning = made(this.panel, "p", "cf-meaning");
    this.rows = made(this.panel, "dl", "");
    this.buttons = new Map(); // an item's name -> its button's parts
    this.frame.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.opened) return;
      this.buttons.get(this.opened).button.focus();
      this.toggle(this.opened);
    });
    this.ticking = setInterval(() => this.draw(), 1000);
  }

  show(sent, lost) {
    const items = received(this, sent, lost);
    if (items === undefined) return;
    this.items = items;
    this.sent = sent;
    this.panel.id = `cf-trust-panel${sent.slot}`;
    this.heardAt = performance.now();
    this.draw();
    this.frame.dataset.updates = Number(this.frame.dataset.updates ?? 0) + 1;
  }

  get opened() {
    return opened.get(this.sent?.slot);
  }

  draw() {
    if (!this.items || !this.frame.isConnected) return;
    this.isOld = performance.now() - this.heardAt > this.sent.good_for_ms;
    this.frame.classList.toggle("cf-old", this.isOld);
    for (const [name, { button }] of this.buttons) {
      if (name in this.items) continue;
      button.remove();
      this.buttons.delete(name);
    }
    for (const item of Object.values(this.items)) this.drawItem(item);
    this.drawPanel();
  }

  drawItem(item) {
    const parts = this.buttons.get(item.name) ?? this.add(item.name);
    const state = this.stateOf(item);
    if (parts.button.dataset.state !== state) {
      parts.button.dataset.state = state;
      parts.sign.setAttribute("aria-label", WORDS[state]);
      SIGNS[state].forEach((path, at) => parts.sign.children[at].setAttribute("d", path));
    }
    write(parts.label, item.label);
    write(parts.value, item.value);
    parts.button.setAttribute("aria-expanded", String(this.opened === item.name));
  }

  add(name) {
    const button = made(this.row, "button", "cf-item");
    button.type = "button";
    button.dataset.name = name;
    button.setAttribute("aria-controls", this.panel.id);
    button.onclick = () => this.toggle(name);
    const sign = signIn(button);
    const parts = { button, sign, label: made(button, "span", "cf-label"), value: made(button, "span", "cf-value") };
    this.buttons.set(name, parts);
    return parts;
  }

  stateOf(item) {
    return this.isOld ? "unknown" : item.state;
  }

  toggle(name) {
    opened.set(this.sent.slot, this.opened === name ? undefined : name);
    this.draw();
  }

  drawPanel() {
    const item = this.items[this.opened];
    this.panel.hidden = item === undefined;
    if (item === undefined) return;
    this.panel.dataset.state = this.stateOf(item);
    this.panel.setAttribute("aria-label", item.label);
    write(this.word, `${item.label}: ${WORDS[this.stateOf(item)]}. `);
    write(this.reason, this.isOld ? this.whyOld() : item.why);
    write(this.meaning, item.meaning);
    while (this.rows.children.length > item.rows.length) this.rows.lastChild.remove();
    item.rows.forEach(([name, value], at) => {
      const row = this.rows.children[at] ?? made(this.rows, "div", "");
      if (!row.firstChild) {
        made(row, "dt", "");
        made(row, "dd", "");
      }
      write(row.children[0], name);
      write(row.children[1], value);
    });
    const { button } = this.buttons.get(this.opened);
    const furthest = this.frame.clientWidth - this.panel.offsetWidth;
    this.panel.style.left = `${Math.max(0, Math.min(button.offsetLeft, furthest))}px`;
  }

  whyOld() {
    const since = `${clock(this.sent.at)} UTC`;
    return this.sent.is_paused
      ? `The page is paused: these values are of ${since}, and may have changed.`
      : `The page has had no news from its server since ${since}.`;
  }

  close() {
    clearInterval(this.ticking);
  }
}

export default function render({ data, parentElement, setTriggerValue }) {
  let strip = strips.get(parentElement);
  if (!strip) {
    strip = new Strip(parentElement);
    strips.set(parentElement, strip);
  }
  strip.show(decoded(data), (base) => setTriggerValue("lost", base));
  return () => setTimeout(() => {
    // Delayed, as Streamlit may remove a component from the page and put it back.
    if (strip.frame.isConnected) return;
    strips.delete(parentElement);
    strip.close();
  }, CLOSE_MS);
}

"use strict";
// All data are in the element #data (pages/page.py says what they are). A residue is chosen by its
// place in the structure, a row of the table by its number; each choice redraws the other views.
const DATA = JSON.parse(document.getElementById("data").textContent);
const LETTERS = "ACDEFGHIKLMNPQRSTVWY";
const CELL = 14, LOGO = 64, AXIS = 30, LEFT = 18, MOST_ROWS = 300;
const KINDS = { // of amino acids in the logo
  AVLIMC: "#6b7280", FWY: "#0f766e", KRH: "#2563eb", DE: "#dc2626", STNQ: "#9333ea", GP: "#b45309",
};
const LETTER_COLOUR = Object.fromEntries(
  Object.entries(KINDS).flatMap(([letters, colour]) => [...letters].map((a) => [a, colour])));
const SEQUENTIAL = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];
const DIVERGING = ["#b2182b", "#ef8a62", "#f7f7f7", "#67a9cf", "#2166ac"];
const $ = (id) => document.getElementById(id);
const state = { item: null, residue: null, row: null, colour: null, sort: null, viewer: null };

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
function mixed(stops, share) {
  const at = Math.min(1, Math.max(0, share)) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at));
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  const values = [0, 1, 2].map((k) => Math.round(part(stops[i], k) + (at - i) * (part(stops[i + 1], k) - part(stops[i], k))));
  return `rgb(${values.join(",")})`;
}
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const labelOf = (item, i) => `${item.chains[i]}${/\d$/.test(item.chains[i]) ? ":" : ""}${item.numbers[i]}`;
function number(value, places = 3) {
  return value === null || value === undefined ? "" : value.toFixed(places);
}

// ------------------------------------------------------------------------------------ the map
// What is drawn of residue i and letter a: a share of 0 to 1 on a scale.
function cell(item, i, a) {
  const value = item.map[i * 20 + a];
  if (value === null) return null;
  return item.kind === "scan" ? [DIVERGING, 0.5 + value / 12000] : [SEQUENTIAL, value / 1000];
}
function drawMap(item, rows, context, width, first, offset) {
  const ink = style("--ink"), muted = style("--muted"), mark = style("--mark");
  const height = LOGO + 20 * CELL + AXIS;
  context.clearRect(0, 0, width, height);
  context.textAlign = "center";
  const last = Math.min(rows.length, first + Math.ceil((width - LEFT) / CELL) + 1);
  const drawn = state.row !== null && item.kind === "design" ? item.rows[state.row].sequence : null;
  for (let r = first; r < last; r++) {
    const i = rows[r], x = LEFT + (r - first) * CELL - offset;
    const column = item.profile.slice(i * 20, i * 20 + 20);
    let entropy = 0;
    for (const p of column) if (p > 0) entropy -= (p / 1000) * Math.log2(p / 1000);
    const tall = LOGO * Math.max(0, 1 - entropy / Math.log2(20));
    let y = LOGO;
    const order = [...column.keys()].filter((a) => column[a] > 30).sort((a, b) => column[a] - column[b]);
    for (const a of order) {
      const h = tall * column[a] / 1000;
      if (h < 1.5) { y -= h; continue; }
      context.save();
      context.translate(x + CELL / 2, y);
      context.scale(1, h / 10);
      context.font = "bold 14px system-ui, sans-serif";
      context.fillStyle = LETTER_COLOUR[LETTERS[a]];
      context.fillText(LETTERS[a], 0, 0);
      context.restore();
      y -= h;
    }
    for (let a = 0; a < 20; a++) {
      const found = cell(item, i, a), top = LOGO + a * CELL;
      context.fillStyle = found ? mixed(...found) : style("--panel");
      context.fillRect(x, top, CELL - 1, CELL - 1);
      if (LETTERS[a] === item.native[i]) {
        context.strokeStyle = mark; context.lineWidth = 2;
        context.strokeRect(x + 1, top + 1, CELL - 3, CELL - 3);
      }
      if (drawn && drawn[i] === LETTERS[a]) {
        context.fillStyle = mark;
        context.beginPath(); context.arc(x + CELL / 2 - .5, top + CELL / 2 - .5, 3, 0, 7); context.fill();
      }
    }
    context.fillStyle = ink; context.font = "11px system-ui, sans-serif";
    context.fillText(item.native[i], x + CELL / 2, LOGO + 20 * CELL + 11);
    if (r % 5 === 0) {
      context.fillStyle = muted;
      context.fillText(item.numbers[i], x + CELL / 2, LOGO + 20 * CELL + 25);
    }
    if (i === state.residue) {
      context.strokeStyle = ink; context.lineWidth = 2;
      context.strokeRect(x - 1, LOGO - 1, CELL + 1, 20 * CELL + 14);
    }
  }
  context.fillStyle = style("--paper");
  context.fillRect(0, 0, LEFT, height);
  context.fillStyle = muted; context.font = "11px system-ui, sans-serif";
  for (let a = 0; a < 20; a++) context.fillText(LETTERS[a], LEFT / 2, LOGO + a * CELL + 11);
}
function sized(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
  canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}
// One map per chain. Only what is in sight is drawn, so a long chain costs what a short one does.
class ChainMap {
  constructor(item, chain, rows) {
    this.item = item; this.rows = rows;
    this.head = element("h3", `Chain ${chain || "(blank)"}`);
    this.box = element("div", undefined, { class: "map", tabindex: "0", role: "application",
      "aria-label": `Residues of chain ${chain}: arrow keys choose one` });
    this.canvas = element("canvas");
    this.room = element("div", undefined, { class: "room" });
    this.room.style.width = `${LEFT + rows.length * CELL}px`;
    this.box.append(this.canvas, this.room);
    this.box.addEventListener("scroll", () => this.draw());
    this.box.addEventListener("click", (event) => this.clicked(event));
    this.box.addEventListener("keydown", (event) => this.key(event));
    $("maps").append(this.head, this.box);
  }
  draw() {
    const width = this.box.clientWidth, left = this.box.scrollLeft;
    const first = Math.floor(left / CELL);
    drawMap(this.item, this.rows, sized(this.canvas, width, LOGO + 20 * CELL + AXIS), width, first, left - first * CELL);
  }
  clicked(event) {
    const x = event.clientX - this.box.getBoundingClientRect().left + this.box.scrollLeft - LEFT;
    const r = Math.floor(x / CELL);
    if (r >= 0 && r < this.rows.length) choose(this.rows[r]);
  }
  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -1e9, End: 1e9 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const at = Math.max(-1, this.rows.indexOf(state.residue));
    choose(this.rows[Math.min(this.rows.length - 1, Math.max(0, at + steps[event.key]))]);
  }
  reveal(i) {
    const r = this.rows.indexOf(i);
    if (r < 0) return;
    const x = LEFT + r * CELL, width = this.box.clientWidth;
    if (x < this.box.scrollLeft + LEFT + CELL || x > this.box.scrollLeft + width - 2 * CELL)
      this.box.scrollLeft = x - width / 2;
  }
}
let maps = [];
function redraw() { for (const map of maps) map.draw(); }

// ---------------------------------------------------------------------------------- structure
function colourOf(item, i) {
  const values = item.values[state.colour];
  const value = values.of[i];
  if (value === null) return "#9ca3af";
  return mixed(values.signed ? DIVERGING : SEQUENTIAL, (value - values.low) / (values.high - values.low || 1));
}
function drawStructure() {
  const item = state.item;
  const values = item.values[state.colour];
  const stops = values.signed ? DIVERGING : SEQUENTIAL;
  $("legend").replaceChildren(document.createTextNode(`${values.words}: ${number(values.low, 2)}`),
    Object.assign(element("span", "", { class: "bar" }), { style: `background:linear-gradient(90deg,${stops.join(",")})` }),
    document.createTextNode(`${number(values.high, 2)}; grey: no value`));
  if (!state.viewer) return;
  const viewer = state.viewer;
  const residue = (atom) => item.place.get(`${atom.chain}|${atom.resi}|${(atom.icode || "").trim()}`);
  viewer.setStyle({}, {});
  viewer.setStyle({ hetflag: false }, { cartoon: { colorfunc: (atom) => {
    const i = residue(atom);
    return i === undefined ? "#9ca3af" : colourOf(item, i);
  } } });
  if (item.isTrace) viewer.setStyle({ hetflag: false }, { sphere: { radius: .8, colorfunc: (atom) => {
    const i = residue(atom);
    return i === undefined ? "#9ca3af" : colourOf(item, i);
  } } });
  if (item.hasSideChains) viewer.addStyle({ hetflag: false }, { stick: { radius: .09 } });
  viewer.setStyle({ hetflag: true }, { stick: { radius: .18 }, sphere: { scale: .25 } });
  if (state.residue !== null) {
    const [resi, icode] = parts(item.numbers[state.residue]);
    const of = { chain: item.chains[state.residue], resi, hetflag: false };
    if (icode) of.icode = icode;
    viewer.addStyle(of, { sphere: { scale: .35, color: style("--mark") } });
  }
  viewer.render();
}
function parts(text) {
  const [, resi, icode] = /^(-?\d+)(.*)$/.exec(text) || [null, text, ""];
  return [Number(resi), icode];
}
function load(item) {
  item.place = new Map(item.chains.map((chain, i) => {
    const [resi, icode] = parts(item.numbers[i]);
    return [`${chain}|${resi}|${icode}`, i];
  }));
  try {
    if (!state.viewer) state.viewer = $3Dmol.createViewer($("viewer"), { backgroundColor: style("--paper") });
    state.viewer.clear();
    state.viewer.addModel(item.model3d, item.format);
    state.viewer.setClickable({ hetflag: false }, true, (atom) => {
      const i = item.place.get(`${atom.chain}|${atom.resi}|${(atom.icode || "").trim()}`);
      if (i !== undefined) choose(i);
    });
    drawStructure();
    state.viewer.zoomTo();
    state.viewer.render();
  } catch (error) {
    state.viewer = null;
    $("viewer").textContent = "This browser shows no three-dimensional structure: it has no WebGL.";
  }
}

// -------------------------------------------------------------------------------------- table
const COLUMNS = {
  design: [["name", "name"], ["score", "score"], ["confidence", "confidence"], ["ligand_confidence", "ligand confidence"],
    ["recovery", "recovery"], ["mutations", "mutations"], ["temperature", "T"], ["sequence", "sequence"]],
  scan: [["label", "residue"], ["mutation", "mutation"], ["difference", "logit difference"], ["log_prob", "log p"]],
};
function rowsOf(item) {
  if (item.kind === "design") return item.rows;
  if (!item.rows) {
    item.rows = [];
    for (let i = 0; i < item.chains.length; i++)
      for (let a = 0; a < 20; a++)
        if (item.map[i * 20 + a] !== null && LETTERS[a] !== item.native[i])
          item.rows.push({ i, label: labelOf(item, i), mutation: `${item.native[i]}>${LETTERS[a]}`,
            difference: item.map[i * 20 + a] / 1000, log_prob: item.logs[i * 20 + a] / 1000 });
  }
  return item.rows;
}
function visible(item) {
  const wanted = $("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  let rows = [...rowsOf(item).keys()];
  const all = rowsOf(item);
  if (wanted.length)
    rows = rows.filter((r) => wanted.every((w) => Object.values(all[r]).some((v) => String(v).toLowerCase().includes(w))));
  const [key, down] = state.sort || (item.kind === "design" ? ["score", false] : ["difference", true]);
  rows.sort((p, q) => {
    const [a, b] = [all[p][key], all[q][key]];
    const order = a === b ? p - q : a === null ? 1 : b === null ? -1 : a < b ? -1 : 1;
    return down ? -order : order;
  });
  return rows;
}
function drawTable() {
  const item = state.item, all = rowsOf(item), rows = visible(item), shown = rows.slice(0, MOST_ROWS);
  const columns = COLUMNS[item.kind].filter(([key]) => all.some((row) => row[key] !== null && row[key] !== undefined));
  const [sorted, down] = state.sort || (item.kind === "design" ? ["score", false] : ["difference", true]);
  const head = element("tr");
  for (const [key, words] of columns) {
    const th = element("th", undefined, { scope: "col", "aria-sort": key === sorted ? (down ? "descending" : "ascending") : "none" });
    const button = element("button", words + (key === sorted ? (down ? " ↓" : " ↑") : ""), { type: "button" });
    button.addEventListener("click", () => { state.sort = [key, key === sorted && !down]; drawTable(); });
    th.append(button); head.append(th);
  }
  head.append(element("th", "copy", { scope: "col" }));
  const body = element("tbody");
  for (const r of shown) {
    const row = all[r], tr = element("tr", undefined, { tabindex: "0", "aria-selected": String(r === state.row) });
    for (const [key] of columns) {
      const value = row[key], is = typeof value === "number";
      const places = key === "mutations" || !is ? 0 : key === "temperature" ? 2 : 3;
      tr.append(element("td", is ? number(value, places) : value ?? "", { class: is ? "number" : key === "sequence" ? "letters" : "" }));
    }
    const copy = element("button", "copy", { type: "button" });
    copy.addEventListener("click", (event) => { event.stopPropagation(); give(textOf(item, [r]), copy); });
    const td = element("td"); td.append(copy); tr.append(td);
    const pick = () => { state.row = r === state.row ? null : r; if (row.i !== undefined) choose(row.i); else { drawTable(); redraw(); drawStructure(); } };
    tr.addEventListener("click", pick);
    tr.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); pick(); } });
    body.append(tr);
  }
  const thead = element("thead"); thead.append(head);
  $("table").replaceChildren(thead, body);
  $("shown").textContent = rows.length > shown.length ? `the first ${shown.length} of ${rows.length} rows` : `${rows.length} rows`;
}
function textOf(item, rows) {
  const all = rowsOf(item);
  if (item.kind === "design") return rows.map((r) => `>${all[r].name}\n${all[r].written}\n`).join("");
  return rows.map((r) => `${all[r].label}\t${all[r].mutation}\t${all[r].difference}`).join("\n") + "\n";
}
async function give(text, button) {
  const before = button.textContent;
  try { await navigator.clipboard.writeText(text); } catch {
    const area = element("textarea", text); document.body.append(area); area.select();
    document.execCommand("copy"); area.remove();
  }
  button.textContent = "copied"; setTimeout(() => { button.textContent = before; }, 1200);
}

// ---------------------------------------------------------------------------------- choosing
function choose(i) {
  state.residue = i;
  const item = state.item, column = item.profile.slice(i * 20, i * 20 + 20);
  const best = [...column.keys()].filter((a) => column[a] > 0).sort((a, b) => column[b] - column[a]).slice(0, 5);
  const words = best.map((a) => `${LETTERS[a]} ${(column[a] / 10).toFixed(0)} %`).join(", ");
  const more = Object.values(item.values).map((v) => `${v.words.toLowerCase()} ${number(v.of[i], 2) || "–"}`).join("; ");
  $("chosen").textContent = `${labelOf(item, i)}, native ${item.native[i]}: ${words || "no probabilities"}; ${more}`;
  for (const map of maps) map.reveal(i);
  if (item.kind === "scan" && !$("search").value) drawTable();
  redraw(); drawStructure();
}
function show(n) {
  const item = DATA.items[n];
  Object.assign(state, { item, residue: null, row: null, sort: null });
  $("lead").textContent = item.lead;
  $("what").textContent = item.what;
  $("chosen").textContent = "Choose a residue in the map or in the structure.";
  $("search").value = "";
  $("colour").replaceChildren(...Object.entries(item.values).map(([key, of]) => element("option", of.words, { value: key })));
  state.colour = Object.keys(item.values)[0];
  $("maps").replaceChildren();
  maps = [];
  const chains = [...new Set(item.chains)];
  for (const chain of chains)
    maps.push(new ChainMap(item, chain, [...item.chains.keys()].filter((i) => item.chains[i] === chain)));
  redraw(); drawTable(); load(item);
}
window.addEventListener("resize", () => { redraw(); if (state.viewer) state.viewer.resize(); });
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  redraw(); if (state.viewer) { state.viewer.setBackgroundColor(style("--paper")); drawStructure(); }
});
// Paper cannot be scrolled: there each map is cut into lines.
window.addEventListener("beforeprint", () => {
  for (const map of maps)
    for (let first = 0; first < map.rows.length; first += 48) {
      const canvas = element("canvas", undefined, { class: "printed" });
      const width = LEFT + Math.min(48, map.rows.length - first) * CELL;
      drawMap(map.item, map.rows, sized(canvas, width, LOGO + 20 * CELL + AXIS), width, first, 0);
      canvas.style.height = "auto";
      $("maps").append(canvas);
    }
});
window.addEventListener("afterprint", () => { for (const canvas of document.querySelectorAll(".printed")) canvas.remove(); });
$("structure").replaceChildren(...DATA.items.map((item, n) => element("option", item.name, { value: n })));
$("structure").addEventListener("change", () => show(Number($("structure").value)));
$("chooser").hidden = DATA.items.length < 2;
$("colour").addEventListener("change", () => { state.colour = $("colour").value; drawStructure(); });
$("whole").addEventListener("click", () => { if (state.viewer) { state.viewer.zoomTo(); state.viewer.render(); } });
$("search").addEventListener("input", drawTable);
$("copy").addEventListener("click", () => give(textOf(state.item, visible(state.item)), $("copy")));
show(0);

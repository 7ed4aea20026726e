// Charts of the report and of the compare page: lines, and a confusion matrix, with values in tooltips.
"use strict";

const SVG = "http://www.w3.org/2000/svg";

function svg(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

function html(parent, name, attributes = {}, text) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return parent.appendChild(element);
}

// A percentage as text, rounded by the rule of report/percentages.py: a final 5 is rounded up.
// Number("38.15e1") is exactly 381.5, whereas 38.15 * 10 need not be.
function percentText(percent, decimals = 1) {
  const rounded = Math.round(Number(`${+percent.toFixed(6)}e${decimals}`));
  return Number(`${rounded}e-${decimals}`).toFixed(decimals);
}

const isNumber = (x) => typeof x === "number";
const data = (id) => JSON.parse(document.getElementById(id).textContent);

// The colour of series i of n: one of six distinct colours; beyond six, an evenly spaced hue; for
// ordered series (ramp), a step on a colour ramp.
function colorOf(i, n, ramp) {
  const hue = ramp ? 215 + (190 * i) / Math.max(n - 1, 1) : (360 * i) / n;
  return ramp || n > 6 ? `hsl(${Math.round(hue)} 70% var(--ramp))` : `var(--c${i})`;
}

// About `count` round numbers from low to high.
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((k) => k * power >= raw * 0.999);
  const found = [];
  for (let x = Math.ceil(low / step) * step; x <= high + step * 1e-6; x += step) found.push(+x.toPrecision(8));
  return found;
}

// Moves the tooltip next to a position of the figure, and keeps it inside the figure.
function placeTip(tip, figure, x, y) {
  tip.hidden = false;
  const room = figure.clientWidth - tip.offsetWidth;
  const beside = x + 14 > room ? x - tip.offsetWidth - 14 : x + 14;
  tip.style.left = `${Math.max(0, Math.min(beside, room))}px`;
  tip.style.top = `${Math.max(0, y - tip.offsetHeight / 2)}px`;
}

/* Draws a line chart. `spec` has
     x, xlabel, ylabel, unit; low and high, the limits of y (default: from 0 to the largest value);
     series, each with name and y (null for a missing value), and optionally its own x, color, dash,
       band (one standard deviation), quiet (no points);
     ramp: whether the series are ordered; breaks: indices of points that are not joined to the
     point before; marks: the x of vertical lines; xname(x): the heading of the tooltip. */
function lines(figure, spec) {
  const hidden = figure.hiddenSeries ?? (figure.hiddenSeries = new Set());
  const caption = figure.querySelector("figcaption");
  figure.querySelectorAll(":scope > svg, .legend, .tip").forEach((element) => element.remove());
  figure.classList.add("chart");
  const W = Math.max(240, figure.clientWidth), H = Math.round(Math.min(360, Math.max(230, W * 0.5)));
  const [left, right, top, bottom] = [54, 42, 10, 40];
  const n = spec.series.length;
  const series = spec.series.map((line, i) => ({
    ...line, x: line.x ?? spec.x, color: line.color ?? colorOf(i, n, spec.ramp) }));
  const shown = series.filter((line) => !hidden.has(line.name));
  const xs = [...new Set(series.flatMap((line) => line.x))].sort((a, b) => a - b);
  const values = series.flatMap((line) => line.y.map((y, k) => y + (line.band?.[k] ?? 0))).filter(isNumber);
  const low = spec.low ?? 0, high = spec.high ?? (Math.max(...values, 0) * 1.05 || 1);
  const [first, last] = [xs[0], xs[xs.length - 1]];
  const place = (x) => (last === first ? (left + W - right) / 2 : left + ((x - first) / (last - first)) * (W - left - right));
  const height = (y) => H - bottom - ((Math.min(y, high) - low) / (high - low)) * (H - top - bottom);

  const root = svg(figure, "svg", { width: W, height: H, viewBox: `0 0 ${W} ${H}`, role: "img" });
  root.setAttribute("aria-label", figure.getAttribute("aria-label") ?? spec.ylabel);
  for (const y of ticks(low, high, 5)) {
    svg(root, "line", { class: "grid", x1: left, x2: W - right, y1: height(y), y2: height(y) });
    svg(root, "text", { x: left - 6, y: height(y) + 4, "text-anchor": "end" }, y);
  }
  const every = Math.ceil((xs.length * 34) / (W - left - right));
  const some = xs.filter((_, k) => (xs.length - 1 - k) % every === 0);
  for (const x of xs.length <= 40 ? some : ticks(first, last, (W - left) / 90).filter(Number.isInteger))
    svg(root, "text", { x: place(x), y: H - bottom + 16, "text-anchor": "middle" }, x);
  for (const x of spec.marks ?? [])
    if (x > first && x < last) svg(root, "line", { class: "mark", x1: place(x), x2: place(x), y1: top, y2: H - bottom });
  svg(root, "text", { x: (left + W - right) / 2, y: H - 4, "text-anchor": "middle" }, spec.xlabel);
  svg(root, "text", { x: 11, y: (H - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 11 ${(H - bottom) / 2})` }, spec.ylabel);

  const breaks = new Set(spec.breaks ?? []);
  for (const line of shown) {
    if (line.band) {
      const indices = line.x.map((_, k) => k).filter((k) => isNumber(line.y[k]) && isNumber(line.band[k]));
      const edge = (k, sign) => `${place(line.x[k])},${height(Math.max(low, line.y[k] + sign * line.band[k]))}`;
      const points = [...indices.map((k) => edge(k, 1)), ...indices.reverse().map((k) => edge(k, -1))];
      svg(root, "polygon", { class: "band", points: points.join(" "), style: `fill:${line.color}`, "fill-opacity": 0.18 });
    }
    let path = "", joined = false;
    line.x.forEach((x, k) => {
      if (!isNumber(line.y[k])) return (joined = false);
      path += `${joined && !breaks.has(k) ? "L" : "M"}${place(x).toFixed(1)} ${height(line.y[k]).toFixed(1)}`;
      joined = true;
    });
    const style = `stroke:${line.color};fill:none`;
    svg(root, "path", { class: "line", d: path, style, "stroke-width": 2, "stroke-linejoin": "round", "stroke-dasharray": line.dash ? "6 4" : "none" });
    if (!line.quiet && line.x.length < 120)
      line.x.forEach((x, k) => isNumber(line.y[k]) &&
        svg(root, "circle", { cx: place(x), cy: height(line.y[k]), r: line.x.length > 40 ? 1.5 : 2.5, style: `fill:${line.color}` }));
  }
  endLabels(root, shown, place, height, H - bottom, spec.unit);

  const legend = html(figure, "div", { class: "legend" });
  for (const line of series) {
    const button = html(legend, "button", { type: "button", "aria-pressed": !hidden.has(line.name) });
    html(button, "i", { style: `border-top-color:${line.color};border-top-style:${line.dash ? "dashed" : "solid"}` });
    button.append(line.name);
    button.onclick = () => {
      hidden.has(line.name) ? hidden.delete(line.name) : hidden.add(line.name);
      lines(figure, spec);
    };
  }
  if (caption) figure.append(caption);

  const tip = html(figure, "div", { class: "tip", hidden: "" });
  const cursor = svg(root, "line", { class: "cursor", y1: top, y2: H - bottom, visibility: "hidden" });
  const leave = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
  root.onpointermove = root.onpointerdown = (event) => {
    const at = event.clientX - root.getBoundingClientRect().left;
    const x = xs.reduce((a, b) => (Math.abs(place(b) - at) < Math.abs(place(a) - at) ? b : a));
    const present = shown
      .map((line) => { const k = line.x.indexOf(x); return { ...line, value: line.y[k], spread: line.band?.[k] }; })
      .filter((line) => isNumber(line.value)).sort((a, b) => b.value - a.value);
    if (!present.length) return leave();
    cursor.setAttribute("x1", place(x)); cursor.setAttribute("x2", place(x));
    cursor.setAttribute("visibility", "visible");
    tip.replaceChildren();
    html(tip, "b", {}, spec.xname ? spec.xname(x) : `${spec.xlabel}: ${x}`);
    for (const line of present.slice(0, 14)) {
      const row = html(tip, "div");
      html(row, "i", { style: `background:${line.color}` });
      const spread = isNumber(line.spread) ? ` ± ${percentText(line.spread)}` : "";
      row.append(`${line.name}: ${spec.unit === "%" ? percentText(line.value) + "%" : +line.value.toPrecision(4)}${spread}`);
    }
    if (present.length > 14) html(tip, "div", {}, `and ${present.length - 14} more`);
    placeTip(tip, figure, place(x), event.clientY - figure.getBoundingClientRect().top);
  };
  root.onpointerleave = leave;
}

// Labels the end of each line with its last value, without overlaps; none if there is no room for all.
function endLabels(root, series, place, height, floor, unit) {
  const ends = series.flatMap((line) => {
    const k = line.y.findLastIndex(isNumber);
    return k < 0 || line.quiet ? [] : [{ x: place(line.x[k]), y: height(line.y[k]), value: line.y[k], color: line.color }];
  }).sort((a, b) => b.y - a.y);
  if (ends.length > 10 || ends.some((end) => Math.abs(end.value) >= 1000)) return;
  let below = floor + 12;
  for (const end of ends) {
    below = Math.min(end.y + 4, below - 12);
    svg(root, "text", { x: end.x + 7, y: below, style: `fill:${end.color}` }, unit === "%" ? percentText(end.value) : +end.value.toPrecision(3));
  }
}

/* Draws a confusion matrix on a canvas: true classes in rows, predicted classes in columns. `spec` has
   names, counts [n][n], bounds (the rows that begin a task), right(i), the text of the tooltip for a
   cell on the diagonal, and matches(i), whether to highlight a class. */
function confusion(figure, spec) {
  figure.querySelectorAll(".wide, .tip").forEach((element) => element.remove());
  const n = spec.names.length, ratio = window.devicePixelRatio || 1;
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const fontOf = (size) => `${Math.min(12, size)}px system-ui, sans-serif`;
  const box = html(figure, "div", { class: "wide" });
  const canvas = html(box, "canvas", { role: "img", tabindex: "0", "aria-label": "confusion matrix" });
  const paint = canvas.getContext("2d");
  // The matrix fits the page. Names need rows of at least 8 pixels; in lower rows, tooltips have them.
  paint.font = fontOf(12);
  const named = Math.min(130, 10 + Math.max(...spec.names.map((name) => paint.measureText(name).width)));
  const rowsOf = (room) => Math.min(n > 12 ? 18 : 26, Math.floor((2 * room) / n) / 2);
  const hasNames = rowsOf(box.clientWidth - named - 1) >= 8, margin = hasNames ? named : 0;
  const size = Math.max(1.5, rowsOf(box.clientWidth - margin - 1)), font = fontOf(size);
  const side = margin + n * size + 1;
  canvas.width = canvas.height = Math.round(side * ratio);
  canvas.style.width = canvas.style.height = `${side}px`;
  paint.scale(ratio, ratio);
  const totals = spec.counts.map((row) => Math.max(1, row.reduce((a, b) => a + b, 0)));
  paint.fillStyle = color("--card");
  paint.fillRect(margin, margin, n * size, n * size);
  paint.fillStyle = color("--heat");
  spec.counts.forEach((row, i) => row.forEach((count, j) => {
    if (!count) return;
    paint.globalAlpha = Math.sqrt(count / totals[i]);  // makes rare errors visible
    paint.fillRect(margin + j * size, margin + i * size, size, size);
  }));
  paint.globalAlpha = 1;
  paint.font = font;
  paint.textBaseline = "middle";
  const drawName = (name, i, marked) => {
    paint.fillStyle = color(marked ? "--c1" : "--text");
    paint.textAlign = "right";
    paint.fillText(name, margin - 4, margin + (i + 0.5) * size, margin - 6);
    paint.save();
    paint.translate(margin + (i + 0.5) * size, margin - 4);
    paint.rotate(-Math.PI / 2);
    paint.textAlign = "left";
    paint.fillText(name, 0, 0, margin - 6);
    paint.restore();
  };
  spec.names.forEach((name, i) => {
    const marked = spec.matches?.(i);
    if (hasNames) drawName(name, i, marked);
    if (!marked) return;
    paint.strokeStyle = color("--c1");
    paint.strokeRect(margin + 0.5, margin + i * size + 0.5, n * size - 1, size - 1);
    paint.strokeRect(margin + i * size + 0.5, margin + 0.5, size - 1, n * size - 1);
  });
  paint.fillStyle = color("--soft");
  for (const bound of spec.bounds.filter((b) => b < n)) {
    paint.fillRect(margin, margin + bound * size - 0.25, n * size, 0.5);
    paint.fillRect(margin + bound * size - 0.25, margin, 0.5, n * size);
  }
  const tip = html(figure, "div", { class: "tip", hidden: "" });
  canvas.onpointermove = canvas.onpointerdown = (event) => {
    const at = canvas.getBoundingClientRect(), around = figure.getBoundingClientRect();
    const j = Math.floor((event.clientX - at.left - margin) / size);
    const i = Math.floor((event.clientY - at.top - margin) / size);
    if (i < 0 || j < 0 || i >= n || j >= n) return (tip.hidden = true);
    const count = spec.counts[i][j], share = percentText((100 * count) / totals[i]);
    tip.replaceChildren();
    html(tip, "div", {}, i === j ? spec.right(i) : `${spec.names[i]} predicted as ${spec.names[j]}`);
    html(tip, "b", {}, `${share}% (${count} of ${totals[i]})`);
    placeTip(tip, figure, event.clientX - around.left, event.clientY - around.top);
  };
  canvas.onpointerleave = () => (tip.hidden = true);
}

// Draws now, and again whenever the width or the colour scheme changes.
function drawn(draw) {
  draw();
  let width = window.innerWidth, wait;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(wait);
    wait = setTimeout(draw, 100);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}

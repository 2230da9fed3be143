// --- charts over time ---
const WIDTH = 1120, LEFT = 62, RIGHT = 8;
const count = () => Math.ceil((view.last - view.first) / perColumn());
const x = column => LEFT + (WIDTH - LEFT - RIGHT) * Math.min(1, column * perColumn() / (view.last - view.first));
const columnStart = column => binStart(view.first + column * perColumn());
// Round steps for at most five lines: powers of two for bytes, of 1, 2 and 5 for counts.
function scale(highest, base) {
  const raw = Math.max(highest, base === 2 ? 4096 : 1) / 5;
  const power = base ** Math.floor(Math.log(raw) / Math.log(base) + 1e-9);
  const step = power * (base === 2 ? [1, 2] : [1, 2, 5, 10]).find(factor => factor * power >= raw * (1 - 1e-9));
  return { step, top: Math.ceil(highest / step) * step || step };
}
function timeAxis(svg, height) {
  const start = binStart(view.first) / 1e9, total = (view.last - view.first) * data.bin_ns / 1e9;
  let step = 10 ** Math.floor(Math.log10(total / 6));
  for (const factor of [1, 2, 5, 10]) if (total / (step * factor) <= 9) { step *= factor; break; }
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  for (let number = Math.ceil(start / step - 1e-9); number * step <= start + total; number++) {
    const place = LEFT + (WIDTH - LEFT - RIGHT) * (number * step - start) / total;
    svg.append(drawn("line", { class: "grid", x1: place, x2: place, y1: height, y2: height + 4 }));
    svg.append(drawn("text", { x: place, y: height + 17, "text-anchor": place > WIDTH - 40 ? "end" : "middle" }, (number * step).toFixed(digits) + " s"));
  }
}
function frame(height, { step, top }, label) {
  const svg = drawn("svg", { viewBox: `0 0 ${WIDTH} ${height + 24}`, role: "img" });
  for (let part = 0; part <= Math.round(top / step); part++) {
    const y = height - (height - 8) * part * step / top;
    svg.append(drawn("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }));
    svg.append(drawn("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, label(part * step)));
  }
  timeAxis(svg, height);
  return svg;
}
function stepLine(values, y) {
  return values.map((value, column) => `${column ? "L" : "M"}${x(column).toFixed(1)} ${y(value, column).toFixed(1)}L${x(column + 1).toFixed(1)} ${y(value, column).toFixed(1)}`).join("");
}
const fraction = (target, left = LEFT, right = RIGHT) => event => {
  const box = target.getBoundingClientRect();
  const place = (event.clientX - box.left) / box.width * WIDTH;
  return Math.max(0, Math.min(1, (place - left) / (WIDTH - left - right)));
};
// The range under a drag.
function brush(svg, height, left = LEFT, right = RIGHT) {
  const made = drawn("rect", { class: "brush", y: 0, height, visibility: "hidden" });
  svg.append(made);
  return (from, to) => {
    made.setAttribute("visibility", from === null ? "hidden" : "visible");
    if (from === null) return;
    made.setAttribute("x", left + (WIDTH - left - right) * from);
    made.setAttribute("width", (WIDTH - left - right) * (to - from));
  };
}
// A chart with its values as a table below it, for those who do not see it.
const ROWS = 24;
function figure(name, svg, height, series, value) {
  zoomable(svg, name, fraction(svg), brush(svg, height), () => [view.first, view.last], false);
  const details = element("details", {}, element("summary", {}, `${name} as a table`));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const per = Math.ceil(count() / ROWS), rows = [];
    for (let column = 0; column < count(); column += per)
      rows.push(element("tr", {}, cell(seconds(columnStart(column))), series.map(one => cell(value(most(one.values.slice(column, column + per))), "number"))));
    details.append(table([["From"], ...series.map(one => [one.name, "number"])], rows, `${name}: the most in each row's time`));
  });
  return element("figure", {}, element("div", { class: "scroll" }, svg), details);
}
function stackedArea(name, series, height) {
  const sums = Array.from({ length: count() }, (_, column) => sum(series.map(one => one.values[column])));
  const scaled = scale(Math.max(0, ...sums), 2);
  const svg = frame(height, scaled, size);
  const y = value => height - (height - 8) * value / scaled.top;
  const below = new Array(count()).fill(0);
  for (const one of series) {
    const upper = stepLine(one.values, (value, column) => y(below[column] + value));
    let lower = "";
    for (let column = count() - 1; column >= 0; column--) lower += `L${x(column + 1).toFixed(1)} ${y(below[column]).toFixed(1)}L${x(column).toFixed(1)} ${y(below[column]).toFixed(1)}`;
    svg.append(drawn("path", { d: upper + lower + "Z", fill: one.paint, "fill-opacity": .82 }));
    one.values.forEach((value, column) => { below[column] += value; });
  }
  showTip(svg, event => {
    const column = atColumn(svg, event);
    if (column === null) return null;
    const parts = series.filter(one => one.values[column]).map(one => `${one.name} ${size(one.values[column])}`);
    return `${seconds(columnStart(column))}: ${size(sums[column])}${parts.length ? " = " + parts.join(" + ") : ""}`;
  });
  return figure(name, svg, height, series, size);
}
function lines(name, series, height, unit) {
  const column_ns = data.bin_ns * perColumn();
  const rates = series.map(one => ({ ...one, values: one.values.map(value => value * 1e9 / column_ns) }));
  const scaled = scale(Math.max(0, ...rates.flatMap(one => one.values)), 10);
  const svg = frame(height, scaled, rate);
  const y = value => height - (height - 8) * value / scaled.top;
  for (const one of rates) svg.append(drawn("path", { d: stepLine(one.values, y), fill: "none", stroke: one.paint, "stroke-width": 1.4, "stroke-linejoin": "round" }));
  showTip(svg, event => {
    const column = atColumn(svg, event);
    if (column === null) return null;
    return `${seconds(columnStart(column))}: ${rates.filter(one => one.values[column]).map(one => `${one.name} ${rate(one.values[column])}`).join(", ") || "none"} ${unit}`;
  });
  return figure(name, svg, height, rates, rate);
}
function atColumn(svg, event) {
  const box = svg.getBoundingClientRect(), place = (event.clientX - box.left) / box.width * WIDTH;
  return place < LEFT || place > WIDTH - RIGHT ? null : Math.max(0, Math.min(count() - 1, Math.floor(fraction(svg)(event) * (view.last - view.first) / perColumn())));
}

function spaceMap(device) {
  const dark = matchMedia("screen and (prefers-color-scheme: dark)").matches;
  const first = Math.floor(view.first / data.coarse), last = Math.ceil(view.last / data.coarse), wide = last - first;
  const rows = device.space, high = Math.max(2, Math.min(9, Math.floor(280 / rows.length)));
  const canvas = element("canvas", { width: wide * 4, height: rows.length * high, style: `height:${rows.length * high}px`, role: "img" });
  const context = canvas.getContext("2d");
  const heat = getComputedStyle(document.documentElement).getPropertyValue("--heat");
  context.fillStyle = dark ? "#22292e" : "#f1f2ee";
  context.fillRect(0, 0, canvas.width, canvas.height);
  rows.forEach((row, index) => {
    for (let column = first; column < last; column++) {
      const level = Number(row.cells[column]);
      if (!level) continue;
      context.fillStyle = `rgba(${heat}, ${0.12 + 0.88 * level / 9})`;
      context.fillRect((column - first) * 4, index * high, 4, high - (high > 3 ? 1 : 0));
    }
  });
  const percent = level => level ? Math.max(1, Math.round(((level - 1) / 8) ** 2 * 100)) + " % mapped" : "nothing mapped";
  const at = fraction(canvas, 0, 0);
  showTip(canvas, event => {
    const box = canvas.getBoundingClientRect();
    const row = rows[Math.min(rows.length - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * rows.length)))];
    const column = Math.min(last - 1, first + Math.floor(at(event) * wide));
    return `${seconds(binStart(column * data.coarse))}: ${row.start} to ${row.end}, ${percent(Number(row.cells[column]))}`;
  });
  const mark = element("div", { style: "position:absolute;top:0;bottom:0;background:var(--focus);opacity:.3;display:none;pointer-events:none" });
  const name = `IOVA space of ${device.name}`;
  zoomable(canvas, name, at, (from, to) => {
    mark.style.display = from === null ? "none" : "block";
    if (from !== null) [mark.style.left, mark.style.width] = [from * 100 + "%", (to - from) * 100 + "%"];
  }, () => [first * data.coarse, last * data.coarse], false);
  const details = element("details", { style: "grid-column:1/-1" }, element("summary", {}, `${name} as a table`));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    details.append(table([["From"], ["To"], ["Mapped at some time"]], rows.map(row => {
      const used = [...row.cells.slice(first, last)].filter(level => level !== "0").length;
      return element("tr", {}, cell(row.start, "mono"), cell(row.end, "mono"), cell(`${Math.round(100 * used / wide)} % of the time shown`));
    }), `${name}: its ranges`));
  });
  return element("div", { class: "space" },
    element("div", { class: "title" }, element("h3", {}, swatch(paintOf.get(device)), device.name),
      element("span", { class: "soft small" }, `${counted(rows.length, "range")} of ${size(Number(rows[0].end) - Number(rows[0].start))}, ${rows[rows.length - 1].start} to ${rows[0].end}`)),
    element("div", { class: "addresses mono" }, element("span", {}, rows[0].start), rows.length > 6 ? element("span", {}, rows[Math.floor(rows.length / 2)].start) : null, rows.length > 1 ? element("span", {}, rows[rows.length - 1].start) : null),
    element("div", { style: "position:relative;min-width:0" }, canvas, mark),
    element("div", { class: "axis" }, element("span", {}, seconds(binStart(first * data.coarse))), element("span", {}, seconds(binStart(last * data.coarse)))), details);
}

const WAYS = { "r-": ["device reads", "#2f7f9d"], "-w": ["device writes", "#d0803a"], "rw": ["both (coherent)", "#5d9b57"], "--": ["neither", "#8b6a5b"] };
function histogram(device) {
  const rows = device.lifetimes.map(row => {
    const counts = new Array(65).fill(0);
    for (const [step, bits, number] of row.counts) if (inSteps(step)) counts[bits] += number;
    return { ...row, counts };
  }).filter(row => sum(row.counts));
  if (!rows.length) return null;
  const sums = Array.from({ length: 65 }, (_, bit) => sum(rows.map(row => row.counts[bit])));
  const first = sums.findIndex(value => value), last = sums.findLastIndex(value => value);
  const range = bit => `${span(2 ** Math.max(0, bit - 1))} to ${span(2 ** bit)}`;
  // As wide as the narrowest column, so that letters have the size that they have in the other charts.
  const W = 340, H = 130, top = Math.max(...sums), left = Math.max(30, 14 + 7 * many(top).length);
  const bars = last - first + 1, wide = Math.min(46, (W - left - 4) / bars), every = Math.ceil(bars / Math.min(bars, Math.floor((W - left) / 48)));
  const svg = drawn("svg", { viewBox: `0 0 ${W} ${H + 22}`, role: "img", "aria-label": `Lifetimes of ${device.name}: ${counted(sum(sums), "page")}, most of them ${range(sums.indexOf(top))}` });
  svg.append(drawn("line", { class: "grid", x1: left - 2, x2: W, y1: H, y2: H }));
  svg.append(drawn("text", { x: left - 8, y: 14, "text-anchor": "end" }, many(top)));
  for (let bit = first; bit <= last; bit++) {
    let base = H;
    const place = left + (bit - first) * wide;
    for (const row of rows) {
      const high = (H - 10) * row.counts[bit] / top;
      if (!high) continue;
      base -= high;
      const bar = drawn("rect", { x: place, y: base, width: Math.max(1, wide - 2), height: high, fill: WAYS[row.may][1] });
      bar.append(drawn("title", {}, `${counted(row.counts[bit], "page")}, ${WAYS[row.may][0]}, ${range(bit)}`));
      svg.append(bar);
    }
    if ((bit - first) % every === 0) svg.append(drawn("text", { x: place + wide / 2 - 1, y: H + 16, "text-anchor": "middle" }, span(2 ** Math.max(0, bit - 1))));
  }
  const bits = sums.map((_, bit) => bit).filter(bit => sums[bit]);
  return element("figure", {}, element("h3", {}, swatch(paintOf.get(device)), device.name), svg,
    legend(rows.map(row => [WAYS[row.may][0], WAYS[row.may][1], `longest ${span(row.longest_ns)}`])),
    element("details", {}, element("summary", {}, `Lifetimes of ${device.name} as a table`),
      table([["Mapped for"], ...rows.map(row => [WAYS[row.may][0], "number"])],
        bits.map(bit => element("tr", {}, cell(range(bit)), rows.map(row => cell(many(row.counts[bit]), "number")))), `Lifetimes of ${device.name}`)));
}

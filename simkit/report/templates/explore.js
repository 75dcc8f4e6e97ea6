"use strict";
// The page answers back: what a reader chooses is looked up in the engine's own results (#explore-data), never modelled
// here. Times are packed logarithms; between contexts they are interpolated, and where they jump they are not.
const explore = (() => {
  const data = JSON.parse(document.getElementById("explore-data").textContent);
  const { batches, contexts, factors, chips, layouts, parts } = data;
  const [nB, nS, nF, nL] = [batches.length, contexts.length, factors.length, layouts.length];
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const words = (text) => new Uint16Array(bytes(text).buffer);
  const times = words(data.times), own = words(data.own), ranges = words(data.ranges), shares = bytes(data.shares);
  const rangeContexts = contexts.filter((_, place) => place % data.rangesEvery === 0);
  const ranged = chips.filter((chip) => chip.ranged);
  const step = Math.log(data.most / data.least) / 65534;
  const unpacked = (word) => (word === 0 ? NaN : data.least * Math.exp((word - 1) * step));

  // ---- Looking up. Grids: times [chip, layout, (step, attention), batch, context, factor]; shares alike, five parts;
  // own [chip, layout, (batch, tokens/s, $/Mtok), context, factor]; ranges [ranged chip, layout, (low, high), ...].
  const timeAt = (chip, layout, which, b, s, f) =>
    unpacked(times[((((chip * nL + layout) * 2 + which) * nB + b) * nS + s) * nF + f]);

  // The node and the weight of the next one; contexts beyond the ends are those of the ends.
  function segment(nodes, context) {
    let s = 0;
    while (s < nodes.length - 2 && nodes[s + 1] <= context) s += 1;
    if (nodes.length === 1) return [0, 0];
    const weight = Math.log(context / nodes[s]) / Math.log(nodes[s + 1] / nodes[s]);
    return [s, Math.min(1, Math.max(0, weight))];
  }
  const between = (first, second, weight) =>
    (weight === 0 ? first : weight === 1 ? second : first * (second / first) ** weight);

  // Whether a node is off the line through its neighbours: what lies beside it is no straight line either.
  // What is off is told as a part of the whole step.
  function bends(value, step_, s) {
    if (s < 1 || s > nS - 2) return false;
    const weight = Math.log(contexts[s] / contexts[s - 1]) / Math.log(contexts[s + 1] / contexts[s - 1]);
    return Math.abs(value(s) - between(value(s - 1), value(s + 1), weight)) > data.rough * step_(s);
  }

  // A chip and layout at a point: times in seconds, NaN where it does not fit; `context` is the one that is shown.
  function at(chip, layout, b, context, f) {
    const [s, weight] = segment(contexts, context);
    const value = (node) => timeAt(chip, layout, 0, b, node, f), attention = (node) => timeAt(chip, layout, 1, b, node, f);
    const whole = weight === 0 || weight === 1;
    const unsure = !whole && (Number.isNaN(value(s) + value(s + 1)) ||
      [value, attention].some((one) => bends(one, value, s) || bends(one, value, s + 1)));
    const w = unsure ? Math.round(weight) : weight;
    const shared = (node) => parts.slice(1).map((_, part) =>
      shares[((((chip * nL + layout) * (parts.length - 1) + part) * nB + b) * nS + node) * nF + f] / 255);
    const [low, high] = [shared(s), shared(Math.min(s + 1, nS - 1))];
    const split = low.map((share, part) => share * (1 - w) + high[part] * w);
    split.push(Math.max(0, 1 - split.reduce((sum, share) => sum + share, 0)));
    return { step: between(value(s), value(Math.min(s + 1, nS - 1)), w), split,
      attention: between(attention(s), attention(Math.min(s + 1, nS - 1)), w),
      context: w === 0 ? contexts[s] : w === 1 ? contexts[s + 1] : context };
  }
  // Each layout at its own largest batch jumps with whole sequences: the nearest computed context, never between.
  function ownAt(chip, layout, context, f) {
    const [s, weight] = segment(contexts, context), node = s + Math.round(weight);
    const value = (which) => unpacked(own[(((chip * nL + layout) * 3 + which) * nS + node) * nF + f]);
    return { batch: Math.round(value(0)), rate: value(1), dollars: value(2), context: contexts[node] };
  }
  function rangeAt(chip, layout, b, context, f) {
    const place = ranged.indexOf(chips[chip]);
    if (place < 0) return null;
    const [s, weight] = segment(rangeContexts, context), nR = rangeContexts.length;
    const value = (end, node) =>
      unpacked(ranges[((((place * nL + layout) * 2 + end) * nB + b) * nR + Math.min(node, nR - 1)) * nF + f]);
    const found = [0, 1].map((end) => between(value(end, s), value(end, s + 1), weight));
    return found.some(Number.isNaN) ? null : found;
  }

  // ---- What is chosen, and its place in the page's address: known words only, all else is left as it was.
  const METRICS = ["same", "own", "dollar"];
  const nearest = (list, value) => list.reduce((best, item, place) =>
    (Math.abs(Math.log(item / value)) < Math.abs(Math.log(list[best] / value)) ? place : best), 0);
  const start = () => ({ chips: chips.map((_, place) => place), layouts: layouts.map((_, place) => place).slice(1),
    b: nearest(batches, data.focus.batch), context: data.focus.context, f: nearest(factors, 1), metric: "same" });
  function read(fragment) {
    const chosen = start();
    if (!fragment.startsWith("#ask&")) return chosen;
    const given = new URLSearchParams(fragment.slice(5));
    const known = (key, list) => {
      const named = (given.get(key) ?? "").split(",");
      return list.flatMap((item, place) => (named.includes(item.name) ? [place] : []));
    };
    const number = (key, least, most) => {
      const value = Number(given.get(key));
      return value >= least && value <= most ? value : null;
    };
    if (given.has("chips")) chosen.chips = known("chips", chips);
    if (given.has("layouts")) chosen.layouts = known("layouts", layouts).filter((place) => place > 0);
    const [batch, context, factor] = [number("batch", batches[0], batches[nB - 1]),
      number("context", contexts[0], contexts[nS - 1]), number("bandwidth", factors[0], factors[nF - 1])];
    if (batch) chosen.b = nearest(batches, batch);
    if (context) chosen.context = Math.round(context);
    if (factor) chosen.f = nearest(factors, factor);
    if (METRICS.includes(given.get("metric"))) chosen.metric = given.get("metric");
    return chosen;
  }
  const names = (list, places) => places.map((place) => encodeURIComponent(list[place].name)).join(",");
  const written = (chosen) => `#ask&chips=${names(chips, chosen.chips)}&layouts=${names(layouts, chosen.layouts)}` +
    `&batch=${batches[chosen.b]}&context=${chosen.context}&bandwidth=${factors[chosen.f]}&metric=${chosen.metric}`;

  // ---- Words and numbers.
  const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });
  const round = (value) => Number(value.toPrecision(3));
  const ratio = (value) => (Number.isFinite(value) ? `${value >= 9.95 ? value.toFixed(0) : value >= 1.995 ? value.toFixed(1) : value.toFixed(2)}×` : "–");
  const seconds = (value) => (!Number.isFinite(value) ? "–" : value < 1e-3 ? `${round(value * 1e6)} µs` : value < 1 ? `${round(value * 1e3)} ms` : `${round(value)} s`);
  const plain = (value) => (!Number.isFinite(value) ? "–" : value >= 1000 ? number(Number(value.toPrecision(3))) : String(round(value)));

  // One row a chip and layout: what table, CSV and figures show.
  function rows(chosen) {
    return chosen.chips.flatMap((chip) => [0, ...chosen.layouts].map((layout) => {
      const here = at(chip, layout, chosen.b, chosen.context, chosen.f);
      const mha = at(chip, 0, chosen.b, here.context, chosen.f);
      const full = ownAt(chip, layout, chosen.context, chosen.f), fullMha = ownAt(chip, 0, chosen.context, chosen.f);
      const range = layout > 0 ? rangeAt(chip, layout, chosen.b, here.context, chosen.f) : null;
      return { chip, layout, ...here, speedup: mha.step / here.step, range, full, ownGain: full.rate / fullMha.rate };
    }));
  }
  const COLUMNS = [
    ["chip", (row) => chips[row.chip].label, "hardware", (row) => chips[row.chip].name],
    ["chips", (row) => number(chips[row.chip].chips), "chips", (row) => chips[row.chip].chips],
    ["layout", (row) => layouts[row.layout].label, "attention", (row) => layouts[row.layout].name],
    ["context shown", (row) => number(row.context), "kv_len", (row) => row.context],
    ["step", (row) => (Number.isNaN(row.step) ? "does not fit" : seconds(row.step)), "step_time_s", (row) => row.step],
    ["attention", (row) => seconds(row.attention), "attention_time_s", (row) => row.attention],
    ["tok/s", (row, chosen) => plain(batches[chosen.b] / row.step), "tokens_per_s", (row, chosen) => batches[chosen.b] / row.step],
    ["step vs MHA", (row) => ratio(row.speedup) + (row.range ? ` (${row.range.map(ratio).join(" to ")})` : ""), "speedup_vs_mha", (row) => row.speedup],
    [null, null, "speedup_vs_mha_low", (row) => row.range?.[0]],
    [null, null, "speedup_vs_mha_high", (row) => row.range?.[1]],
    ["own batch", (row) => (row.full.batch ? number(row.full.batch) : "–"), "own_batch", (row) => row.full.batch],
    ["its context", (row) => number(row.full.context), "own_batch_kv_len", (row) => row.full.context],
    ["its tok/s", (row) => plain(row.full.rate), "own_batch_tokens_per_s", (row) => row.full.rate],
    ["vs MHA", (row) => ratio(row.ownGain), "own_batch_tokens_per_s_vs_mha", (row) => row.ownGain],
    ["$/Mtok", (row) => plain(row.full.dollars), "own_batch_cost_usd_per_mtok", (row) => row.full.dollars],
  ];

  // ---- Drawing: SVG elements by their names and attributes; text is always text.
  function draw(name, attributes, ...inside) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
    element.append(...inside);
    return element;
  }
  const WIDTH = 360, HEIGHT = 270, LEFT = 42, RIGHT = 240, TOP = 14, BOTTOM = 228;
  const colour = (chip) => `var(--c${chips[chip].colour})`;
  function scale(low, high, first, last) {
    const [a, b] = [Math.log(low), Math.log(high)];
    return (value) => first + ((Math.log(value) - a) / (b - a)) * (last - first);
  }
  function ticks(low, high, steps) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
      steps.forEach((one) => { const value = one * 10 ** power; if (value >= low * 0.999 && value <= high * 1.001) found.push(value); });
    }
    return found;
  }
  // Some 4 to 8 of them: of three steps a decade, of one, or of every second or third decade.
  function someTicks(low, high) {
    const decades = Math.log10(high / low);
    if (decades < 0.6) return ticks(low, high, [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8]);
    if (decades < 2.3) return ticks(low, high, [1, 2, 5]);
    const every = Math.ceil(decades / 6);
    return ticks(low, high, [1]).filter((value) => Math.round(Math.log10(value)) % every === 0);
  }
  const SHAPES = [(x, y) => ["path", { d: `M${x - 4},${y - 4}L${x + 4},${y + 4}M${x + 4},${y - 4}L${x - 4},${y + 4}` }],
    (x, y) => ["circle", { cx: x, cy: y, r: 4 }], (x, y) => ["rect", { x: x - 3.7, y: y - 3.7, width: 7.4, height: 7.4 }],
    (x, y) => ["path", { d: `M${x},${y - 4.6}L${x + 4.6},${y + 3.6}L${x - 4.6},${y + 3.6}Z` }]];
  // How full a mark is says what is known of its chip: ● calibrated, ◐ sourced, ○ assumed.
  function mark(layout, x, y, ink, basis) {
    const [name, shape] = SHAPES[layout % SHAPES.length](x, y), style = `stroke:${ink};stroke-width:1.4;fill:`;
    if (layout === 0 || basis === "○") return draw(name, { ...shape, style: `${style}var(--paper)` });
    if (basis !== "◐") return draw(name, { ...shape, style: style + ink });
    return draw("g", {}, draw(name, { ...shape, style: `${style}var(--paper)` }), draw(name, { ...shape, style: `${style}${ink};clip-path:inset(-1px 50% -1px -1px)` }));
  }
  function frame(svg, x, y, xs, ys, xText, yText, xName, yName) {
    xs.forEach((value) => svg.append(
      draw("path", { class: "grid", d: `M${x(value)},${TOP}V${BOTTOM}` }),
      draw("text", { x: x(value), y: BOTTOM + 13, "text-anchor": "middle", class: "soft" }, xText(value))));
    ys.forEach((value) => svg.append(
      draw("path", { class: "grid", d: `M${LEFT},${y(value)}H${RIGHT}` }),
      draw("text", { x: LEFT - 4, y: y(value) + 3.5, "text-anchor": "end", class: "soft" }, yText(value))));
    svg.append(draw("path", { class: "axis", d: `M${LEFT},${TOP}V${BOTTOM}H${RIGHT}` }),
      draw("text", { x: (LEFT + RIGHT) / 2, y: BOTTOM + 29, "text-anchor": "middle" }, xName),
      draw("text", { x: 0, y: 9 }, yName));
  }
  // Labels at the right edge, pushed apart so that none lies on another, each with a thread to where it belongs.
  function label(svg, items) {
    const apart = 11, sorted = items.filter((item) => Number.isFinite(item.y)).sort((one, other) => one.y - other.y);
    sorted.forEach((item, place) => { item.at = Math.max(item.y, place ? sorted[place - 1].at + apart : TOP); });
    let floor = BOTTOM - 2;
    [...sorted].reverse().forEach((item) => { item.at = Math.min(item.at, floor); floor = item.at - apart; });
    sorted.forEach((item) => svg.append(
      draw("path", { d: `M${item.x + 5},${item.y}L${RIGHT + 5},${item.at}`, style: `stroke:${item.ink};stroke-width:.5;fill:none;opacity:.6` }),
      draw("text", { x: RIGHT + 7, y: item.at + 3.5, style: `fill:${item.ink}` }, item.text)));
  }
  const line = (points, ink, dashed, width = 1.2) => draw("path", {
    d: points.map(([x, y], place) => `${place ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join(""),
    style: `stroke:${ink};stroke-width:${width};fill:none${dashed ? ";stroke-dasharray:5 2" : ""}` });
  const empty = (svg) => svg.append(draw("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle", class: "soft" }, "nothing that fits is chosen"));

  function drawRoofline(svg, chosen) {
    if (!chosen.chips.length) return empty(svg);
    const factor = factors[chosen.f], shown = [0, ...chosen.layouts];
    const roof = (chip, x) => Math.min(chips[chip].peak, chips[chip].rate * factor * x);
    const least = Math.min(...shown.map((layout) => layouts[layout].intensity));
    const low = Math.min(...chosen.chips.map((chip) => roof(chip, least))) / 2;
    const high = 2 * Math.max(...chosen.chips.map((chip) => chips[chip].peak));
    const x = scale(0.25, 16384, LEFT, RIGHT), y = scale(low, high, BOTTOM, TOP);
    frame(svg, x, y, [1, 16, 256, 4096], ticks(low, high, [1]), String, (value) => `${value / 1e12}`,
      "attention intensity [flop per byte of cache]", "rate of one chip [Tflop/s]");
    const labels = chosen.chips.map((chip) => {
      const ink = colour(chip), knee = chips[chip].peak / chips[chip].rate / factor;
      const points = [low / (chips[chip].rate * factor), knee, 16384].map((value) => Math.max(0.25, value));
      svg.append(line(points.map((value) => [x(value), y(roof(chip, value))]), ink, chips[chip].dashed));
      shown.forEach((layout) => svg.append(mark(layout, x(layouts[layout].intensity), y(roof(chip, layouts[layout].intensity)), ink, chips[chip].basis)));
      return { x: RIGHT, y: y(chips[chip].peak), ink, text: `${chips[chip].label} · ${chips[chip].home}` };
    });
    return label(svg, labels);
  }

  function drawLaw(svg, chosen) {
    const value = { same: (chip, layout, f) => {
      const here = at(chip, layout, chosen.b, chosen.context, f);
      return at(chip, 0, chosen.b, here.context, f).step / here.step;
    }, own: (chip, layout, f) => ownAt(chip, layout, chosen.context, f).rate / ownAt(chip, 0, chosen.context, f).rate,
    dollar: (chip, layout, f) => ownAt(chip, layout, chosen.context, f).dollars }[chosen.metric];
    const shown = chosen.metric === "dollar" ? [0, ...chosen.layouts] : chosen.layouts;
    const curves = chosen.chips.flatMap((chip) => shown.map((layout) => ({ chip, layout,
      ridge: chips[chip].peak / chips[chip].rate, range: chosen.metric === "same" ? rangeAt(chip, layout, chosen.b, chosen.context, chosen.f) : null,
      values: factors.map((_, f) => value(chip, layout, f)) }))).filter((curve) => Number.isFinite(curve.values[chosen.f]));
    if (!curves.length) return empty(svg);
    const every = curves.flatMap((curve) => [...curve.values.filter(Number.isFinite), ...(curve.range ?? [])]);
    const ridges = curves.flatMap((curve) => [curve.ridge / factors[0], curve.ridge / factors[nF - 1]]);
    const [low, high] = chosen.metric === "dollar" ? [Math.min(...every) / 1.2, Math.max(...every) * 1.2] : [Math.min(0.95, ...every), Math.max(2, ...every) * 1.15];
    const [left, right] = [Math.min(...ridges) / 1.2, Math.max(...ridges) * 1.2];
    const x = scale(left, right, LEFT, RIGHT), y = scale(low, high, BOTTOM, TOP);
    frame(svg, x, y, someTicks(left, right), someTicks(low, high), String, (one) => (chosen.metric === "dollar" ? `$${round(one)}` : `${round(one)}×`),
      "ridge of the memory that holds the cache [flop/byte]", { same: "step, speedup over MHA", own: "tokens/s over MHA's, own batches", dollar: "dollars a million tokens, own batch" }[chosen.metric]);
    const labels = [];
    curves.forEach((curve) => {
      const ink = colour(curve.chip), px = x(curve.ridge / factors[chosen.f]), py = y(curve.values[chosen.f]);
      svg.append(line(factors.flatMap((one, f) => (Number.isFinite(curve.values[f]) ? [[x(curve.ridge / one), y(curve.values[f])]] : [])), ink, chips[curve.chip].dashed, 0.7));
      if (curve.range) svg.append(line(curve.range.map((end) => [px, y(end)]), ink, false, 2.2));
      svg.append(mark(curve.layout, px, py, ink, chips[curve.chip].basis));
      if (curve.layout === shown[shown.length - 1]) labels.push({ x: px, y: py, ink, text: chips[curve.chip].label });
    });
    return label(svg, labels);
  }

  function drawBreakdown(svg, chosen, every) {
    const shown = every.filter((row) => Number.isFinite(row.step));
    if (!shown.length) return empty(svg);
    const bar = 11, gap = 7, from = 62, to = 300;
    let y = 26;
    const longest = Math.max(...chosen.chips.map((chip) => {
      const steps = shown.filter((row) => row.chip === chip).map((row) => row.step);
      return steps.length ? Math.max(...steps) / steps[0] : 0;
    }));
    parts.forEach((part, place) => {
      const x = (place % 3) * 118, line_y = Math.floor(place / 3) * 12;
      svg.append(draw("rect", { x, y: line_y, width: 8, height: 8, style: `fill:${part.colour}` }), draw("text", { x: x + 11, y: line_y + 8 }, part.name));
    });
    chosen.chips.forEach((chip) => {
      const own_rows = shown.filter((row) => row.chip === chip);
      if (!own_rows.length) return;
      y += gap + 10;
      svg.append(draw("text", { x: 0, y, style: `fill:${colour(chip)};font-weight:600` }, `${chips[chip].label}, ${number(chips[chip].chips)} chip${chips[chip].chips > 1 ? "s" : ""}`));
      y += 3;
      own_rows.forEach((row) => {
        let x = from;
        const length = (to - from) * (row.step / own_rows[0].step / longest);
        svg.append(draw("text", { x: from - 4, y: y + 9, "text-anchor": "end", class: "soft" }, layouts[row.layout].label));
        row.split.forEach((share, part) => {
          svg.append(draw("rect", { x, y, width: Math.max(0, share * length), height: bar - 1, style: `fill:${parts[part].colour}` }));
          x += share * length;
        });
        svg.append(draw("text", { x: x + 3, y: y + 9 }, seconds(row.step)));
        y += bar;
      });
    });
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${y + 8}`);
    return null;
  }

  const FIGURES = [
    ["roofline", "Roofline", drawRoofline, "Marks: each layout's attention under the memory that holds the cache at the study's point. More bandwidth moves the knee left; batch and context move nothing here. × MHA, then a mark for each layout; ● calibrated, ◐ every parameter has a source, ○ some are assumed."],
    ["law", "The law: what fewer KV heads buy", drawLaw, "One line a chip and layout, from half to 16 times its bandwidth; the mark stands at the bandwidth chosen. Bars are ranges of what is assumed."],
    ["breakdown", "Where the step's time goes", drawBreakdown, "At the chosen batch, the same for each layout; bars of a chip are scaled to its first one."],
  ];

  // ---- What is saved: the figures with their colours in place of the page's variables, the table with full numbers.
  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  function svgText(svg) {
    const copy = svg.cloneNode(true), style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    const drawn = svg.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((element, place) => {
      const computed = getComputedStyle(drawn[place]);
      element.removeAttribute("class");
      ["fill", "stroke", "stroke-width", "stroke-dasharray", "font", "opacity"].forEach((key) => element.style.setProperty(key, computed.getPropertyValue(key)));
    });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("style", `background:${value("--paper")}`);
    return new XMLSerializer().serializeToString(copy);
  }
  const cell = (value) => {
    if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
    const text = String(value ?? "");
    return `"${(/^[=+\-@]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
  };
  function csvText(chosen) {
    const head = ["model", ...COLUMNS.map((column) => column[2]), "batch", "bandwidth_factor"].join(",");
    return [head, ...rows(chosen).map((row) => [cell(data.model), ...COLUMNS.map((column) => cell(column[3](row, chosen))), batches[chosen.b], factors[chosen.f]].join(","))].join("\n") + "\n";
  }
  // The shell reads a word in single quotes as it stands.
  const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\"'\"'")}'`);
  function commands(chosen) {
    const layoutNames = ["mha", ...chosen.layouts.map((place) => layouts[place].name)].join(",");
    const owns = chosen.metric !== "same";
    return chosen.chips.map((place) => {
      const chip = chips[place], context = at(place, chosen.layouts[0] ?? 0, chosen.b, chosen.context, chosen.f).context;
      const closed = owns ? chip.closed.flatMap((setting) => ["--set", setting]) : [];
      const faster = factors[chosen.f] === 1 ? [] : Object.entries(chip.bandwidths).flatMap(([level, rate]) => ["--set", `memory.${level}.bandwidth=${rate * factors[chosen.f]} B/s`]);
      return ["simkit", "simulate", "-H", chip.name, "-M", data.model, "-A", layoutNames, "--batch", owns ? 1 : batches[chosen.b], "--kv-len", owns ? ownAt(place, 0, chosen.context, chosen.f).context : context,
        "--chips", chip.chips, ...faster, ...closed, ...(owns ? ["--own-batch"] : [])].map((part) => word(String(part))).join(" ") + (data.options ? ` ${data.options}` : "");
    }).join("\n");
  }

  // ---- The page.
  const find = (name) => document.getElementById(`explore-${name}`);
  let chosen = read(location.hash);
  // A slider's places: 16 an octave, each a whole number of tokens.
  const octaves = Math.log2(contexts[nS - 1] / contexts[0]);
  const places = Math.max(1, Math.round(16 * octaves));
  const contextOf = (place) => Math.round(contexts[0] * 2 ** ((octaves * place) / places));
  function choices(place, list, key, from) {
    list.forEach((item, index) => {
      if (index < from) return;
      const box = document.createElement("input"), text = document.createElement("label");
      box.type = "checkbox";
      box.value = item.name;
      const sample = draw("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, key === "chips" ? line([[1, 8], [15, 8]], colour(index), item.dashed, 3) : mark(index, 8, 8, "var(--ink)", "●"));
      text.append(box, sample, item.label + (key === "chips" ? ` ${item.basis}` : ""));
      box.addEventListener("change", () => {
        chosen[key] = [...place.querySelectorAll("input")].flatMap((one, at_) => (one.checked ? [at_ + from] : []));
        show(true);
      });
      place.append(text);
    });
  }
  function saidOf(every) {
    if (!chosen.chips.length || !chosen.layouts.length) return "Choose at least one chip and one layout.";
    const last = chosen.layouts[chosen.layouts.length - 1];
    const gain = (row) => ({ same: row.speedup, own: row.ownGain, dollar: row.full.dollars })[chosen.metric];
    const known = every.filter((row) => row.layout === last && Number.isFinite(gain(row))).sort((one, other) => gain(one) - gain(other));
    const where = `Batch ${batches[chosen.b]}, ${number(chosen.context)} cached tokens, ${factors[chosen.f]} times today's bandwidth: `;
    const missing = [...new Set(every.filter((row) => Number.isNaN(row.step)).map((row) => `${layouts[row.layout].label} on ${chips[row.chip].label}`))];
    const text = (row) => `${chosen.metric === "dollar" ? `$${plain(gain(row))}` : ratio(gain(row))} (${chips[row.chip].label})`;
    const what = { same: `with ${layouts[last].label} the step is faster than MHA's by `, own: `with ${layouts[last].label}, each at its own batch, tokens/s are over MHA's by `, dollar: `with ${layouts[last].label} a million tokens cost ` }[chosen.metric];
    const range = known.length === 0 ? (chosen.metric === "dollar" ? "no price of these chips has a source." : "nothing to compare.") : `${what}${text(known[0])}${known.length > 1 ? ` to ${text(known[known.length - 1])}` : ""}.`;
    const snapped = every.some((row) => row.context !== chosen.context && Number.isFinite(row.step));
    return where + range + (missing.length ? ` Does not fit at this batch: ${missing.join(", ")}.` : "") + (snapped ? " Near a jump some rows show the nearest computed context." : "");
  }
  function table(every) {
    const shown = COLUMNS.filter((column) => column[0] !== null);
    const line_of = (texts, tag) => { const row = document.createElement("tr"); texts.forEach((text, place) => { const one = document.createElement(tag); one.textContent = text; if (tag === "th") one.scope = "col"; if (place !== 0 && place !== 2) one.className = "number"; row.append(one); }); return row; };
    find("head").replaceChildren(line_of(shown.map((column) => column[0]), "th"));
    find("body").replaceChildren(...every.map((row) => line_of(shown.map((column) => column[1](row, chosen)), "td")));
  }
  function show(record) {
    const every = rows(chosen);
    [["batch", chosen.b, `${batches[chosen.b]}`], ["context", Math.round((places * Math.log2(chosen.context / contexts[0])) / (octaves || 1)), number(chosen.context)], ["bandwidth", chosen.f, `${factors[chosen.f]}×`]].forEach(([name, place, text]) => {
      find(name).value = place;
      find(name).setAttribute("aria-valuetext", text);
      find(`${name}-text`).value = text;
    });
    find("chips").querySelectorAll("input").forEach((box, place) => { box.checked = chosen.chips.includes(place); });
    find("layouts").querySelectorAll("input").forEach((box, place) => { box.checked = chosen.layouts.includes(place + 1); });
    document.querySelectorAll("#explore-form [name=metric]").forEach((radio) => { radio.checked = radio.value === chosen.metric; });
    const said = saidOf(every);
    find("said").textContent = said;
    FIGURES.forEach(([name, title, paint]) => {
      const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}. ${said} The table below has its numbers.` });
      paint(svg, chosen, every);
      find(name).replaceChildren(svg);
    });
    table(every);
    find("commands").textContent = commands(chosen);
    if (record && location.hash !== written(chosen)) history.pushState(null, "", written(chosen));
  }
  choices(find("chips"), chips, "chips", 0);
  choices(find("layouts"), layouts, "layouts", 1);
  FIGURES.forEach(([name, title, , words_]) => {
    const figure = document.createElement("figure"), heading = document.createElement("h3"), place = document.createElement("div");
    const caption = document.createElement("figcaption"), button = document.createElement("button");
    heading.textContent = title;
    place.id = `explore-${name}`;
    caption.className = "small";
    caption.textContent = words_;
    button.type = "button";
    button.textContent = "SVG";
    button.setAttribute("aria-label", `Download the figure ${title} as SVG`);
    button.addEventListener("click", () => save(`${name}.svg`, "image/svg+xml", svgText(place.querySelector("svg"))));
    figure.append(heading, place, caption, button);
    find("figures").append(figure);
  });
  find("batch").max = nB - 1;
  find("context").max = places;
  const slide = (name, take) => {
    find(name).addEventListener("input", (event) => { take(Number(event.target.value)); show(false); });
    find(name).addEventListener("change", () => show(true));
  };
  slide("batch", (place) => { chosen.b = place; });
  slide("context", (place) => { chosen.context = contextOf(place); });
  slide("bandwidth", (place) => { chosen.f = place; });
  document.querySelectorAll("#explore-form [name=metric]").forEach((radio) => radio.addEventListener("change", () => { chosen.metric = radio.value; show(true); }));
  find("form").addEventListener("submit", (event) => event.preventDefault());
  find("csv").addEventListener("click", () => save("simkit-point.csv", "text/csv", csvText(chosen)));
  find("reset").addEventListener("click", () => { chosen = start(); show(true); });
  find("link").addEventListener("click", () => {
    history.replaceState(null, "", written(chosen));
    const told = (text) => { find("link").textContent = text; setTimeout(() => { find("link").textContent = "Copy link"; }, 2000); };
    const stays = () => told("The address bar has it");
    if (navigator.clipboard) navigator.clipboard.writeText(location.href).then(() => told("Copied"), stays); else stays();
  });
  window.addEventListener("popstate", () => { chosen = read(location.hash); show(false); });
  find("form").hidden = false;
  show(false);
  if (location.hash.startsWith("#ask&")) document.getElementById("explore").scrollIntoView();
  return { data, at, ownAt, rangeAt, read, written, csvText, commands };
})();

// Draws a run's view, which ps/page/view.py has made: once in a report, again and again live.
//
// A picture is made when its name is first seen, and changed in place after that, so that a
// reader's place on the page stays. uPlot draws whatever has axes.
"use strict";

const Leash = (() => {
  const STATES = ["computing", "exchanging", "held back", "gone"]; // the order of a lane's bytes
  const STATE_COLORS = ["--blue", "--sky", "--orange", "--absent"];
  const FROM_THE_BOTTOM = [2, 1, 0, 3];
  const FULL = 200; // of a bin, in a lane's bytes
  const FONT = "12px system-ui, sans-serif";
  const pictures = new Map(); // name ▸ Picture

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // Numbers for people.

  const digits = (value) => Number(value.toPrecision(3)).toString();

  function short(value) {
    for (const [limit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (Math.abs(value) >= limit) return digits(value / (letter === "k" ? 1e3 : limit)) + letter;
    }
    return digits(value);
  }

  function timeUnit(longest) {
    if (longest > 3 * 3600) return [3600, "hours"];
    return longest > 1200 ? [60, "minutes"] : [1, "s"];
  }

  const percent = (share) => `${share > 0 && share < 0.005 ? "under 1" : Math.round(100 * share)} %`;

  const quantity = (value, unit) => (unit === "%" ? `${digits(value)} %` : `${short(value)} ${unit}`);

  // Axes.

  function axis(more) {
    return {
      stroke: () => color("--muted"), font: FONT, labelFont: FONT,
      grid: { stroke: () => color("--grid"), width: 1 },
      ticks: { stroke: () => color("--axis"), width: 1, size: 4 }, ...more,
    };
  }

  function timeAxis(longest) {
    const [factor, unit] = timeUnit(longest);
    return axis({
      label: `time, ${unit}`, labelSize: 18, size: 30,
      incrs: [1, 2, 5, 10, 15, 30, 60, 120, 300, 600].map((n) => n * factor).concat([0.001, 0.002,
        0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5].map((n) => n * factor)).sort((a, b) => a - b),
      values: (_, ticks, axisNumber, space, step) => {
        const decimals = Math.max(0, -Math.floor(Math.log10(step / factor) + 1e-9));
        return ticks.map((t) => (t / factor).toFixed(decimals));
      },
    });
  }

  function markChanges(u, changes) {
    for (const change of changes || []) {
      mark(u, change.t, change.label, true);
    }
  }

  // A vertical line with a label beside it; `isDashed` null leaves out the line.
  function mark(u, x, label, isDashed, row = 0) {
    const at = u.valToPos(x, "x", true), { left, top, width, height } = u.bbox, ctx = u.ctx;
    if (at < left - 1 || at > left + width + 1) return;
    const scale = devicePixelRatio;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = color("--muted");
    ctx.lineWidth = 1.2 * scale;
    ctx.setLineDash(isDashed ? [4 * scale, 3 * scale] : []);
    if (isDashed !== null) {
      ctx.beginPath();
      ctx.moveTo(at, top);
      ctx.lineTo(at, top + height);
      ctx.stroke();
    }
    ctx.font = `${12 * scale}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    const isRight = at + ctx.measureText(label).width + 8 * scale > left + width;
    ctx.textAlign = isRight ? "right" : "left";
    ctx.fillText(label, at + (isRight ? -5 : 5) * scale, top + (2 + 15 * row) * scale);
    ctx.restore();
  }

  // Pictures.

  class Picture {
    constructor(view) {
      this.figure = element("figure", view.wide ? "card wide" : "card");
      this.title = element("h3");
      this.note = element("p", "note");
      this.keys = element("ul", "keys");
      this.readout = element("p", "readout", "\u00a0");
      this.body = element("div", "plot");
      this.figure.append(this.title, this.note, this.keys, this.body, this.readout);
      this.figure.setAttribute("aria-label", view.title);
      // A neighbour that comes later makes it narrower, as a smaller window does.
      new ResizeObserver(() => requestAnimationFrame(() => this.resized())).observe(this.figure);
    }

    show(view) {
      this.view = view;
      this.title.textContent = view.title;
      this.note.textContent = view.note || "";
      this.note.hidden = !view.note;
      this.showKeys(view.keys.length > 1 ? view.keys : []);
      this.draw(view);
    }

    showKeys(keys) {
      const told = JSON.stringify(keys);
      if (told === this.toldKeys) return;
      this.toldKeys = told;
      this.keys.replaceChildren(...keys.map((key) => {
        const item = element("li"), swatch = element("i", key.dash ? "swatch line" : "swatch");
        swatch.style.setProperty("--of", `var(${key.color})`);
        if (key.dash && key.dash.length) swatch.classList.add("dashed");
        item.append(swatch, element("span", "", key.label));
        return item;
      }));
    }

    // Says a value under the pointer; without one, keeps the room for it.
    say(text) {
      this.readout.textContent = text || "\u00a0";
    }

    resized() {}
    recolored() {}
  }

  class PlotPicture extends Picture {
    draw(view) {
      const shape = JSON.stringify(this.shapeOf(view));
      if (shape !== this.shape) {
        this.shape = shape;
        this.plot?.destroy();
        this.plot = new uPlot(
          { width: this.width(), height: this.height(view), legend: { show: false },
            cursor: { drag: { x: false, y: false }, points: { show: view.kind === "lines" } },
            ...this.options(view) },
          this.data(view), this.body);
        this.plot.over.addEventListener("mouseleave", () => this.say(""));
      } else {
        this.plot.setData(this.data(view));
      }
    }

    shapeOf(view) {
      return [view.kind, view.scale, view.title, (view.series || []).map((s) => s.label)];
    }

    width() {
      return Math.max(200, this.body.clientWidth || 400);
    }

    height() {
      return this.view.wide ? 220 : 250;
    }

    resized() {
      if (!this.plot || this.plot.width === this.width()) return;
      this.plot.setSize({ width: this.width(), height: this.height(this.view) });
    }

    recolored() {
      this.plot?.redraw(false, true);
    }
  }

  class Lines extends PlotPicture {
    data(view) {
      const tables = view.series.map((s) => [s.x, s.y.map((y) => this.shown(y, view))]);
      return tables.length > 1 ? uPlot.join(tables) : tables[0];
    }

    shown(y, view) {
      return y !== null && view.scale === "errors" ? Math.min(y, 99.99) : y;
    }

    options(view) {
      const picture = this;
      return {
        scales: { x: { time: false, range: (_, low, high) => picture.range(low, high) },
                  y: this.scaleOf(view) },
        axes: [view.x === "time" ? timeAxis(view.end || 1)
               : axis({ label: "steps of all workers", labelSize: 18, size: 30,
                        values: (_, ticks) => ticks.map(short) }),
               axis({ size: 56, values: (_, ticks) => ticks.map((y) => (y === null ? "" : this.tick(y, view))) })],
        series: [{}, ...view.series.map((s) => ({
          label: s.label, stroke: () => color(s.color), width: 1.8, dash: s.dash,
          spanGaps: true, points: { show: s.x.length < 40, size: 5 },
          fill: view.fill ? () => `${color(s.color)}26` : undefined,
          paths: view.stepped ? uPlot.paths.stepped({ align: 1 }) : undefined,
        }))],
        hooks: {
          draw: [(u) => markChanges(u, picture.view.changes)],
          setCursor: [(u) => picture.sayValues(u)],
        },
      };
    }

    range(low, high) {
      return [0, Math.max(this.view.end || 0, high || 0, 1e-9)];
    }

    scaleOf(view) {
      if (view.scale === "log") return { distr: 3 };
      if (view.scale === "errors") {
        return { distr: 100, fwd: (y) => -Math.log10(Math.max(100 - y, 0.005)), bwd: (v) => 100 - 10 ** -v,
                 range: (_, low, high) => [Math.max(0, 100 - 1.2 * (100 - low)), 100 - (100 - Math.min(high, 99.99)) / 1.2] };
      }
      const isPercent = view.unit === "%";
      return { range: (_, low, high) => {
        if (low === null) return [0, 1];
        if (isPercent) {
          // Never so close that a change of a tenth of a percent looks like a fall.
          const room = Math.max((high - low) * 0.1, 1);
          return [Math.max(0, Math.floor(low - room)), Math.min(100, Math.ceil(high + room))];
        }
        return [Math.min(0, low), high > 0 ? high * 1.06 : 1];
      } };
    }

    tick(y, view) {
      return view.unit === "%" ? `${digits(y)} %` : view.unit === "B/s" ? `${short(y)}B/s` : short(y);
    }

    sayValues(u) {
      const i = u.cursor.idx;
      if (i === null || i === undefined || u.cursor.left < 0) return this.say("");
      const x = u.data[0][i], [factor, unit] = timeUnit(this.view.end || 1);
      const parts = [this.view.x === "time" ? `at ${digits(x / factor)} ${unit}` : `after ${short(x)} steps`];
      this.view.series.forEach((s, n) => {
        const y = u.data[n + 1][i];
        if (y !== null && y !== undefined) {
          const name = this.view.series.length > 1 ? `${s.label} ` : "";
          parts.push(`${name}${quantity(y, this.view.unit)}`);
        }
      });
      this.say(parts.join(" · "));
    }
  }

  class Bars extends PlotPicture {
    data(view) {
      return [view.starts.map((x) => x + (view.width - 1) / 2), view.shares];
    }

    options(view) {
      const picture = this;
      const end = () => Math.max(...picture.view.starts.map((x) => x + picture.view.width), ...picture.view.marks.map((m) => m.x + 1));
      return {
        scales: { x: { time: false, range: () => [-0.7, end() - 0.3] },
                  y: { range: (_, low, high) => [0, (high || 1) * 1.28] } },
        axes: [axis({ label: view.label, labelSize: 18, size: 30, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000] }),
               axis({ size: 50, values: (_, ticks) => ticks.map((y) => `${digits(100 * y)} %`) })],
        series: [{}, { fill: () => color("--blue"), stroke: () => color("--blue"), width: 0,
                       points: { show: false }, paths: uPlot.paths.bars({ size: [0.86, 60] }) }],
        hooks: {
          draw: [(u) => picture.view.marks.forEach((m, row) => mark(u, m.x, m.label, m.dash, row))],
          setCursor: [(u) => picture.sayBar(u)],
        },
      };
    }

    sayBar(u) {
      const i = u.cursor.idx, view = this.view;
      if (i === null || i === undefined || u.cursor.left < 0) return this.say("");
      const first = view.starts[i], last = first + view.width - 1;
      const which = view.width > 1 ? `${first} to ${last}` : `${first}`;
      this.say(`${which}: ${digits(100 * view.shares[i])} % of the steps`);
    }
  }

  class LanePlot extends PlotPicture {
    shapeOf(view) {
      return [view.kind, view.workers, timeUnit(this.endOf(view))];
    }

    height(view) {
      const n = view.workers.length, phone = matchMedia("(max-width: 720px)").matches;
      const lane = n <= 12 ? 26 : n <= 64 ? 14 : n <= 128 ? 6 : 3.5;
      return 52 + n * Math.min(lane, phone ? 20 : lane);
    }

    data(view) {
      return [[view.begin, this.endOf(view)], [0, 0]];
    }

    options(view) {
      const picture = this, n = view.workers.length, every = Math.ceil(n / 25);
      return {
        scales: { x: { time: false, range: () => [picture.view.begin, picture.endOf(picture.view)] },
                  y: { dir: -1, range: [0, n] } },
        axes: [timeAxis(this.endOf(view)),
               axis({ size: 50, label: "worker", labelSize: 16, grid: { show: false }, ticks: { show: false },
                      splits: () => view.workers.map((_, i) => i + 0.5).filter((_, i) => i % every === 0),
                      values: (_, ticks) => ticks.map((t) => view.workers[Math.floor(t)]) })],
        series: [{}, { show: false }],
        hooks: { drawAxes: [(u) => picture.paint(u)], draw: [(u) => markChanges(u, picture.view.changes)],
                 setCursor: [(u) => picture.sayLane(u)] },
      };
    }

    place(u) {
      if (u.cursor.left === undefined || u.cursor.left < 0) return null;
      const lane = Math.floor(u.posToVal(u.cursor.top, "y")), t = u.posToVal(u.cursor.left, "x");
      return lane >= 0 && lane < this.view.workers.length ? { lane, t } : null;
    }

    when(t) {
      const [factor, unit] = timeUnit(this.endOf(this.view));
      return `${Number((t / factor).toPrecision(5))} ${unit}`;
    }

    paint(u) {
      const ctx = u.ctx, n = this.view.workers.length, gap = n > 64 ? 0 : 0.11;
      ctx.save();
      ctx.beginPath();
      ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
      ctx.clip();
      this.paintLanes(u, ctx, (lane, from, to, low, high) => {
        const x = u.valToPos(from, "x", true), width = u.valToPos(to, "x", true) - x;
        const bottom = u.valToPos(lane + 1 - gap - (1 - 2 * gap) * low, "y", true);
        const top = u.valToPos(lane + 1 - gap - (1 - 2 * gap) * high, "y", true);
        ctx.rect(x, top, Math.max(width, 0.5), bottom - top);
      });
      ctx.restore();
    }
  }

  class Lanes extends LanePlot {
    endOf(view) {
      return view.begin + view.bin * view.bins;
    }

    draw(view) {
      this.bytes = view.shares.map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
      super.draw(view);
    }

    paintLanes(u, ctx, area) {
      const { begin, bin, bins } = this.view, states = STATES.length;
      const bottoms = this.bytes.map(() => new Uint16Array(bins));
      for (const state of FROM_THE_BOTTOM) {
        ctx.beginPath();
        this.bytes.forEach((bytes, lane) => {
          const bottom = bottoms[lane];
          for (let i = 0; i < bins;) {
            const high = bytes[states * i + state], low = bottom[i];
            let j = i + 1; // bins that look alike are one area
            while (j < bins && bytes[states * j + state] === high && bottom[j] === low) j++;
            if (high) area(lane, begin + bin * i, begin + bin * j, low / FULL, Math.min(1, (low + high) / FULL));
            for (; i < j; i++) bottom[i] = low + high;
          }
        });
        ctx.fillStyle = color(STATE_COLORS[state]);
        ctx.fill();
      }
    }

    sayLane(u) {
      const at = this.place(u);
      if (!at) return this.say("");
      const i = Math.floor((at.t - this.view.begin) / this.view.bin), labels = this.view.keys.map((k) => k.label);
      const shares = this.bytes[at.lane].subarray(STATES.length * i, STATES.length * (i + 1));
      const told = [...shares].map((share, state) => [share, this.labelOf(state)])
        .filter(([share]) => share).map(([share, label]) => `${label} ${percent(share / FULL)}`);
      this.say(`worker ${this.view.workers[at.lane]} at ${this.when(at.t)}: ${told.join(", ") || "not there"}`);
    }

    labelOf(state) {
      const key = this.view.keys.find((k) => k.color === STATE_COLORS[state]);
      return key ? key.label : STATES[state];
    }
  }

  class Steps extends LanePlot {
    endOf(view) {
      return view.end;
    }

    paintLanes(u, ctx, area) {
      STATES.forEach((_, state) => {
        ctx.beginPath();
        this.view.spans.forEach((spans, lane) => {
          for (const [from, to, of] of spans) {
            if (of === state && to >= this.view.begin && from <= this.view.end) area(lane, from, to, 0, 1);
          }
        });
        ctx.fillStyle = color(STATE_COLORS[state]);
        ctx.fill();
      });
    }

    sayLane(u) {
      const at = this.place(u);
      if (!at) return this.say("");
      let found = null;
      for (const span of this.view.spans[at.lane]) if (span[0] <= at.t && at.t < span[1]) found = span;
      const told = found ? `${STATES[found[2]]} for ${digits(1000 * (found[1] - found[0]))} ms` : "not there";
      const text = found && found[2] === 0 ? "computing" : told;
      this.say(`worker ${this.view.workers[at.lane]} at ${this.when(at.t)}: ${text}`);
    }
  }

  class Rows extends Picture {
    draw(view) {
      const rows = view.rows.map((row) => {
        const item = element("div", "row");
        item.append(element("span", "name", row.label), this.bar(row, view), element("span", "value", row.value));
        return item;
      });
      this.body.classList.add("rows");
      this.body.replaceChildren(...rows);
      this.readout.hidden = true;
    }
  }

  class Shares extends Rows {
    bar(row, view) {
      const bar = element("span", "bar");
      row.shares.forEach((share, i) => {
        const part = element("i");
        part.style.width = `${100 * share}%`;
        part.style.background = `var(${view.keys[i].color})`;
        part.title = `worker ${row.label}: ${view.keys[i].label} ${percent(share)}`;
        bar.append(part);
      });
      return bar;
    }
  }

  class Paces extends Rows {
    bar(row, view) {
      const low = Math.log(Math.min(...view.rows.map((r) => r.low)) / 1.3);
      const span = Math.log(Math.max(...view.rows.map((r) => r.high)) * 1.3) - low;
      const at = (x) => (100 * (Math.log(x) - low)) / span;
      const bar = element("span", row.slow ? "pace slow" : "pace"), reach = element("i", "reach"), dot = element("i", "dot");
      reach.style.left = `${at(row.low)}%`;
      reach.style.width = `${at(row.high) - at(row.low)}%`;
      dot.style.left = `${at(row.mid)}%`;
      bar.title = `worker ${row.label}: median ${row.value}; 5 % ${digits(1000 * row.low)} ms, 95 % ${digits(1000 * row.high)} ms`;
      bar.append(reach, dot);
      return bar;
    }
  }

  const KINDS = { lines: Lines, bars: Bars, lanes: Lanes, steps: Steps, shares: Shares, paces: Paces };

  // Draws all sections into `place`; those that are there already change in place.
  function draw(place, sections) {
    const wanted = new Set(sections.flatMap((s) => s.pictures.map((p) => p.name)));
    for (const [name, picture] of pictures) {
      if (!wanted.has(name)) {
        picture.plot?.destroy();
        picture.figure.remove();
        pictures.delete(name);
      }
    }
    sections.forEach((section, number) => {
      let node = place.children[number];
      if (!node) {
        node = element("section");
        node.append(element("h2"), element("div", "pictures"));
        place.append(node);
      }
      node.hidden = !section.pictures.length;
      node.firstChild.textContent = section.title;
      const room = node.lastChild;
      section.pictures.forEach((view, i) => {
        let picture = pictures.get(view.name);
        if (picture && picture.view.kind !== view.kind) {
          picture.plot?.destroy();
          picture.figure.remove();
          picture = undefined;
        }
        if (!picture) {
          picture = new KINDS[view.kind](view);
          pictures.set(view.name, picture);
        }
        if (room.children[i] !== picture.figure) room.insertBefore(picture.figure, room.children[i] || null);
        picture.show(view);
      });
    });
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pictures.forEach((p) => p.recolored()));

  return { draw };
})();

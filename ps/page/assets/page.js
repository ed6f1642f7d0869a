// Draws a view, which ps/page has made of runs: once in a report, again and again live.
//
// A picture is made when its name is first seen, and changed in place after that, so that a
// reader's place on the page stays. uPlot draws whatever has axes.
"use strict";

const Leash = (() => {
  const FONT = "12px system-ui, sans-serif";
  const pictures = new Map(); // name ▸ Picture
  const kinds = {}; // kind of a view ▸ its class; curves.js, bars.js and lanes.js add theirs

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function element(tag, className, text) {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // The patch of a legend, or a line with its dashes.
  function swatch({ color: variable, dash }) {
    const made = element("i", dash ? "swatch line" : "swatch");
    made.style.setProperty("--of", `var(${variable})`);
    if (dash && dash.length) {
      let at = 0;
      const stops = dash.map((length, i) => `${i % 2 ? "transparent" : "var(--of)"} ${at}px ${at += length}px`);
      made.style.setProperty("--stripes", `repeating-linear-gradient(90deg, ${stops})`);
    }
    return made;
  }

  // Numbers for people.

  const digits = (value) => Number(value.toPrecision(3)).toString();

  function scaled(value) {
    for (const [limit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
      if (Math.abs(value) >= limit) return [digits(value / (letter === "k" ? 1e3 : limit)), letter];
    }
    return [digits(value), ""];
  }

  const short = (value) => scaled(value).join("");

  function timeUnit(longest) {
    if (longest > 3 * 3600) return [3600, "hours"];
    return longest > 1200 ? [60, "minutes"] : [1, "s"];
  }

  const percent = (share) => `${share > 0 && share < 0.005 ? "under 1" : Math.round(100 * share)} %`;

  function quantity(value, unit) {
    if (unit === "%") return `${Number(value.toFixed(2))} %`;
    if (unit === "B/s") return `${scaled(value).join(" ")}${unit}`; // 800 kB/s
    return `${short(value)} ${unit}`.trim();
  }

  // Axes.

  function axis(more) {
    return {
      stroke: () => color("--muted"), font: FONT, labelFont: FONT,
      grid: { stroke: () => color("--grid"), width: 1 },
      ticks: { stroke: () => color("--axis"), width: 1, size: 4 }, ...more,
    };
  }

  // An axis's room for its longest label, in pixels; `least` lets neighbours lie at the same place.
  const roomForLabels = (least) => (u, labels, n, cycle) => {
    if (cycle > 1) return u.axes[n]._size; // uPlot asks again, until nothing changes
    u.ctx.save();
    u.ctx.font = FONT;
    const longest = Math.max(0, ...(labels || []).map((label) => u.ctx.measureText(label || "").width));
    u.ctx.restore();
    return Math.max(least, Math.ceil(longest) + 16); // with its tick, and a gap on both sides
  };

  function timeAxis(longest, name = "time") {
    const [factor, unit] = timeUnit(longest);
    return axis({
      label: `${name}, ${unit}`, labelSize: 18, size: 30,
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
  function mark(u, x, label, isDashed) {
    markAll(u, [{ x, label, dash: isDashed }]);
  }

  // Several of them, whose labels stand below each other and above all lines.
  function markAll(u, marks) {
    const { left, width } = u.bbox;
    const shown = marks.map((m, row) => ({ ...m, row, at: u.valToPos(m.x, "x", true) }))
      .filter(({ at }) => left - 1 <= at && at <= left + width + 1);
    u.ctx.save();
    shown.filter(({ dash }) => dash !== null).forEach((m) => markLine(u, m));
    shown.forEach((m) => markLabel(u, m));
    u.ctx.restore();
  }

  function markLine(u, { at, dash }) {
    const { top, height } = u.bbox, ctx = u.ctx, scale = devicePixelRatio;
    ctx.strokeStyle = color("--muted");
    ctx.lineWidth = 1.2 * scale;
    ctx.setLineDash(dash ? [4 * scale, 3 * scale] : []);
    ctx.beginPath();
    ctx.moveTo(at, top);
    ctx.lineTo(at, top + height);
    ctx.stroke();
  }

  function markLabel(u, { at, label, row }) {
    const { left, top, width } = u.bbox, ctx = u.ctx, scale = devicePixelRatio;
    ctx.font = `${12 * scale}px system-ui, sans-serif`;
    ctx.textBaseline = "top";
    ctx.textAlign = "left";
    const length = ctx.measureText(label).width, isRight = at + length + 8 * scale > left + width;
    const x = at + (isRight ? -5 * scale - length : 5 * scale), y = top + (2 + 15 * row) * scale;
    if (label) { // no line of another runs through it
      ctx.fillStyle = color("--card");
      ctx.fillRect(x - 2 * scale, y - scale, length + 4 * scale, 15 * scale);
    }
    ctx.fillStyle = color("--muted");
    ctx.fillText(label, x, y);
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
        const item = element("li");
        item.append(swatch(key), element("span", "", key.label));
        return item;
      }));
    }

    // Says what is under the pointer: text, and elements; without any, keeps the room for it, so
    // that what is below does not move.
    say(...told) {
      this.readout.replaceChildren(...(told[0] ? told : ["\u00a0"]));
      if (!told[0]) return;
      const { height } = this.readout.getBoundingClientRect();
      if (height > (this.room || 0)) this.keepRoom(height);
    }

    keepRoom(height) {
      this.room = height;
      this.readout.style.minHeight = height ? `${height}px` : "";
    }

    remove() {
      this.figure.remove();
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
            cursor: { drag: { x: false, y: false }, points: { show: false }, ...this.cursor() },
            ...this.options(view) },
          this.data(view), this.body);
        this.plot.over.addEventListener("mouseleave", () => this.say(""));
      } else {
        this.plot.setData(this.data(view));
      }
    }

    cursor() {
      return {};
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
      this.keepRoom(0);
      this.plot.setSize({ width: this.width(), height: this.height(this.view) });
    }

    recolored() {
      this.plot?.redraw(false, true);
    }

    remove() {
      this.plot?.destroy();
      super.remove();
    }
  }

  // Draws all sections into `place`; those that are there already change in place.
  function draw(place, sections) {
    const wanted = new Set(sections.flatMap((s) => s.pictures.map((p) => p.name)));
    for (const [name, picture] of pictures) {
      if (!wanted.has(name)) {
        picture.remove();
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
      const room = node.lastChild, alone = withoutNeighbour(section.pictures);
      section.pictures.forEach((view, i) => {
        let picture = pictures.get(view.name);
        if (picture && picture.view.kind !== view.kind) {
          picture.remove();
          picture = undefined;
        }
        if (!picture) {
          picture = new kinds[view.kind](view);
          pictures.set(view.name, picture);
        }
        if (room.children[i] !== picture.figure) room.insertBefore(picture.figure, room.children[i] || null);
        picture.figure.classList.toggle("alone", alone.has(view));
        picture.show(view);
      });
    });
  }

  // Those that would leave half of a row empty: the last of an odd number up to a wide one, or up
  // to the end.
  function withoutNeighbour(views) {
    const found = new Set();
    let isOpen = false; // whether the row has one, and room for another
    views.forEach((view, i) => {
      isOpen = !view.wide && !isOpen;
      if (isOpen && (i + 1 === views.length || views[i + 1].wide)) found.add(view);
    });
    return found;
  }

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => pictures.forEach((p) => p.recolored()));

  return {
    Picture, PlotPicture, axis, color, digits, draw, element, kinds, mark, markAll, markChanges, percent, quantity,
    roomForLabels, short, swatch, timeAxis, timeUnit,
  };
})();

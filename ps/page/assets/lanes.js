// What each worker did when: a lane for each, in bins of time or step by step.
"use strict";

(() => {
  const { PlotPicture, axis, color, digits, kinds, markChanges, percent, timeAxis, timeUnit } = Leash;

  const STATES = ["computing", "exchanging", "held back", "gone"]; // the order of a lane's bytes
  const STATE_COLORS = ["--blue", "--sky", "--orange", "--absent"];
  const FROM_THE_BOTTOM = [2, 1, 0, 3];
  const FULL = 200; // of a bin, in a lane's bytes

  class LanePlot extends PlotPicture {
    shapeOf(view) {
      return [view.kind, view.workers, timeUnit(view.end)];
    }

    height(view) {
      const n = view.workers.length, phone = matchMedia("(max-width: 720px)").matches;
      const lane = n <= 12 ? 26 : n <= 64 ? 14 : n <= 128 ? 6 : 3.5;
      return 52 + n * Math.min(lane, phone ? 20 : lane);
    }

    data(view) {
      return [[view.begin, view.end], [0, 0]];
    }

    options(view) {
      const picture = this, n = view.workers.length, every = Math.ceil(n / 25);
      return {
        scales: { x: { time: false, range: () => [picture.view.begin, picture.view.end] },
                  y: { dir: -1, range: [0, n] } },
        axes: [timeAxis(view.end),
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
      const [factor, unit] = timeUnit(this.view.end);
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

  Object.assign(kinds, { lanes: Lanes, steps: Steps });
})();

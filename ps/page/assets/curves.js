// What has a line: values over time or over steps.
"use strict";

(() => {
  const { PlotPicture, axis, color, digits, element, kinds, markChanges, quantity, roomForLabels, short, swatch,
    timeAxis, timeUnit } = Leash;

  const ERROR_TICKS = [0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9, 99.95, 99.99];

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
        axes: [view.x === "time" ? timeAxis(view.end || 1, view.time_is)
               : axis({ label: "steps of all workers", labelSize: 18, size: 30,
                        values: (_, ticks) => ticks.map(short) }),
               axis({ size: roomForLabels(56), values: (_, ticks) => ticks.map((y) => (y === null ? "" : this.tick(y, view))),
                      ...(view.scale === "errors" ? this.errorTicks() : {}) })],
        focus: { alpha: 0.25 },
        series: [{}, ...view.series.map((s) => ({
          label: s.label, stroke: () => color(s.color), width: 1.8, dash: s.dash.map((length) => length * devicePixelRatio),
          spanGaps: true, points: { show: s.x.length === 1 || (view.points && s.x.length < 40), size: 5 },
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

    errorTicks() {
      return { splits: (_, __, low, high) => ERROR_TICKS.filter((y) => low <= y && y <= high), filter: (_, ticks) => ticks };
    }

    tick(y, view) {
      return view.unit === "%" ? `${digits(y)} %` : view.unit === "B/s" ? quantity(y, view.unit) : short(y);
    }

    // Each curve tells its own point that is nearest, since those of others lie at other places;
    // it tells none far beyond its ends.
    cursor() {
      const prox = (_, n, __, at) => {
        const { x } = this.view.series[n - 1];
        return x[0] <= at && at <= x[x.length - 1] ? 1e6 : 20;
      };
      // Of many lines, the one under the pointer stands out.
      const focus = { prox: this.view.series.length > 2 ? 16 : -1 };
      return { points: { show: true }, hover: { prox, skip: [null] }, focus };
    }

    sayValues(u) {
      const at = u.cursor.idx, { series, unit } = this.view;
      if (at === null || at === undefined || u.cursor.left < 0) return this.say("");
      const x = u.data[0][at], [factor, time] = timeUnit(this.view.end || 1);
      const values = new Map(); // of curves with the same label, such as runs that differ in the seed alone
      series.forEach((s, n) => {
        const i = u.cursor.idxs[n + 1];
        if (i === null || i === undefined) return;
        const y = s.y[s.x.indexOf(u.data[0][i])];
        if (y === null || y === undefined) return;
        if (!values.has(s.label)) values.set(s.label, { key: s, of: [] });
        values.get(s.label).of.push(y);
      });
      const place = this.view.x === "time" ? `at ${digits(x / factor)} ${time}` : `after ${short(x)} steps`;
      const [only] = values.values();
      if (series.length === 1) return this.say(only ? `${place} · ${this.between(only.of)}` : place);
      this.say(place, ...[...values].map(([label, { key, of }]) => this.entry(key, `${label} ${this.between(of)}`)));
    }

    entry(key, text) {
      const made = element("span", "entry");
      made.append(swatch(key), element("span", "", text));
      return made;
    }

    between(values) {
      const { unit } = this.view, [low, high] = [Math.min(...values), Math.max(...values)].map((y) => quantity(y, unit));
      return low === high ? low : `${low.slice(0, low.length - unit.length).trim()} to ${high}`;
    }
  }

  Object.assign(kinds, { lines: Lines });
})();

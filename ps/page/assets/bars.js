// What has bars: how many steps had which lag, how time was divided, how long steps take.
"use strict";

(() => {
  const { Picture, PlotPicture, axis, color, digits, element, kinds, mark, markAll, percent, swatch } = Leash;

  // Histograms.

  const middles = (view) => view.starts.map((x) => x + (view.width - 1) / 2);

  const numbersOf = (view, i) => {
    const first = view.starts[i], last = first + view.width - 1;
    return view.width > 1 ? `${first} to ${last}` : `${first}`;
  };

  // A bar that is there is so high that it can be seen.
  function heights(shares, least) {
    const lowest = least * Math.max(...shares);
    return shares.map((share) => (share > 0 ? Math.max(share, lowest) : 0));
  }

  const upTo = (view, marks) => Math.max(...view.starts.map((x) => x + view.width), ...marks.map((x) => x + 1));

  const histogramScales = (end) => ({
    x: { time: false, range: () => [-0.7, end() - 0.3] }, y: { range: (_, low, high) => [0, (high || 1) * 1.28] },
  });

  const histogramSeries = (name) => [{}, {
    fill: () => color(name), stroke: () => color(name), width: 0, points: { show: false },
    paths: uPlot.paths.bars({ size: [0.86, 60] }),
  }];

  const numberAxis = (more) => axis({ incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], ...more });

  class Bars extends PlotPicture {
    data(view) {
      return [middles(view), heights(view.shares, view.least)];
    }

    options(view) {
      const picture = this;
      return {
        scales: histogramScales(() => upTo(picture.view, picture.view.marks.map((m) => m.x))),
        axes: [numberAxis({ label: view.label, labelSize: 18, size: 30 }),
               axis({ size: 50, values: (_, ticks) => ticks.map((y) => `${digits(100 * y)} %`) })],
        series: histogramSeries("--blue"),
        hooks: {
          draw: [(u) => markAll(u, picture.view.marks)],
          setCursor: [(u) => picture.sayBar(u)],
        },
      };
    }

    sayBar(u) {
      const i = u.cursor.idx, view = this.view;
      if (i === null || i === undefined || u.cursor.left < 0) return this.say("");
      this.say(`${numbersOf(view, i)}: ${digits(100 * view.shares[i])} % of the steps`);
    }
  }

  // One histogram of each run below the other, with a common axis and a common pointer.
  class Histograms extends Picture {
    plots = [];

    draw(view) {
      this.destroy();
      this.readout.hidden = true;
      const end = () => upTo(view, view.rows.map((row) => row.bound || 0));
      this.plots = [];
      this.body.replaceChildren(...view.rows.map((row) => {
        const item = element("div", "histogram"), about = element("p"), value = element("span", "value");
        about.append(swatch({ color: row.color, dash: null }), element("b", "", row.label), element("span", "", row.about), value);
        item.append(about);
        this.plots.push({ row, item, value });
        return item;
      }));
      this.plots.forEach((plot, n) => {
        const isLast = n === this.plots.length - 1;
        plot.height = isLast ? 104 : 62;
        plot.drawn = new uPlot({
          width: this.width(), height: plot.height, legend: { show: false },
          cursor: { drag: { x: false, y: false }, points: { show: false }, y: false, sync: { key: view.name } },
          scales: histogramScales(end),
          axes: [isLast ? numberAxis({ label: view.label, labelSize: 18, size: 30 })
                 : numberAxis({ size: 4, values: (_, ticks) => ticks.map(() => "") }), { show: false }],
          series: histogramSeries(plot.row.color),
          hooks: {
            draw: [(u) => { if (plot.row.bound !== null) mark(u, plot.row.bound, "", true); }],
            setCursor: [(u) => { plot.value.textContent = this.told(u, plot.row); }],
          },
        }, [middles(view), heights(plot.row.shares, view.least)], plot.item);
      });
    }

    told(u, row) {
      const i = u.cursor.idx;
      if (i === null || i === undefined || u.cursor.left < 0) return "";
      return `${numbersOf(this.view, i)}: ${digits(100 * row.shares[i])} %`;
    }

    width() {
      return Math.max(200, this.body.clientWidth || 400);
    }

    resized() {
      for (const { drawn, height } of this.plots) {
        if (drawn.width !== this.width()) drawn.setSize({ width: this.width(), height });
      }
    }

    recolored() {
      for (const { drawn } of this.plots) drawn.redraw(false, true);
    }

    destroy() {
      for (const { drawn } of this.plots) drawn.destroy();
    }

    remove() {
      this.destroy();
      super.remove();
    }
  }

  // A bar for each worker, or for each run.

  class Rows extends Picture {
    draw(view) {
      const rows = view.rows.map((row) => {
        const item = element("div", "row");
        item.append(element("span", "name", row.label), this.bar(row, view), element("span", "value", row.value));
        return item;
      });
      this.body.classList.add("rows");
      this.body.classList.toggle("runs", view.whose === "run");
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
        part.title = `${view.whose} ${row.label}: ${view.keys[i].label} ${percent(share)}`;
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

  Object.assign(kinds, { bars: Bars, histograms: Histograms, shares: Shares, paces: Paces });
})();

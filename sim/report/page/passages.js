"use strict";
// What passed between ranks and the store, on the chart: a line from a rank's lane up to the store, which is the upper
// edge, or down from it. One that never arrived ends halfway, in red.

const SHOWN_MAX = 4000; // at a time: more would be one grey area

class Passages {
  constructor(run) {
    this.all = run.passages;
    this.longest = this.all.reduce((most, {sent_s, arrived_s}) => Math.max(most, (arrived_s ?? sent_s) - sent_s), 0);
  }

  /** Those that are under way at some time of a view. */
  *seen(view) {
    for (let i = first(this.all, (passage) => passage.sent_s >= view.begin - this.longest); i < this.all.length; i++) {
      if (this.all[i].sent_s > view.end) return;
      yield this.all[i];
    }
  }

  /** Draw them; on lanes that are not chosen, if one is, they are left out. */
  paint(chart) {
    if (!this.all.length) return;
    const {brush} = chart;
    const shown = [...this.seen(chart.view)].filter((passage) => chart.chosen === null || passage.rank === chart.chosen);
    if (shown.length > SHOWN_MAX) return;
    brush.lineWidth = 1;
    for (const passage of shown) {
      const lane = chart.y(passage.rank) + chart.lane / 2, lost = passage.arrived_s === null;
      const from = {x: chart.x(passage.sent_s), y: passage.is_reply ? AXIS : lane};
      const to = {x: chart.x(passage.arrived_s ?? passage.sent_s), y: passage.is_reply ? lane : AXIS};
      if (lost) to.y = (from.y + to.y) / 2;
      brush.strokeStyle = brush.fillStyle = chart.colour(lost ? "bad" : passage.is_reply ? "good" : "link");
      brush.beginPath();
      brush.moveTo(from.x, from.y);
      brush.lineTo(to.x, to.y);
      brush.stroke();
      this.paintHead(brush, from, to, lost);
    }
  }

  paintHead(brush, from, to, lost) {
    const size = 4, angle = Math.atan2(to.y - from.y, to.x - from.x);
    brush.beginPath();
    if (lost) {
      brush.moveTo(to.x - size, to.y - size); brush.lineTo(to.x + size, to.y + size);
      brush.moveTo(to.x - size, to.y + size); brush.lineTo(to.x + size, to.y - size);
      brush.stroke();
      return;
    }
    brush.moveTo(to.x, to.y);
    for (const side of [-0.4, 0.4]) brush.lineTo(to.x - 2 * size * Math.cos(angle + side), to.y - 2 * size * Math.sin(angle + side));
    brush.fill();
  }

  /** What is said of those that leave a rank, or reach it, close to a place. */
  words(chart, rank, x) {
    const near = (at) => at !== null && Math.abs(chart.x(at) - x) <= CLOSE;
    return [...this.seen(chart.view)].filter((passage) => passage.rank === rank && near(passage.is_reply ? passage.arrived_s : passage.sent_s))
      .slice(0, 4).map((passage) => {
        const took = passage.arrived_s === null ? "never arrived" : `took ${seconds(passage.arrived_s - passage.sent_s)}`;
        return `${passage.is_reply ? "← store" : "→ store"}: ${passage.text} (${took})`;
      });
  }
}

"""Runs as a page: what a report and the live page show, as data, and the scripts that draw it.

`view.py` turns a `Run` into a **view**, a dict that JSON takes; `several.py` makes one of several
runs side by side. `assets/page.js` draws it, with `curves.js`, `bars.js` and `lanes.js`, one for
each module here whose pictures it draws, and uPlot for whatever has axes. A report has the view in
the page; the live page (ps/live) sends one twice a second.

It imports ps itself, ps/report/analysis, the colours and lines of ps/report/pictures, ps/runs.
"""

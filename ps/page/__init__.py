"""A run as a page: what a report and the live page show, as data, and the script that draws it.

`view.py` turns a `Run` into a **view**, a dict that JSON takes. `assets/page.js` draws it, with
uPlot for whatever has axes. A report has the view in the page; the live page (ps/live) sends one
twice a second.

It imports ps itself, ps/report/analysis, the colours of ps/report/pictures, ps/runs.
"""

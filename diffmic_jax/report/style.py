"""The style sheet of a report: light and dark, on a phone, and printed."""

_LIGHT = """:root { color-scheme: light;
  --page: #ffffff; --card: #f6f7f9; --ink: #1b1f24; --muted: #5a6472; --faint: #d9dee5;
  --first: #0b62b8; --second: #b4530a; --good: #1a7f37; --bad: #c3262e; --heat: 11 98 184;
  --c0: #0b62b8; --c1: #c35200; --c2: #1a7f37; --c3: #c3262e; --c4: #7a3fb5; --c5: #8a5a3c;
  --c6: #c02c86; --c7: #5a6472; --c8: #7d7a00; --c9: #00808f; --c10: #3a3fbd; --c11: #567300;
  --c12: #a05080; --c13: #2f6f5f; }
"""
_DARK = """:root { color-scheme: dark;
  --page: #14171b; --card: #1e2329; --ink: #e8ebef; --muted: #a3adba; --faint: #3a424d;
  --first: #6db3f8; --second: #f2a35e; --good: #63c87a; --bad: #ff7b7b; --heat: 109 179 248;
  --c0: #6db3f8; --c1: #f2a35e; --c2: #63c87a; --c3: #ff7b7b; --c4: #c297f5; --c5: #cfa083;
  --c6: #f58acb; --c7: #a3adba; --c8: #d6d25a; --c9: #52cbd9; --c10: #9da2ff; --c11: #b9dd5a;
  --c12: #e0a0c4; --c13: #7fc7b2; }
"""
_COMMON = """
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1440px; padding: 16px 28px; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.2; margin: .4em 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2em 0 .5em; padding-top: .5em;
  border-top: 1px solid var(--faint); }
p, li { max-width: 95ch; }
.sub { color: var(--muted); margin: .2em 0; }
.verdict { border-left: 4px solid var(--first); background: var(--card); padding: .2em 1em;
  margin: .8em 0; font-size: 1.08rem; border-radius: 0 6px 6px 0; }
a { color: var(--first); }
.note { color: var(--muted); font-size: .9rem; }
.warning { border-left: 4px solid var(--second); padding: .3em .8em; background: var(--card); }
nav { display: flex; flex-wrap: wrap; gap: .2em 1em; font-size: .9rem; }
.wide { overflow-x: auto; margin-bottom: 12px; }
.wide:focus-visible, a:focus-visible, summary:focus-visible { outline: 3px solid var(--first);
  outline-offset: 2px; }
summary { cursor: pointer; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3em .6em; text-align: right; border-bottom: 1px solid var(--faint);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere;
  min-width: 8em; }
th { font-weight: 600; }
td small, .case small { color: var(--muted); }
#class-table, #headline { width: 100%; }
#class-table small { display: block; }
#class-table th { white-space: normal; }
.facts th, #decisions th { text-align: left; }
.facts td, #decisions td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.grid { display: grid; gap: 12px;
  grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); }
.grid.small { grid-template-columns: repeat(auto-fill, minmax(min(160px, 100%), 1fr)); }
figure { margin: 0; padding: 8px; background: var(--card); border-radius: 6px; }
svg { width: 100%; height: auto; display: block; overflow: visible; }
svg * { stroke-linejoin: round; stroke-linecap: butt; }
svg text { font-family: inherit !important; }
.confusion td { text-align: center; border: 1px solid var(--page); min-width: 3.2em; }
.confusion th { white-space: normal; overflow-wrap: anywhere; min-width: 4.2em; max-width: 9em;
  text-align: center; vertical-align: bottom; }
.confusion td:first-child { text-align: left; min-width: 7em; max-width: 16em; }
.case { background: var(--card); border-radius: 6px; padding: 10px; overflow: hidden; }
.case h3 { margin: 0; font-size: .95rem; overflow-wrap: anywhere; }
.case p { margin: .2em 0; font-size: .9rem; overflow-wrap: anywhere; }
.views { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; margin: 6px 0;
  align-items: start; }
.view { position: relative; }
.view img { display: block; width: 100%; height: auto; }
.view svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: hidden; }
.heat { opacity: .5; }
.heat image { image-rendering: pixelated; }
.boxes rect { fill: none; }
.boxes .square { stroke: #fff; stroke-width: 1.5; stroke-dasharray: 6 4; opacity: .8; }
.regions { display: flex; flex-wrap: wrap; gap: 4px; font-size: .75rem; text-align: center; }
.region { flex: 1 1 40px; max-width: 84px; }
.region img { display: block; width: 100%; aspect-ratio: 1; border: 2px solid; object-fit: fill; }
.scale { white-space: nowrap; }
.scale svg { display: inline-block; width: 90px; height: .8em; vertical-align: middle; }
.case table { width: 100%; font-size: .8rem; }
.case td, .case th { padding: .1em .4em; }
.case td:first-child, .case th:first-child { min-width: 4em; }
.right { color: var(--good); }
.wrong { color: var(--bad); }
.key { display: flex; flex-wrap: wrap; gap: .2em 1em; font-size: .85rem; }
.key span::before { content: "\\25CF "; color: var(--k); }
@media (max-width: 500px) {
  body { padding: 10px; }
  table { font-size: .8rem; }
  td small { display: block; }
  th, td { padding: .25em .3em; }
  th:first-child, td:first-child { min-width: 5em; }
  .confusion td { min-width: 2.2em; }
  .confusion th { min-width: 2.2em; padding: .2em; }
  .confusion th span { writing-mode: vertical-rl; max-height: 11em; }
  .confusion td:first-child, .confusion th:first-child { position: sticky; left: 0;
    background: var(--page); max-width: 8em; min-width: 5em; }
  .confusion th:first-child span, .confusion th:first-child { writing-mode: initial; }
  .stack thead { display: none; }
  .stack, .stack tbody { display: block; width: 100%; }
  .stack tr { display: grid; grid-template-columns: 1fr 1fr; gap: .1em .8em; padding: .5em 0;
    border-bottom: 1px solid var(--faint); }
  .stack td { display: block; border: 0; text-align: left; white-space: normal; padding: .1em 0; }
  .stack td[data-title]:not([data-title=""])::before { content: attr(data-title); display: block;
    color: var(--muted); font-size: .75rem; }
  .stack td:empty { display: none; }
  .stack td:first-child { grid-column: 1 / -1; font-weight: 600; }
  .stack td:first-child::before { content: none !important; } }
@media print {
  body { font-size: 11px; }
  nav { display: none; }
  table { font-size: 9px; }
  th, td { padding: .15em .35em; }
  .grid { grid-template-columns: repeat(2, 1fr); }
  .grid.small { grid-template-columns: repeat(4, 1fr); }
  figure, .case, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
_REGIONS = "".join(
    f".boxes .region-{k} {{ stroke: var(--c{k}); }}\n"
    f"img.region-{k} {{ border-color: var(--c{k}); }}\n"
    for k in range(14)
)
CSS = _LIGHT + f"@media screen and (prefers-color-scheme: dark) {{ {_DARK} }}" + _COMMON + _REGIONS

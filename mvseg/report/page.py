"""The page around the sections: head, style and navigation. Everything is in the one file; nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mvseg.report.html import escape

STYLE = """
:root{--ink:#1c2430;--soft:#5b6676;--line:#e1e5eb;--paper:#fff;--back:#f5f6f8;--accent:#2f6bd8}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
header{background:#16233b;color:#fff;padding:34px 0 26px}
.wide{max-width:1120px;margin:0 auto;padding:0 22px}
h1{margin:0 0 6px;font-size:28px;font-weight:650;letter-spacing:-.01em}
header p{margin:0;color:#c9d4e8;max-width:820px}
header .facts{margin-top:14px;display:flex;flex-wrap:wrap;gap:8px}
header .facts span{background:rgba(255,255,255,.1);border-radius:4px;padding:2px 10px;font-size:13px;color:#e5ecf8}
nav{position:sticky;top:0;background:rgba(255,255,255,.96);border-bottom:1px solid var(--line);z-index:2}
nav .wide{display:flex;gap:22px;overflow-x:auto}
nav a{padding:11px 0;color:var(--soft);text-decoration:none;font-size:14px;white-space:nowrap}
nav a:hover{color:var(--accent)}
section{padding:30px 0 6px;scroll-margin-top:38px}
h2{font-size:21px;margin:0 0 2px;letter-spacing:-.01em}
h3{font-size:15px;margin:22px 0 8px}
h4{font-size:13px;margin:12px 0 4px;color:var(--soft);font-weight:600}
.lead{color:var(--soft);margin:0 0 14px}
.note{color:#7a5a12;background:#fdf6e3;border:1px solid #f0e2b8;border-radius:6px;padding:8px 12px;margin:8px 0}
.banner{background:#fdf0ec;border:1px solid #f2c6b8;color:#8a2f12;border-radius:6px;padding:10px 14px;margin:18px 0 0}
.unit{color:var(--soft);font-weight:400;font-size:13px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(178px,1fr));gap:12px}
.tile,.card,figure,.scroll{background:var(--paper);border:1px solid var(--line);border-radius:8px}
.tile{padding:13px 15px 11px}
.tile .name{font-size:13px;color:var(--soft);overflow-wrap:anywhere}
.tile .big{font-size:34px;font-weight:650;line-height:1.15;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile .metric{font-size:13px}
.tile .more{margin-top:6px;font-size:12px;color:var(--soft);display:flex;flex-wrap:wrap;gap:2px 10px}
.tile .new{color:#a5480c}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:13.5px}
th,td{padding:6px 12px;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
tr:last-child td{border-bottom:0}
thead th{color:var(--soft);font-weight:600;font-size:12.5px;background:#fafbfc}
.facts thead{display:none}.facts td:first-child{color:var(--soft);width:110px}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.grid2{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:14px;align-items:start}
.split{display:grid;grid-template-columns:minmax(0,1.45fr) minmax(0,1fr);gap:22px;align-items:start}
.split h3:first-child{margin-top:0}
.card{padding:4px 16px 14px}.card h3{margin-top:12px}
figure{margin:0;padding:11px 13px}
figcaption{font-weight:600;font-size:14px;margin-bottom:4px}
svg{display:block;width:100%;height:auto}
svg text{font-size:11px;fill:#5b6676;font-family:inherit}
svg .grid{stroke:#e8ebf0}svg .axis{stroke:#9aa3b2}svg .curve{stroke-width:1.8;stroke-linejoin:round}
.map text{font-size:inherit}
.legend{display:flex;flex-wrap:wrap;gap:3px 14px;font-size:12.5px;color:var(--soft);margin-top:6px}
.legend i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:5px}
.scale{align-items:center;gap:8px}.scale b{display:inline-block;width:180px;height:10px;border:1px solid var(--line)}
.bar{display:grid;grid-template-columns:minmax(80px,150px) 1fr 40px;gap:9px;align-items:center;font-size:13px;
height:21px}
.bar .what{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;text-align:right;color:#37414f}
.bar .track{background:#eef1f5;border-radius:3px;height:11px;overflow:hidden}
.bar i{display:block;height:100%;border-radius:3px}
.bar .value{font-variant-numeric:tabular-nums;text-align:right}
.picture img{display:block;max-width:100%;height:auto;border-radius:4px;margin-top:8px}
details{background:var(--paper);border:1px solid var(--line);border-radius:8px;margin-top:12px;padding:9px 14px}
summary{cursor:pointer;font-weight:600;font-size:14px}
details .scroll{border:0;margin-top:8px}
pre{overflow-x:auto;font-size:12px;line-height:1.4}
code{font-family:ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:12.5px;overflow-wrap:anywhere}
footer{color:var(--soft);font-size:13px;padding:26px 0 40px}
@media(max-width:820px){.grid2,.split{grid-template-columns:minmax(0,1fr)}h1{font-size:23px}}
@media print{nav{display:none}body{background:#fff}section{break-inside:avoid-page}}
"""


def page(
    title: str, summary: str, facts: Sequence[str], sections: Mapping[str, str], banner: str = "", footer: str = ""
) -> str:
    """Put the page together.

    Args:
        title: heading.
        summary: one or two sentences below it.
        facts: short texts, such as the date.
        sections: entry of the navigation to the HTML of a section; empty ones are left out.
        banner: a warning above everything, if any.
        footer: last line.

    Returns:
        A whole HTML document.
    """
    shown = {name: html for name, html in sections.items() if html}
    links = "".join(f'<a href="#{_anchor(html)}">{escape(name)}</a>' for name, html in shown.items())
    chips = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    warning = f'<div class="banner">{escape(banner)}</div>' if banner else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f'<header><div class="wide"><h1>{escape(title)}</h1><p>{escape(summary)}</p>'
        f'<div class="facts">{chips}</div></div></header>'
        f'<nav><div class="wide">{links}</div></nav>'
        f'<main class="wide">{warning}{"".join(shown.values())}</main>'
        f'<footer><div class="wide">{escape(footer)}</div></footer></body></html>\n'
    )


def _anchor(html: str) -> str:
    return html.partition('id="')[2].partition('"')[0]

"""The look of the plain pages that stand for Salesforce's login and Setup."""

import html
from collections.abc import Iterable

from aiohttp import web

STYLE = """
:root { color-scheme: light; font: 15px/1.45 system-ui, sans-serif; color: #1d2733 }
body { margin: 0; background: #eef1f5 }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem }
main.narrow { max-width: 24rem; padding-top: 12vh }
section, .card { background: #fff; border: 1px solid #d5dce5; border-radius: 8px; padding: 1rem 1.25rem; margin: 0 0 1rem }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin: 0 0 .5rem }
label { display: block; margin: .5rem 0 } label.tick { display: inline-block; margin-right: 1rem }
input[type=text], textarea, select { box-sizing: border-box; width: 100%; padding: .4rem; border: 1px solid #9fb0c3;
  border-radius: 4px; font: inherit }
textarea { min-height: 6rem; font-family: ui-monospace, monospace; font-size: .85rem }
button { padding: .45rem 1rem; border: 1px solid #2b5a8c; border-radius: 4px; background: #2b5a8c; color: #fff;
  font: inherit }
button.plain { background: #fff; color: #2b5a8c } form.person button { width: 100%; margin: .25rem 0; text-align: left }
form { margin: 0 0 1rem }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .5rem; border-top: 1px solid #e3e8ee }
code { word-break: break-all; background: #f3f5f8; padding: .1rem .3rem } .wrong { color: #a1201b } .note { color: #56677a }
"""
POLICY = "frame-ancestors 'none'"  # neither login nor Setup can be shown in a frame


def e(value: object) -> str:
    """Escape a value for HTML."""
    return html.escape(str(value), quote=True)


def page(title: str, body: str, *, status: int = 200, narrow: bool = False) -> web.Response:
    """Return a page."""
    width = ' class="narrow"' if narrow else ""
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{e(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>'
        f"<body><main{width}><h1>{e(title)}</h1>{body}</main></body></html>"
    )
    headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"}
    return web.Response(status=status, text=text, content_type="text/html", headers=headers)


def field(label: str, name: str, value: object = "", *, long: bool = False) -> str:
    """Return a text field with its label."""
    if long:
        return f'<label>{e(label)}<textarea name="{e(name)}">{e(value)}</textarea></label>'
    return f'<label>{e(label)}<input type="text" name="{e(name)}" value="{e(value)}"></label>'


def tick(label: str, name: str, value: str, checked: bool) -> str:
    """Return a tick box with its label."""
    mark = " checked" if checked else ""
    return f'<label class="tick"><input type="checkbox" name="{e(name)}" value="{e(value)}"{mark}> {e(label)}</label>'


def choice(label: str, name: str, options: Iterable[tuple[str, str]], chosen: str | None = None) -> str:
    """Return a list to choose from; options are values with their labels."""
    items = "".join(
        f'<option value="{e(value)}"{" selected" if value == chosen else ""}>{e(shown)}</option>'
        for value, shown in options
    )
    return f'<label>{e(label)}<select name="{e(name)}">{items}</select></label>'


def form(address: str, action: str, body: str, button: str) -> str:
    """Return a form that posts to an address and says what is to be done."""
    return (
        f'<form method="post" action="{e(address)}"><input type="hidden" name="action" value="{e(action)}">'
        f"{body}<button>{e(button)}</button></form>"
    )

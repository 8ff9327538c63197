"""Infobip's portal: what an admin does by hand, as a page of plain forms and, for tests, as one call."""

import html
import json
from datetime import datetime
from typing import Any

from aiohttp import web

from sandbox.answers import answer
from sandbox.infobip_account import SCOPES, Number, Profile, Security, Setup, Subscription
from sandbox.infobip_setup import EVENTS, Violations, check_id
from sandbox.world import Account, World

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #2e2e2e }}
h1 {{ font-size: 1.4rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
table {{ border-collapse: collapse; width: 100% }}
td, th {{ text-align: left; padding: .3rem .6rem; border: 1px solid #c9c9c9 }}
label {{ display: inline-block; margin: .2rem 1rem .2rem 0 }} form {{ margin: .4rem 0 }} td form {{ display: inline }}
</style></head><body>{body}</body></html>"""


class InfobipPortal:
    """The portal of every account, on the page's port."""

    def __init__(self, world: World) -> None:
        self.world = world

    def add_routes(self, app: web.Application) -> None:
        """Add everything to an application."""
        app.router.add_get("/portal/{account}", self.page)
        app.router.add_post("/portal/{account}", self.submit)
        app.router.add_patch("/control/infobip/{org}/{account}", self.patch)

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """Change an account as the body says, and describe it; an empty body changes nothing."""
        try:
            account = self.world.find_org(request.match_info["org"]).accounts[request.match_info["account"]]
        except KeyError:
            return answer(404, {"error": "There is no such org or account."})
        try:
            change(account, json.loads(await request.read() or "{}"))
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            return answer(400, {"error": f"The change cannot be made: {type(exc).__name__} {exc}"})
        return answer(200, account.setup.describe())

    def accounts(self, request: web.Request) -> list[Account]:
        """Return the accounts that an address names: by name, or by how the key begins."""
        name, org = request.match_info["account"], request.query.get("org")
        return [
            account
            for each in self.world.orgs.values()
            for account in each.accounts.values()
            if name in (account.name, account.api_key[:6]) and org in (None, each.id)
        ]

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Show an account, or the choice where several have that name."""
        found = self.accounts(request)
        if not found:
            return page_of("There is no such account.", "<h1>There is no such account.</h1>", status=404)
        if len(found) > 1:
            links = "".join(f'<li><a href="{address(each)}">{text(each.org.title)}</a></li>' for each in found)
            return page_of("Accounts", f"<h1>Accounts of this name</h1><ul>{links}</ul>")
        (account,) = found
        return page_of(f"{account.org.title}: {account.name}", account_page(account))

    async def submit(self, request: web.Request) -> web.StreamResponse:
        """Do what a form says, and show the account again."""
        found = self.accounts(request)
        if len(found) != 1:
            raise web.HTTPNotFound
        form = await request.post()
        fields = {name: str(value) for name, value in form.items()}
        try:
            do(found[0], fields, [str(value) for value in form.getall("scopes", [])])
        except (KeyError, ValueError) as exc:
            return page_of("Not possible", f"<h1>That cannot be done.</h1><p>{text(exc)}</p>", status=400)
        raise web.HTTPSeeOther(address(found[0]))


def do(account: Account, fields: dict[str, str], scopes: list[str]) -> None:
    """Do what one form says.

    :raises KeyError: if a field is missing, or names something that is not there
    :raises ValueError: if a field cannot be read
    """
    setup, what = account.setup, fields["do"]
    if what == "key":
        change(account, {"scopes": scopes, "validTo": fields["validTo"] and f"{fields['validTo']}T00:00:00+00:00"})
    elif what == "apply":
        change(account, {"numbers": {fields["number"]: {"keyword": fields["keyword"], "forwarding": None}}})
    elif what == "forward":
        forwarding = {"type": "HTTP_FORWARD", "url": fields["url"]}
        change(account, {"numbers": {fields["number"]: {"forwarding": forwarding}}})
    elif what == "delete":
        del setup.subscriptions[fields["id"]]
    elif what == "create":
        create(setup, fields)
    else:
        raise ValueError(f"{what} is nothing that a form does")


def create(setup: Setup, fields: dict[str, str]) -> None:
    """Create a subscription with a profile of its own, signed if there is a secret."""
    key, url = fields["id"], fields["url"]
    found: Violations = {}
    check_id(found, "id", key)
    if found or key in setup.subscriptions or fields["channel"] not in EVENTS or not url.startswith("http"):
        raise ValueError("The id must be new and fit into an address, and the URL one that can be called.")
    if fields["secret"]:
        setup.securities[key] = Security("HMAC", {"secretKey": fields["secret"], "algorithm": "HMAC_SHA_256"})
    setup.profiles[key] = Profile({"webhook": {"notifyUrl": url}}, key if fields["secret"] else None)
    events = [event for event in fields["events"].replace(",", " ").split() if event in EVENTS[fields["channel"]]]
    setup.subscriptions[key] = Subscription(fields["channel"], events, key)


def change(account: Account, body: dict[str, Any]) -> None:
    """Change an account as a test says; what is not named stays.

    ``scopes``, ``validTo`` (a time with its zone, or null), ``enabled`` and ``allowedIPs`` of the key, ``balance``,
    ``removeSubscriptions`` (their ids), ``secrets`` (by authId), and ``numbers``: by number, null to take it away, or
    ``type``, ``capabilities``, ``note``, ``status``, ``quality``, and, of all its messages or those that begin with
    ``keyword``: ``forwarding`` (type and url; null lets the subscription decide), ``conversations``, ``answers``.

    :raises KeyError: if it names something that is not there
    :raises ValueError: if something in it cannot be read
    """
    setup = account.setup
    for number, given in (body.get("numbers") or {}).items():
        if given is None:
            del setup.numbers[number]
        else:
            change_number(setup.numbers.setdefault(number, Number(number)), given)
    account.senders = setup.senders()
    if "scopes" in body:
        setup.scopes = set(body["scopes"])
    if "validTo" in body:
        valid_to = datetime.fromisoformat(body["validTo"]) if body["validTo"] else None
        if valid_to and valid_to.tzinfo is None:
            raise ValueError("validTo has no zone")
        setup.valid_to = valid_to
    setup.enabled = bool(body.get("enabled", setup.enabled))
    setup.allowed_ips = list(body.get("allowedIPs", setup.allowed_ips))
    setup.balance = float(body.get("balance", setup.balance))
    for subscription_id in body.get("removeSubscriptions", []):
        del setup.subscriptions[subscription_id]
    for auth_id, secret in (body.get("secrets") or {}).items():
        setup.securities[auth_id].credentials["secretKey"] = secret


def change_number(number: Number, given: dict[str, Any]) -> None:
    """Change a number, or what happens to its messages; a forwarding that is null lets the subscription decide."""
    for name in ("type", "capabilities", "note", "status", "quality"):
        if name in given:
            setattr(number, name, given[name])
    if not given.keys() & {"forwarding", "conversations", "answers"}:
        return
    configuration = number.configure(given.get("keyword", ""))
    if "forwarding" in given:
        forwarding = given["forwarding"]
        if forwarding and forwarding["type"] == "HTTP_FORWARD" and not forwarding["url"].startswith("http"):
            raise ValueError("a forwarding needs an address that can be called")
        configuration.forwarding = forwarding
    configuration.conversations = bool(given.get("conversations", configuration.conversations))
    configuration.answers = bool(given.get("answers", configuration.answers))


def page_of(title: str, body: str, status: int = 200) -> web.Response:
    """Return a page."""
    return web.Response(text=PAGE.format(title=text(title), body=body), content_type="text/html", status=status)


def text(value: object) -> str:
    """Write something so that a page shows it as it is."""
    return html.escape(str(value))


def address(account: Account) -> str:
    """Return where an account's page is."""
    return f"/portal/{text(account.name)}?org={account.org.id}"


def form(account: Account, what: str, button: str, inner: str = "", **hidden: str) -> str:
    """Write a form with one button."""
    fields = "".join(f'<input type="hidden" name="{name}" value="{text(value)}">' for name, value in hidden.items())
    start = f'<form method="post" action="{address(account)}"><input type="hidden" name="do" value="{what}">'
    return f"{start}{fields}{inner}<button>{button}</button></form>"


def account_page(account: Account) -> str:
    """Write the page of one account."""
    setup = account.setup
    rows = "".join(subscription_row(account, key, each) for key, each in setup.subscriptions.items())
    channels = "".join(f"<option>{channel}</option>" for channel in EVENTS)
    wanted = (
        '<label>Id <input name="id" required></label>'
        f'<label>Channel <select name="channel">{channels}</select></label>'
        '<label>Events <input name="events" size="40" value="INBOUND_MESSAGE DELIVERY SEEN"></label>'
        '<label>URL <input name="url" type="url" size="40" required></label>'
        '<label>HMAC secret <input name="secret"></label>'
    )
    scopes = "".join(tick_box(scope, ticked=scope in setup.scopes) for scope in SCOPES)
    day = setup.valid_to.date() if setup.valid_to else ""
    expiry = f'<label>Expires <input type="date" name="validTo" value="{day}"></label>'
    return (
        f"<h1>{text(account.org.title)}: Infobip account {text(account.name)}</h1>"
        "<h2>Subscriptions</h2><table><tr><th>Id</th><th>Channel</th><th>Events</th><th>URL</th><th>Signature</th><th></th></tr>"
        f"{rows}</table>{form(account, 'create', 'Create subscription', wanted)}"
        "<h2>Numbers</h2><table><tr><th>Number</th><th>Note</th><th>Messages go to</th><th></th></tr>"
        f"{''.join(number_rows(account, each) for each in setup.numbers.values())}</table>"
        f"<h2>API key {text(account.api_key[:6])}…</h2>{form(account, 'key', 'Save', f'<p>{scopes}</p>{expiry}')}"
    )


def tick_box(scope: str, *, ticked: bool) -> str:
    """Write the box for one scope."""
    mark = " checked" if ticked else ""
    return f'<label><input type="checkbox" name="scopes" value="{scope}"{mark}> {scope}</label>'


def subscription_row(account: Account, key: str, subscription: Subscription) -> str:
    """Write the row of one subscription."""
    target = account.setup.target(subscription.profile_id)
    cells = [key, subscription.channel, ", ".join(subscription.events), target.url]
    cells.append(f"signed ({target.security.type})" if target.security else "unsigned")
    shown = "".join(f"<td>{text(cell)}</td>" for cell in cells)
    return f"<tr>{shown}<td>{form(account, 'delete', 'Delete', id=key)}</td></tr>"


def number_rows(account: Account, number: Number) -> str:
    """Write the rows of one number: what happens to all its messages, and to those with a keyword."""
    configurations = {keyword: each.forwarding for keyword, each in number.configurations.items()}
    rows = []
    for keyword, forwarding in ({"": None} | configurations).items():
        goes = f"{forwarding['type']} {forwarding.get('url', '')}" if forwarding else "the subscription"
        url = '<label>URL <input name="url" type="url" required></label>'
        button = (
            form(account, "apply", "Apply subscription", number=number.number, keyword=keyword)
            if forwarding
            else ("" if keyword else form(account, "forward", "Forward to HTTP", url, number=number.number))
        )
        about = f"+{number.number}" + (f", keyword {keyword}" if keyword else "")
        rows.append(f"<tr><td>{text(about)}</td><td>{text(number.note)}</td><td>{text(goes)}</td><td>{button}</td></tr>")
    return "".join(rows)

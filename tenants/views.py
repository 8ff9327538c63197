"""The pages of set-up: from the first question to the settings of later days. Each view makes one call, and answers."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import F
from django.forms import Form
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from connector.http import ApiError
from connector.phone import digits_of
from tenants import access, api_tokens, budget, connecting, doctor, installation, package, sign_in, texts
from tenants.access import PageRequest, signed_in
from tenants.cache import allowed
from tenants.connecting import AccountSenders, FoundChannel
from tenants.forms import (
    AccountForm,
    ApiTokenForm,
    ChannelForm,
    ConnectionForm,
    MyDomainForm,
    SenderForm,
    SettingsForm,
    SharedForm,
    TextsForm,
    TranslationForm,
)
from tenants.frames import allow_frames
from tenants.models import Channel, Draft, InfobipAccount, Org, Role, SalesforceConnection
from tenants.onboarding import SetupProblem
from tenants.sign_in import SignInRefused
from tenants.tenancy import every_org, org_scope

DRAFT_COOKIE = "__Host-sid-new"
DRAFTS_AN_HOUR = 20  # from one address
SIGN_INS_AN_HOUR = 120

STEPS = {
    "connect": "Connect your org",
    "byoc": "Set up the BYOC connection",
    "channel": "Configure the application",
    "texts": "Texts and hand-over",
    "accounts": "Add Infobip accounts",
    "senders": "Select senders",
    "summary": "Summary",
}


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the path at the left."""

    slug: str
    title: str
    done: bool
    current: bool


def path_of(org: Org | None, current: str) -> list[Step]:
    """Tell which steps are done."""
    done = {
        "connect": org is not None and org.disconnected_at is None,
        "byoc": org is not None and (org.channels.exists() or installation.succeeded(org)),
        "channel": org is not None and org.channels.exists(),
        "texts": org is not None and org.channels.exists(),  # a new channel has sensible ones
        "accounts": org is not None and org.infobip_accounts.exists(),
        "senders": org is not None and org.senders.exists(),
    }
    done["summary"] = all(done.values())
    return [Step(slug, title, done[slug], slug == current) for slug, title in STEPS.items()]


def show_problems(form: Form, problem: SetupProblem) -> None:
    """Put each problem at the field that it belongs to, or at the top."""
    for place, words in problem.problems.items():
        form.add_error(place if place in form.fields else None, ValidationError(words))


# before the org is proven


@csrf_exempt
def start(request: PageRequest) -> HttpResponse:
    """Ask which org it is; a known one has its own address, for another one a set-up begins.

    The frame appends ``?id=`` with a record's id, or with none: it says nothing here.
    """
    allow_frames(request, None)
    form = MyDomainForm(request.POST or None)
    if request.method != "POST" or not form.is_valid():
        return render(request, "tenants/start.html", {"form": form})
    if not access.comes_from_our_page(request):
        return _refuse(request, "The request came from another page.")
    try:
        base_url = connecting.my_domain(form.cleaned_data["my_domain"])
    except SetupProblem as exc:
        show_problems(form, exc)
        return render(request, "tenants/start.html", {"form": form})
    known = org_at(base_url)
    if known is not None and "anew" not in request.POST:
        return redirect("wizard", known.handle)
    if not allowed(f"draft:{budget.client_address(request)}", DRAFTS_AN_HOUR):
        form.add_error(None, "Too many set-ups were begun from here within an hour. Try again later.")
        return render(request, "tenants/start.html", {"form": form})
    token = sign_in.new_token()
    draft = connecting.begin_draft(base_url, sign_in.digest(token))
    response = _draft_page(request, draft, ConnectionForm(), token=token)
    access.set_cookie(response, DRAFT_COOKIE, token)
    return response


def org_at(base_url: str) -> Org | None:
    """Find the org of a My Domain, where it is connected here."""
    with every_org():
        return Org.objects.filter(salesforce__base_url=base_url).first()


def _own_draft(request: HttpRequest) -> Draft | None:
    token = access.token_of(request, DRAFT_COOKIE)
    return connecting.find_draft(sign_in.digest(token)) if token else None


@csrf_exempt
def draft(request: PageRequest) -> HttpResponse:
    """Show what to create in the org, and try what its administrator brings back from there."""
    mine = _own_draft(request)
    if mine is None and request.method == "POST":
        allow_frames(request, None)
        return _refuse(request, "This set-up is no longer known, and nothing was saved. Begin again.", 404)
    if mine is None:
        return redirect("start")
    allow_frames(request, mine.base_url)
    form = ConnectionForm(request.POST or None, initial={"consumer_key": mine.consumer_key, "username": mine.username})
    if request.method == "POST" and form.is_valid():
        if not access.comes_from_our_page(request):
            return _refuse(request, "The request came from another page.")
        try:
            with budget.place(f"sign-in {mine.base_url}", budget.SIGN_INS_AT_ONCE):
                connecting.connect_draft(mine, **form.cleaned_data)
        except SetupProblem as exc:
            mine.consumer_key = ""
            show_problems(form, exc)
    return _draft_page(request, mine, form, token="")


def _draft_page(request: PageRequest, mine: Draft, form: Form, *, token: str) -> HttpResponse:
    context = {
        "draft": mine,
        "form": form,
        "token": token,
        "steps": path_of(None, "connect"),
        "ready": bool(mine.consumer_key) and not form.errors and "change" not in request.GET,
        **_app_values(mine.certificate, mine.base_url),
    }
    return render(request, "tenants/step_connect_draft.html", context)


def _app_values(certificate: str, base_url: str) -> dict[str, Any]:
    """Give what somebody pastes who creates the external client app by hand."""
    return {
        "callback": sign_in.callback_url(),
        "certificate_link": "data:application/x-x509-ca-cert;base64," + base64.b64encode(certificate.encode()).decode(),
        "app_manager": f"{connecting.setup_host(base_url)}/lightning/setup/ManageExternalClientApplication/home",
    }


@require_GET
def draft_package(request: HttpRequest) -> HttpResponse:
    """Give the set-up package of an org that is not proven yet: with it, the app need not be made by hand."""
    mine = _own_draft(request)
    if mine is None:
        raise Http404
    return _zip(package.source_zip(installation.draft_settings(mine)))


def _zip(content: bytes) -> HttpResponse:
    response = HttpResponse(content, content_type="application/zip")
    response["Content-Disposition"] = 'attachment; filename="service-cloud-connector.zip"'
    return response


def _refuse(request: HttpRequest, problem: str, status: int = 403, back: str = "") -> HttpResponse:
    return render(request, "tenants/refused.html", {"problem": problem, "back": back}, status=status)


def _only_shown(request: HttpRequest) -> HttpResponse:
    """Refuse a form that was sent to a page without one: a redirect would drop what somebody filled in, and say nothing."""
    words = "Nothing was saved: the form was sent to a page that takes none. Go back, and send it once more."
    response = _refuse(request, words, 405, request.path)
    response["Allow"] = "GET, HEAD"
    return response


def _gone(request: PageRequest, what: str, slug: str) -> HttpResponse:
    """Say that what a form is about was removed meanwhile, or is another org's."""
    words = f"This {what} is no longer there. Nothing was saved."
    return _refuse(request, words, 409, reverse("step", args=[request.org.handle, slug]))


# signing in


def _begin(request: HttpRequest, **whose: Any) -> HttpResponse:
    if not access.comes_from_our_page(request):
        return JsonResponse({"error": "The request came from another page."}, status=403)
    if not allowed(f"sign-in:{budget.client_address(request)}", SIGN_INS_AN_HOUR):
        return JsonResponse({"error": "Too many sign-ins from here within an hour. Try again later."}, status=429)
    begun = sign_in.begin(**whose)
    return JsonResponse(
        {
            "id": str(begun.uuid),
            "secret": begun.secret,
            "start": f"{reverse('sf_start')}?p={begun.uuid}",
            "finish": reverse("sf_finish"),
        }
    )


@csrf_exempt
@require_POST
def begin_sign_in(request: HttpRequest, handle: str) -> HttpResponse:
    """Begin a sign-in to an org's pages."""
    with every_org():
        org = Org.objects.filter(handle=handle, salesforce__isnull=False).first()
    if org is None:
        return JsonResponse({"error": "This address is not known."}, status=404)
    return _begin(request, org=org)


@csrf_exempt
@require_POST
def begin_draft_sign_in(request: HttpRequest) -> HttpResponse:
    """Begin the sign-in that proves a draft's org."""
    mine = _own_draft(request)
    if mine is None or not mine.consumer_key:
        return JsonResponse({"error": "This set-up is no longer known. Begin again."}, status=404)
    return _begin(request, draft=mine)


def _popup(request: HttpRequest, *, code: str = "", problem: str = "") -> HttpResponse:
    """Show the popup's page, which keeps its tie to the page that opened it.

    https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Cross-Origin-Opener-Policy
    """
    context = {"code": code, "problem": problem}
    response = render(request, "tenants/popup.html", context, status=403 if problem else 200)
    response["Cross-Origin-Opener-Policy"] = "unsafe-none"
    return response


@require_GET
def sf_start(request: HttpRequest) -> HttpResponse:
    """Send the popup to the org's login page."""
    try:
        started = sign_in.start(UUID(request.GET.get("p", "")))
    except ValueError:
        return _popup(request, problem="This address is not complete.")
    except SignInRefused as exc:
        return _popup(request, problem=str(exc))
    response = HttpResponseRedirect(started.url)
    response["Cross-Origin-Opener-Policy"] = "unsafe-none"
    response.set_cookie(sign_in.POPUP_COOKIE, started.browser, secure=True, httponly=True, samesite="Lax", max_age=600)
    return response


@require_GET
def sf_callback(request: HttpRequest) -> HttpResponse:
    """Take the popup back, and let it hand over a code."""
    given = request.GET
    if "error" in given:
        words = f"Salesforce says: {given.get('error_description') or given['error']}"[:300]
        return _popup(request, problem=words)
    browser = request.COOKIES.get(sign_in.POPUP_COOKIE, "")
    try:
        code = sign_in.complete(state=given.get("state", ""), code=given.get("code", ""), browser=browser)
    except SignInRefused as exc:
        return _popup(request, problem=str(exc))
    return _popup(request, code=code)


@csrf_exempt
@require_POST
def sf_finish(request: HttpRequest) -> HttpResponse:
    """Let the page that began a sign-in in."""
    if not access.comes_from_our_page(request):
        return JsonResponse({"error": "The request came from another page."}, status=403)
    given = request.POST
    try:
        uuid = UUID(given.get("id", ""))
        finished = sign_in.finish(uuid, secret=given.get("secret", ""), code=given.get("code", ""))
    except ValueError:
        return JsonResponse({"error": "This sign-in is over. Begin again."}, status=403)
    except SignInRefused as exc:
        return JsonResponse({"error": str(exc)}, status=403)
    where = reverse("wizard", args=[finished.org.handle])
    if finished.admin_token:
        with org_scope(finished.org.pk):
            installation.begin(finished.org, who=finished.member.name, token=finished.admin_token, undo=finished.undo)
        where = reverse("step", args=[finished.org.handle, "byoc"])
    response = JsonResponse({"token": finished.token, "next": where})
    access.set_cookie(response, access.cookie_name(finished.org.handle), finished.token)
    return response


@signed_in(Role.REP)
def sign_out(request: PageRequest) -> HttpResponse:
    """End the session."""
    session = access.find_session(request, request.org)
    if session is not None:
        session.delete()
    response = redirect("wizard", request.org.handle)
    access.delete_cookie(response, access.cookie_name(request.org.handle))
    return response


# the steps


def show_step(request: PageRequest, slug: str, context: dict[str, Any], template: str = "") -> HttpResponse:
    """Show one step with the path beside it."""
    base = {"org": request.org, "member": request.member, "steps": path_of(request.org, slug), "slug": slug}
    return render(request, template or f"tenants/step_{slug}.html", base | context)


@signed_in(Role.ADMIN)
def wizard(request: PageRequest) -> HttpResponse:
    """Go to the first step that is not done, or to the summary."""
    if request.method == "POST":
        return _only_shown(request)
    slug = next((step.slug for step in path_of(request.org, "") if not step.done), "summary")
    return redirect("step", request.org.handle, slug)


@signed_in(Role.ADMIN)
def step(request: PageRequest, slug: str) -> HttpResponse:
    """Show or save one step."""
    views = {
        "connect": connect_step,
        "byoc": byoc_step,
        "channel": channel_step,
        "texts": texts_step,
        "accounts": accounts_step,
        "senders": senders_step,
        "summary": summary_step,
    }
    if slug not in views:
        raise Http404
    if request.method == "POST" and slug in ("byoc", "summary"):
        return _only_shown(request)
    return views[slug](request)


def _next(request: PageRequest, slug: str) -> HttpResponse:
    return redirect("step", request.org.handle, slug)


def connect_step(request: PageRequest) -> HttpResponse:
    """The connection to the org, and its key pair."""
    connection = request.org.salesforce
    form = SettingsForm(
        request.POST or None,
        initial={"consumer_key": connection.consumer_key, "username": connection.username, "scrt_url": connection.scrt_url},
    )
    problem = ""
    action = request.POST.get("action", "")
    try:
        if action == "new key":
            connecting.begin_key_change(request.org, who=request.member.name)
            return _next(request, "connect")
        if action == "use new key":
            connecting.finish_key_change(request.org, who=request.member.name)
            return _next(request, "connect")
        if action == "disconnect":
            connecting.disconnect(request.org, who=request.member.name)
            return redirect("wizard", request.org.handle)
        if request.method == "POST" and form.is_valid():
            connecting.change_connection(request.org, **form.cleaned_data, who=request.member.name)
            return _next(request, "byoc")
    except SetupProblem as exc:
        if action:
            problem = " ".join(exc.problems.values())
        else:
            show_problems(form, exc)
    if action:
        initial = {name: getattr(connection, name) for name in ("consumer_key", "username", "scrt_url")}
        form = SettingsForm(initial=initial)
    context = {
        "form": form,
        "problem": problem,
        "connection": SalesforceConnection.objects.get(org=request.org),
        "ends": connecting.certificate_ends(connection.certificate),
        **_app_values(connection.next_certificate or connection.certificate, connection.base_url),
    }
    return show_step(request, "connect", context)


def byoc_step(request: PageRequest) -> HttpResponse:
    """What must be there in the org: installed for them, or by them with the package."""
    run = installation.latest(request.org)
    if run is not None and "HX-Request" in request.headers and run.state == run.State.RUNNING:
        run = installation.advance(run)
    parts: dict[str, list[str]] = {}
    for component in package.components(installation.package_settings(request.org)):
        parts.setdefault(component.part.heading, []).append(component.summary)
    context = {
        "run": run,
        "progress": installation.progress(run),
        "parts": parts,
        "installed": installation.succeeded(request.org),
    }
    return show_step(request, "byoc", context)


@csrf_exempt
@require_POST
def begin_install(request: HttpRequest, handle: str) -> HttpResponse:
    """Begin the sign-in that gives us an administrator's token for an installation."""
    with every_org():
        org = Org.objects.select_related("salesforce").filter(handle=handle).first()
    if org is None:
        return JsonResponse({"error": "This address is not known."}, status=404)
    with org_scope(org.pk):
        session = access.find_session(request, org)
    if session is None or session.member.role != Role.ADMIN:
        return JsonResponse({"error": "Sign in as an administrator first."}, status=401)
    return _begin(request, org=org, for_install=True, undo=request.POST.get("undo") == "yes")


@signed_in(Role.ADMIN)
def org_package(request: PageRequest) -> HttpResponse:
    """Give the set-up package of an org."""
    return _zip(package.source_zip(installation.package_settings(request.org)))


def channel_step(request: PageRequest) -> HttpResponse:
    """Which messaging channel of the org it is."""
    problem, found = "", []
    try:
        found = connecting.find_channels(request.org)
    except ApiError as exc:
        problem = f"Salesforce does not list its channels: {exc.message}."
    kept = {channel.channel_address_identifier: channel for channel in request.org.channels.all()}
    usable = [each for each in found if each.address]
    form = ChannelForm(request.POST or None, initial=_channel_initial(usable, kept))
    form.fields["found"].choices = [(each.address, each.name) for each in usable]  # type: ignore[attr-defined]
    if request.method == "POST" and not problem and form.is_valid():
        wanted = form.cleaned_data["pasted"].strip() or form.cleaned_data["found"]
        chosen = next((each for each in usable if wanted and wanted in (each.address, each.id, each.developer_name)), None)
        context = form.cleaned_data["context"] or (chosen.definition if chosen else "")
        if chosen is None:
            form.add_error("pasted", "No custom messaging channel of this org has this identifier.")
        elif not context:
            form.add_error("context", "The channel's definition was not found. Give its developer name.")
        else:
            kept_channel = connecting.keep_channel(request.org, chosen, context=context, who=request.member.name)
            where = reverse("step", args=[request.org.handle, "texts"])
            return HttpResponseRedirect(f"{where}?channel={kept_channel.pk}")
    context_of_page = {
        "form": form,
        "problem": problem,
        "found": usable,
        "kept": list(kept.values()),
        "messaging_settings": setup_page(request.org, "LiveMessageSetup/home"),
    }
    return show_step(request, "channel", context_of_page)


def setup_page(org: Org, path: str) -> str:
    """Give the address of a page in the org's Setup."""
    return f"{connecting.setup_host(org.salesforce.base_url)}/lightning/setup/{path}"


def _channel_initial(found: Sequence[FoundChannel], kept: dict[str, Channel]) -> dict[str, str]:
    chosen = next((each for each in found if each.address in kept), found[0] if len(found) == 1 else None)
    channel = kept.get(chosen.address) if chosen else None
    return {
        "found": chosen.address if chosen else "",
        "context": channel.authorization_context if channel else "",
    }


def texts_step(request: PageRequest) -> HttpResponse:
    """What a channel says by itself, in which languages, and what becomes of a chatbot's conversations."""
    channels = list(request.org.channels.order_by("name", "pk"))
    named = request.POST.get("channel") or request.GET.get("channel", "")
    channel = next((each for each in channels if str(each.pk) == named), None)
    if channel is None and (request.method == "POST" or not channels):
        return _gone(request, "channel", "texts") if request.method == "POST" else show_step(request, "texts", {})
    channel = channel or channels[0]
    language = request.POST.get("translation", "")
    if language not in ("", *channel.translations, *texts.LANGUAGES):
        return _gone(request, "language", "texts")
    action = request.POST.get("action", "")
    form = TextsForm(request.POST if action == "texts" else None, channel=channel)
    translation = TranslationForm(request.POST if action == "translation" else None, channel=channel, language=language)
    if request.method == "POST" and _save_texts(request, channel, form, translation):
        where = reverse("step", args=[request.org.handle, "texts"])
        return HttpResponseRedirect(f"{where}?channel={channel.pk}&saved={'texts' if action == 'texts' else 'rest'}")
    shown = {each: TranslationForm(channel=channel, language=each) for each in ("", *channel.translations)}
    if translation.is_bound:
        shown[language] = translation
    context = {
        "channels": channels,
        "channel": channel,
        "form": form,
        "another": shown.pop(""),
        "translations": sorted(shown.values(), key=lambda each: each.language_name),
        "language_name": texts.language_name(channel.language),
        "with_chatbot": channel.senders.filter(chatbot_first=True).exists(),
        "connection": request.org.salesforce,
        "change_data_capture": setup_page(request.org, "CdcObjectEnablement/home"),
        "saved": request.GET.get("saved", ""),
    }
    return show_step(request, "texts", context)


def _save_texts(request: PageRequest, channel: Channel, form: TextsForm, translation: TranslationForm) -> bool:
    """Save what one of the page's forms holds; False where something is wrong with it, which it says itself then."""
    org, who = request.org, request.member.name
    action, language = request.POST.get("action", ""), translation.code
    filled: SharedForm = form if form.is_bound else translation
    try:
        if action == "remove translation":
            connecting.remove_translation(org, channel.pk, language, who=who)
        elif action == "session changes":
            connecting.follow_session_changes(org, request.POST.get("on") == "yes", who=who)
        elif form.is_bound and form.is_valid():
            connecting.change_texts(org, channel.pk, form.changes, who=who)
        elif translation.is_bound and translation.is_valid():
            chosen = language or translation.cleaned_data["language"]
            connecting.change_translation(org, channel.pk, chosen, translation.changes, who=who, new=not language)
    except SetupProblem as exc:
        filled.blame(exc.problems)
    filled.focus()
    return not filled.errors


def accounts_step(request: PageRequest) -> HttpResponse:
    """The Infobip accounts, what their keys may do, and their subscriptions."""
    accounts = list(request.org.infobip_accounts.order_by("name"))
    account = _own_account(request)
    action = request.POST.get("action", "")
    if action and account is None:
        return _gone(request, "account", "accounts")
    form = AccountForm(
        None if action not in ("", "change") else request.POST or None,
        account=account,
        auto_id="changed_%s" if action == "change" else "id_%s",
    )
    problem = ""
    try:
        if account and action == "subscribe":
            connecting.subscribe(account, who=request.member.name)
            return _next(request, "accounts")
        if account and action == "new secret":
            connecting.change_webhook_secret(account, who=request.member.name)
            return _next(request, "accounts")
        if account and action == "end old secret":
            connecting.retire_old_secret(account, who=request.member.name)
            return _next(request, "accounts")
        if request.method == "POST" and action in ("", "change") and form.is_valid():
            connecting.connect_infobip(request.org, **form.cleaned_data, who=request.member.name, account=account)
            return _next(request, "accounts")
    except SetupProblem as exc:
        if action in ("", "change"):
            show_problems(form, exc)
        else:
            problem = " ".join(exc.problems.values())
    context = {
        "form": AccountForm() if action == "change" else form,
        "change": form,
        "changing": account if action == "change" else None,
        "about": account,
        "problem": problem,
        "accounts": [connecting.describe_account(each) for each in accounts],
    }
    return show_step(request, "accounts", context)


def senders_step(request: PageRequest) -> HttpResponse:
    """The numbers of the accounts, each on a channel or not used."""
    problem, refused = "", None
    if request.method == "POST":
        account, action = _own_account(request), request.POST.get("action", "")
        if account is None:
            return _gone(request, "account", "senders")
        try:
            if action == "subscribe":
                connecting.subscribe(account, who=request.member.name)
                return _next(request, "senders")
            if action == "new token":
                seen = request.POST.get("seen", "")
                connecting.change_handover_token(account, seen=seen, who=request.member.name)
                return _next(request, "senders")
        except SetupProblem as exc:
            problem = " ".join(exc.problems.values())
        else:
            refused = _choose_sender(request, account)
            if refused is None:
                saved = urlencode({"saved": _number(request)})
                return HttpResponseRedirect(f"{reverse('step', args=[request.org.handle, 'senders'])}?{saved}")
    accounts = [connecting.describe_senders(each) for each in request.org.infobip_accounts.order_by("name")]
    context = {
        "accounts": accounts,
        "channels": list(request.org.channels.order_by("name")),
        "problem": problem,
        "saved": request.GET.get("saved", ""),
        **(_where_refused(refused, accounts) if refused else {}),
    }
    return show_step(request, "senders", context)


@dataclass(frozen=True, slots=True)
class RefusedChoice:
    """What somebody chose for a number, and why it is not saved."""

    account: InfobipAccount
    number: str
    channel: str
    first: str
    problem: str


def _choose_sender(request: PageRequest, account: InfobipAccount) -> RefusedChoice | None:
    """Save what is chosen for a number; None where it is saved."""
    form = SenderForm(request.POST, org=request.org)
    try:
        if not form.is_valid():
            raise SetupProblem({"channel": "This channel is no longer there. Choose one of those listed."})
        connecting.choose_sender(
            account,
            _number(request),
            channel=form.cleaned_data["channel"],
            chatbot_first=form.cleaned_data["first"] == "chatbot",
            who=request.member.name,
        )
    except SetupProblem as exc:
        given, problem = request.POST, " ".join(exc.problems.values())
        return RefusedChoice(account, _number(request), given.get("channel", ""), given.get("first", ""), problem)
    return None


def _number(request: PageRequest) -> str:
    given = request.POST.get("number", "").strip()
    return digits_of(given) or given


def _where_refused(refused: RefusedChoice, accounts: Sequence[AccountSenders]) -> dict[str, Any]:
    """Say it at the number's row, or where numbers are typed in; at the top where the page has neither any more."""
    here = next((each for each in accounts if each.account == refused.account), None)
    if here and any(view.number == refused.number for view in here.senders):
        return {"wrong": refused}
    return {"typed": refused} if here and not here.listed else {"problem": refused.problem}


def _own_account(request: PageRequest) -> InfobipAccount | None:
    """Find the account that a form names, among those of the org."""
    named = request.POST.get("account", "")
    return next((each for each in request.org.infobip_accounts.order_by("name") if str(each.uuid) == named), None)


def summary_step(request: PageRequest) -> HttpResponse:
    """What is connected, the doctor, a test message, and the addresses for the frames."""
    return show_step(
        request,
        "summary",
        {
            "connection": request.org.salesforce,
            "channels": list(request.org.channels.prefetch_related("senders")),
            "accounts": list(request.org.infobip_accounts.order_by("name")),
            "frame_url": request.org.setup_url,
            "panel_url": request.org.panel_url,
            "audit": request.org.audit_entries.order_by("-at")[:20],
        },
    )


@signed_in(Role.ADMIN)
def api_access(request: PageRequest) -> HttpResponse:
    """The tokens by which the customer's own systems call our API; a new one is shown once."""
    token = ""
    form = ApiTokenForm(request.POST or None if request.POST.get("action") == "make" else None)
    if request.POST.get("action") == "revoke":
        named = request.POST.get("token", "")
        api_tokens.revoke(request.org, int(named) if re.fullmatch("[0-9]{1,18}", named) else 0, who=request.member.name)
        return redirect("api_access", request.org.handle)
    if form.is_bound and form.is_valid():
        token = api_tokens.make(request.org, **form.cleaned_data, who=request.member.name)
        form = ApiTokenForm()
    tokens = request.org.api_tokens.order_by(F("revoked_at").asc(nulls_first=True), "-created_at")
    context = {
        "form": form,
        "token": token,
        "tokens": [(each, [api_tokens.SCOPES.get(scope, scope) for scope in each.scopes]) for each in tokens[:100]],
        "address": f"{settings.PUBLIC_URL}/api/v1/conversations",
    }
    return show_step(request, "summary", context, "tenants/api_access.html")


@signed_in(Role.ADMIN)
def doctor_view(request: PageRequest) -> HttpResponse:
    """Run the checks of the org, after fixing what a button was pressed for."""
    problem = ""
    if request.method == "POST":
        try:
            doctor.fix(request.org, request.POST.get("fix", ""), request.POST.get("about", ""), who=request.member.name)
        except SetupProblem as exc:
            problem = " ".join(exc.problems.values())
    findings = doctor.run_checks(request.org)
    order = {doctor.State.FAILED: 0, doctor.State.WARNING: 1, doctor.State.UNKNOWN: 2, doctor.State.NOTE: 3}
    listed = [each for each in findings if each.state in order]
    context = {
        "listed": sorted(listed, key=lambda each: order[each.state]),
        "trouble": any(each.state is not doctor.State.NOTE for each in listed),
        "passed": [each for each in findings if each.state not in order],
        "problem": problem,
        "checked_at": timezone.now(),
    }
    return show_step(request, "summary", context, "tenants/doctor.html")

"""The panel beside a conversation in the console. Each view makes one call, and answers."""

from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET

from templates_ui.panel import describe
from tenants import connecting
from tenants.access import PageRequest, comes_from_our_page, signed_in
from tenants.forms import MyDomainForm
from tenants.frames import allow_frames
from tenants.models import Org, Role
from tenants.onboarding import SetupProblem
from tenants.views import org_at, show_problems

NOT_CONNECTED = "This org is not connected yet. Ask an administrator of the org to set up WhatsApp."


def address_of(org: Org, request: HttpRequest) -> str:
    """Give the panel's address for the record that a request names."""
    return f"{reverse('templates', args=[org.handle])}?{urlencode({'id': request.GET.get('id', '')})}"


@csrf_exempt
def start(request: PageRequest) -> HttpResponse:
    """Ask which org it is, and go to its panel."""
    allow_frames(request, None)
    form = MyDomainForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        if not comes_from_our_page(request):
            refusal = {"problem": "The request came from another page."}
            return render(request, "tenants/refused.html", refusal, status=403)
        try:
            org = org_at(connecting.my_domain(form.cleaned_data["my_domain"]))
        except SetupProblem as exc:
            show_problems(form, exc)
        else:
            if org is not None:
                return redirect(address_of(org, request))
            form.add_error("my_domain", NOT_CONNECTED)
    return render(request, "templates_ui/start.html", {"form": form})


@signed_in(Role.REP)
@require_GET
def show_panel(request: PageRequest) -> HttpResponse:
    """Show who the customer of a session is, whether they can be written to, and what became of what was sent.

    The page asks again every few seconds; while nothing has changed it is told so, and nothing on it moves.
    """
    panel = describe(request.org, request.GET.get("id", ""))
    if "HX-Request" in request.headers and request.GET.get("seen") == panel.version:
        return HttpResponse(status=204)
    context = {
        "org": request.org,
        "panel": panel,
        "may_set_up": request.member.role == Role.ADMIN,
        "again": f"{address_of(request.org, request)}&seen={panel.version}",
    }
    return render(request, "templates_ui/panel.html", context)

"""What every request passes through."""

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from tenants.tenancy import every_org

GetResponse = Callable[[HttpRequest], HttpResponse]


def operators_see_every_org(get_response: GetResponse) -> GetResponse:
    """Widen the scope for signed-in staff inside the admin, and for nobody else."""

    def middleware(request: HttpRequest) -> HttpResponse:
        if request.path_info.startswith("/admin/") and request.user.is_active and request.user.is_staff:
            with every_org():
                return get_response(request)
        return get_response(request)

    return middleware
